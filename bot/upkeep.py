"""What a running bridge does now and then, and once at its start: each job looks in the database for what is due."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from bot.config import Config
from bot.schedule import Schedule
from bot.workers import Bells
from bridges.carrier import Carrier
from bridges.ports import Clock
from bridges.undelivered import Undelivered
from storage.database import Database

log = structlog.get_logger()

HEARTBEAT: Final = timedelta(seconds=30)
RARELY: Final = timedelta(minutes=10)
"""Between two looks at what is over: deliveries to give up, bodies that nobody needs."""
PORTION: Final = 200
"""Rows of a kind that one transaction deletes."""


class Upkeep:
    """The jobs. ``heartbeat`` is the file that ``secir health`` looks at."""

    def __init__(
        self,
        config: Config,
        database: Database,
        clock: Clock,
        *,
        carrier: Carrier,
        undelivered: Undelivered,
        bells: Bells,
        heartbeat: Path,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._carrier = carrier
        self._undelivered = undelivered
        self._bells = bells
        self._heartbeat = heartbeat

    def schedule(self) -> Schedule:
        """Each job and how often it runs; all of them run at the start, too."""
        schedule, often = Schedule(), self._config.matrix.reconcile_every
        schedule.every(often, "release-held", self.release_held)
        schedule.every(often, "tell-undelivered", self._undelivered.tell)
        schedule.every(RARELY, "set-clock-right", self.set_clock_right)
        schedule.every(RARELY, "give-up", self._undelivered.give_up)
        schedule.every(RARELY, "retention", self.delete_what_is_over)
        schedule.every(HEARTBEAT, "heartbeat", self.beat)
        return schedule

    async def recover(self) -> None:
        """After a crash rows are still leased by a process that is gone: this one is alone, so it takes them back."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            rows = await tx.mails.recover(now) + await tx.events.recover(now) + await tx.deliveries.recover(now)
            rows += await tx.events.wake_all(now)
        if rows:
            log.info("work.recovered", rows=rows)

    async def release_held(self) -> None:
        """Send what waited for a key, or an address, that works now."""
        if await self._carrier.release_held():
            self._bells.ring_deliveries()

    async def set_clock_right(self) -> None:
        """What a clock that ran ahead, and was set back since, had put off for years is due."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            rows = await tx.mails.heal(now) + await tx.events.heal(now) + await tx.deliveries.heal(now)
        if rows:
            log.warning("clock.set_back", rows=rows)

    async def delete_what_is_over(self) -> None:
        """The sealed bodies that everybody has, and what nobody came back for, in small transactions."""
        now, limits = self._clock.now(), self._config.limits
        while True:
            async with self._database.transaction() as tx:
                swept = await tx.retention.sweep(
                    now,
                    delivered_before=now - limits.keep_delivered,
                    undelivered_before=now - limits.keep_undelivered,
                    most=PORTION,
                )
            if not swept.total:
                return
            log.info("retention.swept", count=swept.total)

    async def beat(self) -> None:
        """Say that we live."""
        self._heartbeat.touch(mode=0o600)
