"""The database locked, or gone: mail is put off with 451 in bounded time, and everything goes on by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
import pytest_asyncio

from tests.parts.databases import PostgresServer
from tests.parts.faulty_relay import FaultyRelay, Step, Trouble, faulty_relay
from tests.parts.synapse import Synapse
from tests.parts.town import BORIS, CHEN, Town
from tests.parts.traffic import Writer, heard, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY: Final = 0.5
LOCKED_AT_MOST: Final = 60.0
"""Seconds the lock is held if nobody is refused (SQLite waits 10 s for it, storage.database.BUSY_TIMEOUT_MS)."""
GONE: Final = 10.0
ANSWERED: Final = 45.0
"""Seconds in which each answer must come: SQLite's patience, for whoever was in the queue before as well."""
SOON: Final = 45.0
"""Seconds after its return in which everything must be there: far less than the lease of a row (15 min)."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse) -> AsyncIterator[Town]:
    """On SQLite."""
    async with AsyncExitStack() as closing:
        built = await Town.build(closing, synapse)
        await built.open_group()
        yield built


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of its own, which may be stopped."""
    with PostgresServer(durable=True) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def elsewhere(synapse: Synapse, server: PostgresServer) -> AsyncIterator[Town]:
    """A town on PostgreSQL, with a relay that does as it is told."""
    async with AsyncExitStack() as closing:
        relay = await closing.enter_async_context(faulty_relay())
        built = await Town.build(closing, synapse, sink=relay, settings={"database": {"url": server.empty()}})
        await built.open_group()
        yield built


async def everything_is_there(town: Town, *writers: Writer) -> float:
    """Wait for each writer's mails in the room and at the other reader: once, in order. The seconds it took."""
    began = time.monotonic()
    for writer in writers:
        reader = next(person for person in town.mail_members if person is not writer.member)
        await town.ada.wait_for(writer.texts[-1], SOON)
        await reader.receive(writer.texts[-1], timeout=SOON)
    took = time.monotonic() - began
    for writer in writers:
        reader = next(person for person in town.mail_members if person is not writer.member)
        assert heard(writer.texts, [message.body for message in town.ada.messages]) == writer.texts
        assert heard(writer.texts, [letter.text for letter in reader.letters()]) == writer.texts
    return took


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
    took = await everything_is_there(town, boris, chen)
    refused = [*boris.refused, *chen.refused]
    slowest = max(answer.seconds for mail in (*boris.written, *chen.written) for answer in mail.answers)
    print(  # noqa: T201
        f"locked {held:.1f} s, {len(refused)} answers of 451, slowest answer {slowest:.1f} s;"
        f" all there after {took:.1f} s"
    )
    assert {(answer.code, answer.said[:5]) for answer in refused} == {(451, "4.3.0")}
    assert slowest < ANSWERED


@pytest.mark.deadline(180)
async def test_a_postgresql_that_is_gone_for_a_while_costs_no_mail_and_no_second_delivery(
    elsewhere: Town, server: PostgresServer
) -> None:
    """A delivery that the relay takes while the database is gone is recorded later, and not made again."""
    town, relay = elsewhere, elsewhere.sink
    assert isinstance(relay, FaultyRelay)
    async with Writer(town.boris, "gone", every=EVERY) as boris, Writer(town.chen, "gone", every=EVERY) as chen:
        await until(lambda: len(boris.written) > 2, most=20)
        in_hand = [relay.fault(Step.DOT, Trouble.WAIT, to=who[1], times=1) for who in (BORIS, CHEN)]
        await until(lambda: all(fault.struck for fault in in_hand), most=20)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1)
        relay.let_go()
        await asyncio.sleep(GONE)
        await asyncio.to_thread(server.start)
        returned = time.monotonic()
    took = await everything_is_there(town, boris, chen)
    refused = [*boris.refused, *chen.refused]
    slowest = max((answer.seconds for answer in refused), default=0)
    print(  # noqa: T201
        f"{len(refused)} answers of 451, slowest {slowest:.1f} s; all there {time.monotonic() - returned:.1f} s after"
        f" the return ({took:.1f} s after the last mail)"
    )
    assert {(answer.code, answer.said[:5]) for answer in refused} == {(451, "4.3.0")}
    assert slowest < ANSWERED
    assert "worker.unexpected" not in town.bridge.log


async def test_room_messages_said_while_postgresql_is_gone_arrive_once_in_order(
    elsewhere: Town, server: PostgresServer
) -> None:
    town, said = elsewhere, [f"[no database {number}]" for number in range(1, 9)]
    await town.ada.say(town.room, said[0])
    await asyncio.to_thread(server.stop)
    for text in said[1:]:
        await town.ada.say(town.room, text)
        await asyncio.sleep(0.5)
    await asyncio.to_thread(server.start)
    for reader in (town.boris, town.chen):
        await reader.receive(said[-1], timeout=SOON)
        assert heard(said, [letter.text for letter in reader.letters()]) == said
