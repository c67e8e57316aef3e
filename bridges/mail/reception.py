"""What is decided while mail is handed in: who may be written to, and whether a mail is taken.

Raises a MailRefusal for each no, and words it; speaks no SMTP (``incoming`` does) and opens nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

from bridges.mail import parse
from bridges.ports import Clock, Phrasebook
from storage.database import Database
from trust.errors import (
    MailBroken,
    MailHasBareNewline,
    MailIsAutomatic,
    MailRefusal,
    MailTooBig,
    StoreAway,
    StoreUnavailable,
    TooManyRecipients,
    UnknownAddress,
)
from trust.records import Group, GroupId

log = structlog.get_logger()

T = TypeVar("T")

MAX_RECIPIENTS: Final = 50
"""RCPT commands in one mail, the refused ones counted."""
CHECKS_AT_ONCE: Final = 2
"""Mails whose structure is looked at, in threads."""
_REPLY_OCTETS: Final = 500
"""A reply line has 512 octets at most (RFC 5321, 4.5.3.1.5)."""


@dataclass(slots=True)
class Dialogue:
    """One mail that is being handed in; the next one has its own."""

    from_nobody: bool = False
    """The null sender: a bounce."""
    groups: list[GroupId] = field(default_factory=list)
    """One for each accepted RCPT, in order: LMTP answers each of them."""
    asked: int = 0


class Desk:
    """Says yes or no to each step of the dialogue. Raises MailRefusal; speaks no protocol."""

    def __init__(
        self,
        *,
        max_mb: int,
        database: Database,
        phrases: Phrasebook,
        clock: Clock,
        arrived: Callable[[], None],
    ) -> None:
        self._max_mb = max_mb
        self._database = database
        self._phrases = phrases
        self._clock = clock
        self._arrived = arrived
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._running: set[asyncio.Task[Any]] = set()

    async def recipient(self, dialogue: Dialogue, address: str) -> None:
        """Accept a known group's address, in whatever case, without extensions.

        A bounce is refused here and not at MAIL FROM, so that the sender checks of other servers still work.
        """
        dialogue.asked += 1
        if dialogue.asked > MAX_RECIPIENTS:
            raise TooManyRecipients(limit=MAX_RECIPIENTS)
        group = await self._whole(self._group(address))
        if group is None:
            raise UnknownAddress
        if dialogue.from_nobody:
            raise MailIsAutomatic
        dialogue.groups.append(group.id)

    async def _group(self, address: str) -> Group | None:
        try:
            async with self._database.transaction() as tx:
                return await tx.groups.by_address(address.lower())
        except StoreAway as error:
            raise StoreUnavailable from error

    async def mail(self, groups: Sequence[GroupId], raw: bytes) -> str:
        """Check and commit a whole mail, once for each group; its queue id. The same bytes are taken only once."""
        await self._check(raw)
        return await self._whole(self._store(groups, raw))

    async def _store(self, groups: Sequence[GroupId], raw: bytes) -> str:
        digest = hashlib.sha256(raw).hexdigest()[:12]
        now, stored = self._clock.now(), []
        try:
            async with self._database.transaction() as tx:
                for group in dict.fromkeys(groups):
                    stored.append((group, await tx.mails.take_in(group, raw, now)))
        except StoreAway as error:
            raise StoreUnavailable from error
        for group, mail in stored:
            log.info("mail.taken_in" if mail is not None else "mail.known", mail=mail, group=group, queue=digest)
        if any(mail is not None for _, mail in stored):
            self._arrived()
        return digest

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Bring ``work`` to its end, even if the client hangs up meanwhile and its connection's task is cancelled.

        A transaction that is cancelled costs the database its connection, and clients hang up as often as they like.
        """
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def finish(self, seconds: float) -> None:
        """Wait until nothing is at work on the database any more, but not longer than ``seconds``."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def _check(self, raw: bytes) -> None:
        """Line ends, then structure, outside the event loop: a mail may be large."""
        async with self._checks:
            await asyncio.to_thread(_refuse_bare_newlines, raw)
            try:
                await asyncio.to_thread(parse.read_envelope, raw)
            except RecursionError as error:
                raise MailBroken from error

    def too_big(self) -> MailTooBig:
        return MailTooBig(limit_mb=self._max_mb)

    def refusal(self, error: MailRefusal) -> str:
        """One ASCII reply line: the codes of the error, and what the phrasebook says of it."""
        log.info("mail.refused_in_dialogue", code=error.code)
        words = " ".join(self._phrases.explain(error).replace("…", "...").split())
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode("ascii")
        return f"{error.smtp} {plain}"[:_REPLY_OCTETS].rstrip()


def _refuse_bare_newlines(raw: bytes) -> None:
    """SMTP smuggling (CVE-2023-51764): what we passed on, the next server might read as several mails."""
    pairs = raw.count(b"\r\n")
    if raw.count(b"\r") != pairs or raw.count(b"\n") != pairs or b"\0" in raw:
        raise MailHasBareNewline
