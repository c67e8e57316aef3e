"""SQLite locked by another program: mail is put off with 451 in bounded time, and all goes on by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Final

import pytest

from tests.parts.town import Town
from tests.parts.traffic import Writer, arrived_once_in_order, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY: Final = 0.5
LOCKED_AT_MOST: Final = 60.0
"""Seconds the lock is held if nobody is refused (SQLite waits 10 s for it, storage.database.BUSY_TIMEOUT_MS)."""
ANSWERED: Final = 45.0
"""Seconds in which each answer must come: SQLite's patience, for whoever was in the queue before as well."""
SOON: Final = 45.0
"""Seconds after the lock is gone in which everything must be there."""


async def test_a_locked_sqlite_file_is_answered_with_451_in_bounded_time_and_nothing_is_lost(town: Town) -> None:
    async with Writer(town.boris, "locked", every=EVERY) as boris, Writer(town.chen, "locked", every=EVERY) as chen:
        await until(lambda: len(boris.written) > 2, most=20)
        with sqlite3.connect(town.bridge.directory / "data" / "secir.db", isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            locked = time.monotonic()
            await until(lambda: boris.refused or chen.refused, most=LOCKED_AT_MOST)
            other.execute("ROLLBACK")
            held = time.monotonic() - locked
        other.close()
        await asyncio.sleep(2)
    took = await arrived_once_in_order(town, boris, chen, within=SOON)
    refused = [*boris.refused, *chen.refused]
    slowest = max(answer.seconds for mail in (*boris.written, *chen.written) for answer in mail.answers)
    print(  # noqa: T201
        f"locked {held:.1f} s, {len(refused)} answers of 451, slowest answer {slowest:.1f} s;"
        f" all there after {took:.1f} s"
    )
    assert {(answer.code, answer.said[:5]) for answer in refused} == {(451, "4.3.0")}
    assert slowest < ANSWERED
