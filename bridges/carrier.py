"""The one way out: claims deliveries and hands them to the doors, typed outcomes recorded per delivery.

One failing recipient never delays the others: each delivery is a row of its own, claimed in order per destination.
Knows the doors only by ``ports``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import structlog

from bridges.alarms import Alarms
from bridges.intake import Intake
from bridges.ports import Clock, Copy, MailDoor, RoomAnswer, RoomDoor, RoomPost, Safe
from storage.database import Database
from storage.records import DeliveryItem, HeldItem
from storage.store import Store
from trust import retry
from trust.errors import GivenUp, NoUsableKey, RateLimited, SecirError
from trust.keys import usable
from trust.records import Content, Door, Group, Member, Post

log = structlog.get_logger()

LEASE: Final = timedelta(minutes=5)
"""Longer than one SMTP transaction or one room post with its files takes."""


class Carrier:
    """Delivers posts to the room and to the members' mail addresses."""

    def __init__(
        self,
        *,
        database: Database,
        safe: Safe,
        mail: MailDoor,
        room: RoomDoor,
        intake: Intake,
        alarms: Alarms,
        clock: Clock,
        give_up_after: timedelta,
    ) -> None:
        self._database = database
        self._safe = safe
        self._mail = mail
        self._room = room
        self._intake = intake
        self._alarms = alarms
        self._clock = clock
        self._give_up_after = give_up_after

    def claim(self, target: Door) -> Callable[[], Awaitable[DeliveryItem | None]]:
        """The claim of a worker that serves ``target``."""

        async def claim() -> DeliveryItem | None:
            async with self._database.transaction() as tx:
                return await tx.deliveries.claim(self._clock.now(), lease=LEASE, target=target)

        return claim

    async def handle(self, item: DeliveryItem) -> None:
        """One delivery. Raises what ``fail`` then settles."""
        async with self._database.transaction() as tx:
            group = await tx.groups.get(item.post.group_id)
        if item.target is Door.ROOM:
            await self._to_room(item, group)
        else:
            await self._to_member(item, group)
        log.info("post.delivered", post=item.post.reference, group=group.name, target=item.target, delivery=item.id)

    async def _to_room(self, item: DeliveryItem, group: Group) -> None:
        entity = await self._safe.reopen(group, item.packet, item.session_key)
        content = await asyncio.to_thread(self._mail.read_entity, entity)
        async with self._database.transaction() as tx:
            author = await self._author(tx, item.post)
            answers = await self._answers(tx, item.post)
        events = await self._room.send(self._room_post(item, group, author, content, answers))
        async with self._database.transaction() as tx:
            await tx.posts.shown(item.post.id, events)
            await tx.deliveries.finish(item.id, at=self._clock.now())

    @staticmethod
    def _room_post(
        item: DeliveryItem, group: Group, author: Member | None, content: Content, answers: RoomAnswer | None
    ) -> RoomPost:
        name = f"{author.name} ({item.post.note})" if author and item.post.note else author.name if author else ""
        # The row names the transaction: the same delivery bears the same ids after any number of crashes.
        return RoomPost(group, name, content, answers, transaction=f"secir-{item.post.reference}-{item.id}")

    @staticmethod
    async def _author(tx: Store, post: Post) -> Member | None:
        return await tx.members.get(post.author_id) if post.author_id is not None else None

    @staticmethod
    async def _answers(tx: Store, post: Post) -> RoomAnswer | None:
        events = await tx.posts.room_events(post.parent_id) if post.parent_id is not None else []
        return RoomAnswer(events[0], post.thread_root) if events else None

    async def _to_member(self, item: DeliveryItem, group: Group) -> None:
        async with self._database.transaction() as tx:
            member = await tx.members.get(item.member_id) if item.member_id is not None else None
            chain = await tx.posts.chain(item.post.id)
        if member is None or member.address is None or not usable(member.address.key, self._clock.now()):
            raise NoUsableKey(member=member.name if member else "")
        references = tuple(mail_id for post in chain[:-1] for mail_id in _known_ids(post, member))
        message = await asyncio.to_thread(self._safe.armour, item.session_key, item.packet)
        await self._mail.send(Copy(group, item.post, member.address.address, references, message))
        async with self._database.transaction() as tx:
            await tx.deliveries.finish(item.id, at=self._clock.now())

    async def fail(self, item: DeliveryItem, error: SecirError) -> None:
        """Hold, retry or bury; whoever must act is told."""
        now = self._clock.now()
        late = retry.over(now - item.created_at, self._give_up_after)
        again = error.retryable and not late and not retry.hopeless(error, item.attempts)
        async with self._database.transaction() as tx:
            group = await tx.groups.get(item.post.group_id)
            member = await tx.members.get(item.member_id) if item.member_id is not None else None
            if isinstance(error, NoUsableKey):
                await tx.deliveries.hold(item.id, error.code)
            elif again:
                await tx.deliveries.retry(item.id, now + _pause(item, error), error.code)
            else:
                await tx.deliveries.bury(item.id, error.code)
                await tx.audit.add(now, "delivery.buried", group=group.id, subject=str(item.id), detail=error.code)
        log.warning(
            "delivery.failed", post=item.post.reference, delivery=item.id, code=error.code, attempts=item.attempts
        )
        if not again:
            await self._tell(group, member, item, error, late=late)

    async def _tell(
        self, group: Group, member: Member | None, item: DeliveryItem, error: SecirError, *, late: bool
    ) -> None:
        if error.retryable and late:
            days = self._give_up_after.days
            error = GivenUp(reference=item.post.reference, member=member.name if member else group.name, days=days)
        await self._alarms.tell(group, error, about=member)

    async def release_held(self) -> int:
        """Seal anew what was held for want of a key and whose member has a usable one now. Returns how many."""
        released = 0
        async with self._database.transaction() as tx:
            waiting = [
                (group, member, await tx.deliveries.held_for(member.id))
                for group in await tx.groups.all()
                for member in await tx.members.of(group.id)
                if member.address and usable(member.address.key, self._clock.now())
            ]
        for group, member, items in waiting:
            for item in items:
                released += await self._seal_anew(group, member, item)
        return released

    async def _seal_anew(self, group: Group, member: Member, item: HeldItem) -> bool:
        """From the group's own copy, to this member alone. False if that copy is gone or the key still won't do."""
        key = member.address.key if member.address else None
        async with self._database.transaction() as tx:
            copy = await tx.posts.sealed(item.post.id)
        if key is None or copy is None:
            return False
        entity = await self._safe.reopen(group, *copy)
        sealed = await self._safe.seal(group, entity, [key])
        session_key = sealed.session_keys.get(key.fingerprint)
        if session_key is None:
            return False
        now = self._clock.now()
        async with self._database.transaction() as tx:
            body = await tx.posts.seal(item.post.id, sealed.packet, sealed.session_keys[group.key.fingerprint])
            await tx.deliveries.release(item.id, sealed=body, session_key=session_key, due=now)
        log.info("delivery.sealed_anew", post=item.post.reference, delivery=item.id)
        return True


def _known_ids(post: Post, member: Member) -> tuple[str, ...]:
    """The Message-IDs by which ``member`` knows ``post``: to its author it is what the own program called it, too."""
    if post.author_id == member.id and post.author_message_id:
        return (post.message_id, post.author_message_id)
    return (post.message_id,)


def _pause(item: DeliveryItem, error: SecirError) -> timedelta:
    """How long until the next try; a homeserver that names a time is taken at its word."""
    if isinstance(error, RateLimited):
        return timedelta(seconds=error.retry_after)
    return retry.wait(item.attempts, random.random())  # noqa: S311 - spread, not secrecy
