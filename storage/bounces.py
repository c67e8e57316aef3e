"""Mails that came back: one row per delivery, by which an address that does not work is known."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import insert_into
from storage.records import SentItem
from storage.schema import addresses, bounces, deliveries, groups, members, posts
from trust.bounces import BounceKind
from trust.records import DeliveryId


class Bounces:
    """What came back, from which address, when, and why."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def sent(self, delivery: DeliveryId) -> SentItem | None:
        """Whose delivery it is and where it went. None if it is not remembered, or was for the room."""
        statement = (
            select(
                deliveries.c.member_id,
                deliveries.c.leased_until,
                deliveries.c.elsewhere,
                posts.c.reference,
                groups.c.address.label("group_address"),
                members.c.address,
            )
            .join(posts, posts.c.id == deliveries.c.post_id)
            .join(groups, groups.c.id == deliveries.c.group_id)
            .join(members, members.c.id == deliveries.c.member_id)
            .where(deliveries.c.id == delivery)
        )
        row = (await self._connection.execute(statement)).one_or_none()
        if row is None or (row.elsewhere or row.address) is None:
            return None
        in_hand = row.leased_until is not None
        return SentItem(row.reference, row.group_address, row.member_id, row.elsewhere or row.address, in_hand)

    async def add(self, delivery: DeliveryId, address: str, *, at: datetime, kind: BounceKind, status: str) -> bool:
        """It came back from ``address``. A delivery counts once; that it is late may be told before that it failed.

        False if this tells nothing new.
        """
        # One at a time for each address: whoever counts sees all that were added before.
        this = select(addresses.c.address).where(addresses.c.address == address.lower())
        await self._connection.execute(this.with_for_update())
        values = {"address": address.lower(), "at": at, "kind": kind, "status": status}
        statement = insert_into(self._connection, bounces).values(delivery_id=delivery, **values)
        was_late = (bounces.c.kind == BounceKind.DELAYED) & (statement.excluded.kind != BounceKind.DELAYED)
        told = await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["delivery_id"], set_=values, where=was_late).returning(
                bounces.c.id
            )
        )
        return told.scalar_one_or_none() is not None

    async def counts(self, address: str, since: datetime) -> dict[BounceKind, int]:
        """How many deliveries came back from ``address`` since then, by kind."""
        lately = bounces.c.address == address.lower(), bounces.c.at > since
        statement = select(bounces.c.kind, func.count()).where(*lately).group_by(bounces.c.kind)
        found = {row[0]: row[1] for row in await self._connection.execute(statement)}
        return {kind: found.get(kind, 0) for kind in BounceKind}

    async def forgive(self, address: str) -> None:
        """What came back from ``address`` does not count against it any more."""
        from_there = bounces.c.address == address.lower()
        await self._connection.execute(update(bounces).where(from_there).values(address=""))
