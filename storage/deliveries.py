"""The outbox: one row per post and destination, until it is there, or nobody can bring it there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage import leases
from storage.posts import Posts
from storage.records import DeliveryItem, DeliveryState, HeldItem, OverdueItem, UndeliveredItem
from storage.schema import contacts, deliveries, members, posts, sealed_bodies
from trust.errors import Restored
from trust.records import DeliveryId, Door, GroupId, MemberId, PostId, SealedId

_UNFINISHED: Final = (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.BURIED, DeliveryState.BOUNCED)
_UNDELIVERED: Final = (DeliveryState.BURIED, DeliveryState.BOUNCED)


class Deliveries:
    """Posts on their way. To one destination they go in the order they were added; destinations don't wait."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        post: PostId,
        *,
        sealed: SealedId,
        target: Door,
        member: MemberId | None,
        session_key: bytes | None,
        due: datetime,
        code: str | None = None,
        elsewhere: str | None = None,
    ) -> DeliveryId:
        """One destination of a post: the room (``member`` None) or a member, perhaps at an address ``elsewhere``.

        Without ``session_key`` it is held, for the reason that ``code`` names.
        """
        group = (await self._connection.execute(select(posts.c.group_id).where(posts.c.id == post))).scalar_one()
        is_held = session_key is None
        statement = insert(deliveries).values(
            post_id=post,
            group_id=group,
            target=target,
            member_id=member,
            lane=f"{group}/{target}/{member or ''}",
            sealed_id=sealed,
            session_key=session_key,
            code=code,
            elsewhere=elsewhere,
            created_at=due,
            state=DeliveryState.HELD if is_held else DeliveryState.QUEUED,
            due_at=None if is_held else due,
        )
        return DeliveryId((await self._connection.execute(statement.returning(deliveries.c.id))).scalar_one())

    async def claim(
        self,
        now: datetime,
        *,
        lease: timedelta,
        target: Door,
        besides: Collection[GroupId] = (),
        fresh: bool = False,
    ) -> DeliveryItem | None:
        """The next delivery that is due: never one before an earlier queued one to the same destination.

        None of the groups ``besides``; with ``fresh`` only one that was never tried before.
        """
        among = [deliveries.c.target == target]
        among += [deliveries.c.group_id.not_in(list(besides))] if besides else []
        among += [deliveries.c.attempts == 0] if fresh else []
        row_id = await leases.claim(self._connection, deliveries, lane="lane", now=now, lease=lease, among=among)
        if row_id is None:
            return None
        statement = select(deliveries, sealed_bodies.c.packet).join(sealed_bodies).where(deliveries.c.id == row_id)
        row = (await self._connection.execute(statement)).one()
        return DeliveryItem(
            id=row.id,
            post=await Posts(self._connection).get(row.post_id),
            member_id=row.member_id,
            target=row.target,
            packet=row.packet,
            session_key=row.session_key,
            attempts=row.attempts,
            created_at=row.created_at,
            elsewhere=row.elsewhere,
        )

    async def finish(self, delivery: DeliveryId, *, at: datetime) -> None:
        """It is there. The session key is not needed any more."""
        await leases.settle(
            self._connection, deliveries, delivery, DeliveryState.DONE, finished_at=at, session_key=None
        )

    async def retry(self, delivery: DeliveryId, at: datetime, code: str) -> None:
        """Not now: to be claimed again from ``at`` on. Later ones to the same destination wait for it."""
        await leases.retry(self._connection, deliveries, delivery, at, code)

    async def bury(self, delivery: DeliveryId, code: str) -> None:
        """Given up, for the reason that ``code`` names; kept in sight, and nothing waits for it."""
        await leases.settle(self._connection, deliveries, delivery, DeliveryState.BURIED, code)

    async def bounce(self, delivery: DeliveryId, code: str) -> bool:
        """What was handed over came back. False if it was not handed over, or is not remembered any more."""
        sent = deliveries.c.id == delivery, deliveries.c.state == DeliveryState.DONE
        values = {"state": DeliveryState.BOUNCED, "code": code}
        return (await self._connection.execute(update(deliveries).where(*sent).values(values))).rowcount > 0

    async def overdue(self, before: datetime, most: int) -> list[OverdueItem]:
        """Those that nobody has in hand and that were queued ``before``: at most so many, oldest first."""
        waiting = deliveries.c.state == DeliveryState.QUEUED, deliveries.c.leased_until.is_(None)
        columns = deliveries.c.id, deliveries.c.group_id, deliveries.c.code
        statement = select(*columns).where(*waiting, deliveries.c.created_at < before).order_by(deliveries.c.id)
        rows = await self._connection.execute(statement.limit(most))
        return [OverdueItem(row.id, row.group_id, row.code) for row in rows]

    async def undelivered(self, group: GroupId) -> list[UndeliveredItem]:
        """What people wrote, did not arrive, and nobody was told of, oldest first."""
        lost = deliveries.c.state.in_(_UNDELIVERED), ~deliveries.c.told, deliveries.c.group_id == group
        statement = (
            select(deliveries.c.id, deliveries.c.code, posts, contacts.c.name.label("reader"))
            .join(posts, posts.c.id == deliveries.c.post_id)
            .outerjoin(members, members.c.id == deliveries.c.member_id)
            .outerjoin(contacts, contacts.c.id == members.c.contact_id)
            .where(*lost, posts.c.author_id.is_not(None))
            .order_by(deliveries.c.id)
        )
        rows = await self._connection.execute(statement)
        return [
            UndeliveredItem(row[0], row.reference, row.author_id, row.sealed_at, row.reader, row[1]) for row in rows
        ]

    async def told(self, told: Collection[DeliveryId]) -> None:
        """Their author knows."""
        await self._connection.execute(update(deliveries).where(deliveries.c.id.in_(told)).values(told=True))

    async def hold(self, delivery: DeliveryId, code: str) -> None:
        """It waits for a usable key of its member; nothing waits for it."""
        await leases.settle(self._connection, deliveries, delivery, DeliveryState.HELD, code, session_key=None)

    async def hold_for(self, member: MemberId, code: str) -> int:
        """The key or the address of ``member`` is not good any more: what is queued waits to be sealed anew.

        One that a worker has in hand goes out as it is, and so does one that goes elsewhere. Returns how many.
        """
        at_home = deliveries.c.member_id == member, deliveries.c.elsewhere.is_(None)
        queued = *at_home, deliveries.c.state == DeliveryState.QUEUED
        values = {"state": DeliveryState.HELD, "code": code, "session_key": None, "due_at": None}
        free = deliveries.c.leased_until.is_(None)
        return (await self._connection.execute(update(deliveries).where(*queued, free).values(values))).rowcount

    async def held_for(self, member: MemberId) -> list[HeldItem]:
        """What waits for a usable key or address of ``member``, oldest first; not what waits for an operator."""
        by_us = or_(deliveries.c.code.is_(None), deliveries.c.code != Restored.code)
        held = deliveries.c.member_id == member, deliveries.c.state == DeliveryState.HELD, by_us
        rows = (await self._connection.execute(select(deliveries).where(*held).order_by(deliveries.c.id))).all()
        read = Posts(self._connection)
        return [HeldItem(row.id, await read.get(row.post_id), row.member_id, row.code, row.created_at) for row in rows]

    async def release(self, delivery: DeliveryId, *, sealed: SealedId, session_key: bytes, due: datetime) -> None:
        """A held one, sealed anew, goes its way. One that is not held is left alone."""
        values = {"sealed_id": sealed, "session_key": session_key, "due_at": due, "created_at": due, "attempts": 0}
        values |= {"code": None, "elsewhere": None}
        held = deliveries.c.id == delivery, deliveries.c.state == DeliveryState.HELD
        await self._connection.execute(update(deliveries).where(*held).values(state=DeliveryState.QUEUED, **values))

    async def drop_for(self, member: MemberId) -> int:
        """A removed member gets nothing more: the unfinished rows go. Returns how many."""
        mine = deliveries.c.member_id == member, deliveries.c.state.in_(_UNFINISHED)
        return (await self._connection.execute(delete(deliveries).where(*mine))).rowcount

    async def recover(self, now: datetime, besides: Collection[int] = ()) -> int:
        """No process but ours: forget all leases, but on those that we have in hand. Returns how many there were."""
        return await leases.recover(self._connection, deliveries, now, besides)

    async def heal(self, now: datetime) -> int:
        """The clock was set back. Returns how many are due now for it."""
        return await leases.heal(self._connection, deliveries, now)

    async def counts(self, group: GroupId) -> dict[str, int]:
        """How many deliveries stand where, by state."""
        statement = select(deliveries.c.state, func.count()).where(deliveries.c.group_id == group)
        rows = await self._connection.execute(statement.group_by(deliveries.c.state))
        return {state.value: number for state, number in rows}
