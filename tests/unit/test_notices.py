"""Who is told of what."""

from __future__ import annotations

import pytest

from trust import errors
from trust.notices import AUDIENCES, NOBODY, audience


def test_a_replay_is_told_to_nobody_since_its_sender_may_be_an_attacker() -> None:
    assert audience(errors.AlreadyPosted()) == NOBODY


def test_a_mail_by_an_unknown_key_is_told_to_admins_and_never_to_the_one_named_in_from() -> None:
    told = audience(errors.UnknownSigner())
    assert (told.admins, told.member, told.room) == (True, False, False)


@pytest.mark.parametrize(
    "error", [errors.StrangerInRoom(group="g", users="u"), errors.RoomDrifted(group="g", types="t")]
)
def test_what_makes_a_room_unsafe_is_told_to_admins_outside_that_room(error: errors.SecirError) -> None:
    told = audience(error)
    assert (told.admins, told.room) == (True, False)


def test_every_refusal_of_a_post_reaches_somebody_who_can_mend_it_but_a_replay() -> None:
    silent = {kind for kind in errors.leaves(errors.PostRefusal) if audience(kind()) == NOBODY}
    assert silent == {errors.AlreadyPosted}


def test_no_row_of_the_table_is_hidden_by_an_earlier_one() -> None:
    kinds = [kind for kind, _ in AUDIENCES]
    hidden = [late for i, late in enumerate(kinds) if any(issubclass(late, early) for early in kinds[:i])]
    assert hidden == []
