"""When to try again, and when to give up."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from trust.errors import (
    HomeserverAway,
    HomeserverRefused,
    LoginLost,
    RateLimited,
    RelayAway,
    RelayNotTrusted,
    SafeUnavailable,
    SecirError,
    Unexpected,
)

STEPS: Final = tuple(timedelta(minutes=m) for m in (1, 2, 5, 15, 30, 60))
FIRST: Final = timedelta(seconds=5)
"""The first retry comes soon: most faults are a restart or a dropped connection."""
SPREAD: Final = 0.2
"""Each wait is made up to 20 % shorter or longer, so that what failed together is not retried together."""

OUTAGES: Final = (HomeserverAway, RateLimited, LoginLost, RelayAway, RelayNotTrusted)
"""Faults that concern whatever goes the same way, whoever it is for: nothing is to be learnt from trying each row."""
OUTAGE_STEP: Final = timedelta(seconds=30)
"""The longest wait of a row after an outage: once it is over, what waited goes out at once."""

TRIES: Final = 5
"""For a fault that the item itself may cause: about eight minutes, in which whatever is behind it waits."""
BY_THE_ITEM: Final = (HomeserverRefused, SafeUnavailable, Unexpected)


def hopeless(error: SecirError, attempts: int) -> bool:
    """Whether this very item seems to be what fails: it is set aside then, so that one can't hold up all others."""
    return isinstance(error, BY_THE_ITEM) and attempts >= TRIES


def wait(error: SecirError, attempts: int, chance: float) -> timedelta:
    """How long to wait after ``attempts`` failed tries (1 or more); ``chance`` is a random number in [0, 1).

    A server that names a time is taken at its word.
    """
    if isinstance(error, RateLimited):
        return timedelta(seconds=error.retry_after)
    step = FIRST if attempts <= 1 else STEPS[min(attempts - 2, len(STEPS) - 1)]
    if isinstance(error, OUTAGES):
        step = min(step, OUTAGE_STEP)
    return step * (1 + SPREAD * (2 * chance - 1))


def over(age: timedelta, give_up_after: timedelta) -> bool:
    """Whether something first tried ``age`` ago is given up now."""
    return age >= give_up_after
