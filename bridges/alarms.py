"""Tells those whom an error concerns, once. Who that is stands in ``trust.notices``; the words in the phrasebook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from bridges.ports import Clock, Phrasebook
from storage.database import Database
from storage.store import Store
from trust import members as rules
from trust.errors import SecirError
from trust.keys import usable
from trust.notices import NOBODY, Audience, audience
from trust.records import Door, Group, MailAddress, Member, MemberId, Post

log = structlog.get_logger()


First = Callable[[Store], Awaitable[bool]]
"""Whether something is told now, remembered in the transaction that posts it."""


@dataclass(frozen=True, slots=True)
class Whom:
    """Where a notice goes."""

    room: bool
    members: Sequence[Member]
    """By mail."""
    elsewhere: Mapping[MemberId, MailAddress] = field(default_factory=dict)
    """Addresses of those who can't be reached at their own."""

    def __bool__(self) -> bool:
        return self.room or bool(self.members)


class Notify(Protocol):
    async def __call__(self, group: Group, text: str, whom: Whom, first: First, *, answers: Post | None = None) -> bool:
        """Post a notice of the bot itself; False if ``first`` found that it was told before."""
        ...


class Once:
    """The memory of one notice, written in the transaction that posts it."""

    def __init__(self, key: str, at: datetime, who: Audience) -> None:
        self.key = key
        self._at = at
        self._who = who

    async def told(self, tx: Store) -> bool:
        """Whether it was told, looked up before anything is sealed for it."""
        return await tx.notices.told(self.key, self._at, again_after=self._who.again_after)

    async def first(self, tx: Store) -> bool:
        """Whether this is the first time, or the first after the pause that the audience allows."""
        return await tx.notices.first(self.key, self._at, again_after=self._who.again_after)


class Alarms:
    """Implements ``ports.Alarm``."""

    def __init__(self, *, database: Database, clock: Clock, phrases: Phrasebook, notify: Notify) -> None:
        self._database = database
        self._clock = clock
        self._phrases = phrases
        self._notify = notify

    async def __call__(self, group: Group, error: SecirError) -> None:
        """Tell of ``error``; the member concerned is found by its ``user`` (Matrix id) or ``member`` (name) param."""
        async with self._database.transaction() as tx:
            about = await self._concerned(tx, group, error)
        await self.tell(group, error, about=about)

    async def tell(
        self, group: Group, error: SecirError, *, about: Member | None = None, answers: Post | None = None
    ) -> None:
        """Tell of ``error``, which concerns ``about``; in the room as an answer to ``answers``."""
        who = audience(error)
        if who == NOBODY:
            return
        once = Once(_key(group, error, about), self._clock.now(), who)
        async with self._database.transaction() as tx:
            if await once.told(tx):
                return
            whom = await self.reach(tx, group, who, about)
        log.warning("alarm", code=error.code, group=group.name, member=about.id if about else None)
        if whom:
            await self._notify(group, self._phrases.explain(error), whom, once.first, answers=answers)

    async def _concerned(self, tx: Store, group: Group, error: SecirError) -> Member | None:
        user, name = error.params.get("user"), error.params.get("member")
        if isinstance(user, str):
            return await tx.members.by_matrix_id(group.id, user)
        return next((m for m in await tx.members.of(group.id) if m.name == name), None) if name else None

    async def reach(self, tx: Store, group: Group, who: Audience, about: Member | None) -> Whom:
        """Where a notice to ``who`` goes. Whoever can't be written to is told in the room instead, never in clear."""
        everybody = await tx.members.of(group.id)
        wanted = list(rules.admins(everybody)) if who.admins else []
        if who.member and about is not None and all(about.id != member.id for member in wanted):
            wanted.append(about)
        elsewhere = {m.id: other for m in wanted if (other := await self._other_address(tx, m))}
        by_mail = [m for m in wanted if m.id in elsewhere or self._works(m.address)]
        only_room = [m for m in wanted if m not in by_mail and m.door is Door.ROOM]
        return Whom(who.room or bool(only_room), by_mail, elsewhere)

    async def _other_address(self, tx: Store, member: Member) -> MailAddress | None:
        """For a member whose own address is paused: another one of the same person, if it works."""
        if member.address is None or member.address.paused_at is None:
            return None
        contact = await tx.contacts.get(member.contact_id)
        return next((each for each in contact.addresses if self._works(each)), None)

    def _works(self, address: MailAddress | None) -> bool:
        return address is not None and address.paused_at is None and usable(address.key, self._clock.now())


def _key(group: Group, error: SecirError, about: Member | None) -> str:
    """What makes two notices the same: the error, the group, the member, and the device if there is one."""
    subject = [
        str(about.id) if about else "",
        *(str(error.params.get(k, "")) for k in ("user", "device", "session_id", "address")),
    ]
    return "/".join([error.code, str(group.id), *subject])
