"""Workers: one bad row never stops the others, and a stop loses nothing."""

from __future__ import annotations

import asyncio

from bridges.work import Bell, Worker
from trust.errors import RelayAway, SecirError, StoreAway, Unexpected


class Tray:
    """A row store small enough to see through."""

    def __init__(self, *rows: str) -> None:
        self.rows = list(rows)
        self.handled: list[str] = []
        self.failed: list[tuple[str, type[SecirError]]] = []
        self.raises: dict[str, Exception] = {}
        self.away = 0

    async def claim(self) -> str | None:
        if self.away:
            self.away -= 1
            raise StoreAway
        return self.rows.pop(0) if self.rows else None

    async def handle(self, row: str) -> None:
        await asyncio.sleep(0)
        if row in self.raises:
            raise self.raises[row]
        self.handled.append(row)

    async def fail(self, row: str, error: SecirError) -> None:
        self.failed.append((row, type(error)))

    def worker(self, bell: Bell | None = None) -> Worker[str]:
        return Worker("test", claim=self.claim, handle=self.handle, fail=self.fail, bell=bell or Bell(), poll=60.0)


async def test_rows_are_handled_in_the_order_in_which_they_are_claimed() -> None:
    tray = Tray("one", "two", "three")
    worker = tray.worker()
    while await worker.step():
        pass
    assert tray.handled == ["one", "two", "three"]


async def test_a_row_that_fails_is_settled_and_the_next_one_is_handled() -> None:
    tray = Tray("bad", "good")
    tray.raises["bad"] = RelayAway()
    worker = tray.worker()
    while await worker.step():
        pass
    assert (tray.failed, tray.handled) == ([("bad", RelayAway)], ["good"])


async def test_a_mistake_of_our_own_settles_its_row_as_unexpected_and_work_goes_on() -> None:
    tray = Tray("bug", "good")
    tray.raises["bug"] = ZeroDivisionError()
    worker = tray.worker()
    while await worker.step():
        pass
    assert (tray.failed, tray.handled) == ([("bug", Unexpected)], ["good"])


async def test_a_worker_outlives_a_store_that_is_away() -> None:
    tray = Tray("late")
    tray.away = 1
    worker = tray.worker()
    assert not await worker.step()
    assert await worker.step()
    assert tray.handled == ["late"]


async def test_a_ring_wakes_a_waiting_worker_long_before_its_poll() -> None:
    tray, bell = Tray(), Bell()
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
    tray = Tray("in hand", "left for the next start")
    worker = tray.worker()
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    worker.stop()
    async with asyncio.timeout(1):
        await task
    assert (tray.handled, tray.rows) == (["in hand"], ["left for the next start"])
