"""Every test of storage runs on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage.database import Database
from tests.parts.databases import SECRET, PostgresServer, SqliteFiles


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    """Which database this test runs on."""
    return str(request.param)


@pytest.fixture
def url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database with today's schema."""
    if engine == "sqlite":
        files: SqliteFiles = request.getfixturevalue("sqlite")
        yield files.migrated(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.migrated()
    yield url
    server.give_back(url)


@pytest.fixture
def empty_url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database with nothing in it; for SQLite not even the file."""
    if engine == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.empty()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url, SECRET)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def other_process(url: str) -> AsyncIterator[Database]:
    """The same database over connections of its own."""
    database = Database(url, SECRET)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def postgres_pair(postgres: PostgresServer) -> AsyncIterator[tuple[Database, Database]]:
    """Two processes on one PostgreSQL database."""
    url = postgres.migrated()
    here, there = Database(url, SECRET), Database(url, SECRET)
    yield here, there
    await here.close()
    await there.close()
