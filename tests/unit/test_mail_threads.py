"""Message-IDs of others are read however they are broken."""

from __future__ import annotations

import pytest

from bridges.mail import threads


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("<a@b.test>", ("a@b.test",)),
        ("<a@b.test><c@d.test> (comment) <a@b.test>", ("a@b.test", "c@d.test")),
        ("<a@\r\n b.test>", ("a@b.test",)),
        ("a@b.test, c@d.test", ("a@b.test", "c@d.test")),
        ('Message of "today" from ada <a@b.test>', ("a@b.test",)),
        ("<no-domain>", ("no-domain",)),
        ("<>", ()),
        ("<a\0b@c.test> <ü@x.test>", ()),
        ("<" + "x" * 300 + "@b.test>", ()),
        ("nothing at all", ()),
    ],
)
def test_ids_are_found_in_every_shape(value: str, ids: tuple[str, ...]) -> None:
    assert threads.read_ids(value) == ids


def test_what_a_mail_answers_is_told_nearest_first() -> None:
    assert threads.answered(["<c@x.test>"], ["<a@x.test> <b@x.test> <c@x.test>"]) == (
        "c@x.test",
        "b@x.test",
        "a@x.test",
    )


def test_a_chain_without_end_keeps_its_root_and_its_last_ones() -> None:
    ids = tuple(f"{number}@x.test" for number in range(200))

    assert threads.chain(ids) == (ids[0], *ids[-49:])
    assert len(threads.answered([], [" ".join(f"<{each}>" for each in ids)])) == 50
