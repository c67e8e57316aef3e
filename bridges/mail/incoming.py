"""Taking mail in: the SMTP and LMTP listeners.

The home of ``aiosmtpd``, served on our own event loop. *Taken in means committed*: 250 is said after the commit, and
all that can be refused without a key is refused in the dialogue, so that no bounce of ours ever goes to a forged
sender. Routing is by the envelope alone. Knows nothing of what becomes of a mail.
"""

# ruff: noqa: N802 - aiosmtpd finds commands and hooks by their names

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import structlog
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from bridges.mail.reception import CameBack, Desk, Dialogue, Outcome
from bridges.mail.returns import ReturnPaths
from bridges.ports import Clock, Phrasebook
from storage.database import Database
from trust.errors import MailRefusal, PortTaken, TooManyConnections

log = structlog.get_logger()

MAX_REFUSED: Final = 100
"""Refused recipients of one connection; then it ends: nobody tries out addresses here."""
MAX_CONNECTIONS: Final = 200
MAX_PER_PEER: Final = 20
"""Connections from one address; not for loopback, where our own mail server stands."""
IDLE_SECONDS: Final = 60.0
"""For the next command, and for the next octets of a mail."""
DATA_SECONDS: Final = 600.0
"""For a whole mail, however slowly it comes."""
BUFFER: Final = 64 * 1024
"""Octets of a connection held before the peer must wait. Not a limit on lines: a mail whose lines are longer than the
998 octets of RFC 5322, 2.1.1 is taken as it is, for real programs send such; only the size of the mail is limited."""
MEGABYTE: Final = 1024 * 1024
_WITHOUT_STATUS: Final = re.compile(r"(?!220|354)[245]\d\d (?![245]\.\d{1,3}\.\d{1,3} )")


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """One port on which mail is taken. ``port`` 0 takes any free one."""

    protocol: Literal["lmtp", "smtp"]
    host: str
    port: int
    hostname: str
    """What we call ourselves."""
    max_mb: int = 25
    """Largest mail, in megabytes (2**20 octets)."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """To offer STARTTLS; then peers that are not on this machine must use it."""
    allow_unencrypted: bool = False


class Listener:
    """One open port. ``arrived`` is called after each commit that stored something new, ``came_back`` for each bounce.

    Mail is taken while ``has_room``.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        *,
        database: Database,
        phrases: Phrasebook,
        clock: Clock,
        arrived: Callable[[], None],
        returns: ReturnPaths,
        came_back: CameBack,
        has_room: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._desk = Desk(
            max_mb=settings.max_mb,
            database=database,
            phrases=phrases,
            clock=clock,
            arrived=arrived,
            returns=returns,
            came_back=came_back,
            has_room=has_room,
        )
        self._open: dict[SMTP, str] = {}
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that is really open."""
        assert self._server is not None, "not started"  # noqa: S101
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Open the port. Raises PortTaken."""
        # It would log every command with its addresses, and at DEBUG every line of every mail.
        logging.getLogger("mail.log").disabled = True
        loop = asyncio.get_running_loop()
        settings = self._settings
        try:
            self._server = await loop.create_server(self._connection, settings.host, settings.port)
        except OSError as error:
            raise PortTaken(host=settings.host, port=settings.port) from error
        log.info("listener.opened", protocol=settings.protocol, port=self.port)

    async def stop(self) -> None:
        """Close the port, and then the connections: a mail that has no 250 yet stays with its sender."""
        if self._server is None:
            return
        self._server.close()
        tasks = [each._handler_coroutine for each in self._open if each._handler_coroutine]
        for connection in list(self._open):
            if connection.transport is not None:
                connection.transport.close()
        if tasks:  # what they hold of the database is given back before it is closed
            await asyncio.wait(tasks, timeout=5)
        await self._desk.finish(5)
        await self._server.wait_closed()
        log.info("listener.closed", protocol=self._settings.protocol)

    def _connection(self) -> asyncio.Protocol:
        kind = _LmtpConnection if self._settings.protocol == "lmtp" else _SmtpConnection
        connection: asyncio.Protocol = kind(self._desk, self._settings, self)
        return connection

    def admit(self, connection: SMTP, peer: str) -> bool:
        """Whether there is room for one more connection of ``peer``; if so it is counted until ``leave``."""
        crowded = Counter(self._open.values())[peer] >= MAX_PER_PEER and not _is_loopback(peer)
        if connection not in self._open and (len(self._open) >= MAX_CONNECTIONS or crowded):
            log.warning("connection.refused", protocol=self._settings.protocol)
            return False
        self._open[connection] = peer
        return True

    def leave(self, connection: SMTP) -> None:
        self._open.pop(connection, None)


