"""One bridge at a time on one database.

On SQLite the lock on the bridge's folder says so already, and the file is in it. On PostgreSQL two bridges on two
machines could meet: an advisory lock, held by a connection of its own, keeps the second one out.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from trust.errors import AnotherInstance

LOCK: Final = int.from_bytes(hashlib.sha256(b"secir: the bridge of this database").digest()[:8], "big", signed=True)
"""Advisory locks are numbers, apart for each database (PostgreSQL 13.3.5)."""


class Tenancy:
    """The right of this process to work on the database behind ``engine``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None

    async def take(self) -> None:
        """Raises AnotherInstance, and what the driver raises."""
        if self._engine.dialect.name != "postgresql":
            return
        connection = await self._engine.connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            taken = (await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK})).scalar_one()
        except BaseException:
            await connection.invalidate()
            await connection.close()
            raise
        if not taken:
            await connection.close()
            raise AnotherInstance(path=f"the database {self._engine.url.database}")
        self._connection = connection

    async def keep(self) -> None:
        """Take it again if its connection was lost: meanwhile another may have come. Raises as ``take``."""
        if self._connection is None:
            await self.take()
            return
        try:
            await self._connection.execute(text("SELECT 1"))
        except (DBAPIError, OSError):
            await self.give_up()
            await self.take()

    async def give_up(self) -> None:
        """The lock goes with the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError, OSError):
                await connection.invalidate()
            with contextlib.suppress(DBAPIError, OSError):
                await connection.close()
