"""Our own sync loop: what the homeserver has for us is committed before anything acts on it.

Owns the position in the stream of events, which is kept in the database and moved in the transaction that keeps the
events themselves; a crash anywhere means that the same answer is asked for again, and nothing of it counts twice.
Knows nothing of what an event means: it keeps the events of the groups' rooms as they came, still encrypted, and rings.
Source: Matrix Client-Server API, "Syncing" and "Getting events for a room".
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from bridges.matrix.chain import entry
from bridges.matrix.olmevents import identifier
from bridges.matrix.session import Session
from bridges.matrix.unwedge import unwedge
from bridges.ports import Clock
from storage.database import Database
from storage.records import NewEvent
from trust.errors import HomeserverAway, HomeserverFault, LoginLost, RateLimited, SecirError, StoreFault

log = structlog.get_logger()

LONG_POLL: Final = timedelta(seconds=30)
GRACE: Final = 30.0
"""Seconds that an answer may come later than the long poll ends."""
PAGE: Final = 100
"""Events per timeline and per page of the past: Synapse gives no more."""
MOST_PAGES: Final = 200
"""Pages of the past of one room and one sync: 20,000 events. What is older is given up, and that is logged."""
LONGEST_PAUSE: Final = 60.0
"""Seconds between two tries while the homeserver is away."""
SHORTEST_ROUND: Final = 1.0
"""Seconds: a server that answers at once with nothing new is not asked more often."""
NOT_THE_SAME_MS: Final = 1000
"""A first answer is given at once, so its time limit may be anything."""
DEEPEST_EVENT: Final = 100
"""Levels of nesting that an event may have; Synapse allows no more."""
ENCRYPTED: Final = "m.room.encrypted"
MESSAGE_TYPES: Final = frozenset({ENCRYPTED, "m.room.message"})
"""A message in clear is kept too: it is refused later, so that its author is told."""
NOTHING: Final[Mapping[str, object]] = {"types": []}
FILTER: Final = json.dumps(
    {
        "presence": NOTHING,
        "account_data": NOTHING,
        "room": {
            "timeline": {"limit": PAGE},
            "state": {"lazy_load_members": False},
            "ephemeral": NOTHING,
            "account_data": NOTHING,
        },
    },
    separators=(",", ":"),
)


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told, once what came in is committed. None may raise, none may be slow."""

    on_events: Callable[[], None]
    """Events of a group's room are there to be handled."""
    on_room_key: Callable[[str], None]
    """A Megolm session's key came: events that waited for it are due."""
    on_state: Callable[[str], None]
    """The state of this room (a group's) changed, or we are no longer in it."""
    on_devices: Callable[[Iterable[str]], None]
    """The devices or identities of these users changed. Told before the commit: a hint is never lost by it."""


