"""May this post go out? A policy that reads from top to bottom; it decides and does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from trust import errors
from trust.members import may_post
from trust.records import Door, Group, Member

CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""How far ahead of ours a sender's clock may be."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What is known of a post when it is judged; contents stay outside."""

    door: Door
    author: Member | None
    """The member whom the signature or the verified device names; never taken from a header."""
    empty: bool
    now: datetime
    signed_at: datetime | None = None
    """For a mail: the time inside the signature."""
    bound_to: tuple[str, ...] = ()
    """For a mail: addresses and List-Ids that the signed headers name; empty if the headers are not protected."""
    from_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """A group's limits on posts."""

    signature_max_age: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Deliver:
    """It goes out. ``labels`` are the keys of remarks that readers see beside the author's name."""

    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """It does not, and this is why."""

    error: errors.Refusal


Verdict = Deliver | Refuse


def stranger(post: Submission, group: Group, rules: Rules) -> Refuse | None:
    return None if post.author else Refuse(errors.UnknownSigner())


def muted(post: Submission, group: Group, rules: Rules) -> Refuse | None:
    if post.author is None or may_post(post.author.state):
        return None
    return Refuse(errors.MayNotPost(state=post.author.state.value))


def stale(post: Submission, group: Group, rules: Rules) -> Refuse | None:
    """An old signature may be a replay of a mail that the memory of replays has forgotten."""
    if post.signed_at is None or post.now - post.signed_at <= rules.signature_max_age:
        return None
    return Refuse(errors.SignatureTooOld(days=rules.signature_max_age.days))


def postdated(post: Submission, group: Group, rules: Rules) -> Refuse | None:
    if post.signed_at is None or post.signed_at - post.now <= CLOCK_TOLERANCE:
        return None
    return Refuse(errors.SignatureInTheFuture())


def made_for_another_list(post: Submission, group: Group, rules: Rules) -> Refuse | None:
    """Surreptitious forwarding: what was signed for others is not a post to us (SECURITY T-REP-01)."""
    ours = {group.address.casefold(), group.address.casefold().replace("@", ".")}  # List-Id: RFC 2919, 2
    if not post.bound_to or ours & {name.casefold() for name in post.bound_to}:
        return None
    return Refuse(errors.SignedForAnotherList())


def without_content(post: Submission, group: Group, rules: Rules) -> Refuse | None:
    return Refuse(errors.EmptyPost()) if post.empty else None


CHECKS: Final[tuple[Callable[[Submission, Group, Rules], Refuse | None], ...]] = (
    stranger,
    muted,
    stale,
    postdated,
    made_for_another_list,
    without_content,
)


def judge(post: Submission, group: Group, rules: Rules) -> Verdict:
    """The first check that refuses decides; a post that passes all goes out with its labels."""
    refused = next((verdict for check in CHECKS if (verdict := check(post, group, rules))), None)
    return refused or Deliver(labels=labels(post))


def labels(post: Submission) -> tuple[str, ...]:
    """What readers should know of a mail that is good enough to go out."""
    if post.door is not Door.MAIL or post.author is None:
        return ()
    found = []
    if not post.bound_to:
        found.append("not-bound")
    own = post.author.address.address.casefold() if post.author.address else ""
    if {a.casefold() for a in post.from_addresses} - {own}:
        found.append("from-differs")
    return tuple(found)
