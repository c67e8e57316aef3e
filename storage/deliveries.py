"""The outbox: one row per post and destination, until it is there, or nobody can bring it there."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage import leases
from storage.posts import Posts
from storage.records import DeliveryItem, DeliveryState, HeldItem
from storage.schema import deliveries, posts, sealed_bodies
from trust.records import DeliveryId, Door, GroupId, MemberId, PostId, SealedId

_UNFINISHED: Final = (DeliveryState.QUEUED, DeliveryState.HELD, DeliveryState.BURIED)


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
    ) -> DeliveryId:
        """One destination of a post: the room (``member`` None) or a member. Without ``session_key`` it is held."""
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
            created_at=due,
            state=DeliveryState.HELD if is_held else DeliveryState.QUEUED,
            due_at=None if is_held else due,
        )
        return DeliveryId((await self._connection.execute(statement.returning(deliveries.c.id))).scalar_one())

    async def claim(self, now: datetime, *, lease: timedelta, target: Door) -> DeliveryItem | None:
        """The next delivery that is due: never one before an earlier queued one to the same destination."""
        row_id = await leases.claim(
            self._connection, deliveries, lane="lane", now=now, lease=lease, among={"target": target}
        )
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

    async def hold(self, delivery: DeliveryId, code: str) -> None:
        """It waits for a usable key of its member; nothing waits for it."""
        await leases.settle(self._connection, deliveries, delivery, DeliveryState.HELD, code, session_key=None)

    async def hold_for(self, member: MemberId, code: str) -> int:
        """The key of ``member`` changed: what is queued was sealed to the old one, and waits to be sealed anew.

        One that a worker has in hand goes out as it is. Returns how many.
        """
        queued = deliveries.c.member_id == member, deliveries.c.state == DeliveryState.QUEUED
        values = {"state": DeliveryState.HELD, "code": code, "session_key": None, "due_at": None}
        free = deliveries.c.leased_until.is_(None)
        return (await self._connection.execute(update(deliveries).where(*queued, free).values(values))).rowcount

    async def held_for(self, member: MemberId) -> list[HeldItem]:
        """What waits for a usable key of ``member``, oldest first."""
        held = deliveries.c.member_id == member, deliveries.c.state == DeliveryState.HELD
        rows = (await self._connection.execute(select(deliveries).where(*held).order_by(deliveries.c.id))).all()
        read = Posts(self._connection)
        return [HeldItem(row.id, await read.get(row.post_id), row.member_id, row.code, row.created_at) for row in rows]

    async def release(self, delivery: DeliveryId, *, sealed: SealedId, session_key: bytes, due: datetime) -> None:
        """A held one, sealed anew, goes its way. One that is not held is left alone."""
        values = {"sealed_id": sealed, "session_key": session_key, "due_at": due, "attempts": 0, "code": None}
        held = deliveries.c.id == delivery, deliveries.c.state == DeliveryState.HELD
        await self._connection.execute(update(deliveries).where(*held).values(state=DeliveryState.QUEUED, **values))

    async def drop_for(self, member: MemberId) -> int:
        """A removed member gets nothing more: the unfinished rows go. Returns how many."""
        mine = deliveries.c.member_id == member, deliveries.c.state.in_(_UNFINISHED)
        return (await self._connection.execute(delete(deliveries).where(*mine))).rowcount

    async def recover(self, now: datetime) -> int:
        """At start-up of a single process: forget all leases. Returns how many there were."""
        return await leases.recover(self._connection, deliveries, now)

    async def counts(self, group: GroupId) -> dict[str, int]:
        """How many deliveries stand where, by state."""
        statement = select(deliveries.c.state, func.count()).where(deliveries.c.group_id == group)
        rows = await self._connection.execute(statement.group_by(deliveries.c.state))
        return {state.value: number for state, number in rows}
