"""Handing mails to the relay: one recipient, one transaction, one typed outcome.

The home of ``aiosmtplib``. TLS is never opportunistic: what the settings ask for holds, or nothing is sent. The bytes
go out as they are (``sendmail``; ``send_message`` would write them anew). Knows nothing of what is in a mail.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import aiosmtplib

from trust.errors import RelayAway, RelayBroke, RelayBusy, RelayFault, RelayNotTrusted, RelayRefused

IDLE_SECONDS: Final = 30.0
"""Then an unused connection is closed: less than any server's own limit."""
LEAVE_SECONDS: Final = 1.0
TRANSACTION_SECONDS: Final = 240.0
"""For the whole of one transaction, the slow answer to the final dot included: less than the lease of a delivery."""

_ENHANCED: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_ADDRESS: Final = re.compile(r"[^\s<>\x00-\x1f\x7f]+@[^\s<>\x00-\x1f\x7f]+")
_CLOSING: Final = 421
"""The server ends the connection, and not because of this mail (RFC 5321, 3.8)."""
_LOGIN_WANTED: Final = frozenset({530, 534, 535, 538})


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Where mail goes out."""

    host: str
    port: int
    tls: Literal["none", "starttls", "tls"]
    hostname: str
    """What we call ourselves in EHLO."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    """Seconds for each answer but the last one."""
    connections: int = 8
    """Transactions under way at once, each on a connection that is kept open as long as it is used."""
    authorities: str | None = None
    """A file of certificates to trust in place of the system's."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a probe saw."""

    tls: str | None
    """The TLS version, e.g. ``TLSv1.3``."""
    logged_in: bool
    size_limit: int | None
    """Octets, as the server announced them (RFC 1870)."""


class Relay:
    """The mail server that takes our mail onward."""

    def __init__(self, settings: RelaySettings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(settings.connections)
        self._idle: list[tuple[aiosmtplib.SMTP, asyncio.TimerHandle]] = []

    async def send(self, *, sender: str, recipient: str, mail: bytes) -> None:
        """One SMTP transaction with one recipient.

        Raises RelayAway and RelayNotTrusted, which concern all mail, and about this one RelayBroke, RelayBusy (4xx),
        RelayRefused (5xx). When the connection breaks behind the final dot the mail may have been taken all the same
        (RFC 1047): the next try bears the same Message-ID.
        """
        if not _ADDRESS.fullmatch(recipient):
            raise RelayRefused(reply="")  # the library would send to whatever it finds in it
        async with self._places:
            client = await self._connection()
            try:
                async with asyncio.timeout(TRANSACTION_SECONDS):
                    await self._transact(client, sender, recipient, mail)
            except TimeoutError as error:
                raise RelayBroke(reply="") from error
            self._put_back(client)

    async def _transact(self, client: aiosmtplib.SMTP, sender: str, recipient: str, mail: bytes) -> None:
        size = [f"SIZE={len(mail)}"] if client.supports_extension("size") else []
        try:
            await client.mail(sender, options=size)
            await client.rcpt(recipient)
            await client.data(mail, timeout=TRANSACTION_SECONDS)
        except (aiosmtplib.SMTPException, OSError, UnicodeError, ValueError) as error:
            if isinstance(error, aiosmtplib.SMTPResponseException) and client.is_connected:
                self._put_back(client)  # the answer was about this recipient; RSET comes before the next one
            else:
                client.close()
            raise translate(error) from error
        except asyncio.CancelledError:
            client.close()
            raise

    async def probe(self) -> Handshake:
        """Connect, greet, TLS, log in, and leave; no mail. Raises a RelayFault."""
        client = await self._open()
        try:
            cipher = client.get_transport_info("cipher")
            size = client.esmtp_extensions.get("size", "")
            found = Handshake(
                tls=cipher[1] if cipher else None,
                logged_in=self._settings.username is not None,
                size_limit=int(size) if size.isdecimal() and int(size) else None,
            )
        finally:
            await self._leave(client)
        return found

    async def close(self) -> None:
        """End the idle connections. A server that does not answer to that is left alone."""
        idle, self._idle = self._idle, []
        for _, timer in idle:
            timer.cancel()
        await asyncio.gather(*(self._leave(client) for client, _ in idle))

    async def _connection(self) -> aiosmtplib.SMTP:
        """An idle connection that still answers, or a new one."""
        while self._idle:
            client, timer = self._idle.pop()
            timer.cancel()
            try:
                await client.rset()
            except (aiosmtplib.SMTPException, OSError):
                client.close()
            else:
                return client
        return await self._open()

    async def _open(self) -> aiosmtplib.SMTP:
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            local_hostname=settings.hostname,
            timeout=settings.timeout,
            use_tls=settings.tls == "tls",
            start_tls=settings.tls == "starttls",
            tls_context=self._tls(),
            username=settings.username,
            password=settings.password,
        )
        try:
            await client.connect()
            if client.is_ehlo_or_helo_needed:
                await client.ehlo()
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            raise _at_the_door(error) from error
        except asyncio.CancelledError:
            client.close()
            raise
        return client

    def _tls(self) -> ssl.SSLContext | None:
        if self._settings.tls == "none":
            return None
        return ssl.create_default_context(cafile=self._settings.authorities)

    def _put_back(self, client: aiosmtplib.SMTP) -> None:
        loop = asyncio.get_running_loop()
        self._idle.append((client, loop.call_later(IDLE_SECONDS, self._drop(client))))

    def _drop(self, client: aiosmtplib.SMTP) -> Callable[[], None]:
        def drop() -> None:
            self._idle = [each for each in self._idle if each[0] is not client]
            client.close()

        return drop

    @staticmethod
    async def _leave(client: aiosmtplib.SMTP) -> None:
        try:
            await client.quit(timeout=LEAVE_SECONDS)
        except (aiosmtplib.SMTPException, OSError):
            client.close()


