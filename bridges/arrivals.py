"""From the two in-trays to the intake: opens what came in, finds out who wrote it, settles the row.

What can't be read is refused and told to those who can mend it; what may succeed later is tried again. Knows the doors
only by ``ports``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from bridges.alarms import Alarms
from bridges.intake import Draft, Intake
from bridges.ports import Clock, Envelope, Letter, MailDoor, Opened, Phrasebook, RoomAnswer, RoomDoor, RoomMessage, Safe
from bridges.work import Claims, Outage
from storage.database import Database
from storage.records import EventItem, MailItem
from trust import retry
from trust.errors import (
    AlreadyPosted,
    MailRefusal,
    MalformedEvent,
    NotAMember,
    PostRefusal,
    SecirError,
    Undecryptable,
)
from trust.posts import Submission
from trust.records import Attachment, Content, Door, Group, GroupId, Member, Post, PublicKey

log = structlog.get_logger()

LEASE: Final = timedelta(minutes=15)
"""Longer than any opening (30 s) or fetching of a file takes."""


ByEvent = Callable[[GroupId, str], Awaitable[Post | None]]
ByMatrixId = Callable[[GroupId, str], Awaitable[Member | None]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an unreadable event is kept: in silence, then looked at again now and then, then refused."""

    silence: timedelta = timedelta(minutes=5)
    recheck: timedelta = timedelta(hours=1)
    give_up: timedelta = timedelta(days=7)


def _pinned(members: Sequence[Member]) -> list[PublicKey]:
    """Every key that is pinned for a member: whether its owner may post is judged later, and told."""
    return [m.address.key for m in members if m.address and m.address.key]


def _owner(members: Sequence[Member], opened: Opened) -> Member | None:
    """The one member for whom the signer's primary fingerprint is pinned (SECURITY P4). Headers never decide."""
    owners = [m for m in members if m.address and m.address.key and m.address.key.fingerprint == opened.signer]
    return owners[0] if len(owners) == 1 else None


def _is_empty(content: Content) -> bool:
    return not content.text.strip() and not content.attachments


