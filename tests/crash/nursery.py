"""Processes of the product that start in a fraction of a second: forked from one that has its libraries loaded.

Loading them takes ten times as long as all the rest of a start, writes nothing and would hide the moments that matter.
What runs in the fork is the product's own ``main``, with the words, the environment and the files it would have had.

``python -m tests.crash.nursery`` is the process that forks; it takes orders as lines of JSON and tells of each end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from tests.parts.processes import PartFailed

PRODUCT: Final = "bot.__main__:main"
LIBRARIES: Final = (
    *("bot.__main__", "bot.app", "aiosqlite", "asyncpg"),
    *("sqlalchemy.dialects.sqlite.aiosqlite", "sqlalchemy.dialects.postgresql.asyncpg"),
    *(f"bot.cli.{name}" for name in ("contacts", "groups", "identity", "members", "running", "setup")),
    *("tests.parts.dies_at", "tests.crash.rings"),
)
NOBODY: Final = 0
"""In the place of a process id, when there will be none."""
CRASHED: Final = 70
"""Exit code of a child that raised (sysexits.h, EX_SOFTWARE)."""


class Child:
    """A forked process. ``ended`` becomes its exit code, negative for a signal."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def lives(self) -> bool:
        return not self.ended.done()

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send the signal and wait for the end; its exit code."""
        if self.lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
        return await asyncio.shield(self.ended)


class Nursery:
    """``async with Nursery() as nursery: child = await nursery.fork(["--config", ..., "run"], ...)``."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._born: asyncio.Queue[int] = asyncio.Queue()
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        program = (sys.executable, "-m", "tests.crash.nursery")
        self._process = await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        """The end of its orders is the end of the process that forks, and of the children it has."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def fork(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
        program: str = PRODUCT,
    ) -> Child:
        """Run ``program`` (module:function) with ``words``; what it prints is appended to ``output``.

        Raises PartFailed if the process that forks is gone, as it is if the product can't be loaded.
        """
        order = {
            "program": program,
            "words": list(words),
            "environment": dict(environment),
            "output": str(output),
            "errors": str(errors or output),
        }
        assert self._process.stdin is not None
        async with self._one_at_a_time:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            pid = await self._born.get()
        if pid == NOBODY:
            self._born.put_nowait(NOBODY)
            raise PartFailed("The process that forks has ended: what it said is above.")
        return self._children[pid]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "born" in told:
                self._children[told["born"]] = Child(told["born"])
                self._born.put_nowait(told["born"])
            else:
                self._children.pop(told["ended"]).ended.set_result(told["code"])
        self._born.put_nowait(NOBODY)


# --- the process that forks ------------------------------------------------------------------------------------------


def _serve() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is shared with the children stays shared
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    unread = b""
    while True:
        for key, _ in waiting.select():
            if key.data is not None:
                waiting.unregister(key.fileobj)
                _bury(key.fd, key.data)
                continue
            received = os.read(0, 65536)
            if not received:
                _end_all([key.data for key in waiting.get_map().values() if key.data])
                return
            *orders, unread = (unread + received).split(b"\n")
            for order in orders:
                pid = _fork(json.loads(order))
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                _tell({"born": pid})


def _bury(descriptor: int, pid: int) -> None:
    os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    _tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _end_all(children: Sequence[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _tell(what: Mapping[str, int]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _fork(order: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(order)
    return pid


def _become(order: Mapping[str, Any]) -> NoReturn:
    """The child: nothing of the parent's is left open, and it never returns."""
    code = CRASHED
    try:
        os.closerange(3, 1024)
        for descriptor, name in ((0, os.devnull), (1, order["output"]), (2, order["errors"])):
            opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        os.environ.clear()
        os.environ.update(order["environment"])
        from tests.parts import dies_at

        dies_at.arm_from_environment()
        module, _, function = order["program"].partition(":")
        code = getattr(importlib.import_module(module), function)(order["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # the boundary: it is shown where its output goes
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
