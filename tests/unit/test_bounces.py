"""When mail that comes back means that an address does not work any more."""

from __future__ import annotations

import pytest

from trust.bounces import BounceKind, kind, too_many


@pytest.mark.parametrize("status", ["5.1.1", "5.1.10", "5.1.6", "5.2.1", "5.4.4", "5.4.1", "5.0.0"])
def test_a_bad_address_is_hard(status: str) -> None:
    assert BounceKind.HARD is kind(status)


@pytest.mark.parametrize(
    "status", ["5.2.2", "5.2.3", "5.7.1", "5.3.4", "5.4.6", "4.1.1", "5.1.11", "5.1.7", "", "junk"]
)
def test_what_says_nothing_of_the_address_is_soft(status: str) -> None:
    assert BounceKind.SOFT is kind(status)


@pytest.mark.parametrize(
    ("hard", "soft", "limit", "expected"),
    [
        (0, 0, 1, False),
        (1, 0, 1, True),
        (2, 0, 3, False),
        (3, 0, 3, True),
        (0, 8, 3, False),
        (0, 9, 3, True),
        (2, 3, 3, True),
    ],
)
def test_three_soft_ones_weigh_as_much_as_a_hard_one(hard: int, soft: int, limit: int, expected: bool) -> None:
    assert expected is too_many(hard, soft, limit)
