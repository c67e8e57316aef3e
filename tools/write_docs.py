"""``make docs``: writes what is made from the code, so that no document can say something else than the code does."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bot import config_text
from bot.cli.parser import build

ROOT: Final = Path(__file__).resolve().parents[1]
COMMANDS_HEAD: Final = """\
# Commands

Made from the code by `make docs`: do not write here. `secir COMMAND --help` says the same.

`--config FILE` may stand before or behind any command; without it, `SECIR_CONFIG`, `./secir.yaml` or
`/etc/secir/secir.yaml` names the configuration. Exit codes: 0 done, 1 refused or failed (standard error says what and
the next step), 2 not understood.
"""


def documents() -> Mapping[Path, str]:
    """Every generated document: its path below the project, its text."""
    return {
        Path("config.example.yaml"): config_text.as_yaml({}),
        Path("docs/settings.md"): config_text.as_markdown(),
        Path("docs/commands.md"): commands(),
    }


def commands() -> str:
    return COMMANDS_HEAD + "".join(_section(parser) for parser in leaves(build()))


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The commands that do something, in the order of --help."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for child in action.choices.values():
            yield from leaves(child)


def _section(parser: argparse.ArgumentParser) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split()).replace("[-h] ", "").replace(" [-h]", "")
    rows = [f"| `{_shown(action)}` | {action.help} |" for action in _arguments(parser)]
    table = "\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
    return f"\n## `{parser.prog}`\n\n{parser.description}\n\n```\n{usage}\n```\n{table}"


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in parser._actions
        if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]


def _shown(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar)
    value = "|".join(map(str, action.choices)) if action.choices else action.metavar
    takes_value = action.nargs != 0
    return f"{action.option_strings[0]} {value}" if takes_value else action.option_strings[0]


def main() -> None:
    for path, text in documents().items():
        (ROOT / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
