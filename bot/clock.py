"""The real clock. Implements ``ports.Clock``; tests and drills bring their own."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    def now(self) -> datetime:
        """The time, aware, in UTC."""
        return datetime.now(UTC)
