"""The database under a scene, looked at by its own tools and not by the product's."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final, Protocol

from tests.parts.bridge import Bridge
from tests.parts.databases import PostgresServer

UNFINISHED: Final = (
    "SELECT (SELECT count(*) FROM mails WHERE state <> 'done')"
    " + (SELECT count(*) FROM events WHERE state <> 'done')"
    " + (SELECT count(*) FROM deliveries WHERE state <> 'done')"
)
"""Rows that are not where every row should end: queued, waiting, and those given up or refused as well."""


class Store(Protocol):
    """``name`` stands in the report; ``settings`` are put over the bridge's configuration."""

    name: str
    settings: dict[str, Any]

    def open(self, bridge: Bridge) -> None:
        """Where this bridge has it."""

    def ask(self, statement: str) -> list[str]:
        """The rows of an answer, columns joined by ``|``."""

    def faults(self) -> list[str]:
        """What its own check of itself finds wrong."""

    def unfinished(self) -> int:
        """Rows of work that are not done."""

    def left_alone(self) -> bool:
        """Whether nobody is at it any more: what a killed process had asked for is done, or never will be."""


class SqliteStore:
    """A file below the bridge's folder."""

    name = "sqlite"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self._path = Path()

    def open(self, bridge: Bridge) -> None:
        self._path = bridge.directory / "data" / "secir.db"

    def ask(self, statement: str) -> list[str]:
        connection = sqlite3.connect(self._path, timeout=30)
        try:
            return ["|".join(map(str, row)) for row in connection.execute(statement)]
        finally:
            connection.close()

    def faults(self) -> list[str]:
        return [row for row in self.ask("PRAGMA integrity_check") if row != "ok"] + self.ask("PRAGMA foreign_key_check")

    def unfinished(self) -> int:
        return int(self.ask(UNFINISHED)[0])

    def left_alone(self) -> bool:
        """There is no server that could go on."""
        return True


class PostgresStore:
    """A database on a server that is as durable as an operator's."""

    name = "postgresql"

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._url = server.empty()
        self.settings: dict[str, Any] = {"database": {"url": self._url}}

    def open(self, bridge: Bridge) -> None:
        """The URL is known already."""

    def ask(self, statement: str) -> list[str]:
        return self._server.query(statement, database=self._url).splitlines()

    def faults(self) -> list[str]:
        """Every B-tree against its table (contrib/amcheck)."""
        self.ask("CREATE EXTENSION IF NOT EXISTS amcheck")
        checks = "SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam"
        try:
            self.ask(f"{checks} WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'")
        except RuntimeError as error:
            return [str(error)]
        return []

    def unfinished(self) -> int:
        return int(self.ask(UNFINISHED)[0])

    def left_alone(self) -> bool:
        others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        return self.ask(f"SELECT count(*) FROM pg_stat_activity WHERE {others}") == ["0"]  # noqa: S608 - our own words
