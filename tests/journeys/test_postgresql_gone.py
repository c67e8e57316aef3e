"""PostgreSQL gone and back: mail is put off with 451 meanwhile, nothing is lost, and nothing is sent twice."""

from __future__ import annotations

import asyncio
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
from tests.parts.traffic import Writer, arrived_once_in_order, heard, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERY: Final = 0.5
GONE: Final = 10.0
ANSWERED: Final = 45.0
"""Seconds in which each answer must come."""
SOON: Final = 45.0
"""Seconds after its return in which everything must be there: far less than the lease of a row (15 min)."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of its own, which may be stopped."""
    with PostgresServer(durable=True) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse, server: PostgresServer) -> AsyncIterator[Town]:
    """On that PostgreSQL, with a relay that does as it is told."""
    async with AsyncExitStack() as closing:
        relay = await closing.enter_async_context(faulty_relay())
        built = await Town.build(closing, synapse, sink=relay, settings={"database": {"url": server.empty()}})
        await built.open_group()
        yield built


@pytest.mark.deadline(180)
async def test_a_postgresql_that_is_gone_for_a_while_costs_no_mail_and_no_second_delivery(
    town: Town, server: PostgresServer
) -> None:
    """A delivery that the relay takes while the database is gone is recorded later, and not made again."""
    relay = town.sink
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
    took = await arrived_once_in_order(town, boris, chen, within=SOON)
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
    town: Town, server: PostgresServer
) -> None:
    said = [f"[no database {number}]" for number in range(1, 9)]
    await town.ada.say(town.room, said[0])
    await asyncio.to_thread(server.stop)
    for text in said[1:]:
        await town.ada.say(town.room, text)
        await asyncio.sleep(0.5)
    await asyncio.to_thread(server.start)
    for reader in (town.boris, town.chen):
        await reader.receive(said[-1], timeout=SOON)
        assert heard(said, [letter.text for letter in reader.letters()]) == said


async def test_after_all_that_the_bridge_still_stops_in_order(town: Town) -> None:
    assert await town.bridge.stop() == 0
