"""A relay that misbehaves as it is told: each step of SMTP can be refused, left without an answer, or cut off.

A server of its own on raw streams: aiosmtpd can only misbehave politely. It takes every mail that no fault is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from tests.parts.mail import Collected, Sink
from tests.parts.ports import LOOPBACK


class Step(Enum):
    """Where in the dialogue a fault strikes."""

    CONNECT = auto()
    EHLO = auto()
    STARTTLS = auto()
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    BODY = auto()
    """In the middle of the mail."""
    DOT = auto()


class Trouble(Enum):
    """What no reply line can say."""

    SILENCE = auto()
    """The connection stays, nothing is answered."""
    HANG_UP = auto()
    """The connection is reset."""
    LOST_250 = auto()
    """At the final dot: the mail is taken, and the connection ends before that is said (RFC 1047)."""
    WAIT = auto()
    """The usual answer, but only after ``let_go``."""
    GARBAGE = auto()
    """The answer is no SMTP."""


@dataclass
class Fault:
    step: Step
    what: str | Trouble
    """A reply line, or a trouble."""
    to: str | None = None
    """Strikes mails to this address only; before RCPT nobody's address is known."""
    times: int | None = None
    """How often; None for always."""
    struck: int = 0
    """How often it struck."""

    def strikes(self, step: Step, recipient: str) -> bool:
        left = self.times is None or self.struck < self.times
        return left and self.step is step and self.to in (None, recipient)


class _HungUp(Exception):
    """The connection is over."""


GREETINGS: Final = {Step.CONNECT: "220 relay.test ESMTP", Step.DATA: "354 Go on", Step.STARTTLS: "220 2.0.0 Ready"}
TAKEN: Final = "250 2.0.0 Ok"


@dataclass
class FaultyRelay(Sink):
    """``async with faulty_relay() as relay: relay.fault(Step.RCPT, "450 4.2.0 Later", to="bob@x.test")``."""

    tls: ssl.SSLContext | None = None
    connections: int = 0
    faults: list[Fault] = field(default_factory=list)
    _server: asyncio.Server | None = None
    patience: asyncio.Event = field(default_factory=asyncio.Event)
    _open: dict[asyncio.StreamWriter, asyncio.Task[None]] = field(default_factory=dict)

    def fault(self, step: Step, what: str | Trouble, *, to: str | None = None, times: int | None = None) -> Fault:
        """Misbehave so from now on. Of several faults that fit, the oldest strikes."""
        self.faults.append(Fault(step, what, to, times))
        return self.faults[-1]

    def heal(self) -> None:
        """No faults any more. A connection that is kept in silence stays so."""
        self.faults.clear()
        self.let_go()

    def let_go(self) -> None:
        """Whoever waits, waits no longer."""
        self.patience.set()

    def taken_for(self, recipient: str) -> int:
        """How many mails were taken for it."""
        return sum(mail.recipients == [recipient] for mail in self.mails)

    async def listen(self) -> None:
        """Open the port, the same one as before ``die``."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Refuse connections, and reset those that are open."""
        if self._server is not None:
            self._server.close()
        for writer, task in list(self._open.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._open.values(), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open[writer] = task
        try:
            await _Dialogue(self, reader, writer).run()
        except (OSError, asyncio.IncompleteReadError, _HungUp, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            del self._open[writer]
            writer.close()


class _Dialogue:
    """One connection."""

    def __init__(self, relay: FaultyRelay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relay = relay
        self._reader = reader
        self._writer = writer
        self._encrypted = False
        self._forget()

    def _forget(self) -> None:
        self._sender = ""
        self._recipients: list[str] = []

    async def run(self) -> None:
        await self._say(Step.CONNECT)
        while line := await self._reader.readline():
            await self._command(line.decode("latin-1").rstrip("\r\n"))

    async def _command(self, line: str) -> None:
        match line[:4].upper():
            case "EHLO":
                tls = self._relay.tls is not None and not self._encrypted
                await self._say(
                    Step.EHLO, "250-relay.test\r\n" + ("250-STARTTLS\r\n" if tls else "") + "250 SIZE 33554432"
                )
            case "STAR":
                await self._start_tls()
            case "MAIL":
                self._forget()
                self._sender = _address(line)
                await self._say(Step.MAIL)
            case "RCPT":
                # Known from here on also if it is refused: the fault may be for this very address.
                self._recipients.append(_address(line))
                if not await self._say(Step.RCPT):
                    self._recipients.pop()
            case "DATA":
                if await self._say(Step.DATA):
                    await self._mail()
            case "RSET" | "NOOP":
                self._forget()
                await self._write(TAKEN)
            case "QUIT":
                await self._write("221 2.0.0 Bye")
                raise _HungUp
            case _:
                await self._write("502 5.5.1 What?")

    async def _mail(self) -> None:
        lines: list[bytes] = []
        while (line := await self._reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
            if len(lines) == 1:
                await self._misbehave(self._next(Step.BODY))
        mail = Collected(self._sender, self._recipients, b"".join(lines), self._encrypted)
        fault = self._next(Step.DOT)
        if fault is None or fault.what in (Trouble.LOST_250, Trouble.WAIT):
            self._relay.mails.append(mail)
        if not await self._misbehave(fault):
            await self._write(TAKEN)
        self._forget()

    async def _start_tls(self) -> None:
        assert self._relay.tls is not None
        if await self._say(Step.STARTTLS):
            await self._writer.start_tls(self._relay.tls)
            self._encrypted = True

    async def _say(self, step: Step, usual: str = "") -> bool:
        """The usual answer, or the fault. Whether the step was taken."""
        if await self._misbehave(self._next(step)):
            return False
        await self._write(usual or GREETINGS.get(step, TAKEN))
        return True

    def _next(self, step: Step) -> Fault | None:
        recipient = self._recipients[-1] if self._recipients else ""
        found = next((fault for fault in self._relay.faults if fault.strikes(step, recipient)), None)
        if found is not None:
            found.struck += 1
        return found

    async def _misbehave(self, fault: Fault | None) -> bool:
        """Whether there was a fault, and the dialogue goes on behind it. Raises _HungUp."""
        if fault is None:
            return False
        match fault.what:
            case str(reply):
                await self._write(reply)
                if reply.startswith("421"):
                    raise _HungUp
            case Trouble.GARBAGE:
                await self._write("\x00\xff this is no SMTP")
            case Trouble.SILENCE:
                with contextlib.suppress(OSError):
                    while await self._reader.read(65536):
                        pass
                raise _HungUp
            case Trouble.WAIT:
                await self._relay.patience.wait()
                return False
            case Trouble.HANG_UP | Trouble.LOST_250:
                raise _HungUp
        return True

    async def _write(self, line: str) -> None:
        self._writer.write(line.encode("latin-1") + b"\r\n")
        await self._writer.drain()


def _address(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


@asynccontextmanager
async def faulty_relay(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultyRelay]:
    """A relay on a free port; with ``tls`` it offers STARTTLS."""
    relay = FaultyRelay(tls=tls)
    await relay.listen()
    try:
        yield relay
    finally:
        await relay.die()
