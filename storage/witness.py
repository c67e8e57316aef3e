"""How often each account told its homeserver that it lives. ``bridges.matrix.witness`` says what for."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import insert_into
from storage.schema import witness


class Witness:
    """One number an account. It is older than what the homeserver knows in a backup that was put back."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def count(self, account: str) -> int | None:
        """None before the first time, and after ``forget``."""
        found = await self._connection.execute(select(witness.c.count).where(witness.c.account == account))
        count: int | None = found.scalar_one_or_none()
        return count

    async def put(self, account: str, count: int) -> None:
        statement = insert_into(self._connection, witness).values(account=account, count=count)
        await self._connection.execute(
            statement.on_conflict_do_update(index_elements=["account"], set_={"count": count})
        )

    async def forget(self, account: str) -> None:
        """Take the homeserver's number the next time."""
        await self._connection.execute(delete(witness).where(witness.c.account == account))
