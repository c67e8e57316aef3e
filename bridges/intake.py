"""The one way in: a mail or an event becomes a post, or is refused with a reason.

Whatever the door, a post is judged once, sealed once and committed in one transaction with its deliveries and the
settling of the row that brought it. Knows the doors only by ``ports``.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, assert_never

import structlog

from bridges.alarms import First, Whom
from bridges.ports import Clock, Heading, MailDoor, Phrasebook, Safe, Sealed
from storage.database import Database
from storage.store import Store
from trust import members as rules
from trust.errors import AddressPaused, NoUsableKey, SafeFault, SafeUnavailable, SecirError
from trust.keys import usable
from trust.posts import Deliver, Refuse, Rules, Submission, judge
from trust.records import Content, Door, Group, GroupId, MailAddress, Member, MemberId, Post, PublicKey

log = structlog.get_logger()

SUBJECT_LENGTH: Final = 70
"""Characters of a room message that serve as the subject of its mail."""

Settle = Callable[[Store], Awaitable[None]]


class ToldBefore(Exception):
    """Rolls a notice back that was told before."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A post that may go out, not sealed yet."""

    group: Group
    door: Door
    author: Member | None
    content: Content = field(repr=False)
    note: str = ""
    parent: Post | None = None
    to_room: bool = False
    to_members: Sequence[Member] = ()
    elsewhere: Mapping[MemberId, MailAddress] = field(default_factory=dict)
    """Addresses of members who can't be reached at their own."""
    author_message_id: str | None = None
    event_id: str | None = None
    thread_root: str | None = None
    signature_id: str | None = None


