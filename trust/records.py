"""The records every other package speaks of.

Owns the shapes and the words; knows nothing about how they are stored or carried. Values are
frozen: a change is a new value. Records that hold what people wrote never show it in ``repr``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

OrganisationId = NewType("OrganisationId", int)
ContactId = NewType("ContactId", int)
GroupId = NewType("GroupId", int)
MemberId = NewType("MemberId", int)
MailId = NewType("MailId", int)
EventRowId = NewType("EventRowId", int)
PostId = NewType("PostId", int)
SealedId = NewType("SealedId", int)
DeliveryId = NewType("DeliveryId", int)

Fingerprint = NewType("Fingerprint", str)
"""The primary fingerprint of an OpenPGP v4 key: 40 upper-case hexadecimal digits (RFC 9580, 5.5.4.2)."""


class Door(StrEnum):
    """How a member takes part, and the side a post came in by."""

    ROOM = "room"
    MAIL = "mail"


class Role(StrEnum):
    """What a member may do in a trust group."""

    MEMBER = "member"
    ADMIN = "admin"


class MemberState(StrEnum):
    """Where a member stands in a trust group (the OPS-TRUST life cycle, and ``left``)."""

    NOMINATED = "nominated"
    VETTED = "vetted"
    APPROVED = "approved"
    ACTIVE = "active"
    SOONIDLE = "soonidle"
    IDLE = "idle"
    INACTIVE = "inactive"
    BLOCKED = "blocked"
    FAILED = "failed"
    DECEASED = "deceased"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An OpenPGP certificate as pinned for one mail address: minimal, binary, judged before."""

    fingerprint: Fingerprint
    data: bytes = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Organisation:
    """Usually a ccTLD manager; ``ident`` is its ccTLD as a lower-case A-label (``nl``)."""

    id: OrganisationId
    ident: str
    name: str


@dataclass(frozen=True, slots=True)
class MailAddress:
    """One mail address of a contact, with the key pinned for it, if any."""

    address: str
    key: PublicKey | None = None
    paused_at: datetime | None = None
    """Since when nothing is sent to it, because mail came back; None for an address that works."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A person or role at an organisation."""

    id: ContactId
    name: str
    organisation: Organisation | None = None
    addresses: tuple[MailAddress, ...] = ()
    matrix_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A trust group: one room, one list, one policy."""

    id: GroupId
    name: str
    address: str
    description: str
    key: PublicKey
    federate: bool
    room_token: str
    """Random mark in the room's ``m.room.create`` content, so that a room made before a crash is found again."""
    room_id: str | None = None
    room_pin: Mapping[str, object] | None = None
    """The room's state as agreed: ``{event type: content}``. Anything else in the room is drift."""
    stopped: str | None = None
    """Why nothing is sent to the room (the code of an error), or None."""


@dataclass(frozen=True, slots=True)
class Member:
    """A contact in a trust group. ``door`` tells a responder (room) from an email-only member (mail)."""

    id: MemberId
    group_id: GroupId
    contact_id: ContactId
    name: str
    door: Door
    role: Role
    state: MemberState
    address: MailAddress | None = None
    matrix_id: str | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels with a post. ``name`` is sanitised: one path part, no control characters."""

    name: str = field(repr=False)
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Content:
    """What a person wrote: only ever in memory."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    attachments: tuple[Attachment, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Post:
    """One message that crosses the bridge, as it is remembered: ids and times, never contents."""

    id: PostId
    group_id: GroupId
    reference: str
    """Eight characters that name this post in logs, replies and the audit record."""
    door: Door
    author_id: MemberId | None
    """The member who wrote it, or None for a notice of the bot itself."""
    message_id: str
    """The RFC 5322 Message-ID that every copy by mail bears, without angle brackets."""
    sealed_at: datetime
    author_message_id: str | None = None
    """For a post by mail: the Message-ID the author's own program gave it, without angle brackets."""
    event_id: str | None = None
    """For a post from the room: the event that brought it."""
    thread_root: str | None = None
    """The Matrix thread it belongs to, by its root event."""
    parent_id: PostId | None = None
    note: str = ""
    """Facts on the author that readers see beside the name ("by mail, key …1A2B3C4D"); never contents."""
