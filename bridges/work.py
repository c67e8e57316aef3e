"""Workers: claim a row, handle it, settle it. Knows neither doors nor rows, only how work is done.

Work is rows with leases, never tasks in memory: a worker that dies leaves its row to the next one. What a running
process has in hand it knows by itself, so that a database that was away costs neither a row nor a second delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

import structlog

from storage.database import Database
from storage.store import Store
from trust.errors import RateLimited, SecirError, StoreFault, Unexpected

POLL: Final = 5.0
"""Seconds after which a worker looks for due rows though nobody rang (retries come due silently)."""
STORE_PAUSE: Final = 1.0
"""Seconds until the store is asked again when it was away."""
LONGEST_PAUSE: Final = 30.0
"""Seconds between two knocks at a door behind which nobody answers."""

log = structlog.get_logger()


class Row(Protocol):
    @property
    def id(self) -> int: ...


Item = TypeVar("Item", bound=Row)
Settle = Callable[[Store], Awaitable[None]]


class Bell:
    """Wakes the workers after a commit. Ringing with nobody waiting is remembered."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something is due now."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Return at the next ring, or after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()


class Claims(Generic[Item]):
    """What this process has in hand of one kind of row, and what it owes the store.

    Two things can go wrong when the store goes away for a moment: a row stays leased though nobody works on it, and a
    delivery that was made is not recorded. Both are made good in the transaction of the next claim, before it.
    """

    def __init__(self, database: Database, *, recover: Callable[[Store, Collection[int]], Awaitable[int]]) -> None:
        self._database = database
        self._recover = recover
        self._one_at_a_time = asyncio.Lock()
        self._in_hand: dict[int, Item] = {}
        self._owed: dict[int, Settle] = {}
        self._faults = 0
        self._made_good = 0

    @property
    def in_hand(self) -> Sequence[Item]:
        """What the workers of this process are at."""
        return tuple(self._in_hand.values())

    async def next(self, claim: Callable[[Store], Awaitable[Item | None]]) -> Item | None:
        """Lease a row by ``claim``. Raises StoreFault; whether a row was leased then is found out by the next call."""
        async with self._one_at_a_time:
            owed, faults = dict(self._owed), self._faults
            try:
                async with self._database.transaction() as tx:
                    await self._make_good(tx, owed)
                    item = await claim(tx)
            except StoreFault:
                self._faults += 1
                raise
            self._made_good = faults
            for row in owed:
                self._forget(row)
            if item is not None:
                self._in_hand[item.id] = item
            return item

    async def _make_good(self, tx: Store, owed: Mapping[int, Settle]) -> None:
        for settle in owed.values():
            await settle(tx)
        if self._made_good != self._faults:
            rows = await self._recover(tx, self._in_hand.keys())
            log.info("work.recovered", rows=rows)

    async def pay(self) -> None:
        """Record what is owed, before the process ends. Raises StoreFault."""
        async with self._one_at_a_time, self._database.transaction() as tx:
            for settle in self._owed.values():
                await settle(tx)

    async def settle(self, item: Item, settle: Settle) -> None:
        """Record what became of ``item``. If the store can't, it is recorded before anything else is claimed.

        ``settle`` must be harmless when done twice: a commit may have worked though its answer was lost.
        """
        try:
            async with self._database.transaction(urgent=True) as tx:
                await settle(tx)
        except StoreFault:
            self._owed[item.id] = settle
            raise

    def done(self, item: Item) -> None:
        """It is settled."""
        self._forget(item.id)

    def lost(self, item: Item) -> None:
        """The store went away while it was in hand: unless its outcome is owed, it is to be claimed again."""
        self._faults += 1
        if item.id not in self._owed:
            self._forget(item.id)

    def _forget(self, row: int) -> None:
        self._owed.pop(row, None)
        self._in_hand.pop(row, None)


