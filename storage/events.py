"""Matrix events as they were received, encrypted, and how far the sync has come.

Knows nothing of what an event means: ``bridges.matrix`` reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage import leases
from storage.columns import insert_into
from storage.records import EventItem, EventState, NewEvent
from storage.schema import events, message_indexes, sync_positions
from trust.records import EventRowId


class Events:
    """The events that came in. Those of one room are handled in the order they came."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take_in(self, account: str, position: str, new: Sequence[NewEvent]) -> int:
        """Keep ``new`` and move the sync position of ``account``: both or neither. Returns how many were not known."""
        added = 0
        for event in new:
            added += await self._add(event)
        insert = insert_into(self._connection, sync_positions).values(account=account, position=position)
        await self._connection.execute(
            insert.on_conflict_do_update(index_elements=["account"], set_={"position": position})
        )
        return added

    async def _add(self, event: NewEvent) -> int:
        statement = insert_into(self._connection, events).values(
            room_id=event.room_id,
            event_id=event.event_id,
            sender=event.sender,
            event=event.event,
            received_at=event.received_at,
            state=EventState.QUEUED,
            due_at=event.received_at,
        )
        return (await self._connection.execute(statement.on_conflict_do_nothing())).rowcount

    async def position(self, account: str) -> str | None:
        """Where the next sync begins."""
        found = await self._connection.execute(
            select(sync_positions.c.position).where(sync_positions.c.account == account)
        )
        position: str | None = found.scalar_one_or_none()
        return position

    async def forget_position(self, account: str) -> None:
        """The next sync begins from now: what is older is never taken in."""
        await self._connection.execute(delete(sync_positions).where(sync_positions.c.account == account))

    async def claim(self, now: datetime, *, lease: timedelta) -> EventItem | None:
        """The next event that is due: never one before an earlier queued one of its room."""
        row_id = await leases.claim(self._connection, events, lane="room_id", now=now, lease=lease)
        if row_id is None:
            return None
        row = (await self._connection.execute(select(events).where(events.c.id == row_id))).one()
        return EventItem(
            id=row.id,
            room_id=row.room_id,
            event_id=row.event_id,
            sender=row.sender,
            event=row.event,
            received_at=row.received_at,
            attempts=row.attempts,
            waiting=row.state is EventState.WAITING,
        )

    async def finish(self, event: EventRowId) -> None:
        """Done with; its id stays, so that it is known when the homeserver gives it again."""
        await leases.settle(self._connection, events, event, EventState.DONE, event=None)

    async def refuse(self, event: EventRowId, code: str) -> None:
        """Not relayed, for the reason that ``code`` names; its id and the code stay."""
        await leases.settle(self._connection, events, event, EventState.REFUSED, code, event=None)

    async def retry(self, event: EventRowId, at: datetime, code: str) -> None:
        """Not now: to be claimed again from ``at`` on. Later events of the room wait for it."""
        await leases.retry(self._connection, events, event, at, code)

    async def wait(self, event: EventRowId, session_id: str, code: str, at: datetime) -> None:
        """Its room key is missing: due again at ``at``, or when ``wake`` names its session. Nothing waits for it."""
        values = {"state": EventState.WAITING, "session_id": session_id, "code": code, "due_at": at}
        unfinished = events.c.id == event, events.c.due_at.is_not(None)
        await self._connection.execute(update(events).where(*unfinished).values(leased_until=None, **values))

    async def wake(self, session_id: str) -> int:
        """The key of a session came: the events that wait for it are due now. Returns how many."""
        waiting = events.c.session_id == session_id, events.c.state == EventState.WAITING
        woken = await self._connection.execute(update(events).where(*waiting).values(due_at=events.c.received_at))
        return woken.rowcount

    async def wake_all(self, now: datetime) -> int:
        """After a crash a room key may be there whose events were not woken: look at each again. Returns how many."""
        waiting = events.c.state == EventState.WAITING
        return (await self._connection.execute(update(events).where(waiting).values(due_at=now))).rowcount

    async def recover(self, now: datetime, besides: Collection[int] = ()) -> int:
        """No process but ours: forget all leases, but on those that we have in hand. Returns how many there were."""
        return await leases.recover(self._connection, events, now, besides)

    async def heal(self, now: datetime) -> int:
        """The clock was set back. Returns how many are due now for it."""
        return await leases.heal(self._connection, events, now)

    async def remember_index(self, session_id: str, index: int, event_id: str) -> bool:
        """Note which event used an index of a Megolm session. False if it was another one: a replay."""
        insert = insert_into(self._connection, message_indexes)
        noted = await self._connection.execute(
            insert.values(session_id=session_id, message_index=index, event_id=event_id).on_conflict_do_update(
                index_elements=["session_id", "message_index"],
                set_={"event_id": message_indexes.c.event_id},
                where=message_indexes.c.event_id == event_id,
            )
        )
        return noted.rowcount == 1
