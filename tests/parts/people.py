"""A member who has only mail and OpenPGP: writes to the list and reads what it sends, as Thunderbird would.

Nothing of the product is used here; Python's own ``email`` reads, GnuPG decrypts and verifies.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import email.utils
import smtplib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage, MIMEPart
from typing import Final, Self

from tests.parts.mail import Collected, Sink
from tests.parts.pgp import Person, list_packets
from tests.parts.ports import LOOPBACK

PATIENCE: Final = 30.0
PKESK: Final = ":pubkey enc packet:"


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail from the list, opened. ``signer`` is the primary fingerprint of the one good signature, or None."""

    subject: str
    sender: str
    text: str
    files: Mapping[str, bytes]
    signer: str | None
    message_id: str
    in_reply_to: str
    references: Sequence[str]
    outer: str = field(repr=False)
    """The head of the mail as the wire shows it."""
    message: bytes = field(repr=False)
    """The armoured OpenPGP message."""
    at: float = 0.0
    """When the relay took it, by the monotonic clock."""

    @property
    def session_keys(self) -> int:
        """PKESK packets in the message: to how many keys it is encrypted."""
        return list_packets(self.message).count(PKESK)

    def outer_is_silent(self, words: Sequence[str]) -> bool:
        return not any(word in self.outer for word in words)