class MailArrivals:
    """The in-tray of mail: steps 3 to 7 of "Mail → room and members" in docs/how-a-post-travels.md."""

    def __init__(
        self,
        *,
        database: Database,
        safe: Safe,
        mail: MailDoor,
        intake: Intake,
        alarms: Alarms,
        phrases: Phrasebook,
        clock: Clock,
    ) -> None:
        self._database = database
        self._safe = safe
        self._mail = mail
        self._intake = intake
        self._alarms = alarms
        self._phrases = phrases
        self._clock = clock
        self.claims: Claims[MailItem] = Claims(
            database, recover=lambda tx, besides: tx.mails.recover(clock.now(), besides)
        )

    async def claim(self) -> MailItem | None:
        return await self.claims.next(lambda tx: tx.mails.claim(self._clock.now(), lease=LEASE))

    async def handle(self, item: MailItem) -> None:
        """Open, read, submit. Raises what ``fail`` then settles."""
        async with self._database.transaction() as tx:
            group = await tx.groups.get(item.group_id)
            everybody = await tx.members.of(group.id)
        envelope = await asyncio.to_thread(self._mail.read_envelope, item.raw)
        opened = await self._safe.open(group, envelope.message, _pinned(everybody))
        author = _owner(everybody, opened)
        try:
            letter = await asyncio.to_thread(self._mail.read_letter, opened.data, envelope)
            await self._submit(item, group, author, opened, letter, envelope)
        except PostRefusal as refusal:
            refusal.signer = author.id if author else None
            raise

    async def _submit(
        self,
        item: MailItem,
        group: Group,
        author: Member | None,
        opened: Opened,
        letter: Letter,
        envelope: Envelope,
    ) -> None:
        async with self._database.transaction() as tx:
            parent = await tx.posts.by_message_ids(group.id, letter.references)
        draft = Draft(
            group,
            Door.MAIL,
            author,
            letter.content,
            note=self._phrases.say("label-by-mail", key=opened.signer[-8:]),
            parent=parent,
            author_message_id=letter.message_id or envelope.message_id,
            thread_root=parent.thread_root if parent else None,
            signature_id=opened.signature_id,
        )
        submission = Submission(
            door=Door.MAIL,
            author=author,
            empty=_is_empty(letter.content),
            now=self._clock.now(),
            signed_at=opened.signed_at,
            bound_to=letter.bound_to,
            from_addresses=letter.from_addresses,
        )
        await self._intake.submit(draft, submission, lambda tx: tx.mails.finish(item.id))

    async def fail(self, item: MailItem, error: SecirError) -> None:
        """Try again later, or keep the mail as refused and tell those whom it concerns."""
        now = self._clock.now()
        hopeless = retry.hopeless(error, item.attempts) and await self._intake.is_to_blame(item.group_id, error)
        async with self._database.transaction() as tx:
            group = await tx.groups.get(item.group_id)
            if error.retryable and not hopeless:
                pause = retry.wait(error, item.attempts, random.random())  # noqa: S311 - spread, not secrecy
                await tx.mails.retry(item.id, now + pause, error.code)
                log.warning("mail.retried", mail=item.id, group=group.name, code=error.code, attempts=item.attempts)
                return
            await tx.mails.refuse(item.id, error.code)
            await tx.audit.add(now, "mail.refused", group=group.id, subject=str(item.id), detail=error.code)
            concerned = self._concerned(await tx.members.of(group.id), error, item.raw)
        log.warning("mail.refused", mail=item.id, group=group.name, code=error.code)
        await self._alarms.tell(group, error, about=concerned)

    def _concerned(self, members: Sequence[Member], error: SecirError, raw: bytes) -> Member | None:
        """Who signed it; else the member whose registered address stands in From, and who is told there, sealed."""
        if isinstance(error, PostRefusal) and error.signer is not None:
            return next((m for m in members if m.id == error.signer), None)
        try:
            named = {address.casefold() for address in self._mail.read_envelope(raw).from_addresses}
        except MailRefusal:
            return None
        return next((m for m in members if m.address and m.address.address.casefold() in named), None)


