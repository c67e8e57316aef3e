"""When work is tried again, and when it is given up."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from trust.errors import HomeserverAway, RateLimited, RelayAway, RelayBusy, SafeUnavailable, Unexpected
from trust.retry import hopeless, over, wait


def test_the_first_retry_comes_after_seconds_and_the_later_ones_after_minutes() -> None:
    minutes = [wait(RelayBusy(), attempt, 0.5) / timedelta(minutes=1) for attempt in range(2, 9)]
    assert wait(RelayBusy(), 1, 0.5) == timedelta(seconds=5)
    assert minutes == [1, 2, 5, 15, 30, 60, 60]


def test_what_waits_for_a_server_that_is_away_never_waits_longer_than_half_a_minute() -> None:
    seconds = [wait(RelayAway(), attempt, 0.5) / timedelta(seconds=1) for attempt in (1, 2, 100)]
    assert seconds == [5, 30, 30]


def test_a_server_that_names_a_time_is_taken_at_its_word() -> None:
    assert wait(RateLimited(retry_after=7.5), 9, 0.9) == timedelta(seconds=7.5)


@given(attempts=st.integers(1, 1000), chance=st.floats(0, 1, exclude_max=True))
def test_chance_moves_a_retry_by_a_fifth_at_most(attempts: int, chance: float) -> None:
    middle = wait(RelayBusy(), attempts, 0.5)
    assert 0.8 * middle <= wait(RelayBusy(), attempts, chance) <= 1.2 * middle


def test_work_is_given_up_when_its_time_is_over_and_not_before() -> None:
    limit = timedelta(days=5)
    assert over(limit, limit)
    assert not over(limit - timedelta(seconds=1), limit)


def test_an_item_that_fails_by_itself_is_set_aside_after_five_tries() -> None:
    assert [hopeless(Unexpected(), tries) for tries in (1, 4, 5)] == [False, False, True]
    assert hopeless(SafeUnavailable(), 5)


def test_an_item_is_never_set_aside_because_others_are_away() -> None:
    assert not hopeless(HomeserverAway(), 1000)
    assert not hopeless(RelayBusy(), 1000)
