"""What the demo prints: who wrote what where, and a line for each thing that was checked."""

from __future__ import annotations

import sys
from typing import Final

WIDTH: Final = 100


class Transcript:
    """Prints as it goes, and counts what passed and failed."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def scene(self, title: str) -> None:
        """A heading."""
        print(f"\n── {title} ".ljust(WIDTH, "─"), flush=True)

    def say(self, text: str) -> None:
        """A line of the story."""
        print(f"   {text}", flush=True)

    def shown(self, reader: str, text: str) -> None:
        """What ``reader`` sees on the screen."""
        print(f"   {reader} reads:", flush=True)
        for line in text.strip().splitlines():
            print(f"      │ {line}", flush=True)

    def check(self, claim: str, held: bool) -> None:
        """A line ``ok`` or ``FAILED`` for something that must be true."""
        self.passed += held
        self.failed += not held
        print(f"   {'ok    ' if held else 'FAILED'} {claim}", flush=True)

    def close(self) -> int:
        """The last line, and the exit code."""
        print(f"\ndemo: {self.passed} passed, {self.failed} failed", flush=True)
        sys.stdout.flush()
        return 1 if self.failed or not self.passed else 0
