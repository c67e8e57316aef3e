"""Work as rows with leases: claim the next one, and say what became of it. The same for mails, events and deliveries.

A row may be claimed while its ``due_at`` has come and nobody holds a lease on it. A lane is what keeps an order: a row
is not claimed while an earlier queued one of its lane is unfinished, be it leased or waiting for its next try.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Table, Update, exists, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection


async def claim(
    connection: AsyncConnection,
    table: Table,
    *,
    lane: str,
    now: datetime,
    lease: timedelta,
    among: Mapping[str, object] | None = None,
) -> int | None:
    """Take a lease on the next row that is due, of those whose columns are as in ``among``. None if there is none."""
    claimed = await connection.execute(_claim(table, lane=lane, now=now, lease=lease, among=among or {}))
    row_id: int | None = claimed.scalar_one_or_none()
    return row_id


def _claim(table: Table, *, lane: str, now: datetime, lease: timedelta, among: Mapping[str, object]) -> Update:
    """One statement for both databases: SQLAlchemy leaves FOR UPDATE out on SQLite, which has one writer anyway.

    On PostgreSQL a row that another process is claiming is passed over, and a row that it claimed just before is
    looked at again under the lock, so that two never get the same. ``=`` rather than ``IN``: a subquery that stands
    alone runs once, whatever the plan.
    """
    row, earlier = table.alias("candidate"), table.alias("earlier")
    # Written out, not bound: the partial index of the lane is for this very word.
    queued = literal("queued", literal_execute=True)
    blocked = exists().where(earlier.c[lane] == row.c[lane], earlier.c.state == queued, earlier.c.id < row.c.id)
    chosen = (
        select(row.c.id)
        .where(row.c.due_at <= now, or_(row.c.leased_until.is_(None), row.c.leased_until <= now), ~blocked)
        .where(*(row.c[column] == value for column, value in among.items()))
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


async def recover(connection: AsyncConnection, table: Table, now: datetime) -> int:
    """Nobody who held a lease lives any more: what they had in hand is due now. Returns how many."""
    values = {"due_at": now, "leased_until": None}
    return (await connection.execute(update(table).where(table.c.leased_until.is_not(None)).values(values))).rowcount
