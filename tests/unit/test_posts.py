"""The policy on posts: each check refuses what it is named after, and lets a lookalike pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from trust import errors
from trust.posts import Deliver, Refuse, Rules, Submission, judge
from trust.records import (
    ContactId,
    Door,
    Fingerprint,
    Group,
    GroupId,
    MailAddress,
    Member,
    MemberId,
    MemberState,
    PublicKey,
    Role,
)

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
GROUP = Group(
    id=GroupId(1),
    name="tld-ops",
    address="tld-ops@lists.example",
    description="",
    key=PublicKey(Fingerprint("A" * 40), b""),
    federate=False,
    room_token="mark",
)
ANNA = Member(
    id=MemberId(1),
    group_id=GROUP.id,
    contact_id=ContactId(1),
    name="Anna",
    door=Door.MAIL,
    role=Role.MEMBER,
    state=MemberState.ACTIVE,
    address=MailAddress("anna@registry.example"),
)
GOOD = Submission(
    door=Door.MAIL,
    author=ANNA,
    empty=False,
    now=NOW,
    signed_at=NOW - timedelta(minutes=1),
    bound_to=("tld-ops@lists.example",),
    from_addresses=("anna@registry.example",),
)


def refusal(submission: Submission) -> type[errors.Refusal]:
    verdict = judge(submission, GROUP, Rules())
    assert isinstance(verdict, Refuse)
    return type(verdict.error)


def labels(submission: Submission) -> tuple[str, ...]:
    verdict = judge(submission, GROUP, Rules())
    assert isinstance(verdict, Deliver)
    return verdict.labels


def test_a_good_mail_of_a_member_goes_out_without_a_remark() -> None:
    assert labels(GOOD) == ()


def test_a_post_that_no_member_signed_is_refused() -> None:
    assert refusal(replace(GOOD, author=None)) is errors.UnknownSigner


@pytest.mark.parametrize("state", [MemberState.NOMINATED, MemberState.BLOCKED, MemberState.LEFT, MemberState.APPROVED])
def test_a_member_whose_state_does_not_allow_posting_is_refused(state: MemberState) -> None:
    assert refusal(replace(GOOD, author=replace(ANNA, state=state))) is errors.MayNotPost


@pytest.mark.parametrize("state", [MemberState.IDLE, MemberState.INACTIVE, MemberState.SOONIDLE])
def test_an_idle_member_may_still_post(state: MemberState) -> None:
    assert labels(replace(GOOD, author=replace(ANNA, state=state))) == ()


def test_a_signature_older_than_a_week_is_refused() -> None:
    assert refusal(replace(GOOD, signed_at=NOW - timedelta(days=7, seconds=1))) is errors.SignatureTooOld


def test_a_signature_of_six_days_ago_is_good() -> None:
    assert labels(replace(GOOD, signed_at=NOW - timedelta(days=6))) == ()


def test_a_signature_from_the_future_is_refused() -> None:
    assert refusal(replace(GOOD, signed_at=NOW + timedelta(hours=2))) is errors.SignatureInTheFuture


def test_a_clock_that_is_half_an_hour_fast_is_forgiven() -> None:
    assert labels(replace(GOOD, signed_at=NOW + timedelta(minutes=30))) == ()


def test_what_was_signed_for_another_list_is_refused() -> None:
    assert refusal(replace(GOOD, bound_to=("other@lists.example",))) is errors.SignedForAnotherList


def test_a_list_that_is_one_of_several_addressees_is_meant() -> None:
    assert labels(replace(GOOD, bound_to=("other@lists.example", "TLD-OPS@lists.example"))) == ()


def test_a_mail_without_protected_headers_is_marked_as_not_bound_to_this_list() -> None:
    assert labels(replace(GOOD, bound_to=())) == ("not-bound",)


def test_a_sender_address_other_than_the_signers_is_marked() -> None:
    assert labels(replace(GOOD, from_addresses=("boss@registry.example",))) == ("from-differs",)


def test_a_sender_address_that_differs_only_in_case_is_not_marked() -> None:
    assert labels(replace(GOOD, from_addresses=("Anna@Registry.example",))) == ()


def test_a_post_without_text_or_file_is_refused() -> None:
    assert refusal(replace(GOOD, empty=True)) is errors.EmptyPost


def test_a_room_message_needs_no_signature_time_and_bears_no_label() -> None:
    assert labels(Submission(door=Door.ROOM, author=ANNA, empty=False, now=NOW)) == ()
