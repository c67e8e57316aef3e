"""What was told already, so that it is told once."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import false, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import insert_into
from storage.schema import notices


class Notices:
    """Keys of notices and when each was told last."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def told(self, key: str, at: datetime, *, again_after: timedelta | None = None) -> bool:
        """Whether ``key`` is not to be told now. Changes nothing: what was only looked at is still the first time."""
        last = (
            await self._connection.execute(select(notices.c.told_at).where(notices.c.key == key))
        ).scalar_one_or_none()
        return last is not None and (again_after is None or last > at - again_after)

    async def first(self, key: str, at: datetime, *, again_after: timedelta | None = None) -> bool:
        """Whether ``key`` is to be told now: the first time, and again once ``again_after`` has gone by."""
        is_stale = false() if again_after is None else notices.c.told_at <= at - again_after
        told = await self._connection.execute(
            insert_into(self._connection, notices)
            .values(key=key, told_at=at)
            .on_conflict_do_update(index_elements=["key"], set_={"told_at": at}, where=is_stale)
            .returning(notices.c.key)
        )
        return told.first() is not None