class Sync:
    """The loop. One per account; two would steal each other's room keys."""

    def __init__(
        self,
        session: Session,
        database: Database,
        clock: Clock,
        listeners: Listeners,
        *,
        long_poll: timedelta = LONG_POLL,
    ) -> None:
        self._session = session
        self._database = database
        self._clock = clock
        self._tell = listeners
        self._long_poll = long_poll
        self._failures = 0
        self._caught_up = False
        self._new_keys: list[str] = []
        """Sessions whose keys came and whose events are not woken yet: an answer asked for twice brings none twice."""

    async def run(self) -> None:
        """Sync until cancelled. Raises LoginLost: without a login, trying again is of no use to anybody."""
        while True:
            try:
                moved, seconds = await self._timed_round()
            except LoginLost:
                log.error("sync.login_lost", user=self._session.user_id)  # noqa: TRY400 - its code says it all
                raise
            except (HomeserverFault, StoreFault) as fault:
                await asyncio.sleep(self._pause(fault))
                continue
            self._recovered()
            if not moved and seconds < SHORTEST_ROUND:
                await asyncio.sleep(SHORTEST_ROUND - seconds)

    async def _timed_round(self) -> tuple[bool, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        return await self.round(), loop.time() - began

    async def round(self) -> bool:
        """Ask once and take in the answer. Whether the position moved.

        Raises HomeserverFault (RateLimited and LoginLost among them) and StoreFault; then the position is the old one.
        """
        since = await self._position()
        answer = await self._ask(since)
        position = answer.get("next_batch")
        if not isinstance(position, str) or not position:
            raise HomeserverAway
        await self._take_in_keys(answer)
        rooms = await self._rooms(answer)
        events = [] if since is None else await self._events(rooms, since)
        async with self._database.transaction() as tx:
            new = await tx.events.take_in(self._session.user_id, position, events)
            for session_id in self._new_keys:
                await tx.events.wake(session_id)
        self._caught_up = True
        self._ring(new, changed_rooms(rooms, answer))
        await self._after(answer)
        return position != since

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _position(self) -> str | None:
        async with self._database.transaction() as tx:
            return await tx.events.position(self._session.user_id)

    async def _ask(self, since: str | None) -> Mapping[str, Any]:
        # The first answer is wanted at once: others wait for it at the start.
        wait = self._long_poll.total_seconds() if self._caught_up else 0.0
        query = {"filter": FILTER, "timeout": str(int(wait * 1000))}
        if since is None:
            # The bot makes its rooms itself, and asks others in only after its first sync: nothing that is older was
            # meant for it. If the position was lost, old posts must not be sent out a second time.
            log.warning("sync.from_now", user=self._session.user_id)
            # Synapse keeps its answers for two minutes, by what was asked: one of before would be no "now".
            query["timeout"] = str(secrets.randbelow(NOT_THE_SAME_MS))
        else:
            query["since"] = since
        answer = await self._session.api.request("GET", "sync", query=query, timeout=wait + GRACE)
        return answer if isinstance(answer, Mapping) else {}

    # --- keys and devices --------------------------------------------------------------------------------------------

    async def _take_in_keys(self, answer: Mapping[str, Any]) -> None:
        olm = self._session.olm
        for event in objects(entry(answer, "to_device").get("events")):
            received = olm.receive(event)
            if received.room_key_session is not None:
                self._new_keys.append(received.room_key_session)
            # Each takes some milliseconds; there may be hundreds.
            await asyncio.sleep(0)
        olm.observe(answer.get("device_one_time_keys_count"), answer.get("device_unused_fallback_key_types"))
        lists = entry(answer, "device_lists")
        self._tell.on_devices([*strings(lists.get("changed")), *strings(lists.get("left"))])

    async def _after(self, answer: Mapping[str, Any]) -> None:
        """What the server may have to wait for: our keys topped up, broken channels mended. Tried again next time."""
        try:
            await self._session.upload_keys()
            await unwedge(self._session)
        except LoginLost:
            raise
        except HomeserverFault as fault:
            log.warning("sync.keys_not_uploaded", code=fault.code)

    # --- events ------------------------------------------------------------------------------------------------------

    async def _rooms(self, answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """What the answer has on the groups' rooms that we are in. Rooms of others are none of our business."""
        joined = entry(answer, "rooms", "join")
        if not joined and not entry(answer, "rooms", "leave"):
            return {}
        async with self._database.transaction() as tx:
            ours = {group.room_id for group in await tx.groups.all() if group.room_id}
        return {room_id: entry(joined, room_id) for room_id in ours if room_id in joined or _left(answer, room_id)}

    async def _events(self, rooms: Mapping[str, Mapping[str, Any]], since: str) -> list[NewEvent]:
        """The messages of all rooms, each room's oldest first."""
        found: list[NewEvent] = []
        for room_id, room in rooms.items():
            timeline = entry(room, "timeline")
            raw = list(objects(timeline.get("events")))
            if timeline.get("limited") is True:
                raw = [*await self._gap(room_id, timeline.get("prev_batch"), since), *raw]
            found += [new for event in raw if (new := self._new(room_id, event))]
        return found

    async def _gap(self, room_id: str, before: object, since: str) -> list[Mapping[str, Any]]:
        """What the answer left out: the events of the room after ``since`` and before its timeline, oldest first.

        Raises HomeserverFault: then the whole answer is asked for again, as a gap can't be filled later.
        """
        backwards: list[Mapping[str, Any]] = []
        for _ in range(MOST_PAGES):
            if not isinstance(before, str):
                break
            query = {"dir": "b", "from": before, "to": since, "limit": str(PAGE)}
            page = await self._session.api.request("GET", "rooms", room_id, "messages", query=query)
            events = list(objects(page.get("chunk") if isinstance(page, Mapping) else None))
            backwards += events
            before = page.get("end") if events else None
        else:
            log.error("sync.gap_too_long", room=room_id, events=len(backwards))
        log.info("sync.gap_filled", room=room_id, events=len(backwards))
        return backwards[::-1]

    def _new(self, room_id: str, event: Mapping[str, Any]) -> NewEvent | None:
        """The event as it is kept; None if it is no message of somebody else."""
        if event.get("type") not in MESSAGE_TYPES or "state_key" in event or not entry(event, "content"):
            # Redacted ones have no content left; a reaction or an edit in clear is nothing that may count.
            return None
        try:
            event_id, sender = identifier(event.get("event_id")), identifier(event.get("sender"))
        except ValueError:
            log.warning("sync.event_without_id", room=room_id)
            return None
        if sender == self._session.user_id:
            # Whatever device of our account it came from: what the bot says must never come back into the list.
            return None
        if is_deeper(event, DEEPEST_EVENT):
            # No client makes such an event, and storing it would fail, again and again.
            log.warning("sync.event_too_deep", room=room_id, event_id=event_id)
            return None
        return NewEvent(room_id, event_id, sender, {**without_words(event), "room_id": room_id}, self._clock.now())

    def _ring(self, new: int, changed: Iterable[str]) -> None:
        keys, self._new_keys = self._new_keys, []
        for room_id in changed:
            self._tell.on_state(room_id)
        for session_id in keys:
            self._tell.on_room_key(session_id)
        if new or keys:
            log.info("sync.taken_in", events=new, keys=len(keys))
            self._tell.on_events()

    # --- faults ------------------------------------------------------------------------------------------------------

    def _pause(self, fault: SecirError) -> float:
        """Seconds until the next try. The first failure of a row is logged, not each."""
        self._failures += 1
        if self._failures == 1:
            log.warning("sync.interrupted", code=fault.code, **fault.params)
        if isinstance(fault, RateLimited):
            return fault.retry_after
        longest = min(LONGEST_PAUSE, 2.0 ** min(self._failures - 1, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spread, not secrecy

    def _recovered(self) -> None:
        if self._failures:
            log.info("sync.recovered", failures=self._failures)
        self._failures = 0


def without_words(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message in clear is kept so that its author is told; what it says never reaches our disk."""
    if event.get("type") == ENCRYPTED:
        return event
    kept = {name: event[name] for name in ("type", "event_id", "sender") if name in event}
    return kept | {"content": {"msgtype": entry(event, "content").get("msgtype")}}


def changed_rooms(rooms: Mapping[str, Mapping[str, Any]], answer: Mapping[str, Any]) -> Iterator[str]:
    """The rooms whose state changed, or that we are no longer in."""
    for room_id, room in rooms.items():
        stated = entry(room, "state").get("events")
        in_timeline = any("state_key" in event for event in objects(entry(room, "timeline").get("events")))
        if stated or in_timeline or _left(answer, room_id):
            yield room_id


def is_deeper(value: object, levels: int) -> bool:
    """Whether ``value`` is nested more deeply; without recursion, since that is what it is about."""
    layer: list[object] = [value]
    for _ in range(levels + 1):
        inner = (item.values() if isinstance(item, Mapping) else item for item in layer)
        layer = [
            below for items in inner if isinstance(items, Iterable) and not isinstance(items, str) for below in items
        ]
        if not layer:
            return False
    return True


def objects(value: object) -> Iterator[Mapping[str, Any]]:
    """The objects in a list; nothing if it is no list."""
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else iter(())


def strings(value: object) -> Iterator[str]:
    """The strings in a list; nothing if it is no list."""
    return (item for item in value if isinstance(item, str)) if isinstance(value, list) else iter(())


def _left(answer: Mapping[str, Any], room_id: str) -> bool:
    return room_id in entry(answer, "rooms", "leave")
