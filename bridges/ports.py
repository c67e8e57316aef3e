"""What the path between the doors needs of them. ``bot/app.py`` fills these Protocols.

``intake`` and ``carrier`` import this and no door; the doors import this and not each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from trust.errors import SecirError
from trust.records import Attachment, Content, DeliveryId, Fingerprint, Group, Member, Post, PublicKey


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, aware, in UTC."""
        ...


class Phrasebook(Protocol):
    """Every sentence that a person can read."""

    def explain(self, error: SecirError) -> str:
        """What happened and the next step, in at most two short sentences."""
        ...

    def say(self, key: str, /, **params: str | int) -> str:
        """The text of a notice. Raises KeyError for an unknown key."""
        ...


class Alarm(Protocol):
    async def __call__(self, group: Group, error: SecirError) -> None:
        """Tell those whom ``error`` concerns, once: the room, the member, the admins (``trust.notices`` says whom)."""
        ...


# --- OpenPGP ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that passed the strict grammar of docs/security.md. ``data`` is the signed MIME entity or text."""

    data: bytes = field(repr=False)
    signer: Fingerprint
    signature_id: str
    """Names this very signature; equal for a replay in a new envelope."""
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class Sealed:
    """One encrypted data packet and, per key, the session-key packet (PKESK) that opens it."""

    packet: bytes = field(repr=False)
    session_keys: Mapping[Fingerprint, bytes] = field(repr=False)
    """Holds the group's own key always; a recipient whose key GnuPG would not use is absent."""


class Safe(Protocol):
    async def open(self, group: Group, message: bytes, signers: Sequence[PublicKey]) -> Opened:
        """Decrypt ``message`` (armoured or binary) with the list's key and verify it against ``signers``.

        Raises NotForThisList, BrokenEncryption, NotSigned, BadSignature, UnknownSigner, SafeUnavailable,
        ListKeyMissing.
        """
        ...

    async def reopen(self, group: Group, packet: bytes, session_key: bytes) -> bytes:
        """The entity inside a post of ours. Raises SafeUnavailable, ListKeyMissing."""
        ...

    async def seal(self, group: Group, entity: bytes, recipients: Sequence[PublicKey]) -> Sealed:
        """Sign by the list key and encrypt to the list key and all ``recipients``, in one call.

        Raises SafeUnavailable, ListKeyMissing.
        """
        ...

    def armour(self, session_key: bytes, packet: bytes) -> bytes:
        """One reader's own message: the session-key packet and the shared data packet, armoured with a CRC."""
        ...


# --- mail ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the outside of a taken-in mail tells, none of it to be trusted."""

    message: bytes = field(repr=False)
    """The OpenPGP message, armoured or binary."""
    subject: str = field(repr=False)
    from_addresses: tuple[str, ...]
    message_id: str | None
    references: tuple[str, ...]
    """Message-IDs this answers: In-Reply-To, then References from last to first; no angle brackets, no doubles."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What the inside of an opened mail says. Protected headers win over the envelope's (RFC 9788)."""

    content: Content
    from_addresses: tuple[str, ...]
    message_id: str | None
    references: tuple[str, ...]
    bound_to: tuple[str, ...]
    """Addresses (To, Cc, List-Id) inside the signed part; empty where the headers are not protected."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What the head of an outgoing post needs: the same for every reader."""

    group: Group
    author: Member | None
    """None for a notice of the bot."""
    note: str
    """Facts on the author for the first line, e.g. "from the room"; may be empty."""
    message_id: str
    date: datetime
    references: tuple[str, ...]
    """Oldest first; the last one is the post it answers."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One member's copy of a post, ready to be sent."""

    group: Group
    post: Post
    delivery: DeliveryId
    """Names this copy, also to a server far away that can't bring it to its reader and sends it back."""
    recipient: str
    references: tuple[str, ...]
    message: bytes = field(repr=False)
    """The armoured OpenPGP message: this member's session-key packet and the shared data packet, and no other."""


class MailDoor(Protocol):
    def read_envelope(self, raw: bytes) -> Envelope:
        """Raises MailNotEncrypted, MailIsSmime, MailBroken, MailIsAutomatic."""
        ...

    def read_letter(self, entity: bytes, envelope: Envelope) -> Letter:
        """Raises ContentUnreadable, TooManyAttachments, AttachmentTooBig."""
        ...

    def write_entity(self, heading: Heading, content: Content) -> bytes:
        """The MIME entity to be sealed: CRLF, 7 bit, protected headers inside."""
        ...

    def read_entity(self, entity: bytes) -> Content:
        """The content of an entity that ``write_entity`` made, without the lines it put before the text."""
        ...

    async def send(self, copy: Copy) -> None:
        """One SMTP transaction. Raises a RelayFault."""
        ...


# --- Matrix ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoomAnswer:
    """Where in the room a post belongs: the event it answers, and its thread, if it is in one."""

    event_id: str
    thread_root: str | None = None


@dataclass(frozen=True, slots=True)
class RoomPost:
    """What the room shall show."""

    group: Group
    author: str
    """The author's name and what is known of the signature; empty for a notice of the bot."""
    content: Content
    answers: RoomAnswer | None
    transaction: str
    """Prefix of the transaction ids: equal for every try of the same delivery."""


@dataclass(frozen=True, slots=True)
class RoomMessage:
    """A decrypted, verified message of the room."""

    event_id: str
    sender: str
    text: str = field(repr=False)
    file: RoomFile | None = None
    answers: RoomAnswer | None = None
    """``thread_root`` is set when the message is in a thread."""
    replaces: str | None = None
    """The event that this one edits."""


@dataclass(frozen=True, slots=True)
class RoomFile:
    """An encrypted file of the room, not yet fetched. ``secrets`` is the event's ``file`` object."""

    name: str = field(repr=False)
    media_type: str
    size: int | None
    secrets: Mapping[str, object] = field(repr=False)


class RoomDoor(Protocol):
    async def send(self, post: RoomPost) -> tuple[str, ...]:
        """Encrypt and send; the ids of the events, first the one to be answered. Raises RoomFault, HomeserverFault."""
        ...

    async def read(self, group: Group, event: Mapping[str, object]) -> RoomMessage | None:
        """Decrypt a stored event; None if nothing in it is for the list (a reaction, a step of a verification).

        Raises EventRefusal, HomeserverFault.
        """
        ...

    async def fetch(self, file: RoomFile) -> Attachment:
        """Raises FileUnreadable, AttachmentTooBig, HomeserverFault."""
        ...
