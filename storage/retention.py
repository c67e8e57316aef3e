"""What is deleted because nobody needs it any more: sealed bodies, mails that were refused, deliveries given up.

Ids, digests and references stay, so that threads hang together and nothing comes twice. Knows no clock and no setting.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, not_, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.audit import Audit
from storage.records import MailState
from storage.schema import deliveries, mail_bodies, mails, posts, sealed_bodies

PORTION: Final = 8 * 1024 * 1024
"""Bytes that one transaction deletes at most, unless a single body is larger: on SQLite each is written over."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many of each were deleted."""

    bodies: int
    deliveries: int
    mails: int

    @property
    def total(self) -> int:
        """0 once nothing is left to be deleted."""
        return self.bodies + self.deliveries + self.mails


class Retention:
    """Deletes in portions: a transaction for each, so that nobody waits for it long."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._audit = Audit(connection)

    async def sweep(
        self, now: datetime, *, delivered_before: datetime, undelivered_before: datetime, most: int
    ) -> Swept:
        """One portion: at most ``most`` rows of each kind. Call it again, in a new transaction, while ``total`` > 0."""
        # The deliveries first: with the last of them the bodies of their post are free.
        given_up = await self._expire_deliveries(now, undelivered_before, most)
        spare = await self._delete_bodies(_spare(), most)
        delivered = await self._delete_bodies(_delivered(delivered_before), most)
        return Swept(
            bodies=spare + delivered,
            deliveries=given_up,
            mails=await self._delete_mails(undelivered_before, most),
        )

    async def _expire_deliveries(self, now: datetime, before: datetime, most: int) -> int:
        """What stood still for so long is not sent any more. A queued one is given up by ``bridges.undelivered``."""
        still = deliveries.c.due_at.is_(None), deliveries.c.created_at < before
        oldest = select(deliveries.c.id).where(_UNFINISHED, *still).order_by(deliveries.c.created_at).limit(most)
        ids = (await self._connection.execute(oldest)).scalars().all()
        if not ids:
            return 0
        columns = deliveries.c.group_id, deliveries.c.state
        gone = delete(deliveries).where(deliveries.c.id.in_(ids), deliveries.c.due_at.is_(None)).returning(*columns)
        rows = (await self._connection.execute(gone)).all()
        for (group, state), number in Counter((row.group_id, row.state.value) for row in rows).items():
            await self._audit.add(now, "delivery.expired", group=group, detail=f"{number} {state}")
        return len(rows)

    async def _delete_bodies(self, wanted: ColumnElement[bool], most: int) -> int:
        statement = select(sealed_bodies.c.id, func.length(sealed_bodies.c.packet)).where(wanted)
        ids = await self._portion(statement.order_by(sealed_bodies.c.id).limit(most))
        if ids:
            await self._connection.execute(delete(sealed_bodies).where(sealed_bodies.c.id.in_(ids), wanted))
        return len(ids)

    async def _delete_mails(self, before: datetime, most: int) -> int:
        refused = exists().where(
            mails.c.id == mail_bodies.c.mail_id, mails.c.state == MailState.REFUSED, mails.c.received_at < before
        )
        statement = select(mail_bodies.c.mail_id, func.length(mail_bodies.c.raw)).where(refused).limit(most)
        # Locked: an operator who has one of them tried again now finds its body, or finds it gone.
        ids = await self._portion(statement.with_for_update(skip_locked=True))
        if ids:
            await self._connection.execute(delete(mail_bodies).where(mail_bodies.c.mail_id.in_(ids), refused))
        return len(ids)

    async def _portion(self, statement: Select[Any]) -> list[int]:
        """The ids of the first rows, of ``(id, size)``, that one transaction may delete."""
        rows = (await self._connection.execute(statement)).all()
        sizes = accumulate(row[1] for row in rows)
        return [
            row[0] for place, (row, size) in enumerate(zip(rows, sizes, strict=True)) if not place or size <= PORTION
        ]


_UNFINISHED: Final = text("deliveries.state <> 'done'")
"""Written out, not bound: the partial index of what is not done is for these very words."""


def _delivered(before: datetime) -> ColumnElement[bool]:
    """Every delivery of the post is done, the last one ``before``. A post without any counts from its sealing."""
    of_post = deliveries.c.post_id == sealed_bodies.c.post_id
    in_use = or_(_UNFINISHED, deliveries.c.finished_at >= before)
    old = exists().where(posts.c.id == sealed_bodies.c.post_id, posts.c.sealed_at < before)
    return and_(not_(exists().where(of_post, in_use)), or_(exists().where(of_post), old))


def _spare() -> ColumnElement[bool]:
    """Sealed anew for a member who has it now. Not the first one, from which a post is sealed anew for another."""
    first = sealed_bodies.alias("first")
    earlier = exists().where(first.c.post_id == sealed_bodies.c.post_id, first.c.id < sealed_bodies.c.id)
    wanted = exists().where(deliveries.c.sealed_id == sealed_bodies.c.id, _UNFINISHED)
    return and_(earlier, not_(wanted))
