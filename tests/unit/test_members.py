"""What the states of a member allow: the table of the domain inventory (2.2)."""

from __future__ import annotations

import pytest

from trust.members import may_post, may_receive
from trust.records import MemberState


@pytest.mark.parametrize(
    ("state", "posts", "receives"),
    [
        (MemberState.NOMINATED, False, False),
        (MemberState.VETTED, False, False),
        (MemberState.APPROVED, False, False),
        (MemberState.ACTIVE, True, True),
        (MemberState.SOONIDLE, True, True),
        (MemberState.IDLE, True, False),
        (MemberState.INACTIVE, True, False),
        (MemberState.BLOCKED, False, False),
        (MemberState.FAILED, False, False),
        (MemberState.DECEASED, False, False),
        (MemberState.LEFT, False, False),
    ],
)
def test_each_state_allows_what_the_inventory_says(state: MemberState, posts: bool, receives: bool) -> None:
    assert (posts, receives) == (may_post(state), may_receive(state))


def test_every_state_stands_in_the_table_above() -> None:
    assert len(MemberState) == 11
