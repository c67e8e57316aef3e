"""Databases for tests: a PostgreSQL server of our own, and fresh migrated databases on it and on SQLite.

A new database is a copy of one that was migrated once, so that a test pays milliseconds for it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from storage import schema, versions
from storage.database import Database
from tests.parts.ports import LOOPBACK, free_port
from tests.parts.processes import PartFailed, PartMissing, ServerProcess

SECRET: Final = bytes(range(32))
"""The operator's secret key in tests."""

PLAIN_SETTINGS: Final = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", "log_min_messages": "warning"}
FAST_SETTINGS: Final = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
"""Not for tests of durability."""


class PostgresServer:
    """A PostgreSQL server on a free loopback port, its data in a folder that goes when it stops.

    ``with PostgresServer() as server: url = server.migrated()``. Works as root, too, though PostgreSQL does not: it
    then runs as the user ``postgres``. Raises PartMissing if PostgreSQL is not installed.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="secir-postgres-", dir="/tmp"))
        self._as_user = _drop_root(self._folder)
        settings = PLAIN_SETTINGS if durable else {**PLAIN_SETTINGS, **FAST_SETTINGS}
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._server = ServerProcess(
            [*self._as_user, _program("postgres"), "-D", str(self._data), "-p", str(self._port), *options],
            log=self._folder / "server.log",
            is_ready=self._is_ready,
            stop_signal=signal.SIGINT,  # PostgreSQL waits for its clients at SIGTERM, and cuts them off at this
        )
        self._template: str | None = None
        self._free: list[str] = []

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def __enter__(self) -> Self:
        access = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        self._run([*self._as_user, _program("initdb"), "-D", str(self._data), *access])
        self._server.start()
        self._template = self._create()
        asyncio.run(_upgrade(self._url(self._template)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def migrated(self) -> str:
        """The URL of an empty database with today's schema. ``give_back`` makes the next one cheaper."""
        return self._free.pop() if self._free else self._url(self._create(self._template))

    def give_back(self, url: str) -> None:
        """Nobody uses it any more: it is emptied for the next test. Making a new one takes 20 times as long."""
        deletes = [f"DELETE FROM {table.name}" for table in reversed(schema.metadata.sorted_tables)]  # noqa: S608
        statements = "; ".join(["SELECT version_num FROM alembic_version", *deletes])
        if self.query(statements, database=url) == versions.newest():
            self._free.append(url)

    def empty(self) -> str:
        """The URL of a new database with nothing in it."""
        return self._url(self._create())

    def suspend(self) -> None:
        """It keeps its port and answers nobody new."""
        self._server.suspend()

    def resume(self) -> None:
        self._server.resume()

    def stop(self) -> None:
        """Cut all connections and end. The data stays."""
        self._server.stop()

    def start(self) -> None:
        """Again, with the data it had."""
        self._server.start()

    def query(self, statement: str, *, database: str = "postgres") -> str:
        """What ``psql`` prints for one statement, unadorned. ``database`` is a name or a URL."""
        name = database.rpartition("/")[2]
        return self._run([_program("psql"), *self._where(), "-d", name, "-qtAX", "-c", statement])

    def _create(self, template: str | None = None) -> str:
        name = f"secir_{uuid.uuid4().hex[:12]}"
        self.query(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return name

    def _where(self) -> list[str]:
        return ["-h", LOOPBACK, "-p", str(self._port), "-U", "postgres"]

    def _url(self, name: str) -> str:
        return f"postgresql://postgres@{LOOPBACK}:{self._port}/{name}"

    def _is_ready(self) -> bool:
        return (
            subprocess.run([_program("pg_isready"), *self._where()], capture_output=True, check=False).returncode == 0
        )

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=_environment())
        if done.returncode != 0:
            raise PartFailed(f"{Path(command[-1]).name} failed: {done.stderr.strip()}\n{self._server.tail()}")
        return done.stdout.strip()


class SqliteFiles:
    """Fresh migrated SQLite files: copies of one that was migrated once."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template.db"
        asyncio.run(_upgrade(f"sqlite:///{self._template}"))

    def migrated(self, folder: Path) -> str:
        """The URL of a new database with today's schema, in ``folder``."""
        path = folder / f"{uuid.uuid4().hex[:12]}.db"
        shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"


async def _upgrade(url: str) -> None:
    database = Database(url, SECRET)
    await database.upgrade()
    await database.close()


def _environment() -> dict[str, str]:
    """Without what a person's own PostgreSQL settings would change."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def _program(name: str) -> str:
    """Where a program of PostgreSQL is: Debian keeps those of the server out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    for candidate in (shutil.which(name), *(shutil.which(name, path=str(folder)) for folder in folders)):
        if candidate is not None:
            return candidate
    raise PartMissing(f"PostgreSQL's {name} is not installed. Next: apt-get install postgresql")


def _drop_root(folder: Path) -> list[str]:
    """What to put before a server command, since PostgreSQL refuses root; gives ``folder`` to its user."""
    if os.geteuid() != 0:
        return []
    try:
        shutil.chown(folder, "postgres", "postgres")
    except LookupError as error:
        raise PartMissing("There is no user postgres to run it as. Next: apt-get install postgresql") from error
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PartMissing("setpriv is not installed. Next: apt-get install util-linux")
    # It becomes the server itself, unlike runuser, which would stay as its parent: the process we start is the one.
    return [setpriv, "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]


# --- fixtures: ``tests/conftest.py`` imports them --------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests. Take a database of your own from it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> SqliteFiles:
    """Fresh SQLite databases: ``sqlite.migrated(tmp_path)``."""
    return SqliteFiles(tmp_path_factory.mktemp("sqlite"))
