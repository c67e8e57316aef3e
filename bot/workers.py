"""The workers of a running bridge, and the bells that wake them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bridges.arrivals import MailArrivals, RoomArrivals
from bridges.carrier import Carrier
from bridges.work import Bell, Worker
from storage.records import DeliveryItem, EventItem, MailItem

WORKERS: Final = 4
"""Of each kind but the mails out, so that a group whose mails or files take long does not hold up the others."""

AnyWorker: TypeAlias = Worker[MailItem] | Worker[EventItem] | Worker[DeliveryItem]


@dataclass(frozen=True, slots=True)
class Bells:
    """Who is woken by what: mail came, events came, a room changed, there is something to deliver."""

    mails: Bell = field(default_factory=Bell)
    events: Bell = field(default_factory=Bell)
    rooms: Bell = field(default_factory=Bell)
    to_room: Bell = field(default_factory=Bell)
    to_members: Bell = field(default_factory=Bell)

    def ring_deliveries(self) -> None:
        self.to_room.ring()
        self.to_members.ring()


def for_rooms(bells: Bells, events: RoomArrivals, out: Carrier) -> list[AnyWorker]:
    """Those that need the homeserver."""
    found: list[AnyWorker] = []
    for _ in range(WORKERS):
        found.append(
            Worker(
                "events",
                claims=events.claims,
                claim=events.claim,
                handle=events.handle,
                fail=events.fail,
                bell=bells.events,
            )
        )
        found.append(
            Worker(
                "room",
                claims=out.claims,
                claim=out.claim_for_room,
                handle=out.handle,
                fail=out.fail,
                bell=bells.to_room,
            )
        )
    return found


def for_mail(bells: Bells, mails: MailArrivals, out: Carrier, *, connections: int) -> list[AnyWorker]:
    """Those that don't; for mails out as many as there may be connections to the relay."""
    inward: list[AnyWorker] = [
        Worker("mails", claims=mails.claims, claim=mails.claim, handle=mails.handle, fail=mails.fail, bell=bells.mails)
        for _ in range(WORKERS)
    ]
    outward: list[AnyWorker] = [
        Worker(
            "members",
            claims=out.claims,
            claim=out.claim_for_member,
            handle=out.handle,
            fail=out.fail,
            bell=bells.to_members,
        )
        for _ in range(connections)
    ]
    return [*inward, *outward]
