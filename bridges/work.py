"""Workers: claim a row, handle it, settle it. Knows neither doors nor rows, only how work is done.

Work is rows with leases, never tasks in memory: a worker that dies leaves its row to the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import structlog

from trust.errors import SecirError, StoreFault, Unexpected

Item = TypeVar("Item")

POLL: Final = 5.0
"""Seconds after which a worker looks for due rows though nobody rang (retries come due silently)."""

log = structlog.get_logger()


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


class Worker(Generic[Item]):
    """One loop over one kind of row.

    ``claim`` returns a leased item or None; ``handle`` does the work and settles the row; ``fail`` settles the row
    of an item whose handling raised.
    """

    def __init__(
        self,
        name: str,
        *,
        claim: Callable[[], Awaitable[Item | None]],
        handle: Callable[[Item], Awaitable[None]],
        fail: Callable[[Item, SecirError], Awaitable[None]],
        bell: Bell,
        poll: float = POLL,
    ) -> None:
        self._name = name
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
        try:
            item = await self._claim()
            if item is None:
                return False
            await self._one(item)
        except StoreFault as error:
            log.warning("worker.store_away", worker=self._name, code=error.code)
            await asyncio.sleep(1)
            return False
        return True

    async def _one(self, item: Item) -> None:
        try:
            await self._handle(item)
        except StoreFault:
            raise
        except SecirError as error:
            await self._fail(item, error)
        except Exception as error:  # the boundary: one bad row must never stop the others
            log.exception("worker.unexpected", worker=self._name, error=type(error).__name__)
            await self._fail(item, Unexpected())
