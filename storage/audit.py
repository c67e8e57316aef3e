"""The audit record: who did what, when. Rows are added and read, never changed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.records import AuditEntry
from storage.schema import audit
from trust.records import GroupId


class Audit:
    """Words and ids only: never contents, keys or arguments of commands."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        at: datetime,
        action: str,
        *,
        group: GroupId | None = None,
        actor: str = "",
        subject: str = "",
        detail: str = "",
    ) -> None:
        values = {"at": at, "action": action, "group_id": group, "actor": actor, "subject": subject, "detail": detail}
        await self._connection.execute(insert(audit).values(values))

    async def recent(self, group: GroupId | None, limit: int) -> list[AuditEntry]:
        """The last entries, newest first, of a group; for None those of no group."""
        statement = select(audit).where(audit.c.group_id == group).order_by(audit.c.id.desc()).limit(limit)
        rows = await self._connection.execute(statement)
        return [AuditEntry(row.at, row.action, row.group_id, row.actor, row.subject, row.detail) for row in rows]
