"""The cross-signing identities of Matrix users, as they were first seen or agreed on."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import insert_into
from storage.schema import identities
from trust.errors import AlreadyThere


class Identities:
    """The pinned master keys. ``level`` says how well one was checked; the words are the Matrix door's."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def pin(self, user: str, master_key: str, level: str, at: datetime) -> None:
        """Pin a user's first identity; the same again changes nothing. Raises AlreadyThere if another is pinned."""
        statement = insert_into(self._connection, identities)
        values = {"user_id": user, "master_key": master_key, "level": level, "pinned_at": at}
        await self._connection.execute(statement.values(values).on_conflict_do_nothing())
        if await self.pinned(user) != master_key:
            raise AlreadyThere(what=user)

    async def pinned(self, user: str) -> str | None:
        """The user's master key."""
        found = await self._connection.execute(select(identities.c.master_key).where(identities.c.user_id == user))
        master_key: str | None = found.scalar_one_or_none()
        return master_key

    async def level(self, user: str) -> str | None:
        """How well the pinned identity was checked."""
        found = await self._connection.execute(select(identities.c.level).where(identities.c.user_id == user))
        level: str | None = found.scalar_one_or_none()
        return level

    async def repin(self, user: str, master_key: str, level: str, at: datetime) -> None:
        """Pin another identity, or the same at another level: somebody who may decided so."""
        values = {"master_key": master_key, "level": level, "pinned_at": at}
        statement = insert_into(self._connection, identities).values(user_id=user, **values)
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_=values))