def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer.partition("%")[0]).is_loopback
    except ValueError:
        return False


class _Envelope(Envelope):
    """aiosmtpd makes a fresh one after each mail, RSET and EHLO: no recipient gets into the next mail."""

    def __init__(self) -> None:
        super().__init__()
        self.dialogue = Dialogue()


class _SmtpConnection(SMTP):
    """One connection that speaks SMTP (RFC 5321)."""

    line_length_limit = BUFFER

    def __init__(self, desk: Desk, settings: ListenerSettings, listener: Listener) -> None:
        self._desk = desk
        self._settings = settings
        self._listener = listener
        self._turned_away = False
        self._greeting = False
        self._refused = 0
        self._deadline = 0.0
        super().__init__(
            _Hooks(desk),
            hostname=settings.hostname,
            ident="ESMTP",
            data_size_limit=settings.max_mb * MEGABYTE,
            tls_context=settings.tls,
            timeout=IDLE_SECONDS,
            loop=asyncio.get_running_loop(),
        )

    def _create_envelope(self) -> _Envelope:
        return _Envelope()

    def _dialogue(self) -> Dialogue:
        assert isinstance(self.envelope, _Envelope)  # noqa: S101 - made by _create_envelope alone
        return self.envelope.dialogue

    # --- connection ---

    def connection_made(self, transport: Any) -> None:
        peer = str((transport.get_extra_info("peername") or ("",))[0])
        settings = self._settings
        self.require_starttls = bool(settings.tls) and not settings.allow_unencrypted and not _is_loopback(peer)
        if not self._listener.admit(self, peer):
            self._turned_away = True
            transport.write(self._desk.refusal(TooManyConnections()).encode("ascii") + b"\r\n")
            transport.close()
            return
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.leave(self)
        if not self._turned_away:
            super().connection_lost(error)

    def eof_received(self) -> bool | None:
        return None if self._turned_away else super().eof_received()

    def data_received(self, data: bytes) -> None:
        if not self._turned_away:
            super().data_received(data)

    async def handle_exception(self, error: Exception) -> str:
        """The boundary of a connection: no mistake of ours ends the others, none is ever answered with 250."""
        log.error("connection.failed", error=type(error).__name__)
        self._hang_up()
        return "421 4.3.0 Internal error, closing the connection"

    def _hang_up(self) -> None:
        """Close when the reply that is about to be written has gone out."""
        if self.transport is not None:
            self.loop.call_soon(self.transport.close)

    async def push(self, status: str | bytes) -> None:
        """Every reply bears an enhanced status code, as EHLO promises (RFC 2034, 4), but the greetings."""
        text = status if isinstance(status, str) else status.decode("ascii", "replace")
        if not self._greeting and _WITHOUT_STATUS.match(text):
            text = f"{text[:3]} {text[0]}.0.0 {text[4:]}"
        await super().push(text)

    # --- commands ---

    async def smtp_EHLO(self, hostname: str) -> None:
        self._greeting = True
        await super().smtp_EHLO(hostname)
        self._greeting = False

    async def smtp_HELO(self, hostname: str) -> None:
        self._greeting = True
        await super().smtp_HELO(hostname)
        self._greeting = False

    async def smtp_AUTH(self, arg: str) -> None:
        """Nobody logs in here."""
        await self.push("502 5.5.1 AUTH not implemented")

    async def smtp_MAIL(self, arg: str | None) -> None:
        announced = re.search(r"\bSIZE=(\d{1,20})\b", arg or "", re.IGNORECASE)
        if announced and int(announced[1]) > self._settings.max_mb * MEGABYTE:
            await self.push(self._desk.refusal(self._desk.too_big()))
            return
        await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg: str | None) -> None:
        accepted = len(self._dialogue().recipients)
        await super().smtp_RCPT(arg)
        if len(self._dialogue().recipients) == accepted:
            self._refused += 1
        if self._refused > MAX_REFUSED:
            await self.push("421 4.7.0 Too many refused recipients")
            self._hang_up()

    async def smtp_DATA(self, arg: str | None) -> None:
        """As in aiosmtpd, but with lines of any length, time limits that follow the transfer, and no logging.

        The mail ends at CR LF dot CR LF and at nothing else (RFC 5321, 4.1.1.4).
        """
        if not self._dialogue().recipients:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        try:
            self._desk.make_sure_of_room()
        except MailRefusal as error:
            await self.push(self._desk.refusal(error))
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        self._deadline = self.loop.time() + DATA_SECONDS
        raw = await self._read_mail()
        self._reset_timeout(DATA_SECONDS)  # ours is the delay from here on
        replies = [self._reply(outcome) for outcome in self._replies(await self._outcomes(raw))]
        self.envelope = self._create_envelope()
        self._reset_timeout()
        await self.push("\r\n".join(replies))

    async def _outcomes(self, raw: bytes | None) -> list[Outcome]:
        if raw is None:
            return [self._desk.too_big()] * len(self._dialogue().recipients)
        return await self._desk.mail(self._dialogue(), raw)

    def _replies(self, outcomes: list[Outcome]) -> list[Outcome]:
        """SMTP has one for all: to try again if that helps anybody (it does no harm to the others), else the best."""
        passing = [each for each in outcomes if isinstance(each, MailRefusal) and each.retryable]
        taken = [each for each in outcomes if isinstance(each, str)]
        return [*passing, *taken, *outcomes][:1]

    def _reply(self, outcome: Outcome) -> str:
        return self._desk.refusal(outcome) if isinstance(outcome, MailRefusal) else f"250 2.0.0 Ok: queued as {outcome}"

    async def _read_mail(self) -> bytes | None:
        """The mail without its final dot and dot-stuffing (RFC 5321, 4.5.2); None, all of it read away, if too big."""
        limit = self._settings.max_mb * MEGABYTE
        mail, tail, too_big = bytearray(b"\r\n"), b"\r\n", False
        while not tail.endswith(b"\r\n.\r\n"):
            piece = await self._read_piece()
            tail = (tail + piece)[-5:]
            too_big = too_big or len(mail) + len(piece) > limit + 5
            if too_big:
                mail.clear()
            else:
                mail += piece
        return None if too_big else bytes(mail[:-3]).replace(b"\r\n.", b"\r\n")[2:]

    async def _read_piece(self) -> bytes:
        """Up to the next line that ends in a dot, or as much as the buffer holds."""
        left = self._deadline - self.loop.time()
        self._reset_timeout(max(0.01, min(IDLE_SECONDS, left)))
        try:
            piece: bytes = await self._reader.readuntil(b".\r\n")
        except asyncio.LimitOverrunError as error:
            piece = await self._reader.readexactly(error.consumed)
        return piece


class _LmtpConnection(_SmtpConnection, LMTP):
    """One connection that speaks LMTP (RFC 2033): a reply for each accepted recipient follows the mail (4.2)."""

    async def smtp_LHLO(self, arg: str) -> None:
        self._greeting = True
        await super().smtp_LHLO(arg)
        self._greeting = False

    def _replies(self, outcomes: list[Outcome]) -> list[Outcome]:
        return outcomes


class _Hooks:
    """What aiosmtpd asks of a handler."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offers what we do: no AUTH, no HELP."""
        session.host_name = hostname
        offered = [line for line in responses[1:] if line[4:].partition(" ")[0] not in {"AUTH", "HELP"}]
        offered += ["250-PIPELINING", "250-ENHANCEDSTATUSCODES"]
        return [responses[0], *offered[:-1], "250 " + offered[-1][4:]]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: _Envelope, address: str, options: list[str]
    ) -> str:
        try:
            envelope.dialogue.from_nobody = envelope.mail_from == "<>"
            await self._desk.recipient(envelope.dialogue, address)
        except MailRefusal as error:
            return self._desk.refusal(error)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"
