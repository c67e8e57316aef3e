"""Every sentence that a person can read, out of one catalogue. Implements ``ports.Phrasebook``.

Owns ``texts/en.toml``. Knows the code and the parameters of an error, not why or where it was raised.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from string import Formatter
from typing import Self

from trust.errors import SecirError


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened, and the step that the reader can take."""

    what: str
    next: str


class _Params(dict[str, str | int]):
    """A parameter that the raiser forgot must not hide the error itself."""

    def __missing__(self, name: str) -> str:
        return "?"


class Phrases:
    def __init__(self, errors: Mapping[str, Explanation], notices: Mapping[str, str]) -> None:
        self._errors = errors
        self._notices = notices

    @classmethod
    def load(cls, language: str = "en") -> Self:
        """The catalogue ``texts/<language>.toml`` of this package."""
        text = resources.files("bot").joinpath("texts", f"{language}.toml").read_text("utf-8")
        tables = tomllib.loads(text)
        return cls({code: Explanation(**entry) for code, entry in tables["errors"].items()}, tables["notices"])

    def entry(self, error: SecirError) -> Explanation:
        """The two sentences for ``error``, filled. Raises KeyError for a code without an entry."""
        raw, params = self._errors[error.code], _Params(error.params)
        return Explanation(raw.what.format_map(params), raw.next.format_map(params))

    def explain(self, error: SecirError) -> str:
        """What happened and the next step, as one text."""
        entry = self.entry(error)
        between = "\n" if "\n" in entry.what else " "
        return f"{entry.what}{between}Next: {entry.next}"

    def reason(self, code: str) -> str:
        """What happened, for the code that a row kept; "" if that can't be said without what the error knew."""
        what = self._errors[code].what if code in self._errors else ""
        return "" if any(name for _, name, _, _ in Formatter().parse(what)) else what

    def say(self, key: str, /, **params: str | int) -> str:
        """The text of a notice. Raises KeyError for an unknown key or a missing parameter."""
        return self._notices[key].format(**params)
