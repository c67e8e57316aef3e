"""Writes the configuration as a text for people: every key, each with what it means.

``config.example.yaml``, the file that ``secir init`` writes and docs/settings.md are made here, out of the same
descriptions that ``bot.config`` holds, so that none of them can say something else than the code does.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bot.config import Config
from bot.config_file import KeyPath
from bot.config_mistakes import dotted, sample, section_of, written

WIDTH: Final = 110
HEAD: Final = """\
# The configuration of SECIR. Paths are relative to the folder of this file; spans of time are written 30s, 5m, 12h, 7d.
# A key that is left out has the value shown in config.example.yaml; one behind a # is left out. Check with: secir check
#
# No secret belongs here: put each one into a file that only the bridge's user may read (chmod 600), or into the
# environment (SECIR_SECRET_KEY, SECIR_MATRIX_PASSWORD, SECIR_SMTP_PASSWORD, SECIR_DATABASE_PASSWORD).
"""

Values = Mapping[KeyPath, object]
"""The values to be written in place of the defaults and examples."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: where it stands, what it means, and its value."""

    key: KeyPath
    found: Any
    below: Any
    """The class of the keys below it, or None."""
    is_list: bool


def entries(model: Any = Config, above: KeyPath = ()) -> Iterator[Entry]:
    """Every key, in the order of the file; the keys of a list's entries stand below the list."""
    for name, found in model.model_fields.items():
        below = section_of(found)
        is_list = below is not None and found.annotation is not below
        yield Entry((*above, name), found, below, is_list)
        if below is not None:
            yield from entries(below, (*above, name))


def as_yaml(values: Values) -> str:
    """The whole file. A required key without a value gets its example; an unset optional one stays a comment."""
    return HEAD + "".join(_block(entry, values) for entry in entries())


def _block(entry: Entry, values: Values) -> str:
    depth = len(entry.key) - 1
    in_list = any(other.is_list and other.key == entry.key[:-1] for other in entries())
    margin = "  " * depth + ("  " if in_list else "")
    gap = "\n" if depth == 0 or entry.below is not None else ""
    comment = "".join(f"{margin}# {line}\n" for line in textwrap.wrap(entry.found.description, WIDTH - len(margin)))
    return f"{gap}{comment}{_line(entry, values, margin, in_list)}\n"


def _line(entry: Entry, values: Values, margin: str, in_list: bool) -> str:
    name = str(entry.key[-1])
    if entry.below is not None:
        return f"{margin}{name}:"
    if in_list and name == next(iter(_siblings(entry))):
        margin = margin[:-2] + "- "
    value = values.get(entry.key, None if entry.found.is_required() else entry.found.default)
    if value is None and not entry.found.is_required():
        return f"{margin}#{name}: {sample(entry.found)}"
    return f"{margin}{name}: {sample(entry.found) if value is None else written(value)}"


def _siblings(entry: Entry) -> list[str]:
    return [str(other.key[-1]) for other in entries() if other.key[:-1] == entry.key[:-1]]


def as_markdown() -> str:
    """docs/settings.md: a table of all keys for each section."""
    parts = [SETTINGS_HEAD]
    for section in [None, *(entry for entry in entries() if entry.below is not None)]:
        key: KeyPath = section.key if section else ()
        rows = [entry for entry in entries() if entry.key[:-1] == key and entry.below is None]
        title = f"## `{dotted(key)}`\n\n{section.found.description}\n" if section else "## At the top\n"
        parts.append(f"{title}\n| key | default | meaning |\n|---|---|---|\n" + "".join(map(_row, rows)))
    return "\n".join(parts)


SETTINGS_HEAD: Final = """\
# Settings

Made from the code by `make docs`: do not write here. The same keys stand, with comments, in `config.example.yaml`.
Spans of time are written 30s, 5m, 12h, 7d. Paths are relative to the folder of the configuration file.

Secrets are never in the file. Each comes from a file that only the bridge's user may read, or from the environment,
which wins:

| secret | key | environment |
|---|---|---|
| secret key | `secret_key_file` | `SECIR_SECRET_KEY` |
| password of the PostgreSQL user | `database.password_file` | `SECIR_DATABASE_PASSWORD` |
| password of the Matrix account | `matrix.password_file` | `SECIR_MATRIX_PASSWORD` |
| password at the mail relay | `mail.relay.password_file` | `SECIR_SMTP_PASSWORD` |
"""


def _row(entry: Entry) -> str:
    found = entry.found
    if found.is_required():
        default = f"none: must be given, e.g. `{sample(found)}`"
    else:
        default = "none" if found.default is None else f"`{written(found.default)}`"
    return f"| `{entry.key[-1]}` | {default} | {found.description} |\n"