# --- outcomes --------------------------------------------------------------------------------------------------------


def translate(error: Exception) -> RelayFault:
    """What an answer inside a transaction means. The params hold codes only: answers quote addresses."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _answered(error)
    if isinstance(error, (aiosmtplib.SMTPNotSupported, UnicodeError)):
        return RelayRefused(reply="SMTPUTF8")  # an address that this server can't take
    if isinstance(error, ValueError):
        return RelayRefused(reply="")  # an address that is none
    return RelayBroke(reply="")


def _answered(error: aiosmtplib.SMTPResponseException) -> RelayFault:
    reply = _codes(error)
    if error.code in _LOGIN_WANTED:
        return RelayNotTrusted(reply=reply)
    if error.code == _CLOSING:
        return RelayAway(reply=reply)
    if error.code < 500 or _is_full(error, reply):
        return RelayBusy(reply=reply)
    if isinstance(error, aiosmtplib.SMTPSenderRefused) and error.code != 552:
        # The relay does not take our own address: not the recipient's doing, and mended by the operator.
        return RelayNotTrusted(reply=reply)
    return RelayRefused(reply=reply)


def _is_full(error: aiosmtplib.SMTPResponseException, reply: str) -> bool:
    """A full mailbox is emptied one day, whatever the first digit says: 5.2.2 (RFC 3463), or 552 to the recipient."""
    return reply.endswith(" 5.2.2") or (reply == "552" and isinstance(error, aiosmtplib.SMTPRecipientRefused))


def _at_the_door(error: Exception) -> RelayFault:
    """Before any transaction, nothing is final for a recipient."""
    if _is_tls(error):
        return RelayNotTrusted(reply="")
    if isinstance(error, (aiosmtplib.SMTPAuthenticationError, aiosmtplib.SMTPNotSupported)):
        return RelayNotTrusted(reply=_codes(error))
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return RelayAway(reply=_codes(error))
    if isinstance(error, (OSError, aiosmtplib.SMTPServerDisconnected)):
        return RelayAway(reply="")
    return RelayNotTrusted(reply="")  # no STARTTLS, no way to log in


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _codes(error: Exception) -> str:
    if not isinstance(error, aiosmtplib.SMTPResponseException):
        return ""
    enhanced = _ENHANCED.search(error.message[:40])
    return f"{error.code} {enhanced[0]}" if enhanced else str(error.code)
