"""The one way out: claims deliveries and hands them to the doors, typed outcomes recorded per delivery.

One failing recipient never delays the others: each delivery is a row of its own, claimed in order per destination, and
no group gets all of the workers. Knows the doors only by ``ports``.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Final

import structlog

from bridges.alarms import Alarms
from bridges.intake import Intake
from bridges.ports import Clock, Copy, MailDoor, RoomAnswer, RoomDoor, RoomPost, Safe
from bridges.work import Claims, Outage
from storage.database import Database
from storage.records import DeliveryItem, HeldItem
from storage.store import Store
from trust import retry
from trust.errors import AddressPaused, MailOutage, NoUsableKey, RelayRefused, RoomOutage, SecirError
from trust.keys import usable
from trust.records import Content, DeliveryId, Door, Group, GroupId, MailAddress, Member, Post

log = structlog.get_logger()

LEASE: Final = timedelta(minutes=15)
"""Longer than one SMTP transaction or one room post with its files takes."""

OUTAGE_TOLD_AFTER: Final = 15
"""Minutes: most outages are a restart, which nobody needs to hear of."""

OnRefused = Callable[[DeliveryId, str], Awaitable[None]]
"""Told of a mail that the relay refused for good, with the server's reply: its codes."""


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
        mail_workers: int,
        on_refused: OnRefused,
        ring: Callable[[], None],
    ) -> None:
        self._database = database
        self._safe = safe
        self._mail = mail
        self._room = room
        self._intake = intake
        self._alarms = alarms
        self._clock = clock
        self._give_up_after = give_up_after
        self._mail_workers = mail_workers
        self._on_refused = on_refused
        self.claims: Claims[DeliveryItem] = Claims(database, recover=self._recover)
        self._outages = {door: Outage(*retry.OUTAGES, over=ring) for door in Door}
        self._served: dict[Door, set[GroupId]] = {door: set() for door in Door}

    async def claim_for_room(self) -> DeliveryItem | None:
        """The next post for a room; None while the homeserver is known to be away."""
        return await self._claim(Door.ROOM)

    async def claim_for_member(self) -> DeliveryItem | None:
        """The next mail for a member; None while the relay is known to be away.

        A group may take one more worker only while it has fewer than are free, and rows that failed before share a
        quarter of the workers: neither a group nor a few sick mailboxes can make all the others wait.
        """
        mine = [item for item in self.claims.in_hand if item.target is Door.MAIL]
        free = self._mail_workers - len(mine)
        busy = Counter(item.post.group_id for item in mine)
        besides = [group for group, number in busy.items() if number >= free]
        sick = sum(item.attempts > 1 for item in mine)
        return await self._claim(Door.MAIL, besides=besides, fresh=sick >= max(1, self._mail_workers // 4))

    async def _claim(
        self, target: Door, *, besides: Sequence[GroupId] = (), fresh: bool = False
    ) -> DeliveryItem | None:
        outage = self._outages[target]
        if not outage.may_try():
            return None
        item = None
        try:
            item = await self.claims.next(lambda tx: self._in_turn(tx, target, besides, fresh=fresh))
        finally:
            if item is None:
                outage.nothing_to_try()
        return item

    async def _in_turn(
        self, tx: Store, target: Door, besides: Sequence[GroupId], *, fresh: bool
    ) -> DeliveryItem | None:
        """One of a group that was not served in this round; a thousand old rows of one group are no reason to wait."""
        now, served = self._clock.now(), self._served[target]
        claim = tx.deliveries.claim
        item = await claim(now, lease=LEASE, target=target, besides=[*besides, *served], fresh=fresh)
        if item is None and served:
            served.clear()
            item = await claim(now, lease=LEASE, target=target, besides=besides, fresh=fresh)
        if item is not None:
            served.add(item.post.group_id)
        return item

    async def handle(self, item: DeliveryItem) -> None:
        """One delivery. Raises what ``fail`` then settles."""
        group = await (self._to_room(item) if item.target is Door.ROOM else self._to_member(item))
        self._outages[item.target].saw(None)
        log.info("post.delivered", post=item.post.reference, group=group.name, target=item.target, delivery=item.id)

    async def _to_room(self, item: DeliveryItem) -> Group:
        async with self._database.transaction() as tx:
            group = await tx.groups.get(item.post.group_id)
            author = await self._author(tx, item.post)
            answers = await self._answers(tx, item.post)
        entity = await self._safe.reopen(group, item.packet, item.session_key)
        content = await asyncio.to_thread(self._mail.read_entity, entity)
        events = await self._room.send(self._room_post(item, group, author, content, answers))
        at = self._clock.now()

        async def settle(tx: Store) -> None:
            await tx.posts.shown(item.post.id, events)
            await tx.deliveries.finish(item.id, at=at)

        await self.claims.settle(item, settle)
        return group

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

    async def _to_member(self, item: DeliveryItem) -> Group:
        async with self._database.transaction() as tx:
            group = await tx.groups.get(item.post.group_id)
            member = await tx.members.get(item.member_id) if item.member_id is not None else None
            address = await self._address(tx, item, member)
            chain = await tx.posts.chain(item.post.id)
        if member is None or address is None or not usable(address.key, self._clock.now()):
            raise NoUsableKey(member=member.name if member else "")
        if address.paused_at is not None:
            raise AddressPaused(member=member.name, address=address.address, count=0)
        references = tuple(mail_id for post in chain[:-1] for mail_id in _known_ids(post, member))
        message = await asyncio.to_thread(self._safe.armour, item.session_key, item.packet)
        await self._mail.send(Copy(group, item.post, item.id, address.address, references, message))
        at = self._clock.now()
        await self.claims.settle(item, lambda tx: tx.deliveries.finish(item.id, at=at))
        return group

    @staticmethod
    async def _address(tx: Store, item: DeliveryItem, member: Member | None) -> MailAddress | None:
        if member is None or item.elsewhere is None:
            return member.address if member else None
        contact = await tx.contacts.get(member.contact_id)
        return next((each for each in contact.addresses if each.address == item.elsewhere), None)

    async def fail(self, item: DeliveryItem, error: SecirError) -> None:
        """Hold, retry or bury; whoever must act is told."""
        self._outages[item.target].saw(error)
        now = self._clock.now()
        late = retry.over(now - item.created_at, self._give_up_after)
        again = error.retryable and not late and not await self._is_hopeless(item, error)
        async with self._database.transaction() as tx:
            group = await tx.groups.get(item.post.group_id)
            member = await tx.members.get(item.member_id) if item.member_id is not None else None
            if isinstance(error, NoUsableKey | AddressPaused):
                await tx.deliveries.hold(item.id, error.code)
            elif again:
                pause = retry.wait(error, item.attempts, random.random())  # noqa: S311 - spread, not secrecy
                await tx.deliveries.retry(item.id, now + pause, error.code)
            else:
                await tx.deliveries.bury(item.id, error.code)
                await tx.audit.add(now, "delivery.buried", group=group.id, subject=str(item.id), detail=error.code)
        log.warning(
            "delivery.failed", post=item.post.reference, delivery=item.id, code=error.code, attempts=item.attempts
        )
        await self._tell_outage(group, item.target)
        if isinstance(error, RelayRefused):
            await self._on_refused(item.id, str(error.params.get("reply", "")))
        elif not again and not late and not isinstance(error, AddressPaused):
            # What was given up is told by ``undelivered``, to its author too; this is about what caused it.
            await self._alarms.tell(group, error, about=member)

    async def _tell_outage(self, group: Group, target: Door) -> None:
        """Through the other door, once: knocks take turns among the groups, so each of them hears of it."""
        minutes = int(self._outages[target].seconds // 60)
        if minutes >= OUTAGE_TOLD_AFTER:
            outage = MailOutage(minutes=minutes) if target is Door.MAIL else RoomOutage(minutes=minutes)
            await self._alarms.tell(group, outage)

    async def _is_hopeless(self, item: DeliveryItem, error: SecirError) -> bool:
        return retry.hopeless(error, item.attempts) and await self._intake.is_to_blame(item.post.group_id, error)

    async def _recover(self, tx: Store, besides: Collection[int]) -> int:
        return await tx.deliveries.recover(self._clock.now(), besides)

    async def release_held(self) -> int:
        """Seal anew what was held for want of a key and whose member has a usable one now. Returns how many."""
        released = 0
        async with self._database.transaction() as tx:
            waiting = [
                (group, member, await tx.deliveries.held_for(member.id))
                for group in await tx.groups.all()
                for member in await tx.members.of(group.id)
                if member.address and not member.address.paused_at and usable(member.address.key, self._clock.now())
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
