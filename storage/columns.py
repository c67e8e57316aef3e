"""How values lie in a column so that both databases keep them alike.

Owns the column types and the one insert that minds what is there already; knows no table.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeDecorator

LONGEST: Final = 1000
"""Bytes of text in an indexed column: PostgreSQL's index rows end at about 2,700."""

RowId: Final = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite counts up by itself only in an INTEGER column; it has 64 bits there, too."""

Word_ = TypeVar("Word_", bound=StrEnum)


class UtcTime(TypeDecorator[datetime]):
    """An aware time in UTC, to the microsecond. SQLite keeps no zone, so it is taken off and put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Line(TypeDecorator[str]):
    """Text that may come from strangers: a NUL or half a surrogate pair must not make the statement fail.

    What a database can't hold is escaped, what an index can't hold is cut and ends in its SHA-256: always the same
    way, so that equal texts stay equal and a lookup finds what was stored.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class Word(TypeDecorator[Word_], Generic[Word_]):
    """One of the words of an enumeration."""

    impl = Text
    cache_ok = True

    def __init__(self, words: type[Word_]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: Word_ | None, dialect: Dialect) -> str | None:
        return None if value is None else self.words(value).value

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Word_ | None:
        return None if value is None else self.words(value)


class Json(TypeDecorator[Any]):
    """JSON as ASCII text: the databases' own JSON types refuse values that Matrix allows."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any | None:
        return None if value is None else json.loads(value)


def storable(text: str) -> str:
    """``text`` as both databases can hold and index it. Clean text of up to 1,000 bytes is left alone."""
    clean = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace")
    if len(clean) <= LONGEST:
        return clean.decode()
    digest = hashlib.sha256(clean).hexdigest()
    return clean[: LONGEST - len(digest) - 1].decode("utf-8", "ignore") + "#" + digest


def folded(text: str) -> str:
    """``text`` as it is compared: without regard to case or to how letters are composed."""
    return unicodedata.normalize("NFKC", text).casefold()


def insert_into(connection: AsyncConnection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what to do ``ON CONFLICT``; an error would end PostgreSQL's transaction instead."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