class Outage:
    """Whether somebody behind a door is known to be away: then one row at a time knocks, and the others wait unharmed.

    Monotonic time: a clock that is set does not matter.
    """

    def __init__(self, *kinds: type[SecirError], over: Callable[[], None]) -> None:
        self._kinds = kinds
        self._over = over
        self._failures = 0
        self._since = 0.0
        self._until = 0.0
        self._knocking = False

    @property
    def seconds(self) -> float:
        """How long it has lasted; 0 if there is none."""
        return _now() - self._since if self._failures else 0.0

    def may_try(self) -> bool:
        """Whether a row may be claimed now. While it is an outage, only the one that knocks."""
        if not self._failures:
            return True
        if self._knocking or _now() < self._until:
            return False
        self._knocking = True
        return True

    def nothing_to_try(self) -> None:
        """There was no row to knock with."""
        self._knocking = False

    def saw(self, error: SecirError | None) -> None:
        """How a try ended: None if it went well. Whatever is no outage shows that somebody is there."""
        if error is None or not isinstance(error, self._kinds):
            was_out, self._failures, self._knocking = self._failures > 0, 0, False
            if was_out:
                self._over()  # wakes all who wait for it
            return
        if self._failures and not self._knocking:
            return  # it set out before the outage was known
        self._knocking = False
        self._since = self._since if self._failures else _now()
        self._failures += 1
        self._until = _now() + self._pause(error)

    def _pause(self, error: SecirError) -> float:
        if isinstance(error, RateLimited):
            return error.retry_after
        return min(LONGEST_PAUSE, 2.0 ** min(self._failures - 1, 10))


def _now() -> float:
    return asyncio.get_running_loop().time()


class Worker(Generic[Item]):
    """One loop over one kind of row.

    ``claim`` returns a leased item or None; ``handle`` does the work and settles the row; ``fail`` settles the row
    of an item whose handling raised. Workers of one kind share their ``claims``.
    """

    def __init__(
        self,
        name: str,
        *,
        claims: Claims[Item],
        claim: Callable[[], Awaitable[Item | None]],
        handle: Callable[[Item], Awaitable[None]],
        fail: Callable[[Item, SecirError], Awaitable[None]],
        bell: Bell,
        poll: float = POLL,
    ) -> None:
        self._name = name
        self._claims = claims
        self._claim = claim
        self._handle = handle
        self._fail = fail
        self._bell = bell
        self._poll = poll
        self._stopping = False

    async def run(self) -> None:
        """Work until ``stop``; then the item in hand is finished and no other is claimed."""
        while not self._stopping:
            if not await self.step() and not self._stopping:
                await self._bell.wait(self._poll)

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._bell.ring()

    async def step(self) -> bool:
        """Handle one item. False: nothing was due, or the store is away."""
        item = None
        try:
            item = await self._claim()
            if item is None:
                return False
            await self._one(item)
            self._claims.done(item)
        except StoreFault as error:
            if item is not None:
                self._claims.lost(item)
            log.warning("worker.store_away", worker=self._name, code=error.code)
            await asyncio.sleep(STORE_PAUSE)
            # With something owed it does not wait for a ring: there may be none.
            return item is not None
        return True

    async def _one(self, item: Item) -> None:
        try:
            await self._handle(item)
        except StoreFault:
            raise
        except SecirError as error:
            await self._failed(item, error)
        except Exception as error:  # the boundary: one bad row must never stop the others
            log.exception("worker.unexpected", worker=self._name, error=type(error).__name__)
            await self._failed(item, Unexpected())

    async def _failed(self, item: Item, error: SecirError) -> None:
        """Settle the row. Should telling others of it fail, that ends neither the worker nor the row."""
        try:
            await self._fail(item, error)
        except StoreFault:
            raise
        except Exception as second:  # the boundary, as above
            log.exception("worker.unsettled", worker=self._name, error=type(second).__name__)
            self._claims.lost(item)
