"""Talks with the operator in the terminal: answers on standard output, everything else on standard error.

Owns tables, questions and the sign that something takes its time. Knows no command.
"""

from __future__ import annotations

import asyncio
import getpass
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TextIO

from trust.errors import BadValue

SECOND: Final = 1.0
"""What takes longer than this shows that it goes on."""
FRAMES: Final = "|/-\\"


@dataclass(frozen=True, slots=True)
class Console:
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    source: TextIO = field(default_factory=lambda: sys.stdin)

    def say(self, *lines: str) -> None:
        """Answers. Control characters in them can't reach the terminal."""
        for line in lines:
            print(_plain(line), file=self.out)

    def note(self, *lines: str) -> None:
        """What is not the answer itself: progress, hints, faults."""
        for line in lines:
            print(_plain(line), file=self.err)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as their widest cell, none wider than it must be."""
        lines = [[heading.upper() for heading in headings], *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
        for line in lines:
            self.say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    def facts(self, *pairs: tuple[str, str]) -> None:
        """One fact a line, the names in a column of their own."""
        width = max(len(name) for name, _ in pairs)
        self.say(*(f"{name.ljust(width)}  {value}".rstrip() for name, value in pairs))

    def as_json(self, value: object) -> None:
        print(json.dumps(value, indent=2, ensure_ascii=False), file=self.out)

    def ask(self, option: str, question: str, *, default: str = "") -> str:
        """The answer to ``question``; without a terminal the option must be given. Raises BadValue."""
        if not self.source.isatty():
            raise BadValue(what=f"The option {option} is missing and nobody can be asked: the command", example=option)
        shown = f" [{default}]" if default else ""
        self.err.write(f"{question}{shown}: ")
        self.err.flush()
        return self.source.readline().strip() or default

    def ask_secret(self, variable: str, question: str) -> str:
        """A secret, not shown while it is typed; without a terminal it must be in the environment. Raises BadValue."""
        if not self.source.isatty():
            raise BadValue(what=f"{variable} is not set and nobody can be asked: the command", example=f"{variable}=…")
        return getpass.getpass(f"{question}: ", stream=self.err)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show that ``text`` goes on when it takes longer than a second."""
        sign = _Sign(text, self.err)
        sign.start()
        try:
            yield
        finally:
            sign.stop()


class _Sign:
    """A spinner on a terminal, one plain line elsewhere. It turns on the event loop: what blocks that stops it."""

    def __init__(self, text: str, err: TextIO) -> None:
        self._text = _plain(text)
        self._err = err
        self._frames = itertools.cycle(FRAMES)
        self._shown = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SECOND, self._turn)

    def _turn(self) -> None:
        if not self._err.isatty():
            print(f"{self._text} …", file=self._err, flush=True)
            return
        self._shown = True
        self._err.write(f"\r{next(self._frames)} {self._text} …")
        self._err.flush()
        self._timer = asyncio.get_running_loop().call_later(0.2, self._turn)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._shown:
            self._err.write("\r\x1b[K")
            self._err.flush()


def _plain(text: str) -> str:
    """Names come from people and keys: nothing of them may steer the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
