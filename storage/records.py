"""What the queues hand out and take in, and the words for where a row stands.

The records of the domain itself are in ``trust.records``; these are the ones only storage makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from trust.records import DeliveryId, Door, EventRowId, GroupId, MailId, MemberId, Post


class MailState(StrEnum):
    """Of a mail in the spool."""

    QUEUED = "queued"
    DONE = "done"
    REFUSED = "refused"


class EventState(StrEnum):
    """Of a Matrix event. One that waits for its room key does not hold later ones up."""

    QUEUED = "queued"
    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"


class DeliveryState(StrEnum):
    """Of a post on its way to one destination. Only a queued one holds later ones up.

    Held: it waits for a usable key, or its address is paused. Buried: given up, or refused. Bounced: handed over, and
    sent back by a server further on.
    """

    QUEUED = "queued"
    HELD = "held"
    BURIED = "buried"
    BOUNCED = "bounced"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class MailItem:
    """A mail as it was received, claimed. ``attempts`` counts this one."""

    id: MailId
    group_id: GroupId
    raw: bytes = field(repr=False)
    received_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A room event as the homeserver gave it."""

    room_id: str
    event_id: str
    sender: str
    event: Mapping[str, object] = field(repr=False)
    received_at: datetime


@dataclass(frozen=True, slots=True)
class EventItem:
    """An event, claimed. ``waiting``: its room key was missing before. ``attempts`` counts this one."""

    id: EventRowId
    room_id: str
    event_id: str
    sender: str
    event: dict[str, object] = field(repr=False)
    received_at: datetime
    attempts: int
    waiting: bool


@dataclass(frozen=True, slots=True)
class DeliveryItem:
    """A delivery, claimed. ``session_key`` is the PKESK packet that opens ``packet`` for this destination."""

    id: DeliveryId
    post: Post
    member_id: MemberId | None
    target: Door
    packet: bytes = field(repr=False)
    session_key: bytes = field(repr=False)
    attempts: int
    created_at: datetime
    elsewhere: str | None = None
    """An address of the member's contact to which this one goes in the place of the member's own."""


@dataclass(frozen=True, slots=True)
class OverdueItem:
    """A delivery that has waited for too long. ``code`` is what went wrong last, None if it was never tried."""

    id: DeliveryId
    group_id: GroupId
    code: str | None


@dataclass(frozen=True, slots=True)
class UndeliveredItem:
    """A delivery that was given up or came back. ``reader`` is the member's name, None for the room."""

    id: DeliveryId
    reference: str
    author_id: MemberId
    sealed_at: datetime
    reader: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class SentItem:
    """A delivery to a member, as far as it matters when it comes back."""

    reference: str
    """Of its post."""
    group_address: str
    member_id: MemberId
    address: str
    in_hand: bool
    """Somebody is sending it at this moment, or has not recorded yet that it was sent."""


@dataclass(frozen=True, slots=True)
class HeldItem:
    """A delivery that waits for a usable key of its member: it has no session key, so it can't be sent."""

    id: DeliveryId
    post: Post
    member_id: MemberId | None
    code: str | None
    created_at: datetime


class QueueKind(StrEnum):
    """What stands in the queue: two in-trays and the outbox."""

    MAIL = "mail"
    EVENT = "event"
    DELIVERY = "delivery"


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A mail, an event or a delivery as an operator sees it: where it stands, never what it says."""

    name: str
    """A letter and a number: ``m12``, ``e7``, ``d31``."""
    kind: QueueKind
    group: str
    """Its group's name; empty for an event of a room that is no group's any more."""
    reference: str
    """Of a delivery: the post it brings. Empty for what is no post yet."""
    whom: str
    """Of a delivery: ``room``, or the member's name."""
    state: str
    attempts: int
    since: datetime
    next_try: datetime | None
    """None while nothing is tried by itself."""
    code: str | None
    """What went wrong last, or why it stands still."""
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit record."""

    at: datetime
    action: str
    group_id: GroupId | None
    actor: str
    subject: str
    detail: str