class RoomArrivals:
    """The in-tray of room events: steps 1 to 5 of "Room → members" in docs/how-a-post-travels.md."""

    def __init__(
        self,
        *,
        database: Database,
        room: RoomDoor,
        intake: Intake,
        alarms: Alarms,
        phrases: Phrasebook,
        clock: Clock,
        patience: Patience,
        ring: Callable[[], None],
    ) -> None:
        self._database = database
        self._room = room
        self._intake = intake
        self._alarms = alarms
        self._phrases = phrases
        self._clock = clock
        self._patience = patience
        self.claims: Claims[EventItem] = Claims(
            database, recover=lambda tx, besides: tx.events.recover(clock.now(), besides)
        )
        self._outage = Outage(*retry.OUTAGES, over=ring)

    async def claim(self) -> EventItem | None:
        """The next event; None while the homeserver is known to be away."""
        if not self._outage.may_try():
            return None
        item = None
        try:
            item = await self.claims.next(lambda tx: tx.events.claim(self._clock.now(), lease=LEASE))
        finally:
            if item is None:
                self._outage.nothing_to_try()
        return item

    async def handle(self, item: EventItem) -> None:
        """Decrypt, fetch files, submit. Raises what ``fail`` then settles."""
        await self._relay(item)
        self._outage.saw(None)

    async def _relay(self, item: EventItem) -> None:
        async with self._database.transaction() as tx:
            group = await tx.groups.by_room(item.room_id)
        message = await self._room.read(group, item.event) if group else None
        if group is None or message is None:
            async with self._database.transaction() as tx:
                await tx.events.finish(item.id)
            return
        await self._submit(item, group, message)

    async def _submit(self, item: EventItem, group: Group, message: RoomMessage) -> None:
        async with self._database.transaction() as tx:
            author = await tx.members.by_matrix_id(group.id, message.sender)
            parent = await self._answered(tx.posts.by_event, group.id, message)
        if author is None:
            raise NotAMember(user=message.sender)
        if message.replaces and (parent is None or parent.author_id != author.id):
            raise MalformedEvent
        content = await self._content(message)
        draft = Draft(
            group,
            Door.ROOM,
            author,
            content,
            note=self._note(item, message),
            parent=parent,
            event_id=message.event_id,
            thread_root=message.answers.thread_root if message.answers else None,
        )
        submission = Submission(door=Door.ROOM, author=author, empty=_is_empty(content), now=self._clock.now())
        await self._intake.submit(draft, submission, lambda tx: tx.events.finish(item.id))

    @staticmethod
    async def _answered(by_event: ByEvent, group: GroupId, message: RoomMessage) -> Post | None:
        """The post that ``message`` edits or answers; a thread's root stands in for an answer we never saw."""
        answers = message.answers or RoomAnswer("")
        for event_id in (message.replaces, answers.event_id, answers.thread_root):
            if event_id and (post := await by_event(group, event_id)):
                return post
        return None

    async def _content(self, message: RoomMessage) -> Content:
        files: tuple[Attachment, ...] = (await self._room.fetch(message.file),) if message.file else ()
        return Content(subject="", text=message.text, attachments=files)

    def _note(self, item: EventItem, message: RoomMessage) -> str:
        remarks = ["label-from-room"]
        remarks += ["label-correction"] if message.replaces else []
        remarks += ["label-late"] if item.waiting else []
        return ", ".join(self._phrases.say(remark) for remark in remarks)

    async def fail(self, item: EventItem, error: SecirError) -> None:
        """Keep what can't be read yet, try again what failed, refuse the rest; tell those whom it concerns."""
        self._outage.saw(error)
        if isinstance(error, Undecryptable):
            await self._wait_for_key(item, error)
            return
        now = self._clock.now()
        again = error.retryable and not await self._is_hopeless(item, error)
        async with self._database.transaction() as tx:
            group = await tx.groups.by_room(item.room_id)
            if again:
                pause = retry.wait(error, item.attempts, random.random())  # noqa: S311 - spread, not secrecy
                await tx.events.retry(item.id, now + pause, error.code)
            elif isinstance(error, AlreadyPosted):
                await tx.events.finish(item.id)
            else:
                await tx.events.refuse(item.id, error.code)
            if group and not again:
                await tx.audit.add(now, "event.refused", group=group.id, subject=item.event_id, detail=error.code)
            author = await self._author(item, group, tx.members.by_matrix_id) if group else None
        log.warning("event.failed", event_id=item.event_id, code=error.code, attempts=item.attempts)
        if group and not again:
            await self._alarms.tell(group, error, about=author)

    async def _is_hopeless(self, item: EventItem, error: SecirError) -> bool:
        if not retry.hopeless(error, item.attempts):
            return False
        async with self._database.transaction() as tx:
            group = await tx.groups.by_room(item.room_id)
        return group is None or await self._intake.is_to_blame(group.id, error)

    async def _wait_for_key(self, item: EventItem, error: Undecryptable) -> None:
        """First wait in silence, since keys often come a moment after the message; then say so in the room, once."""
        now = self._clock.now()
        silent = now - item.received_at < self._patience.silence
        again = item.received_at + self._patience.silence if silent else now + self._patience.recheck
        session = str(error.params.get("session_id", ""))
        async with self._database.transaction() as tx:
            group = await tx.groups.by_room(item.room_id)
            if now - item.received_at > self._patience.give_up:
                await tx.events.refuse(item.id, error.code)
            else:
                await tx.events.wait(item.id, session, error.code, again)
            author = await self._author(item, group, tx.members.by_matrix_id) if group else None
        log.info("event.waits_for_key", event_id=item.event_id, session=session)
        if group and not silent:
            await self._alarms.tell(group, error, about=author)

    @staticmethod
    async def _author(item: EventItem, group: Group, by_matrix_id: ByMatrixId) -> Member | None:
        sender = item.event.get("sender")
        return await by_matrix_id(group.id, sender) if isinstance(sender, str) else None
