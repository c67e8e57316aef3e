"""Work as rows with leases: claim the next one, and say what became of it. The same for mails, events and deliveries.

A row may be claimed while its ``due_at`` has come and nobody holds a lease on it. A lane is what keeps an order: a row
is not claimed while an earlier queued one of its lane is unfinished, be it leased or waiting for its next try.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, Table, Update, exists, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.util import ClauseAdapter

FARTHEST: Final = timedelta(days=2)
"""Longer than anything is ever put off or leased."""


async def claim(
    connection: AsyncConnection,
    table: Table,
    *,
    lane: str,
    now: datetime,
    lease: timedelta,
    among: Sequence[ColumnElement[bool]] = (),
) -> int | None:
    """Take a lease on the next row that is due, of those for which all of ``among`` is true. None if there is none."""
    claimed = await connection.execute(_claim(table, lane=lane, now=now, lease=lease, among=among))
    row_id: int | None = claimed.scalar_one_or_none()
    return row_id


def _claim(table: Table, *, lane: str, now: datetime, lease: timedelta, among: Sequence[ColumnElement[bool]]) -> Update:
    """One statement for both databases: SQLAlchemy leaves FOR UPDATE out on SQLite, which has one writer anyway.

    On PostgreSQL a row that another process is claiming is passed over, and a row that it claimed just before is
    looked at again under the lock, so that two never get the same. ``=`` rather than ``IN``: a subquery that stands
    alone runs once, whatever the plan.
    """
    row, earlier = table.alias("candidate"), table.alias("earlier")
    wanted = [ClauseAdapter(row).traverse(condition) for condition in among]
    # Written out, not bound: the partial index of the lane is for this very word.
    queued = literal("queued", literal_execute=True)
    blocked = exists().where(earlier.c[lane] == row.c[lane], earlier.c.state == queued, earlier.c.id < row.c.id)
    chosen = (
        select(row.c.id)
        .where(row.c.due_at <= now, or_(row.c.leased_until.is_(None), row.c.leased_until <= now), ~blocked)
        .where(*wanted)
        .order_by(row.c.due_at, row.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=row)
    )
    return (
        update(table)
        .where(table.c.id == chosen.scalar_subquery())
        .values(attempts=table.c.attempts + 1, leased_until=now + lease)
        .returning(table.c.id)
    )


async def settle(
    connection: AsyncConnection, table: Table, row_id: int, state: StrEnum, code: str | None = None, **also: object
) -> None:
    """The row is not to be claimed any more: it stands at ``state``."""
    values = {"state": state, "code": code, "due_at": None, "leased_until": None, **also}
    await connection.execute(update(table).where(table.c.id == row_id).values(values))


async def retry(connection: AsyncConnection, table: Table, row_id: int, at: datetime, code: str) -> None:
    """Give the lease back: to be claimed again from ``at`` on. A row that was settled meanwhile stays so."""
    values = {"due_at": at, "leased_until": None, "code": code}
    await connection.execute(update(table).where(table.c.id == row_id, table.c.due_at.is_not(None)).values(values))


async def recover(connection: AsyncConnection, table: Table, now: datetime, besides: Collection[int] = ()) -> int:
    """Nobody holds a lease any more, but on ``besides``: what was in hand is due now. Returns how many."""
    lost = table.c.leased_until.is_not(None), table.c.id.not_in(list(besides))
    values = {"due_at": now, "leased_until": None}
    return (await connection.execute(update(table).where(*lost).values(values))).rowcount


async def heal(connection: AsyncConnection, table: Table, now: datetime) -> int:
    """The clock was set back: what no rule of ours puts off so far is due now. Returns how many."""
    absurd = or_(table.c.due_at > now + FARTHEST, table.c.leased_until > now + FARTHEST)
    values = {"due_at": now, "leased_until": None}
    return (await connection.execute(update(table).where(table.c.due_at.is_not(None), absurd).values(values))).rowcount
