"""The command ``secir``: reads the words, runs the function, and turns what was raised into an exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import structlog

from bot import log
from bot.cli.command import FAULT, Call, Function, function
from bot.cli.console import Console
from bot.cli.parser import build
from bot.phrases import Phrases
from trust.errors import SecirError, Unexpected

INTERRUPTED = 130
"""What shells expect after Ctrl-C: 128 and the number of SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 refused or failed, 2 not understood."""
    words = build().parse_args(arguments)
    log.set_up(level="warning", form="console")
    return execute(function(words.function), Call(words, Console()))


def execute(work: Function, call: Call) -> int:
    """Run one command to its end; say what went wrong, and the next step."""
    try:
        return asyncio.run(_awaited(work, call)) or 0
    except SecirError as error:
        return _refused(call.console, error)
    except KeyboardInterrupt:
        call.console.note("Stopped.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our answer has gone (secir … | head). Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAULT
    except Exception:  # the boundary: no traceback may print what a command was given
        structlog.get_logger().exception("command.unexpected")
        return _refused(call.console, Unexpected())


async def _awaited(work: Function, call: Call) -> int | None:
    code = await work(call)
    call.console.out.flush()  # here, where a reader that has gone is no fault, and not when Python ends
    return code


def _refused(console: Console, error: SecirError) -> int:
    explained = Phrases.load().entry(error)
    console.note(f"secir: {explained.what}", f"Next: {explained.next}")
    return FAULT


if __name__ == "__main__":
    sys.exit(main())
