"""The judge of ``make crash`` sees each fault."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.crash.ledger import ROOM, Copy, Ledger, Numbered, Verdict

B1, B2, A1 = Numbered("boris", 1), Numbered("boris", 2), Numbered("ada", 1)
GOOD = (Copy(ROOM, B1, "$1"), Copy("chen", B1, "m1"), Copy(ROOM, B2, "$2"), Copy("chen", B2, "m2"))
GOOD += (Copy("chen", A1, "m3"), Copy("boris", A1, "m3"))
FINE = Verdict(
    posts=3, missing=0, twice_in_room=0, twice_by_mail=0, wrong_order=0, renamed=0, not_ours=0, most_copies=1
)


def judged(copies: Sequence[Copy]) -> Verdict:
    ledger = Ledger(["boris", "chen"], in_room="ada")
    for post in (B1, A1, B2):
        ledger.accept(post)
    return ledger.judge(copies)


def test_each_post_once_at_each_destination_is_fine() -> None:
    assert judged(GOOD) == FINE
    assert FINE.holds(twice_by_mail=0)


@pytest.mark.parametrize(
    ("copies", "fault"),
    [
        (GOOD[:-1], {"missing": 1}),
        ((*GOOD, Copy(ROOM, B1, "$3")), {"twice_in_room": 1}),
        ((*GOOD, Copy("chen", B1, "m1")), {"twice_by_mail": 1, "most_copies": 2}),
        ((*GOOD, Copy("chen", B1, "m9")), {"twice_by_mail": 1, "most_copies": 2, "renamed": 1}),
        ((*GOOD[2:], *GOOD[:2]), {"wrong_order": 2}),
        ((*GOOD, Copy("boris", B1, "m1")), {"not_ours": 1}),
        ((*GOOD, Copy("chen", None, "m7")), {"not_ours": 1}),
    ],
    ids=["missing", "room", "mail", "renamed", "order", "to-its-author", "notice"],
)
def test_each_fault_is_counted_and_is_a_failure(copies: Sequence[Copy], fault: dict[str, int]) -> None:
    found = judged(copies)
    assert fault == {
        name: getattr(found, name) for name in FINE.__slots__ if getattr(found, name) != getattr(FINE, name)
    }
    assert not found.holds(twice_by_mail=0)


def test_the_windows_of_rfc_1047_are_forgiven() -> None:
    assert judged((*GOOD, Copy("chen", B1, "m1"))).holds(twice_by_mail=1)


def test_nothing_accepted_proves_nothing() -> None:
    assert not Ledger(["boris"], in_room="ada").judge(()).holds(twice_by_mail=0)


def test_a_post_is_found_in_what_was_put_around_it() -> None:
    assert B2 == Numbered.read(f"Boris Petrov (by mail) wrote:\n\n{B2.text}\n")
    assert Numbered.read("Somebody wrote nothing.") is None