class MailMember:
    """One member with a GnuPG home of their own."""

    def __init__(self, person: Person, port: int, sink: Sink, list_address: str) -> None:
        self.person = person
        self.name = person.name
        self.address = person.address
        self.key_file = person.home / "public.asc"
        self.key_file.write_bytes(person.armoured_key)
        self.list_fingerprint = ""
        self.list_key = b""
        self._list_address = list_address
        self._port = port
        self._sink = sink
        self._opened: dict[int, Letter] = {}

    @classmethod
    def create(cls, name: str, address: str, port: int, sink: Sink, *, to: str) -> Self:
        """A member with a fresh key, who hands mail to the server at ``port`` and writes to the list address ``to``."""
        return cls(Person.create(None, name, address), port, sink, to)

    def close(self) -> None:
        self.person.close()

    @property
    def list_address(self) -> str:
        """Where this member writes to."""
        return self._list_address

    @property
    def port(self) -> int:
        """The mail server to which this member hands mail."""
        return self._port

    def learn_list_key(self, key: bytes) -> None:
        self.list_key = key
        self.list_fingerprint = self.person.learn(key)

    # --- reading -----------------------------------------------------------------------------------------------------

    def letters(self) -> list[Letter]:
        """All that came so far, oldest first. Raises AssertionError for a mail that this member can't open."""
        mine = [(n, mail) for n, mail in enumerate(self._sink.mails) if mail.recipients == [self.address]]
        for number, mail in mine:
            if number not in self._opened:
                self._opened[number] = self._open(mail)
        return [self._opened[number] for number, _ in mine]

    def has(self, text: str) -> bool:
        return any(text in letter.text for letter in self.letters())

    async def receive(self, text: str, *, timeout: float = PATIENCE) -> Letter:
        """The first letter, come or to come, whose text holds ``text``. Raises TimeoutError."""
        return await self._wait(lambda letter: text in letter.text, timeout)

    async def receive_file(self, name: str, *, timeout: float = PATIENCE) -> Letter:
        """The first letter that brings a file of this name. Raises TimeoutError."""
        return await self._wait(lambda letter: name in letter.files, timeout)

    async def _wait(self, fits: Callable[[Letter], bool], timeout: float) -> Letter:
        async with asyncio.timeout(timeout):
            while True:
                if found := next((letter for letter in await asyncio.to_thread(self.letters) if fits(letter)), None):
                    return found
                await asyncio.sleep(0.05)

    def _open(self, mail: Collected) -> Letter:
        outer = email.message_from_bytes(mail.data, policy=email.policy.default)
        assert outer.get_content_type() == "multipart/encrypted"
        version, sealed = outer.iter_parts()
        assert version.get_content_type() == "application/pgp-encrypted"
        message = sealed.get_payload(decode=True)
        assert isinstance(message, bytes)
        opened = self.person.open(message)  # the list's key was learnt before
        inner = email.message_from_bytes(opened.data, policy=email.policy.default)
        assert isinstance(inner, EmailMessage)
        return Letter(
            subject=str(inner["Subject"]),
            sender=str(inner["From"]),
            text=_text(inner),
            files={str(part.get_filename()): _data(part) for part in inner.iter_attachments()},
            signer=opened.signer,
            message_id=str(outer["Message-ID"]),
            in_reply_to=str(outer["In-Reply-To"] or ""),
            references=str(outer["References"] or "").split(),
            outer=mail.data.partition(b"\r\n\r\n")[0].decode("ascii"),
            message=message,
            at=mail.at,
        )

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(
        self, subject: str, text: str, *, answers: Letter | None = None, files: Mapping[str, bytes] | None = None
    ) -> str:
        """Write to the list, signed and encrypted, headers protected; the Message-ID with its angle brackets."""
        message_id = email.utils.make_msgid(domain=self.address.partition("@")[2])
        await self.hand_over(await self.compose(subject, text, message_id, answers=answers, files=files))
        return message_id

    async def compose(
        self,
        subject: str,
        text: str,
        message_id: str | None = None,
        *,
        answers: Letter | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """The whole mail that ``write`` would hand over."""
        message_id = message_id or email.utils.make_msgid(domain=self.address.partition("@")[2])
        entity = self._entity(subject, text, message_id, answers, files or {})
        message = await asyncio.to_thread(self.person.seal, entity, self.list_key)
        return self.wrap(message, message_id=message_id, answers=answers)

    def _entity(
        self, subject: str, text: str, message_id: str, answers: Letter | None, files: Mapping[str, bytes]
    ) -> bytes:
        """What is sealed (RFC 9788, and ``protected-headers`` as Thunderbird writes it)."""
        inner = EmailMessage(policy=email.policy.SMTP.clone(cte_type="7bit"))
        inner.set_content(text)
        for name, data in files.items():
            inner.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
        for header, value in self._head(message_id, answers).items():
            inner[header] = value
        inner["Subject"] = subject
        inner.set_param("protected-headers", "v1")
        inner.set_param("hp", "cipher")
        return inner.as_bytes()

    def wrap(self, message: bytes, *, message_id: str | None = None, answers: Letter | None = None) -> bytes:
        """The mail around an armoured message (RFC 3156)."""
        head = {**self._head(message_id or email.utils.make_msgid(), answers), "Subject": "...", "MIME-Version": "1.0"}
        head["Content-Type"] = 'multipart/encrypted; protocol="application/pgp-encrypted"; boundary="edge"'
        parts = [
            b"Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n",
            b"Content-Type: application/octet-stream\r\n\r\n" + message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        ]
        body = b"".join(b"--edge\r\n" + part + b"\r\n" for part in parts) + b"--edge--\r\n"
        return "".join(f"{name}: {value}\r\n" for name, value in head.items()).encode() + b"\r\n" + body

    def _head(self, message_id: str, answers: Letter | None) -> dict[str, str]:
        head = {
            "From": f"{self.name} <{self.address}>",
            "To": self._list_address,
            "Date": email.utils.format_datetime(email.utils.localtime()),
            "Message-ID": message_id,
        }
        if answers:
            head["In-Reply-To"] = answers.message_id
            head["References"] = " ".join([*answers.references, answers.message_id])
        return head

    async def hand_over(self, mail: bytes, *, to: str | None = None) -> None:
        """One SMTP transaction. Raises smtplib.SMTPException for a refusal."""
        await asyncio.to_thread(self._hand_over, mail, to or self._list_address)

    def _hand_over(self, mail: bytes, to: str) -> None:
        with smtplib.SMTP(LOOPBACK, self._port, local_hostname="client.test") as smtp:
            smtp.sendmail(self.address, [to], mail)


def _text(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    return str(body.get_content()) if body else ""


def _data(part: MIMEPart) -> bytes:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data
