"""The spool: mail as it was received, encrypted, until it is a post or is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage import leases
from storage.columns import insert_into
from storage.records import MailItem, MailState
from storage.schema import mail_bodies, mails
from trust.records import GroupId, MailId


class Mails:
    """The mails that came in. Those of one group are handled in the order they came."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take_in(self, group: GroupId, raw: bytes, received_at: datetime) -> MailId | None:
        """Keep a mail. None if the very same bytes came before for this group, however long ago."""
        statement = insert_into(self._connection, mails).values(
            group_id=group,
            digest=hashlib.sha256(raw).digest(),
            received_at=received_at,
            state=MailState.QUEUED,
            due_at=received_at,
        )
        added = await self._connection.execute(statement.on_conflict_do_nothing().returning(mails.c.id))
        if (row_id := added.scalar_one_or_none()) is None:
            return None
        await self._connection.execute(insert(mail_bodies).values(mail_id=row_id, raw=raw))
        return MailId(row_id)

    async def claim(self, now: datetime, *, lease: timedelta) -> MailItem | None:
        """The next mail that is due: never one before an earlier unfinished one of its group."""
        row_id = await leases.claim(self._connection, mails, lane="group_id", now=now, lease=lease)
        if row_id is None:
            return None
        statement = select(mails, mail_bodies.c.raw).join(mail_bodies).where(mails.c.id == row_id)
        row = (await self._connection.execute(statement)).one()
        return MailItem(row.id, row.group_id, row.raw, row.received_at, row.attempts)

    async def finish(self, mail: MailId) -> None:
        """It is a post now, sealed in its own form: the bytes are deleted, their digest stays."""
        await leases.settle(self._connection, mails, mail, MailState.DONE)
        await self._connection.execute(delete(mail_bodies).where(mail_bodies.c.mail_id == mail))

    async def refuse(self, mail: MailId, code: str) -> None:
        """It is no post, for the reason that ``code`` names; kept for the operator to see."""
        await leases.settle(self._connection, mails, mail, MailState.REFUSED, code)

    async def retry(self, mail: MailId, at: datetime, code: str) -> None:
        """Not now: to be claimed again from ``at`` on. Later mails of the group wait for it."""
        await leases.retry(self._connection, mails, mail, at, code)

    async def recover(self, now: datetime, besides: Collection[int] = ()) -> int:
        """No process but ours: forget all leases, but on those that we have in hand. Returns how many there were."""
        return await leases.recover(self._connection, mails, now, besides)

    async def heal(self, now: datetime) -> int:
        """The clock was set back. Returns how many are due now for it."""
        return await leases.heal(self._connection, mails, now)

    async def counts(self, group: GroupId) -> dict[str, int]:
        """How many mails were refused, by code."""
        statement = select(mails.c.code, func.count().label("refused")).where(
            mails.c.group_id == group, mails.c.state == MailState.REFUSED
        )
        rows = await self._connection.execute(statement.group_by(mails.c.code).order_by(mails.c.code))
        return {row.code: row.refused for row in rows}
