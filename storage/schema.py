"""The tables, their constraints and the index of each claim. Nothing else.

No column holds what people wrote in clear: raw mail and events are encrypted as they came, sealed packets and secrets
by us. ``due_at`` of a queue's row is set as long as the row may be claimed, and only then.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from storage.columns import Json, Line, RowId, UtcTime, Word
from storage.records import DeliveryState, EventState, MailState
from trust.bounces import BounceKind
from trust.records import Door, MemberState, Role

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[Any]:
    return Column("id", RowId, primary_key=True, autoincrement=True)


def _queue_columns() -> list[Column[Any]]:
    """What a row of work carries beside its state."""
    return [
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("due_at", UtcTime),
        Column("leased_until", UtcTime),
        Column("code", Line),
    ]


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


# --- people ----------------------------------------------------------------------------------------------------------

organisations: Final = Table(
    "organisations",
    metadata,
    _id(),
    Column("ident", Line, nullable=False, unique=True),
    Column("name", Line, nullable=False),
    sqlite_autoincrement=True,
)

contacts: Final = Table(
    "contacts",
    metadata,
    _id(),
    Column("name", Line, nullable=False),
    Column("name_folded", Line, nullable=False, index=True),
    Column("organisation_id", RowId, ForeignKey("organisations.id"), index=True),
    sqlite_autoincrement=True,
)

keys: Final = Table(
    "keys",
    metadata,
    Column("fingerprint", Line, primary_key=True),
    Column("contact_id", RowId, ForeignKey("contacts.id"), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("expires_at", UtcTime),
    UniqueConstraint("contact_id", "fingerprint"),
)
"""A key belongs to one contact: the signer of a mail is found by it alone."""

addresses: Final = Table(
    "addresses",
    metadata,
    Column("address", Line, primary_key=True),
    Column("contact_id", RowId, ForeignKey("contacts.id"), nullable=False),
    Column("fingerprint", Line),
    Column("paused_at", UtcTime),
    UniqueConstraint("contact_id", "address"),
    ForeignKeyConstraint(["contact_id", "fingerprint"], ["keys.contact_id", "keys.fingerprint"]),
)

matrix_ids: Final = Table(
    "matrix_ids",
    metadata,
    Column("matrix_id", Line, primary_key=True),
    Column("contact_id", RowId, ForeignKey("contacts.id"), nullable=False),
    UniqueConstraint("contact_id", "matrix_id"),
)

# --- trust groups ----------------------------------------------------------------------------------------------------

groups: Final = Table(
    "groups",
    metadata,
    _id(),
    Column("name", Line, nullable=False),
    Column("name_folded", Line, nullable=False, unique=True),
    Column("address", Line, nullable=False, unique=True),
    Column("description", Line, nullable=False),
    Column("key_fingerprint", Line, nullable=False, unique=True),
    Column("key_data", LargeBinary, nullable=False),
    Column("key_expires_at", UtcTime),
    Column("federate", Boolean, nullable=False),
    Column("room_token", Line, nullable=False, unique=True),
    Column("room_id", Line, unique=True),
    Column("room_pin", Json),
    Column("stopped", Line),
    sqlite_autoincrement=True,
)

members: Final = Table(
    "members",
    metadata,
    _id(),
    Column("group_id", RowId, ForeignKey("groups.id"), nullable=False),
    Column("contact_id", RowId, ForeignKey("contacts.id"), nullable=False, index=True),
    Column("door", Word(Door), nullable=False),
    Column("role", Word(Role), nullable=False),
    Column("state", Word(MemberState), nullable=False),
    Column("address", Line),
    Column("matrix_id", Line),
    UniqueConstraint("group_id", "contact_id"),
    ForeignKeyConstraint(["contact_id", "address"], ["addresses.contact_id", "addresses.address"]),
    ForeignKeyConstraint(["contact_id", "matrix_id"], ["matrix_ids.contact_id", "matrix_ids.matrix_id"]),
    CheckConstraint("door <> 'mail' OR address IS NOT NULL", name="mail_has_address"),
    CheckConstraint("door <> 'room' OR matrix_id IS NOT NULL", name="room_has_matrix_id"),
    sqlite_autoincrement=True,
)

# --- what came in ----------------------------------------------------------------------------------------------------

mails: Final = Table(
    "mails",
    metadata,
    _id(),
    Column("group_id", RowId, ForeignKey("groups.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("state", Word(MailState), nullable=False),
    *_queue_columns(),
    UniqueConstraint("group_id", "digest"),
    CheckConstraint("(state = 'queued') = (due_at IS NOT NULL)", name="due"),
    _partial("ix_mails_due", "due_at", "id", where="due_at IS NOT NULL"),
    _partial("ix_mails_lane", "group_id", "id", where="state = 'queued'"),
    sqlite_autoincrement=True,
)

mail_bodies: Final = Table(
    "mail_bodies",
    metadata,
    Column("mail_id", RowId, ForeignKey("mails.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("raw", LargeBinary, nullable=False),
)
"""Beside ``mails``, since SQLite writes a whole row anew when any of it changes."""

events: Final = Table(
    "events",
    metadata,
    _id(),
    Column("room_id", Line, nullable=False),
    Column("event_id", Line, nullable=False),
    Column("sender", Line, nullable=False),
    Column("event", Json),
    Column("received_at", UtcTime, nullable=False),
    Column("session_id", Line),
    Column("state", Word(EventState), nullable=False),
    *_queue_columns(),
    UniqueConstraint("room_id", "event_id"),
    CheckConstraint("(state IN ('queued', 'waiting')) = (due_at IS NOT NULL)", name="due"),
    CheckConstraint("due_at IS NULL OR event IS NOT NULL", name="event_kept"),
    _partial("ix_events_due", "due_at", "id", where="due_at IS NOT NULL"),
    _partial("ix_events_lane", "room_id", "id", where="state = 'queued'"),
    _partial("ix_events_session", "session_id", where="state = 'waiting'"),
    sqlite_autoincrement=True,
)

sync_positions: Final = Table(
    "sync_positions",
    metadata,
    Column("account", Line, primary_key=True),
    Column("position", Text, nullable=False),
)

message_indexes: Final = Table(
    "message_indexes",
    metadata,
    Column("session_id", Line, nullable=False),
    Column("message_index", RowId, nullable=False),
    Column("event_id", Line, nullable=False),
    PrimaryKeyConstraint("session_id", "message_index"),
)
"""Which event used which index of a Megolm session: a second one is a replay."""

# --- posts and their way out -----------------------------------------------------------------------------------------

posts: Final = Table(
    "posts",
    metadata,
    _id(),
    Column("group_id", RowId, ForeignKey("groups.id"), nullable=False),
    Column("reference", Line, nullable=False, unique=True),
    Column("door", Word(Door), nullable=False),
    Column("author_id", RowId, ForeignKey("members.id"), index=True),
    Column("message_id", Line, nullable=False),
    Column("author_message_id", Line),
    Column("event_id", Line),
    Column("thread_root", Line),
    Column("parent_id", RowId, ForeignKey("posts.id"), index=True),
    Column("signature_id", Line),
    Column("note", Line, nullable=False),
    Column("sealed_at", UtcTime, nullable=False),
    UniqueConstraint("group_id", "message_id"),
    UniqueConstraint("group_id", "event_id"),
    UniqueConstraint("group_id", "signature_id"),
    Index("ix_posts_author_message", "group_id", "author_message_id"),
    sqlite_autoincrement=True,
)

post_events: Final = Table(
    "post_events",
    metadata,
    Column("group_id", RowId, ForeignKey("groups.id"), nullable=False),
    Column("event_id", Line, nullable=False),
    Column("post_id", RowId, ForeignKey("posts.id"), nullable=False, index=True),
    Column("place", Integer, nullable=False),
    PrimaryKeyConstraint("group_id", "event_id"),
)
"""The events that show a post in the room, in their order."""

sealed_bodies: Final = Table(
    "sealed_bodies",
    metadata,
    _id(),
    Column("post_id", RowId, ForeignKey("posts.id"), nullable=False, index=True),
    Column("packet", LargeBinary, nullable=False),
    Column("group_session_key", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

deliveries: Final = Table(
    "deliveries",
    metadata,
    _id(),
    Column("post_id", RowId, ForeignKey("posts.id"), nullable=False),
    Column("group_id", RowId, ForeignKey("groups.id"), nullable=False),
    Column("target", Word(Door), nullable=False),
    Column("member_id", RowId, ForeignKey("members.id"), index=True),
    Column("lane", Line, nullable=False),
    Column("sealed_id", RowId, ForeignKey("sealed_bodies.id", ondelete="SET NULL"), index=True),
    Column("session_key", LargeBinary),
    Column("created_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Column("state", Word(DeliveryState), nullable=False),
    *_queue_columns(),
    Column("told", Boolean, nullable=False, server_default=false()),
    Column("elsewhere", Line),
    UniqueConstraint("post_id", "lane"),
    CheckConstraint("(state = 'queued') = (due_at IS NOT NULL)", name="due"),
    CheckConstraint("due_at IS NULL OR (sealed_id IS NOT NULL AND session_key IS NOT NULL)", name="sealed"),
    CheckConstraint("(target = 'mail') = (member_id IS NOT NULL)", name="whom"),
    _partial("ix_deliveries_due", "target", "due_at", "id", where="due_at IS NOT NULL"),
    _partial("ix_deliveries_lane", "lane", "id", where="state = 'queued'"),
    Index("ix_deliveries_counts", "group_id", "state"),
    _partial("ix_deliveries_unfinished", "created_at", "id", where="state <> 'done'"),
    _partial("ix_deliveries_undelivered", "group_id", "id", where="state IN ('buried', 'bounced') AND NOT told"),
    sqlite_autoincrement=True,
)
"""``lane`` names the destination: order is kept within it. ``elsewhere`` is an address of the member's contact to
which this one goes in the place of the member's own. ``told``: its author knows that it did not arrive."""

