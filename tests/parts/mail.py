"""Mails, a listener with its database, and a relay that does as it is told."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bridges.alarms import Alarms, First, Whom
from bridges.bounced import Returns
from bridges.mail.incoming import Listener, ListenerSettings
from bridges.mail.outgoing import Relay, RelaySettings
from bridges.mail.returns import ReturnPaths
from storage.database import Database
from trust.errors import SecirError
from trust.records import (
    ContactId,
    Door,
    Fingerprint,
    Group,
    GroupId,
    Member,
    MemberId,
    MemberState,
    Post,
    PostId,
    PublicKey,
    Role,
)

CORPORA: Final = Path(__file__).parents[2].parent / "shared" / "corpora"
"""Real mails of other projects, where they exist. None of them is part of this project."""
NOW: Final = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
KEY: Final = PublicKey(Fingerprint("A" * 40), b"key")
LIST: Final = "tld-ops@lists.test"
RETURNS: Final = ReturnPaths(b"key of the return addresses")
MAX_BOUNCES: Final = 3


class Sentences:
    """A phrasebook whose sentences name their code, so that a test sees which one was said."""

    _SAID: Final[Mapping[str, str]] = {
        "mail-author": "{name} wrote:",
        "mail-author-noted": "{name} ({note}) wrote:",
        "mail-from": "{name} via {group}",
        "mail-subject": "[{group}] Encrypted message",
    }

    def explain(self, error: SecirError) -> str:
        return f"«{error.code}»\nhappened… Next: mend it."

    def say(self, key: str, /, **params: str | int) -> str:
        return self._SAID[key].format(**params)


class StoppedClock:
    def now(self) -> datetime:
        return NOW


def a_group(**changes: Any) -> Group:
    values: dict[str, Any] = {
        "id": GroupId(1),
        "name": "tld-ops",
        "address": LIST,
        "description": "",
        "key": KEY,
        "federate": False,
        "room_token": "t",
    }
    return Group(**{**values, **changes})


def a_member(name: str = "Ada Lovelace") -> Member:
    return Member(
        MemberId(7), GroupId(1), ContactId(3), name, Door.ROOM, Role.MEMBER, MemberState.ACTIVE, None, "@ada:x.test"
    )


def a_post(**changes: Any) -> Post:
    values: dict[str, Any] = {
        "id": PostId(5),
        "group_id": GroupId(1),
        "reference": "abcd2345",
        "door": Door.ROOM,
        "author_id": MemberId(7),
        "message_id": "m5@lists.test",
        "sealed_at": NOW,
    }
    return Post(**{**values, **changes})


def armour(data: bytes = b"\xd2not really encrypted") -> bytes:
    """Looks like an OpenPGP message from outside, which is all that the mail door looks at."""
    return b"-----BEGIN PGP MESSAGE-----\n\n" + base64.encodebytes(data) + b"=abcd\n-----END PGP MESSAGE-----\n"


def encrypted_mail(*, headers: bytes = b"", message: bytes | None = None) -> bytes:
    """A PGP/MIME mail as Thunderbird sends it, with CRLF; ``headers`` stand before its own."""
    mail = (
        headers
        + b"From: Ada <ada@example.test>\nTo: "
        + LIST.encode()
        + b"\nSubject: ...\nMessage-ID: <a1@example.test>\n"
        b'MIME-Version: 1.0\nContent-Type: multipart/encrypted; protocol="application/pgp-encrypted"; boundary="b1"\n'
        b"\nThis is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)\n--b1\n"
        b"Content-Type: application/pgp-encrypted\nContent-Description: PGP/MIME version identification\n\nVersion: 1\n"
        b'\n--b1\nContent-Type: application/octet-stream; name="encrypted.asc"\n'
        b'Content-Disposition: inline; filename="encrypted.asc"\n\n' + (message or armour()) + b"\n--b1--\n"
    )
    return mail.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


# --- our listener ----------------------------------------------------------------------------------------------------


@dataclass
class Mailroom:
    """A listener of ours on a real port, and the database behind it."""

    listener: Listener
    database: Database
    group: Group
    returns: Returns
    arrivals: list[None] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    """What was told, and would have gone out."""
    has_room: bool = True
    """On the disk."""

    @property
    def port(self) -> int:
        return self.listener.port

    async def stored(self) -> list[tuple[GroupId, bytes]]:
        """What was taken in, claimed one after the other and finished."""
        found: list[tuple[GroupId, bytes]] = []
        while True:
            async with self.database.transaction() as tx:
                item = await tx.mails.claim(NOW + timedelta(minutes=1), lease=timedelta(minutes=5))
                if item is None:
                    return found
                await tx.mails.finish(item.id)
                found.append((item.group_id, item.raw))


@asynccontextmanager
async def mailroom(
    folder: Path,
    *,
    protocol: Literal["smtp", "lmtp"] = "smtp",
    max_mb: int = 1,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
) -> AsyncIterator[Mailroom]:
    """A listener for the group ``tld-ops`` and one more, ``other@lists.test``."""
    database = Database(f"sqlite:///{folder / 'secir.db'}", bytes(32))
    await database.upgrade()
    await database.open()
    async with database.transaction() as tx:
        group = await _add_group(tx, "tld-ops")
        await _add_group(tx, "other")
    arrivals: list[None] = []
    notices: list[str] = []

    async def notify(group: Group, text: str, whom: Whom, first: First, *, answers: Post | None = None) -> bool:
        async with database.transaction() as tx:
            is_first = await first(tx)
        notices.extend([text] * is_first)
        return is_first

    alarms = Alarms(database=database, clock=StoppedClock(), phrases=Sentences(), notify=notify)
    returns = Returns(database=database, alarms=alarms, clock=StoppedClock(), limit=MAX_BOUNCES)
    listener = Listener(
        ListenerSettings(protocol, "127.0.0.1", port, "mx.lists.test", max_mb, tls),
        database=database,
        phrases=Sentences(),
        clock=StoppedClock(),
        arrived=lambda: arrivals.append(None),
        returns=RETURNS,
        came_back=returns.returned,
        has_room=lambda: room.has_room,
    )
    room = Mailroom(listener, database, group, returns, arrivals, notices)
    await listener.start()
    try:
        yield room
    finally:
        await listener.stop()
        await database.close()


async def _add_group(tx: Any, name: str) -> Group:
    group: Group = await tx.groups.add(
        name=name,
        address=f"{name}@lists.test",
        description="",
        key=PublicKey(Fingerprint(("AB" if name == "other" else "CD") * 20), b"key"),
        federate=False,
        room_token=name,
    )
    return group


class Wire:
    """A client that sends octets as they are and reads whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> Wire:
        """Connected, the greeting read."""
        wire = cls(*await asyncio.open_connection("127.0.0.1", port))
        await wire.reply()
        return wire

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def reply(self) -> str:
        """One reply, its lines joined by ``\\n``. Empty when the server has closed."""
        lines = []
        while True:
            line = (await asyncio.wait_for(self._reader.readline(), 10)).decode("ascii").rstrip("\r\n")
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    async def ask(self, command: str) -> str:
        self.send(command.encode("ascii") + b"\r\n")
        return await self.reply()

    async def mail(self, raw: bytes, *recipients: str, greeting: str = "EHLO", sender: str = "ada@example.test") -> str:
        """A whole transaction up to the final dot; the reply to it (the first one for LMTP)."""
        await self.ask(f"{greeting} client.test")
        await self.ask(f"MAIL FROM:<{sender}>")
        for recipient in recipients or (LIST,):
            await self.ask(f"RCPT TO:<{recipient}>")
        await self.ask("DATA")
        self.send(raw + b".\r\n")
        return await self.reply()

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()


