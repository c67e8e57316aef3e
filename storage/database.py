"""The database: how it is opened, checked, upgraded, and what one transaction is.

Owns the engine and the translation of the drivers' errors; knows no table.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from storage import versions
from storage.secrets import Sealer
from storage.store import Store
from storage.tenancy import Tenancy
from storage.turns import Turns
from trust.errors import BadValue, SchemaOutdated, SchemaTooNew, StoreAway, StoreFull

DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
BUSY_TIMEOUT_MS: Final = 10_000
"""How long SQLite waits for another process's transaction."""
TURN_TIMEOUT_S: Final = 15
"""How long anybody waits for a connection: on SQLite behind others that may wait for another process."""
PLACES: Final = {"sqlite": 1, "postgresql": 6}
"""Transactions at once. Few for PostgreSQL, too: connections that are always in use are always open, and to open one
takes longer than a transaction."""
STATEMENT_TIMEOUT_S: Final = 60
"""How long PostgreSQL may take for one statement before it counts as away."""
PRAGMAS: Final = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    # FULL: in WAL mode NORMAL may lose the last commits in a power cut, and we answered 250 for them.
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
)


class Database:
    """One SQLite file or one PostgreSQL database.

    ``url`` is ``sqlite:///path`` or ``postgresql://user@host/name``, without a driver; ``secret`` is the operator's
    secret key (32 bytes), from which the key of the sealed secrets is derived. Raises BadValue for another kind of URL.
    """

    def __init__(self, url: str, secret: bytes) -> None:
        self._url = _with_driver(url)
        self._sealer = Sealer(secret)
        self._engine = _engine(self._url)
        self._turns = Turns(TURN_TIMEOUT_S, places=PLACES[self._url.get_backend_name()])
        self._tenancy = Tenancy(self._engine)

    async def open(self) -> None:
        """See that the schema is the one this program knows. Raises SchemaOutdated, SchemaTooNew, StoreAway."""
        wanted = versions.newest()
        found = None if self._is_missing() else await self._found()
        if found == wanted:
            return
        if found is not None and not versions.is_known(found):
            raise SchemaTooNew(found=found, wanted=wanted)
        raise SchemaOutdated(found=found or "none", wanted=wanted)

    async def close(self) -> None:
        await self._tenancy.give_up()
        await self._engine.dispose()

    async def hold(self) -> None:
        """See that no other bridge works on this database. To be called at the start, and then now and then.

        Raises AnotherInstance, StoreAway. Until ``close``.
        """
        with _faults():
            await self._tenancy.keep()

    async def upgrade(self) -> None:
        """Bring the schema up to date, in one transaction; an empty database gets its tables.

        It runs on the loop, not in a thread: the drivers are asynchronous. Raises SchemaTooNew, StoreAway.
        """
        # Without foreign keys: SQLite changes a table by making a new one, and dropping the old would cascade.
        engine = _engine(self._url, foreign_keys=False)
        try:
            with _faults():
                self._make_private()
                async with engine.begin() as connection:
                    found = await connection.run_sync(versions.found)
                    if found is not None and not versions.is_known(found):
                        raise SchemaTooNew(found=found, wanted=versions.newest())
                    await connection.run_sync(versions.upgrade)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def transaction(self, *, urgent: bool = False) -> AsyncIterator[Store]:
        """One unit of work: committed at the end, rolled back if anything is raised. Raises StoreAway, StoreFull.

        Do nothing slow in it: on SQLite it holds the one connection, so a second one inside it would wait for long.
        An ``urgent`` one goes before those that wait: for what was done out there, and must not be done again.
        """
        with _faults():
            async with self._turns.mine(urgent=urgent), self._engine.begin() as connection:
                yield Store(connection, self._sealer)

    async def _found(self) -> str | None:
        with _faults():
            self._make_private()
            async with self._engine.connect() as connection:
                return await connection.run_sync(versions.found)

    def _is_missing(self) -> bool:
        """Whether there is no file: connecting would make an empty one, readable by others."""
        return self._url.get_backend_name() == "sqlite" and not Path(self._url.database or "").exists()

    def _make_private(self) -> None:
        """Mode 0600 for SQLite's file; the files beside it (-wal, -shm) take theirs from it."""
        if self._url.get_backend_name() == "sqlite":
            path = Path(self._url.database or "")
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            path.chmod(0o600)


def _with_driver(text: str) -> URL:
    """The URL with the driver that we use. PostgreSQL's own spelling of ``sslmode`` is understood."""
    mistake = BadValue(what="database URL", example="sqlite:////var/lib/secir/secir.db")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Not chained: the text may hold a password.
        raise mistake from None
    backend = url.get_backend_name()
    if backend not in DRIVERS or not url.database or url.database == ":memory:":
        raise mistake
    url = url.set(drivername=DRIVERS[backend])
    if mode := url.query.get("sslmode"):
        return url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return url


def _engine(url: URL, *, foreign_keys: bool = True) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, foreign_keys=foreign_keys)
    timeouts = {"timeout": 10, "command_timeout": STATEMENT_TIMEOUT_S}
    return create_async_engine(
        url, hide_parameters=True, pool_pre_ping=True, pool_size=PLACES["postgresql"] + 1, connect_args=timeouts
    )


def _sqlite_engine(url: URL, *, foreign_keys: bool) -> AsyncEngine:
    """One connection: SQLite has one writer anyway, and a pool is fair where its busy timeout is a lottery."""
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=1,
        max_overflow=0,
        # The driver must not begin transactions by itself: it does so late, and only as readers.
        connect_args={"isolation_level": None},
    )

    def set_up(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in (*PRAGMAS, f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}"):
            cursor.execute(pragma)
        cursor.close()

    def begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock now; a reader that turned writer later could fail with "busy" at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "connect", set_up)
    event.listen(engine.sync_engine, "begin", begin)
    return engine


@contextmanager
def _faults() -> Iterator[None]:
    """Errors of the drivers become StoreAway; a broken constraint or statement is a mistake of ours and stays one."""
    try:
        yield
    except (IntegrityError, ProgrammingError, DataError):
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise (StoreFull if _is_full(error) else StoreAway) from error


def _is_full(error: Exception) -> bool:
    """SQLITE_FULL, PostgreSQL's ``disk_full`` (class 53), or the system's own word."""
    cause = getattr(error, "orig", None) or error
    is_sqlite = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return is_sqlite or getattr(cause, "sqlstate", None) == "53100" or getattr(cause, "errno", None) == errno.ENOSPC
