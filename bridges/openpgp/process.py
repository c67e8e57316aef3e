"""Runs one GnuPG process: pipes of its own for status and passphrase, hard limits, no leftovers.

Owns the options that hold for every call and the life of the child. Knows nothing of what the status lines mean.
Standard error is drained and thrown away: it quotes what came with a message, so it is neither parsed nor logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from trust.errors import SafeUnavailable
from trust.records import Fingerprint

log = structlog.get_logger()

FINGERPRINT = re.compile(r"[0-9A-F]{40}")
CHUNK: Final = 64 * 1024
STATUS_BYTES: Final = 1024 * 1024

OPTIONS: Final = (
    "--batch",
    "--no-tty",
    "--no-options",
    "--no-verbose",
    "--no-permission-warning",
    "--no-auto-check-trustdb",
    "--trust-model",
    "always",
    "--no-auto-key-locate",
    "--no-auto-key-retrieve",
    "--no-auto-key-import",
    "--disable-dirmngr",
    "--weak-digest",
    "SHA1",
    "--lock-never",
    "--no-random-seed-file",
    "--pinentry-mode",
    "loopback",
)
"""No file, key server or question may change what a call does. Rings are never written while they are read, so
``--lock-never``: a lock left by a killed process must not stop the list. Calls at the same time would race for the file
of the random seed, and GnuPG takes a file that it could not read for its own failure."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may cost. ``processes`` None: as many as the machine has cores."""

    plaintext_bytes: int = 25 * 1024 * 1024
    memory_bytes: int = 256 * 1024 * 1024
    seconds: float = 30.0
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call left. ``output`` and ``status`` are not to be believed before they are judged."""

    returncode: int
    output: bytes = field(repr=False)
    status: bytes = field(repr=False)
    overflow: bool
    """The output or the status passed its cap; the process was ended then."""


class Runner:
    """A bounded pool of GnuPG processes."""

    def __init__(self, limits: Limits, program: str = "gpg") -> None:
        self.limits = limits
        self.program = program
        self._slots = asyncio.Semaphore(limits.processes or os.cpu_count() or 1)

    async def run(
        self,
        home: Path,
        arguments: Sequence[str],
        *,
        data: bytes = b"",
        passphrase: str | None = None,
        cap: int | None = None,
    ) -> Outcome:
        """Run ``gpg`` in ``home`` with ``data`` on standard input; ``cap`` octets of output at most.

        Raises SafeUnavailable when it can't start, takes too long or dies by a signal. Ending the task ends the child.
        """
        cap = self.limits.plaintext_bytes if cap is None else cap
        command = [self.program, "--homedir", str(home), *OPTIONS, "--max-output", str(cap)]
        async with self._slots:
            try:
                async with asyncio.timeout(self.limits.seconds):
                    outcome = await self._supervise([*command, *arguments], data, passphrase, cap)
            except (OSError, TimeoutError) as error:
                log.warning("gnupg.failed", cause=type(error).__name__)
                raise SafeUnavailable from error
        if outcome.returncode < 0 and not outcome.overflow:
            log.warning("gnupg.killed", signal=-outcome.returncode)
            raise SafeUnavailable
        return outcome

    async def _supervise(self, command: Sequence[str], data: bytes, passphrase: str | None, cap: int) -> Outcome:
        with contextlib.ExitStack() as pipes:
            status_end, childs = _pipe(pipes)
            options, inherited = ["--status-fd", str(childs.fileno())], [childs]
            if passphrase is not None:
                inherited.append(_filled_pipe(pipes, passphrase.encode("ascii") + b"\n"))
                options += ["--passphrase-fd", str(inherited[-1].fileno())]
            async with self._child([command[0], *options, *command[1:]], inherited) as process:
                for end in inherited:
                    end.close()
                async with _stream(status_end) as status:
                    return await _converse(process, status, data, cap)

    @contextlib.asynccontextmanager
    async def _child(
        self, command: Sequence[str], inherited: Sequence[BinaryIO]
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that does not outlive the block, whatever ends it."""
        pipe = asyncio.subprocess.PIPE
        descriptors = [end.fileno() for end in inherited]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=descriptors, env=environment()
        )
        try:
            self._restrain(process.pid)
            yield process
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    def _restrain(self, pid: int) -> None:
        """Cap memory. Its input has not been written yet.

        Core dumps, which would hold plain text, GnuPG turns off itself, and ends if it can't: a hard limit that we set
        at the same moment made it end, once in some thousand calls.
        """
        memory = self.limits.memory_bytes
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (memory, memory))


def full(fingerprint: Fingerprint) -> str:
    """``fingerprint`` as an argument: GnuPG takes anything else for an option, a name or a part of one.

    Raises ValueError, before any process starts, for what is not 40 upper-case hexadecimal digits.
    """
    if not FINGERPRINT.fullmatch(fingerprint):
        raise ValueError("not a full fingerprint")
    return fingerprint


def environment() -> dict[str, str]:
    """What GnuPG may know of ours: a path to find its agent, and a language that never changes."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


async def _converse(
    process: asyncio.subprocess.Process, status: asyncio.StreamReader, data: bytes, cap: int
) -> Outcome:
    """Feed and read all four pipes at once, so that none of them can block the child."""
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    if stdin is None or stdout is None or stderr is None:
        raise SafeUnavailable
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_feed(stdin, data))
        tasks.create_task(_drain(stderr))
        output = tasks.create_task(_read(stdout, cap, process))
        lines = tasks.create_task(_read(status, STATUS_BYTES, process))
    code = await process.wait()
    overflow = output.result() is None or lines.result() is None
    return Outcome(code, output.result() or b"", lines.result() or b"", overflow)


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    """A child that ends early closes its input: that is for its status to explain."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(CHUNK):
        pass


async def _read(stream: asyncio.StreamReader, cap: int, process: asyncio.subprocess.Process) -> bytes | None:
    """All of ``stream``; at more than ``cap`` bytes end the process and keep nothing (None)."""
    chunks: list[bytes] = []
    while chunk := await stream.read(CHUNK):
        cap -= len(chunk)
        if cap < 0:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


@contextlib.asynccontextmanager
async def _stream(end: BinaryIO) -> AsyncIterator[asyncio.StreamReader]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), end)
    try:
        yield reader
    finally:
        transport.close()


def _pipe(pipes: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    """(read end, write end), both closed with ``pipes``; closing one twice is harmless."""
    read, write = os.pipe()
    return pipes.enter_context(os.fdopen(read, "rb", 0)), pipes.enter_context(os.fdopen(write, "wb", 0))


def _filled_pipe(pipes: contextlib.ExitStack, secret: bytes) -> BinaryIO:
    """The read end of a pipe that holds ``secret``, which is far smaller than a pipe's buffer."""
    read, write = _pipe(pipes)
    write.write(secret)
    write.close()
    return read
