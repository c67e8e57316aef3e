"""What a command is: words, options, a function; and what the function is given.

Owns how commands are declared to argparse. Knows none of them.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from bot.cli.console import Console

CONFIG_VARIABLE: Final = "SECIR_CONFIG"
PLACES: Final = ("secir.yaml", "/etc/secir/secir.yaml")
"""Where the configuration is looked for when neither --config nor SECIR_CONFIG names it: the first that is there."""

USAGE: Final = 2
"""Exit code of a command that was not understood."""
FAULT: Final = 1
"""Exit code of a command that was refused or failed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One command as it was typed."""

    words: argparse.Namespace
    console: Console
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def config_path(self) -> Path:
        named = self.words.config or self.environ.get(CONFIG_VARIABLE)
        return Path(named) if named else next((Path(p) for p in PLACES if Path(p).exists()), Path(PLACES[0]))


Function = Callable[[Call], Awaitable[int | None]]
"""Does the work and returns the exit code, None for 0."""


def function(name: str) -> Function:
    """The function that a command names: ``groups.create`` is ``create`` in the module beside this one."""
    module, _, word = name.partition(".")
    found: Function = getattr(importlib.import_module(f"bot.cli.{module}"), word)
    return found


class Parser(argparse.ArgumentParser):
    """argparse with errors that name the next step."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\nNext: {self.prog} --help\n")

    def with_json(self) -> None:
        """For commands that list or show."""
        self.add_argument("--json", action="store_true", help="answer in JSON, for programs")


class Layout(argparse.RawDescriptionHelpFormatter):
    """Wide enough for one line a command, and without a line that says only COMMAND."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=116)

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)
        return text.partition("\n")[2] if action.nargs == argparse.PARSER else text


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def topic(commands: Subparsers, word: str, summary: str) -> Any:
    """A word that has commands below it, such as ``group``."""
    parser = commands.add_parser(word, help=summary, description=summary, formatter_class=Layout)
    return parser.add_subparsers(metavar="COMMAND", required=True, title="commands")


def command(commands: Subparsers, word: str, name: str, summary: str, *, more: str = "") -> Parser:
    """A command: its word, the name of its function, and what it does in one line (and in ``more``)."""
    parser = commands.add_parser(word, help=summary, description=f"{summary}\n{more}".strip(), formatter_class=Layout)
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(function=name)
    return parser
