"""What follows when mail comes back: it is counted, and an address from which too much came back gets nothing more.

The mail door calls it for bounces, the carrier for what our own relay refuses. Knows no door.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from bridges.alarms import Alarms
from bridges.ports import Clock
from storage.database import Database
from storage.records import SentItem
from storage.store import Store
from trust import bounces
from trust.bounces import BounceKind
from trust.errors import AddressPaused, Bounced, StoreUnavailable
from trust.records import DeliveryId, Group, Member

log = structlog.get_logger()

_STATUS: Final = re.compile(r"\b[45]\.\d{1,3}\.\d{1,3}\b")


@dataclass(frozen=True, slots=True)
class _Paused:
    """An address that gets nothing more, and one member who reads there."""

    group: Group
    member: Member
    error: AddressPaused


class Returns:
    """Counts what came back. ``limit`` is how much an address may send back (``trust.bounces``)."""

    def __init__(self, *, database: Database, alarms: Alarms, clock: Clock, limit: int) -> None:
        self._database = database
        self._alarms = alarms
        self._clock = clock
        self._limit = limit

    async def refused(self, delivery: DeliveryId, reply: str) -> None:
        """Our relay would not take it, for good, with these codes."""
        status = _STATUS.search(reply)
        await self._count(delivery, bounces.kind(status[0] if status else ""), status[0] if status else "", ())

    async def returned(self, delivery: DeliveryId, kind: BounceKind, status: str, recipients: Sequence[str]) -> None:
        """It was handed over and came back, or is late. ``recipients``: whom it did not reach, if that was told.

        Raises StoreUnavailable while the delivery is still being recorded: the bounce overtook it, and comes again.
        """
        async with self._database.transaction() as tx:
            sent = await tx.bounces.sent(delivery)
        if sent and sent.in_hand:
            raise StoreUnavailable
        await self._count(delivery, kind, status, recipients)

    async def _count(self, delivery: DeliveryId, kind: BounceKind, status: str, recipients: Sequence[str]) -> None:
        """Remember it and what follows from it in one transaction, then tell.

        What is remembered already changes nothing, but is told again: who brings it twice did not hear our 250, so that
        telling may have failed. Alarms know what was told.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            sent = await tx.bounces.sent(delivery)
            paused = await self._remember(tx, delivery, sent, kind, status, recipients, now) if sent else []
        for each in paused:
            await self._alarms.tell(each.group, each.error, about=each.member)

    async def _remember(
        self,
        tx: Store,
        delivery: DeliveryId,
        sent: SentItem,
        kind: BounceKind,
        status: str,
        recipients: Sequence[str],
        now: datetime,
    ) -> list[_Paused]:
        address = await self._address(tx, sent, recipients)
        is_new = await tx.bounces.add(delivery, address, at=now, kind=kind, status=status)
        log.info("mail.came_back", delivery=delivery, kind=kind.value, status=status, count=int(is_new))
        if kind is BounceKind.DELAYED:
            return []
        await tx.deliveries.bounce(delivery, Bounced.code)
        counts = await tx.bounces.counts(address, now - bounces.WITHIN)
        hard, soft = counts[BounceKind.HARD], counts[BounceKind.SOFT]
        if not bounces.too_many(hard, soft, self._limit):
            return []
        is_new_pause = await tx.contacts.pause(address, now)
        if is_new_pause:
            await self._hold(tx, sent, address, now)
        return await self._readers(tx, sent, address, hard + soft) if is_new_pause or not is_new else []

    @staticmethod
    async def _address(tx: Store, sent: SentItem, recipients: Sequence[str]) -> str:
        """Where it came back from: if the bounce names an earlier address of the member, that is the dead one."""
        member = await tx.members.get(sent.member_id)
        contact = await tx.contacts.get(member.contact_id)
        named = [each.address for each in contact.addresses if each.address in recipients]
        return sent.address if sent.address in named or not named else named[0]

    async def _hold(self, tx: Store, sent: SentItem, address: str, now: datetime) -> None:
        """In every group: what waits for this address waits until somebody resumes it."""
        for member in await self._at(tx, sent, address):
            held = await tx.deliveries.hold_for(member.id, AddressPaused.code)
            await tx.audit.add(now, "address.paused", group=member.group_id, subject=str(member.id))
            log.warning("address.paused", member=member.id, group=member.group_id, held=held)

    async def _readers(self, tx: Store, sent: SentItem, address: str, count: int) -> list[_Paused]:
        return [
            _Paused(
                await tx.groups.get(member.group_id),
                member,
                AddressPaused(member=member.name, address=address, count=count),
            )
            for member in await self._at(tx, sent, address)
            if member.address and member.address.paused_at
        ]

    @staticmethod
    async def _at(tx: Store, sent: SentItem, address: str) -> list[Member]:
        """The memberships whose mail goes to ``address``; it belongs to one contact."""
        contact = (await tx.members.get(sent.member_id)).contact_id
        return [m for m in await tx.members.of_contact(contact) if m.address and m.address.address == address]