bounces: Final = Table(
    "bounces",
    metadata,
    _id(),
    Column("delivery_id", RowId, nullable=False, unique=True),
    Column("address", Line, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("kind", Word(BounceKind), nullable=False),
    Column("status", Line, nullable=False),
    Index("ix_bounces_address_at", "address", "at"),
    sqlite_autoincrement=True,
)
"""Mails that came back. A delivery counts once, and its row may be gone before."""

# --- the bot itself --------------------------------------------------------------------------------------------------

identities: Final = Table(
    "identities",
    metadata,
    Column("user_id", Line, primary_key=True),
    Column("master_key", Line, nullable=False),
    Column("level", Line, nullable=False),
    Column("pinned_at", UtcTime, nullable=False),
)

witness: Final = Table(
    "witness",
    metadata,
    Column("account", Line, primary_key=True),
    Column("count", RowId, nullable=False),
)
"""How often the bridge told the homeserver that it lives: less than the homeserver knows in a restored backup."""

secrets: Final = Table(
    "secrets",
    metadata,
    Column("name", Line, primary_key=True),
    Column("box", LargeBinary, nullable=False),
)

notices: Final = Table(
    "notices",
    metadata,
    Column("key", Line, primary_key=True),
    Column("told_at", UtcTime, nullable=False),
)

audit: Final = Table(
    "audit",
    metadata,
    _id(),
    Column("at", UtcTime, nullable=False),
    Column("action", Line, nullable=False),
    Column("group_id", RowId, ForeignKey("groups.id")),
    Column("actor", Line, nullable=False),
    Column("subject", Line, nullable=False),
    Column("detail", Line, nullable=False),
    Index("ix_audit_recent", "group_id", "id"),
    sqlite_autoincrement=True,
)
"""Rows are only ever added."""
