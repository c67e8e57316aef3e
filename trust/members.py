"""What the state of a member allows (OPS-TRUST data model, domain inventory 2.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from trust.records import Door, Member, MemberState, Role

MAY_POST: Final = frozenset({MemberState.ACTIVE, MemberState.SOONIDLE, MemberState.IDLE, MemberState.INACTIVE})
MAY_RECEIVE: Final = frozenset({MemberState.ACTIVE, MemberState.SOONIDLE})


def may_post(state: MemberState) -> bool:
    """Whether what a member in ``state`` writes is passed on."""
    return state in MAY_POST


def may_receive(state: MemberState) -> bool:
    """Whether posts, invitations and room keys go to a member in ``state``."""
    return state in MAY_RECEIVE


def responders(members: Iterable[Member]) -> list[Member]:
    """Those who read in the room: the only ones who are invited and get room keys."""
    return [m for m in members if m.door is Door.ROOM and m.matrix_id and may_receive(m.state)]


def readers_by_mail(members: Iterable[Member]) -> list[Member]:
    """Those who get each post by mail."""
    return [m for m in members if m.door is Door.MAIL and m.address and may_receive(m.state)]


def admins(members: Iterable[Member]) -> list[Member]:
    """Those who are told of what needs an admin's hand."""
    return [m for m in members if m.role is Role.ADMIN and may_receive(m.state)]
