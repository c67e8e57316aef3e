"""Says what is wrong with a configuration, in words: the key, what is wrong, and the fix.

Owns the wording. Knows of pydantic only the shape of its error records and field descriptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from bot.config_file import Document, KeyPath, scalar
from bot.config_values import in_units

WORDS: Final = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "is too long",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "path_type": "must be the path of a file",
    "model_type": "must hold keys of its own, each on a line below it and further to the right",
    "tuple_type": "must be a list: each entry on a line of its own, beginning with -",
    "too_short": "must have at least one entry",
    "too_long": "has too many entries",
}
"""What is wrong, by the type of pydantic's error record."""


SIMPLE: Final = (str, int, timedelta, Path)


@dataclass(frozen=True, slots=True)
class Mistake:
    key: KeyPath
    what: str
    fix: str


def explain(errors: Sequence[Mapping[str, Any]], model: Any) -> list[Mistake]:
    """``errors`` as pydantic's ``ValidationError.errors()`` gives them; ``model`` is the class they are about."""
    return [Mistake(error["loc"], _what(error), _fix(error, model)) for error in errors if not _follows(error, errors)]


def _follows(error: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> bool:
    """Pydantic calls a list too short as well when its entries are wrong."""
    key: KeyPath = error["loc"]
    return error["type"] == "too_short" and any(other["loc"][: len(key)] == key != other["loc"] for other in errors)


def listed(mistakes: Sequence[Mistake], document: Document) -> str:
    """One line per mistake, in the order of the file."""
    lines = {mistake: document.line_of(mistake.key) for mistake in mistakes}
    ordered = sorted(mistakes, key=lambda mistake: lines[mistake] or 0)
    return "\n".join(_line(mistake, lines[mistake]) for mistake in ordered)


def _line(mistake: Mistake, line: int | None) -> str:
    where = f"line {line}, " if line else ""
    stop = "" if mistake.fix.endswith("?") else "."
    return f"{where}{dotted(mistake.key)}: {mistake.what}. {mistake.fix}{stop}"


def dotted(key: KeyPath) -> str:
    """``mail.listeners[1].port``: positions are counted from 1, for people."""
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.lstrip(".") or "the file"


def _what(error: Mapping[str, Any]) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"]).partition(". ")[0]
        case "extra_forbidden":
            return "is not a key that is known here"
        case "literal_error":
            return f"must be {str(context['expected']).replace(chr(39), '')}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case kind:
            return WORDS.get(str(kind), "has a value that can't be used")


def _fix(error: Mapping[str, Any], model: Any) -> str:
    key: KeyPath = error["loc"]
    if error["type"] == "value_error":
        _, _, fix = str(error["ctx"]["error"]).partition(". ")
        if fix:
            return fix
    if error["type"] == "extra_forbidden":
        return _nearest(str(key[-1]), _names_at(model, key[:-1]))
    found = field_at(model, key)
    example = sample(found) if found is not None else None
    return f"Write for example: {key[-1]}: {example}" if example is not None else f"See {key[0]} in config.example.yaml"


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Take it out, or use one of: {', '.join(known)}"


def sample(found: Any) -> str | None:
    """A value for a field as it is written in the file; None if it has keys of its own."""
    value = found.examples[0] if found.examples else found.default
    return written(value) if isinstance(value, SIMPLE) else None


def written(value: object) -> str:
    """One value as it is written in the file: ``5m``, ``true``, ``"@secir:example.org"``."""
    if isinstance(value, timedelta):
        return in_units(value)
    return scalar(str(value) if isinstance(value, Path) else value)


def field_at(model: Any, key: KeyPath) -> Any:
    """The field of ``model`` that ``key`` names, or None."""
    found = None
    for part in key:
        if isinstance(part, int):
            continue
        found = getattr(model, "model_fields", {}).get(part)
        if found is None:
            return None
        model = section_of(found)
    return found


def section_of(found: Any) -> Any:
    """The class of the keys below a field, or None: ``Mail`` for ``Mail`` and for ``tuple[Mail, ...]``."""
    candidates = (found.annotation, *getattr(found.annotation, "__args__", ()))
    return next((kind for kind in candidates if hasattr(kind, "model_fields")), None)


def _names_at(model: Any, key: KeyPath) -> list[str]:
    found = field_at(model, key) if key else None
    section = section_of(found) if found is not None else model
    return list(getattr(section, "model_fields", {}))
