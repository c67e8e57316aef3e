"""What happens by the clock. It only triggers: what is due lives in ``storage``, so a missed run loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from trust.errors import SecirError

log = structlog.get_logger()


class Schedule:
    """Recurring jobs, each alone with itself: a run that is late is one run, never two."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(timezone=UTC)

    def every(self, pause: timedelta, name: str, job: Callable[[], Awaitable[object]]) -> None:
        """Run ``job`` at the start and then every ``pause``."""

        async def guarded() -> None:
            try:
                await job()
            except SecirError as error:
                log.warning("job.failed", job=name, code=error.code)
            except Exception as error:  # the boundary: a job that fails must run again at its next time
                log.exception("job.unexpected", job=name, error=type(error).__name__)

        self._scheduler.add_job(
            guarded,
            "interval",
            seconds=pause.total_seconds(),
            id=name,
            coalesce=True,
            max_instances=1,
            next_run_time=datetime.now(UTC),
        )

    async def run(self) -> None:
        """Trigger for ever; ends by cancellation only."""
        self._scheduler.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._scheduler.shutdown(wait=False)
