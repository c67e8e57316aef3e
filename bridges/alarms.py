"""Tells those whom an error concerns, once. Who that is stands in ``trust.notices``; the words in the phrasebook."""

from __future__ import annotations

from collections.abc import Sequence
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
from trust.records import Door, Group, Member, Post

log = structlog.get_logger()


class Notify(Protocol):
    async def __call__(
        self, group: Group, text: str, *, room: bool, members: Sequence[Member], answers: Post | None, once: Once
    ) -> bool:
        """Post a notice of the bot itself; False if ``once`` found that it was told before."""
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
            everybody = await tx.members.of(group.id)
        log.warning("alarm", code=error.code, group=group.name, member=about.id if about else None)
        room, readers = self._reach(who, about, everybody)
        if not room and not readers:
            return
        await self._notify(group, self._phrases.explain(error), room=room, members=readers, answers=answers, once=once)

    async def _concerned(self, tx: Store, group: Group, error: SecirError) -> Member | None:
        user, name = error.params.get("user"), error.params.get("member")
        if isinstance(user, str):
            return await tx.members.by_matrix_id(group.id, user)
        return next((m for m in await tx.members.of(group.id) if m.name == name), None) if name else None

    def _reach(self, who: Audience, about: Member | None, everybody: Sequence[Member]) -> tuple[bool, list[Member]]:
        """Where the notice goes. Whoever has no usable key is told in the room instead, never in clear."""
        wanted = list(rules.admins(everybody)) if who.admins else []
        if who.member and about is not None and about not in wanted:
            wanted.append(about)
        by_mail = [m for m in wanted if m.address and usable(m.address.key, self._clock.now())]
        only_room = [m for m in wanted if m not in by_mail and m.door is Door.ROOM]
        return who.room or bool(only_room), by_mail


def _key(group: Group, error: SecirError, about: Member | None) -> str:
    """What makes two notices the same: the error, the group, the member, and the device if there is one."""
    subject = [
        str(about.id) if about else "",
        *(str(error.params.get(k, "")) for k in ("user", "device", "session_id")),
    ]
    return "/".join([error.code, str(group.id), *subject])
