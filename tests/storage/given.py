"""What a test starts from: a group, its members, a post."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Final

from storage.records import NewEvent
from storage.store import Store
from trust.records import (
    Contact,
    DeliveryId,
    Door,
    Fingerprint,
    Group,
    Member,
    MemberId,
    MemberState,
    Post,
    PublicKey,
    Role,
)

NOON: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)

_numbers = itertools.count(1)


def key(number: int | None = None) -> PublicKey:
    """A key by its number; a new one without."""
    number = next(_numbers) + 1000 if number is None else number
    return PublicKey(Fingerprint(f"{number:040X}"), f"key {number}".encode(), NOON + timedelta(days=365))


async def group(tx: Store, name: str = "tld-ops") -> Group:
    return await tx.groups.add(
        name=name,
        address=f"{name}@lists.example",
        description="For tests",
        key=key(),
        federate=True,
        room_token=f"token of {name}",
    )


async def contact(tx: Store, name: str, pinned: PublicKey | None = None) -> Contact:
    """Somebody with one mail address and one Matrix id, both made of the name."""
    added = await tx.contacts.add(name)
    await tx.contacts.add_address(added.id, f"{name.lower()}@ops.example", pinned)
    await tx.contacts.add_matrix_id(added.id, f"@{name.lower()}:hs.example")
    return await tx.contacts.get(added.id)


async def member(tx: Store, of: Group, name: str, *, door: Door = Door.MAIL, pinned: PublicKey | None = None) -> Member:
    person = await contact(tx, name, pinned or key())
    return await tx.members.add(
        group=of.id,
        contact=person.id,
        door=door,
        role=Role.MEMBER,
        state=MemberState.ACTIVE,
        address=person.addresses[0].address,
        matrix_id=person.matrix_ids[0] if door is Door.ROOM else None,
    )


async def post(
    tx: Store,
    of: Group,
    *,
    author: MemberId | None = None,
    parent: Post | None = None,
    event_id: str | None = None,
    signature_id: str | None = None,
    author_message_id: str | None = None,
) -> Post:
    reference = f"REF{next(_numbers):05}"
    return await tx.posts.add(
        group=of.id,
        reference=reference,
        door=Door.MAIL,
        author=author,
        message_id=f"{reference}@lists.example",
        sealed_at=NOON,
        event_id=event_id,
        signature_id=signature_id,
        author_message_id=author_message_id,
        parent=parent.id if parent else None,
    )


async def delivery(tx: Store, of: Post, to: MemberId | None, *, due: datetime = NOON, held: bool = False) -> DeliveryId:
    """A delivery of a post with a body of its own, to a member, or to the room for None."""
    return await tx.deliveries.add(
        of.id,
        sealed=await tx.posts.seal(of.id, b"packet", b"group's session key"),
        target=Door.ROOM if to is None else Door.MAIL,
        member=to,
        session_key=None if held else b"session key",
        due=due,
    )


def event(event_id: str, room_id: str = "!room:hs.example") -> NewEvent:
    return NewEvent(room_id, event_id, "@ada:hs.example", {"type": "m.room.encrypted", "event_id": event_id}, NOON)
