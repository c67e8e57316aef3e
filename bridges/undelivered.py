"""What could not be brought to everybody: given up when its time is over, and told to its author and the admins.

Told in folds: whoever wrote a hundred messages while a mailbox was dead reads one notice. Knows no door.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from bridges.alarms import Alarms, First, Notify
from bridges.ports import Clock, Phrasebook
from storage.database import Database
from storage.records import UndeliveredItem
from storage.store import Store
from trust.errors import Bounced, RelayAway, RelayRefused
from trust.notices import UNDELIVERED
from trust.records import DeliveryId, Group, MemberId

log = structlog.get_logger()

PATIENCE: Final = timedelta(hours=1)
"""After a start nothing is given up for so long: what waited while the bridge was down gets its tries."""
PORTION: Final = 200
"""Rows given up in one transaction."""
MOST_LINES: Final = 20
"""Messages that one notice names."""


class Undelivered:
    """The two jobs around deliveries that failed for good."""

    def __init__(
        self,
        *,
        database: Database,
        alarms: Alarms,
        notify: Notify,
        phrases: Phrasebook,
        clock: Clock,
        give_up_after: timedelta,
    ) -> None:
        self._database = database
        self._alarms = alarms
        self._notify = notify
        self._phrases = phrases
        self._clock = clock
        self._give_up_after = give_up_after
        self._since = clock.now()

    async def give_up(self) -> int:
        """Bury what has waited for too long, also behind others of its destination. Returns how many."""
        now, given_up = self._clock.now(), 0
        if now - self._since < min(PATIENCE, self._give_up_after):
            return 0
        while True:
            async with self._database.transaction() as tx:
                late = await tx.deliveries.overdue(now - self._give_up_after, PORTION)
                for item in late:
                    code = item.code or RelayAway.code
                    await tx.deliveries.bury(item.id, code)
                    await tx.audit.add(now, "delivery.buried", group=item.group_id, subject=str(item.id), detail=code)
            given_up += len(late)
            if len(late) < PORTION:
                break
        if given_up:
            log.warning("delivery.given_up", count=given_up)
        return given_up

    async def tell(self) -> None:
        """Tell authors and admins what did not arrive and was not told yet."""
        async with self._database.transaction() as tx:
            untold = [(group, await tx.deliveries.undelivered(group.id)) for group in await tx.groups.all()]
        for group, items in untold:
            by_author: defaultdict[MemberId, list[UndeliveredItem]] = defaultdict(list)
            for item in items:
                by_author[item.author_id].append(item)
            for author, theirs in by_author.items():
                await self._tell_author(group, author, theirs)

    async def _tell_author(self, group: Group, author: MemberId, items: Sequence[UndeliveredItem]) -> None:
        now, told = self._clock.now(), [item.id for item in items]
        key = f"undelivered/{group.id}/{author}"
        async with self._database.transaction() as tx:
            if await tx.notices.told(key, now, again_after=UNDELIVERED.again_after):
                return
            whom = await self._alarms.reach(tx, group, UNDELIVERED, await tx.members.get(author))
        log.warning("delivery.undelivered", group=group.name, member=author, count=len(items))
        first = self._first(key, now, told)
        if whom:
            await self._notify(group, self.text(items), whom, first)
            return
        async with self._database.transaction() as tx:  # nobody can be told; it stays in the queue's list
            await first(tx)

    @staticmethod
    def _first(key: str, now: datetime, told: Sequence[DeliveryId]) -> First:
        async def first(tx: Store) -> bool:
            await tx.deliveries.told(told)
            return await tx.notices.first(key, now, again_after=UNDELIVERED.again_after)

        return first

    def text(self, items: Sequence[UndeliveredItem]) -> str:
        """A line for each message, with those who lack it: references, times and names, never contents."""
        say, posts = self._phrases.say, _by_post(items)
        lines = [self._line(each) for each in list(posts.values())[:MOST_LINES]]
        more = [say("undelivered-more", count=len(posts) - MOST_LINES)] if len(posts) > MOST_LINES else []
        return "\n".join([say("undelivered"), "", *lines, *more, "", say("undelivered-next")])

    def _line(self, items: Sequence[UndeliveredItem]) -> str:
        say = self._phrases.say
        readers = [
            say(
                "undelivered-reader",
                reader=item.reader or say("undelivered-the-room"),
                reason=say(_REASONS.get(item.code or "", "undelivered-given-up")),
            )
            for item in items
        ]
        time = f"{items[0].sealed_at:%Y-%m-%d %H:%M} UTC"
        return say("undelivered-line", reference=items[0].reference, time=time, readers=", ".join(readers))


_REASONS: Final[Mapping[str, str]] = {
    RelayRefused.code: "undelivered-refused",
    Bounced.code: "undelivered-bounced",
}


def _by_post(items: Sequence[UndeliveredItem]) -> Mapping[str, list[UndeliveredItem]]:
    posts: defaultdict[str, list[UndeliveredItem]] = defaultdict(list)
    for item in items:
        posts[item.reference].append(item)
    return posts
