"""An operator at a terminal: types ``secir …`` and reads what it says. In this process, without its log set-up."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bot.__main__ import execute
from bot.cli.command import Call, function
from bot.cli.console import Console
from bot.cli.parser import build

SECRET = "0123456789abcdef" * 4
LEAST = """
matrix:
  homeserver: {homeserver}
  user_id: "{user}"
mail:
  domain: lists.example
"""


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


class _Typed(io.StringIO):
    """Standard input with somebody at it."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Terminal:
    """``directory`` holds the configuration. ``typed`` is the answer to what is asked; None: nobody is there."""

    directory: Path
    environ: Mapping[str, str]
    typed: str | None = None

    def __call__(self, *words: str) -> Said:
        parsed = build().parse_args(["--config", str(self.directory / "secir.yaml"), *words])
        out, err = io.StringIO(), io.StringIO()
        source = io.StringIO() if self.typed is None else _Typed(self.typed)
        code = execute(function(parsed.function), Call(parsed, Console(out, err, source), self.environ))
        return Said(code, out.getvalue(), err.getvalue())

    def ok(self, *words: str) -> str:
        """What it answers; it must end well."""
        said = self(*words)
        assert said.code == 0, said
        return said.out


def at_work(
    directory: Path,
    *,
    homeserver: str = "https://matrix.example.org",
    user: str = "@secir:example.org",
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Terminal:
    """A terminal where ``secir init`` was done. ``environ`` comes on top of the secret key."""
    (directory / "secir.yaml").write_text(LEAST.format(homeserver=homeserver, user=user))
    terminal = Terminal(directory, {"SECIR_SECRET_KEY": SECRET, **environ})
    terminal.ok("init")
    return terminal
