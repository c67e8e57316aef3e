"""What is decided while mail is handed in: who may be written to, and whether a mail is taken.

Raises a MailRefusal for each no, and words it; speaks no SMTP (``incoming`` does) and opens nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

import structlog

from bridges.mail import bounces, parse
from bridges.mail.bounces import Bounce
from bridges.mail.returns import Returned, ReturnPaths
from bridges.ports import Clock, Phrasebook
from storage.database import Database
from trust.bounces import BounceKind
from trust.errors import (
    Fault,
    MailBroken,
    MailHasBareNewline,
    MailIsAutomatic,
    MailRefusal,
    MailTooBig,
    NoSpace,
    ReturnsOnly,
    StoreFull,
    StoreUnavailable,
    TooManyRecipients,
    UnknownAddress,
)
from trust.records import DeliveryId, GroupId

log = structlog.get_logger()

T = TypeVar("T")

MAX_RECIPIENTS: Final = 50
"""RCPT commands in one mail, the refused ones counted."""
CHECKS_AT_ONCE: Final = 2
"""Mails whose structure is looked at, in threads."""
_REPLY_OCTETS: Final = 500
"""A reply line has 512 octets at most (RFC 5321, 4.5.3.1.5)."""


CameBack = Callable[[DeliveryId, BounceKind, str, Sequence[str]], Awaitable[None]]
"""Remembers that a delivery came back: how, with which status, and whom it did not reach. Returns after the commit."""


@dataclass(frozen=True, slots=True)
class ToList:
    group: GroupId


@dataclass(frozen=True, slots=True)
class ToReturn:
    """The return address of one of our own deliveries, written by us."""

    delivery: DeliveryId


Recipient: TypeAlias = ToList | ToReturn
Outcome: TypeAlias = str | MailRefusal
"""The queue id of a mail that was taken, or why it was not."""


@dataclass(slots=True)
class Dialogue:
    """One mail that is being handed in; the next one has its own."""

    from_nobody: bool = False
    """The null sender: a bounce."""
    recipients: list[Recipient] = field(default_factory=list)
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
        returns: ReturnPaths,
        came_back: CameBack,
        has_room: Callable[[], bool],
    ) -> None:
        self._max_mb = max_mb
        self._database = database
        self._phrases = phrases
        self._clock = clock
        self._arrived = arrived
        self._returns = returns
        self._came_back = came_back
        self._has_room = has_room
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._running: set[asyncio.Task[Any]] = set()

    async def recipient(self, dialogue: Dialogue, address: str) -> None:
        """Accept a known group's address, in whatever case, without extensions; or the return address of a delivery.

        A bounce to a list is refused here and not at MAIL FROM, so that the sender checks of other servers still work.
        """
        dialogue.asked += 1
        if dialogue.asked > MAX_RECIPIENTS:
            raise TooManyRecipients(limit=MAX_RECIPIENTS)
        returned = self._returns.read(address)
        found = await self._whole(self._delivery(returned) if returned else self._group(address))
        if found is None:
            raise UnknownAddress
        if dialogue.from_nobody and isinstance(found, ToList):
            raise MailIsAutomatic
        self.make_sure_of_room()
        dialogue.recipients.append(found)

    async def _group(self, address: str) -> Recipient | None:
        with _as_refusals():
            async with self._database.transaction() as tx:
                group = await tx.groups.by_address(address.lower())
        return ToList(group.id) if group else None

    async def _delivery(self, returned: Returned) -> Recipient | None:
        with _as_refusals():
            async with self._database.transaction() as tx:
                sent = await tx.bounces.sent(returned.delivery)
        ours = sent and sent.group_address == returned.group_address
        return (
            ToReturn(returned.delivery)
            if sent and ours and self._returns.is_genuine(returned, sent.reference)
            else None
        )

    def make_sure_of_room(self) -> None:
        """Before anything is taken. Raises NoSpace."""
        if not self._has_room():
            raise NoSpace

    async def mail(self, dialogue: Dialogue, raw: bytes) -> list[Outcome]:
        """Check and commit a whole mail; what became of it for each recipient.

        For a list the same bytes are taken only once; a delivery comes back only once.
        """
        try:
            await self._in_thread(_refuse_bare_newlines, raw)
        except MailHasBareNewline as error:
            return [error] * len(dialogue.recipients)
        groups = [to.group for to in dialogue.recipients if isinstance(to, ToList)]
        deliveries = [to.delivery for to in dialogue.recipients if isinstance(to, ToReturn)]
        taken = await _outcome(self._to_lists(groups, raw)) if groups else None
        counted = await _outcome(self._to_returns(deliveries, raw, dialogue)) if deliveries else None
        by_kind = {ToList: taken, ToReturn: counted}
        return [outcome for to in dialogue.recipients if (outcome := by_kind[type(to)]) is not None]

    async def _to_lists(self, groups: Sequence[GroupId], raw: bytes) -> str:
        await self._check(raw)
        return await self._whole(self._store(groups, raw))

    async def _store(self, groups: Sequence[GroupId], raw: bytes) -> str:
        queue, now, stored = _queue_id(raw), self._clock.now(), []
        with _as_refusals():
            async with self._database.transaction() as tx:
                for group in dict.fromkeys(groups):
                    stored.append((group, await tx.mails.take_in(group, raw, now)))
        for group, mail in stored:
            log.info("mail.taken_in" if mail is not None else "mail.known", mail=mail, group=group, queue=queue)
        if any(mail is not None for _, mail in stored):
            self._arrived()
        return queue

    async def _to_returns(self, deliveries: Sequence[DeliveryId], raw: bytes, dialogue: Dialogue) -> str:
        """A bounce is counted, what else a program writes is dropped: nothing that comes here is ever answered."""
        bounce = await self._in_thread(lambda: bounces.read_bounce(raw, from_nobody=dialogue.from_nobody))
        if bounce is not None:
            await self._whole(self._count(deliveries, bounce))
        elif dialogue.from_nobody or await self._in_thread(parse.is_automatic, raw):
            log.info("mail.dropped", queue=_queue_id(raw))
        else:
            raise ReturnsOnly
        return _queue_id(raw)

    async def _count(self, deliveries: Sequence[DeliveryId], bounce: Bounce) -> None:
        with _as_refusals():
            for delivery in dict.fromkeys(deliveries):
                await self._came_back(delivery, bounce.kind, bounce.status, bounce.recipients)

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
        try:
            await self._in_thread(parse.read_envelope, raw)
        except RecursionError as error:
            raise MailBroken from error

    async def _in_thread(self, look: Callable[..., T], *at: bytes) -> T:
        """Outside the event loop: a mail may be large."""
        async with self._checks:
            return await asyncio.to_thread(look, *at)

    def too_big(self) -> MailTooBig:
        return MailTooBig(limit_mb=self._max_mb)

    def refusal(self, error: MailRefusal) -> str:
        """One ASCII reply line: the codes of the error, and what the phrasebook says of it."""
        log.info("mail.refused_in_dialogue", code=error.code)
        words = " ".join(self._phrases.explain(error).replace("…", "...").split())
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode("ascii")
        return f"{error.smtp} {plain}"[:_REPLY_OCTETS].rstrip()


async def _outcome(work: Awaitable[str]) -> Outcome:
    try:
        return await work
    except MailRefusal as error:
        return error


@contextmanager
def _as_refusals() -> Iterator[None]:
    """What is wrong on our side is put in the words of the dialogue: the sender's server keeps the mail."""
    try:
        yield
    except StoreFull as error:
        raise NoSpace from error
    except Fault as error:
        raise StoreUnavailable from error


def _queue_id(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:12]


def _refuse_bare_newlines(raw: bytes) -> None:
    """SMTP smuggling (CVE-2023-51764): what we passed on, the next server might read as several mails."""
    pairs = raw.count(b"\r\n")
    if raw.count(b"\r") != pairs or raw.count(b"\n") != pairs or b"\0" in raw:
        raise MailHasBareNewline