class Intake:
    """Judges, seals and commits posts."""

    def __init__(
        self,
        *,
        database: Database,
        safe: Safe,
        mail: MailDoor,
        phrases: Phrasebook,
        clock: Clock,
        rules: Rules,
        ring: Callable[[], None],
    ) -> None:
        self._database = database
        self._safe = safe
        self._mail = mail
        self._phrases = phrases
        self._clock = clock
        self._rules = rules
        self._ring = ring
        self.on_unreachable: Callable[[Group, SecirError], Awaitable[None]] | None = None
        """Told of a member without a usable key; set once at start-up, since alarms themselves post through here."""

    async def submit(self, draft: Draft, submission: Submission, settle: Settle) -> Post:
        """Judge a draft and, if it may go out, commit it to everybody it is for. Raises PostRefusal or a Fault."""
        verdict = judge(submission, draft.group, self._rules)
        match verdict:
            case Refuse(error):
                raise error
            case Deliver(labels):
                return await self._accept(await self._addressed(draft, labels), settle)
            case _:
                assert_never(verdict)

    async def notify(self, group: Group, text: str, whom: Whom, first: First, *, answers: Post | None = None) -> bool:
        """Post a notice of the bot itself. False if ``first`` finds that it was told before; then nothing is posted."""
        content = Content(subject=self._phrases.say("notice-subject", group=group.name), text=text)
        draft = Draft(
            group,
            Door.ROOM,
            None,
            content,
            parent=answers,
            to_room=whom.room,
            to_members=whom.members,
            elsewhere=whom.elsewhere,
        )

        async def settle(tx: Store) -> None:
            if not await first(tx):
                raise ToldBefore

        try:
            await self._accept(draft, settle)
        except ToldBefore:
            return False
        return True

    async def _addressed(self, draft: Draft, labels: Sequence[str]) -> Draft:
        """The draft with its readers, its subject and the remarks on its author."""
        async with self._database.transaction() as tx:
            everybody = await tx.members.of(draft.group.id)
        readers = [m for m in rules.readers_by_mail(everybody) if draft.author is None or m.id != draft.author.id]
        remarks = [draft.note, *(self._phrases.say(f"label-{label}") for label in labels)]
        subject = draft.content.subject or await self._subject(draft)
        return replace(
            draft,
            content=replace(draft.content, subject=subject),
            note=", ".join(remark for remark in remarks if remark),
            to_room=draft.door is Door.MAIL,
            to_members=readers,
        )

    async def _subject(self, draft: Draft) -> str:
        """For a room message: the subject it answers, else its first line, else the name of its file."""
        with suppress(SafeUnavailable):  # what is answered can't be opened: no reason not to pass the answer on
            if draft.parent and (answered := await self.reopen(draft.group, draft.parent)):
                return "Re: " + answered.subject.removeprefix("Re: ")
        lines = [line.strip() for line in draft.content.text.splitlines() if line.strip()]
        if lines:
            return lines[0] if len(lines[0]) <= SUBJECT_LENGTH else lines[0][: SUBJECT_LENGTH - 1] + "…"
        return draft.content.attachments[0].name

    async def is_to_blame(self, group: GroupId, error: SecirError) -> bool:
        """Whether an item that failed so often is what is wrong, and not GnuPG, which then fails for anything."""
        if not isinstance(error, SafeUnavailable):
            return True
        async with self._database.transaction() as tx:
            of = await tx.groups.get(group)
        try:
            sealed = await self._safe.seal(of, b"\r\n", ())
            await self._safe.reopen(of, sealed.packet, sealed.session_keys[of.key.fingerprint])
        except SafeFault:
            return False
        return True

    async def reopen(self, group: Group, post: Post) -> Content | None:
        """The content of an earlier post, from the group's own copy; None once that was deleted."""
        async with self._database.transaction() as tx:
            sealed = await tx.posts.sealed(post.id)
        if sealed is None:
            return None
        packet, session_key = sealed
        return self._mail.read_entity(await self._safe.reopen(group, packet, session_key))

    async def _accept(self, draft: Draft, settle: Settle) -> Post:
        now = self._clock.now()
        reference = _reference()
        message_id = f"{reference}.{secrets.token_hex(8)}@{draft.group.address.partition('@')[2]}"
        keys = _keys(draft, now)
        heading = Heading(draft.group, draft.author, draft.note, message_id, now, await self._references(draft.parent))
        entity = await asyncio.to_thread(self._mail.write_entity, heading, draft.content)
        sealed = await self._safe.seal(draft.group, entity, keys)
        async with self._database.transaction() as tx:
            post = await self._remember(tx, draft, reference=reference, message_id=message_id, now=now)
            unreachable = await self._address(tx, draft, post, sealed, now)
            await settle(tx)
        log.info("post.taken_in", post=reference, group=draft.group.name, door=draft.door.value, held=len(unreachable))
        self._ring()
        await self._tell_unreachable(draft.group, unreachable)
        return post

    async def _references(self, parent: Post | None) -> tuple[str, ...]:
        if parent is None:
            return ()
        async with self._database.transaction() as tx:
            return tuple(post.message_id for post in await tx.posts.chain(parent.id))

    async def _remember(self, tx: Store, draft: Draft, *, reference: str, message_id: str, now: datetime) -> Post:
        return await tx.posts.add(
            group=draft.group.id,
            reference=reference,
            door=draft.door,
            author=draft.author.id if draft.author else None,
            message_id=message_id,
            sealed_at=now,
            author_message_id=draft.author_message_id,
            event_id=draft.event_id,
            thread_root=draft.thread_root,
            parent=draft.parent.id if draft.parent else None,
            signature_id=draft.signature_id,
            note=draft.note,
        )

    async def _address(self, tx: Store, draft: Draft, post: Post, sealed: Sealed, now: datetime) -> list[Member]:
        """One delivery for the room and one per member who may still receive; returns the members held back."""
        own = sealed.session_keys[draft.group.key.fingerprint]
        body = await tx.posts.seal(post.id, sealed.packet, own)
        if draft.to_room:
            await tx.deliveries.add(post.id, sealed=body, target=Door.ROOM, member=None, session_key=own, due=now)
        held = []
        for member in draft.to_members:
            current = await tx.members.get(member.id)
            if not rules.may_receive(current.state):
                continue
            # The key as it is now: one that changed while we sealed is held, and sealed anew by the carrier.
            there = draft.elsewhere.get(member.id)
            session_key, problem = _session_key(there or current.address, sealed, now)
            await tx.deliveries.add(
                post.id,
                sealed=body,
                target=Door.MAIL,
                member=member.id,
                session_key=session_key,
                due=now,
                code=problem,
                elsewhere=there.address if there else None,
            )
            if problem == NoUsableKey.code:
                held.append(member)
        return held

    async def _tell_unreachable(self, group: Group, members: Sequence[Member]) -> None:
        if self.on_unreachable is None:
            return
        for member in members:
            await self.on_unreachable(group, NoUsableKey(member=member.name))


def _keys(draft: Draft, now: datetime) -> list[PublicKey]:
    """The usable keys of those it is for, each once."""
    addresses = [draft.elsewhere.get(member.id) or member.address for member in draft.to_members]
    keys = [address.key for address in addresses if address and address.key]
    return list({key.fingerprint: key for key in keys if usable(key, now)}.values())


def _session_key(address: MailAddress | None, sealed: Sealed, now: datetime) -> tuple[bytes | None, str | None]:
    """What opens the post for this address; else why it must be held."""
    if address is not None and address.paused_at is not None:
        return None, AddressPaused.code
    key = address.key if address else None
    found = sealed.session_keys.get(key.fingerprint) if key and usable(key, now) else None
    return found, None if found else NoUsableKey.code


def _reference() -> str:
    """Eight characters that people can read to each other on the phone (RFC 4648 base 32: no 0, 1, 8, 9)."""
    return base64.b32encode(secrets.token_bytes(5)).decode("ascii")
