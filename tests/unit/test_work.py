"""Workers: one bad row never stops the others, and neither a stop nor a store that goes away loses anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from bridges import work
from bridges.work import Bell, Claims, Outage, Worker
from trust.errors import HomeserverAway, RateLimited, RelayAway, RelayBusy, SecirError, StoreAway, Unexpected


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "STORE_PAUSE", 0.0)


@dataclass(frozen=True)
class Item:
    id: int
    word: str


@dataclass
class Tray:
    """A row store small enough to see through: it stands in for the database too."""

    rows: list[str]
    handled: list[str] = field(default_factory=list)
    failed: list[tuple[str, type[SecirError]]] = field(default_factory=list)
    raises: dict[str, Exception] = field(default_factory=dict)
    recorded: list[str] = field(default_factory=list)
    recovered: list[list[int]] = field(default_factory=list)
    away: int = 0
    """Transactions that fail from now on."""
    _given: int = 0

    def __post_init__(self) -> None:
        self.claims: Claims[Item] = Claims(self, recover=self.recover)  # type: ignore[arg-type]

    @asynccontextmanager
    async def transaction(self, *, urgent: bool = False) -> AsyncIterator[Any]:
        if self.away:
            self.away -= 1
            raise StoreAway
        yield self

    async def recover(self, _tx: object, besides: Collection[int]) -> int:
        self.recovered.append(sorted(besides))
        return 0

    async def claim(self) -> Item | None:
        return await self.claims.next(self._next)

    async def _next(self, _tx: object) -> Item | None:
        if not self.rows:
            return None
        self._given += 1
        return Item(self._given, self.rows.pop(0))

    async def handle(self, row: Item) -> None:
        await asyncio.sleep(0)
        if row.word in self.raises:
            raise self.raises[row.word]
        self.handled.append(row.word)

        async def record(_tx: object) -> None:
            self.recorded.append(row.word)

        await self.claims.settle(row, record)

    async def fail(self, row: Item, error: SecirError) -> None:
        self.failed.append((row.word, type(error)))

    def worker(self, bell: Bell | None = None) -> Worker[Item]:
        return Worker(
            "test",
            claims=self.claims,
            claim=self.claim,
            handle=self.handle,
            fail=self.fail,
            bell=bell or Bell(),
            poll=60.0,
        )


def _nobody() -> None:
    """Nobody waits."""


def tray_of(*rows: str) -> Tray:
    return Tray(list(rows))


async def test_rows_are_handled_in_the_order_in_which_they_are_claimed() -> None:
    tray = tray_of("one", "two", "three")
    worker = tray.worker()
    while await worker.step():
        pass
    assert tray.handled == ["one", "two", "three"]


async def test_a_row_that_fails_is_settled_and_the_next_one_is_handled() -> None:
    tray = tray_of("bad", "good")
    tray.raises["bad"] = RelayAway()
    worker = tray.worker()
    while await worker.step():
        pass
    assert (tray.failed, tray.handled) == ([("bad", RelayAway)], ["good"])


async def test_a_mistake_of_our_own_settles_its_row_as_unexpected_and_work_goes_on() -> None:
    tray = tray_of("bug", "good")
    tray.raises["bug"] = ZeroDivisionError()
    worker = tray.worker()
    while await worker.step():
        pass
    assert (tray.failed, tray.handled) == ([("bug", Unexpected)], ["good"])


async def test_a_worker_outlives_a_store_that_is_away() -> None:
    tray = tray_of("late")
    tray.away = 1
    worker = tray.worker()
    assert not await worker.step()
    assert await worker.step()
    assert tray.handled == ["late"]


async def test_a_ring_wakes_a_waiting_worker_long_before_its_poll() -> None:
    tray, bell = tray_of(), Bell()
    task = asyncio.create_task(tray.worker(bell).run())
    await asyncio.sleep(0.01)
    tray.rows.append("rung")
    bell.ring()
    await asyncio.sleep(0.01)
    task.cancel()
    assert tray.handled == ["rung"]


async def test_a_ring_that_nobody_waits_for_is_remembered() -> None:
    bell = Bell()
    bell.ring()
    async with asyncio.timeout(1):
        await bell.wait(60)


async def test_a_stop_finishes_the_row_in_hand_and_claims_no_other() -> None:
    tray = tray_of("in hand", "left for the next start")
    worker = tray.worker()
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    worker.stop()
    async with asyncio.timeout(1):
        await task
    assert (tray.handled, tray.rows) == (["in hand"], ["left for the next start"])


async def test_a_row_whose_failure_can_not_be_told_ends_neither_worker_nor_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tray = tray_of("bad", "good")
    tray.raises["bad"] = RelayAway()

    async def fails_itself(_row: Item, _error: SecirError) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tray, "fail", fails_itself)
    worker = tray.worker()
    while await worker.step():
        pass
    assert tray.handled == ["good"]
    assert tray.recovered == [[]]


# --- a store that goes away ------------------------------------------------------------------------------------------


async def test_what_was_delivered_while_the_store_went_away_is_recorded_before_the_next_claim() -> None:
    tray = tray_of("one", "two")
    worker = tray.worker()

    async def went_away(row: Item) -> None:
        monkey.undo()
        tray.away = 2
        await tray.handle(row)

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(worker, "_handle", went_away)
        assert await worker.step()
        assert (tray.handled, tray.recorded) == (["one"], [])
        assert not await worker.step()  # still away
        while await worker.step():
            pass
    assert (tray.handled, tray.recorded) == (["one", "two"], ["one", "two"])


async def test_a_row_in_hand_when_the_store_goes_away_is_free_again_and_what_others_hold_is_not() -> None:
    tray = tray_of("theirs", "mine", "next")
    theirs, mine = await tray.claim(), await tray.claim()
    assert theirs is not None
    assert mine is not None
    tray.claims.lost(mine)
    await tray.claim()
    assert tray.recovered == [[theirs.id]]


async def test_after_a_claim_that_may_have_worked_the_next_one_looks_for_rows_that_nobody_holds() -> None:
    tray = tray_of("one")
    tray.away = 1
    with pytest.raises(StoreAway):
        await tray.claim()
    await tray.claim()
    assert tray.recovered == [[]]


async def test_what_is_owed_is_recorded_at_a_stop() -> None:
    tray = tray_of("one")
    row = await tray.claim()
    assert row is not None
    tray.away = 1
    with pytest.raises(StoreAway):
        await tray.handle(row)
    await tray.claims.pay()
    assert tray.recorded == ["one"]


# --- somebody behind a door is away ----------------------------------------------------------------------------------


async def test_while_somebody_is_away_one_row_at_a_time_knocks() -> None:
    outage = Outage(RelayAway, over=_nobody)
    assert outage.may_try()
    outage.saw(RelayAway())
    assert not outage.may_try()
    outage._until = 0.0
    assert outage.may_try()
    assert not outage.may_try()
    outage.saw(None)
    assert outage.may_try()
    assert outage.may_try()


async def test_many_that_fail_together_are_one_failure() -> None:
    outage = Outage(RelayAway, over=_nobody)
    for _ in range(20):
        outage.saw(RelayAway())
    assert outage._failures == 1


async def test_the_pause_grows_to_half_a_minute_and_no_further() -> None:
    outage = Outage(RelayAway, over=_nobody)
    pauses = []
    for failures in range(1, 9):
        outage._failures = failures
        pauses.append(outage._pause(RelayAway()))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_server_that_names_a_time_is_taken_at_its_word() -> None:
    assert Outage(RateLimited, over=_nobody)._pause(RateLimited(retry_after=120.0)) == 120.0


async def test_a_fault_of_one_recipient_is_no_outage_and_ends_one() -> None:
    outage = Outage(RelayAway, HomeserverAway, over=_nobody)
    outage.saw(RelayBusy())
    assert outage.may_try()
    outage.saw(RelayAway())
    outage._until = 0.0
    assert outage.may_try()
    outage.saw(RelayBusy())
    assert outage.may_try()
    assert outage.may_try()


async def test_a_knock_without_a_row_leaves_the_door_to_the_next() -> None:
    outage = Outage(RelayAway, over=_nobody)
    outage.saw(RelayAway())
    outage._until = 0.0
    assert outage.may_try()
    outage.nothing_to_try()
    assert outage.may_try()


async def test_all_who_waited_are_woken_when_an_outage_is_over() -> None:
    bell = Bell()
    outage = Outage(RelayAway, over=bell.ring)
    outage.saw(RelayAway())
    assert not bell._event.is_set()
    outage.saw(None)
    assert bell._event.is_set()