# --- a relay ---------------------------------------------------------------------------------------------------------


@dataclass
class Collected:
    """One mail that the sink took."""

    sender: str
    recipients: list[str]
    data: bytes
    tls: bool
    at: float = field(default_factory=time.monotonic)
    """When it was taken, by the monotonic clock."""


@dataclass
class Sink:
    """Where our mail ends: a relay at ``port``, and what it took."""

    mails: list[Collected] = field(default_factory=list)
    port: int = 0


@dataclass
class MailSink(Sink):
    """An SMTP server that takes every mail but those it was told to refuse."""

    replies: dict[str, str] = field(default_factory=dict)
    """Recipient (or ``MAIL``, ``DATA``) -> what is answered; ``hang up`` closes the connection."""
    connections: int = 0

    async def handle_MAIL(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.mail_from = address
        return await self._said(server, "MAIL")

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.rcpt_tos.append(address)
        return await self._said(server, address)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        said = await self._said(server, "DATA")
        if said.startswith("250"):
            data = envelope.original_content or b""
            tls = session.ssl is not None
            self.mails.append(Collected(envelope.mail_from or "", list(envelope.rcpt_tos), data, tls))
        return said

    async def _said(self, server: SMTP, step: str) -> str:
        said = self.replies.get(step, "250 2.0.0 Ok")
        if said == "hang up":
            assert server.transport is not None
            server.transport.close()
        return said


@asynccontextmanager
async def mail_sink(
    *, tls: ssl.SSLContext | None = None, password: str | None = None, port: int = 0
) -> AsyncIterator[MailSink]:
    """A sink on ``port``, or on a free one. With ``password``, ``secir`` must log in (over TLS, if there is TLS)."""
    sink = MailSink()

    def login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = (data.login, data.password) == (b"secir", (password or "").encode())
        return AuthResult(success=good, handled=False)

    def connection() -> SMTP:
        sink.connections += 1
        return SMTP(
            sink,
            hostname="relay.test",
            tls_context=tls,
            require_starttls=tls is not None,
            auth_required=password is not None,
            auth_require_tls=tls is not None,
            authenticator=login,
            loop=asyncio.get_running_loop(),
        )

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", port)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()


@asynccontextmanager
async def relay_to(sink: Sink | int, **settings: Any) -> AsyncIterator[Relay]:
    """Our side of the connection. ``settings`` as in RelaySettings; TLS is off unless asked for."""
    port = sink if isinstance(sink, int) else sink.port
    relay = Relay(
        RelaySettings(**{"host": "127.0.0.1", "port": port, "tls": "none", "hostname": "us.test", **settings})
    )
    try:
        yield relay
    finally:
        await relay.close()


@dataclass(frozen=True)
class Certificate:
    """Self-signed, for 127.0.0.1 and localhost."""

    chain: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def self_signed(folder: Path) -> Certificate:
    """A fresh certificate in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    found = Certificate(folder / "chain.pem", folder / "key.pem")
    found.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found
