"""The homeserver as a witness: it remembers what a backup that was put back has forgotten.

Database and homeserver count the same ticks, the database always first. A database that counted less than the
homeserver saw is an old one: what waits in it may have gone out since, so nothing of it may be sent. The number is kept
in the account's own data (Matrix Client-Server API, module "Client Config") and says nothing of anybody.
"""

from __future__ import annotations

from typing import Final

import structlog

from bridges.matrix.chain import entry
from bridges.matrix.session import Session
from storage.database import Database
from trust.errors import BackupRestored, HomeserverRefused

log = structlog.get_logger()

TYPE: Final = "io.secir.witness"
LARGEST: Final = 2**53 - 1
"""The largest integer of canonical JSON."""


class Witness:
    """``check`` once, before anything is sent or synced; then ``tick`` now and then."""

    def __init__(self, session: Session, database: Database) -> None:
        self._session = session
        self._database = database
        self._passed = False

    async def check(self) -> None:
        """Raises BackupRestored, HomeserverFault, StoreFault.

        A database that never synced and never counted is a new one, or one that ``secir db restored`` made safe: it
        takes the homeserver's number.
        """
        account = self._session.user_id
        there = await self._there()
        async with self._database.transaction() as tx:
            here = await tx.witness.count(account)
            if here is None and await tx.events.position(account) is None:
                here = there
            if there > (here or 0):
                log.error("witness.backup_restored", wanted=there, found=here or 0)
                raise BackupRestored
            await tx.witness.put(account, here or 0)
        self._passed = True

    async def tick(self) -> None:
        """Count one more, here and then there. Nothing before ``check`` passed: it would cover up an old backup.

        Raises HomeserverFault, StoreFault.
        """
        if not self._passed:
            return
        account = self._session.user_id
        async with self._database.transaction() as tx:
            count = (await tx.witness.count(account) or 0) + 1
            await tx.witness.put(account, count)
        # A crash in between leaves the database ahead, which is no harm.
        await self._session.api.request("PUT", *self._place, body={"count": count})

    @property
    def _place(self) -> tuple[str, ...]:
        return "user", self._session.user_id, "account_data", TYPE

    async def _there(self) -> int:
        """The homeserver's number; 0 if it has none, or nothing that is one."""
        try:
            answer = await self._session.api.request("GET", *self._place)
        except HomeserverRefused as refused:
            if refused.params.get("errcode") == "M_NOT_FOUND":
                return 0
            raise
        count = entry(answer).get("count")
        return count if type(count) is int and 0 <= count <= LARGEST else 0
