"""The groups' rooms: made, watched and kept to the roll. What is true of a room is asked of the server, never of nio.

Owns the pin of a room's state, stopping and resuming, invitations and removals. Knows nothing of keys or messages.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from bridges.matrix import roomstate
from bridges.matrix.roomstate import RoomState
from bridges.matrix.session import Session
from bridges.ports import Alarm, Clock, Phrasebook
from storage.database import Database
from trust.errors import HomeserverAway, HomeserverRefused, RoomDrifted, RoomFault, RoomNotReady, StrangerInRoom
from trust.members import responders
from trust.records import Group, GroupId

log = structlog.get_logger()

LOOK_AGAIN_AFTER: Final = timedelta(minutes=10)
"""How long a room's state is taken for unchanged while no state event arrives."""
ASK_AGAIN_AFTER: Final = timedelta(days=1)
"""One who left by their own hand, or declined, and is on the roll still, is invited at most this often."""
OURS_TO_RESUME: Final = frozenset({RoomDrifted.code, StrangerInRoom.code})


@dataclass(frozen=True, slots=True)
class _Roll:
    """The group as it is now, and who may read in its room, by Matrix id."""

    group: Group
    readers: frozenset[str]


class Rooms:
    """See the module. Safe to be used by several tasks."""

    def __init__(
        self, session: Session, database: Database, clock: Clock, *, alarm: Alarm, phrases: Phrasebook
    ) -> None:
        self._session = session
        self._database = database
        self._clock = clock
        self._alarm = alarm
        self._phrases = phrases
        self._seen: dict[str, tuple[datetime, RoomState]] = {}
        self._changes: Counter[str] = Counter()
        self._making = asyncio.Lock()

    # --- making ----------------------------------------------------------------------------------------------------

    async def ensure(self, group: Group) -> Group:
        """The group with its room: the one it has, the one made just before a crash, or a new one; its state pinned.

        Nobody is invited (``reconcile`` does). Raises RoomDrifted if the server did not make the room as asked: then it
        is not used. Raises HomeserverFault.
        """
        async with self._making:
            group = (await self._roll(group.id)).group
            if group.room_id is not None and group.room_pin is not None:
                return group
            room_id = await self._find(group) or await self._create(group)
            state = await self._fetch(room_id)
            wrong = roomstate.unmet(group, self._session.user_id, state)
            if wrong:
                raise RoomDrifted(group=group.name, types=", ".join(wrong))
            async with self._database.transaction() as tx:
                await tx.groups.set_room(group.id, room_id, state.pin())
                return await tx.groups.get(group.id)

    async def _find(self, group: Group) -> str | None:
        joined = await self._session.api.request("GET", "joined_rooms")
        for room_id in sorted(map(str, _field(joined, "joined_rooms", list))):
            if roomstate.is_ours(group, self._session.user_id, await self._fetch(room_id)):
                log.info("room.found", group=group.id, room=room_id)
                return room_id
        return None

    async def _create(self, group: Group) -> str:
        api, user = self._session.api, self._session.user_id
        version = roomstate.room_version(await api.request("GET", "capabilities"))
        made = await api.request("POST", "createRoom", body=roomstate.creation(group, user, version))
        room_id: str = _field(made, "room_id", str)
        log.info("room.created", group=group.id, room=room_id, version=version)
        return room_id

    # --- watching --------------------------------------------------------------------------------------------------

    def changed(self, room_id: str) -> None:
        """A state event of the room arrived: look before the next message."""
        self._changes[room_id] += 1
        self._seen.pop(room_id, None)

    async def check(self, group: Group) -> frozenset[str]:
        """The joined users, if the room is as agreed and they all may read; a room that was stopped is resumed then.

        Otherwise RoomDrifted or StrangerInRoom is raised, and nothing may be sent; the group is stopped and those whom
        it concerns are told, once, except while somebody whom we know, but who may not read here (any more), waits to
        be removed by ``reconcile``. Raises RoomNotReady if there is no room yet, or it was stopped for another reason;
        HomeserverFault.
        """
        room_id = group.room_id
        if room_id is None or group.room_pin is None:
            raise RoomNotReady(group=group.name)
        state = await self._look(room_id)
        roll = await self._roll(group.id)
        fault = self._fault(roll, state)
        if fault is None:
            await self._resume(roll.group)
            return state.joined()
        self._seen.pop(room_id, None)
        if isinstance(fault, RoomDrifted) or await self._unknown(self._others(roll, state)):
            await self._stop(group, fault)
        raise fault

    def _fault(self, roll: _Roll, state: RoomState) -> RoomFault | None:
        group = roll.group
        if group.room_pin is None:
            return RoomNotReady(group=group.name)
        types = roomstate.drift(group.room_pin, self._session.user_id, state)
        if types:
            return RoomDrifted(group=group.name, types=", ".join(types))
        if others := self._others(roll, state):
            return StrangerInRoom(group=group.name, users=", ".join(sorted(others)))
        if group.stopped is not None and group.stopped not in OURS_TO_RESUME:
            return RoomNotReady(group=group.name)
        return None

    def _others(self, roll: _Roll, state: RoomState) -> frozenset[str]:
        """Joined, and not to read here."""
        return state.joined() - roll.readers - {self._session.user_id}

    async def _unknown(self, users: Iterable[str]) -> list[str]:
        """Those who are nobody's Matrix id in our contacts."""
        async with self._database.transaction() as tx:
            contacts = {user: await tx.contacts.find(user) for user in sorted(users)}
        return [user for user, found in contacts.items() if not any(user in contact.matrix_ids for contact in found)]

    async def _stop(self, group: Group, fault: RoomFault) -> None:
        async with self._database.transaction() as tx:
            news = (await tx.groups.get(group.id)).stopped != fault.code
            if news:
                await tx.groups.stop(group.id, fault.code)
        if news:
            log.warning("room.stopped", group=group.id, code=fault.code)
            await self._alarm(group, fault)

    async def _resume(self, group: Group) -> None:
        if group.stopped is None:
            return
        async with self._database.transaction() as tx:
            await tx.groups.resume(group.id)
        log.info("room.resumed", group=group.id, code=group.stopped)

    async def _look(self, room_id: str) -> RoomState:
        now = self._clock.now()
        if room_id in self._seen and now - self._seen[room_id][0] < LOOK_AGAIN_AFTER:
            return self._seen[room_id][1]
        changes = self._changes[room_id]
        state = await self._fetch(room_id)
        if changes == self._changes[room_id]:  # else: it changed while we asked
            self._seen[room_id] = (now, state)
        return state

    async def _fetch(self, room_id: str) -> RoomState:
        """The room's state; an empty one, which is as far from any pin as can be, for a room that is closed to us."""
        try:
            return RoomState.read(await self._session.api.request("GET", "rooms", room_id, "state"))
        except HomeserverRefused as error:
            if error.params.get("errcode") not in {"M_FORBIDDEN", "M_NOT_FOUND"}:
                raise
            return RoomState.read([])

    async def _roll(self, group_id: GroupId) -> _Roll:
        async with self._database.transaction() as tx:
            group = await tx.groups.get(group_id)
            members = await tx.members.of(group_id)
        readers = frozenset(member.matrix_id for member in responders(members) if member.matrix_id)
        return _Roll(group=group, readers=readers)

    # --- keeping to the roll -----------------------------------------------------------------------------------------

    async def reconcile(self, group: Group) -> None:
        """Remove those who may not read in the room, then invite the readers who are missing.

        It is an alarm (StrangerInRoom), too, if somebody is in the room whom we do not know at all, or who can't be
        removed. Nobody is invited who is invited already; one person's trouble does not stop the others. Raises
        RoomNotReady; RateLimited and other HomeserverFaults: what is left is done the next time.
        """
        if group.room_id is None:
            raise RoomNotReady(group=group.name)
        state = await self._fetch(group.room_id)
        roll = await self._roll(group.id)
        unknown = await self._unknown(roomstate.outsiders(state, roll.readers, self._session.user_id))
        alarming = set(unknown) & state.joined()
        try:
            alarming |= await self._remove(roll, state, unknown)
            await self._invite(roll, state)
        finally:
            self.changed(group.room_id)
            if alarming:
                await self._stop(group, StrangerInRoom(group=group.name, users=", ".join(sorted(alarming))))

    async def _remove(self, roll: _Roll, state: RoomState, unknown: Container[str]) -> set[str]:
        """Those who are in the room still, because the server did not remove them."""
        left: set[str] = set()
        for user in sorted(roomstate.outsiders(state, roll.readers, self._session.user_id)):
            reason = self._phrases.say("room-removed-stranger" if user in unknown else "room-removed-member")
            if await self._try(roll.group, "kick", {"user_id": user, "reason": reason}):
                log.info("room.removed", group=roll.group.id, user=user)
            elif user in state.joined():
                left.add(user)
        return left

    async def _invite(self, roll: _Roll, state: RoomState) -> None:
        for user in sorted(roll.readers):
            if await self._is_due(roll.group, user, state) and await self._try(roll.group, "invite", {"user_id": user}):
                log.info("room.invited", group=roll.group.id, user=user)

    async def _is_due(self, group: Group, user: str, state: RoomState) -> bool:
        membership = state.members.get(user)
        if membership is None or (membership.state == "leave" and membership.by != user):
            return True
        if membership.state != "leave":
            return False  # joined, invited, or banned by someone: a person's decision
        async with self._database.transaction() as tx:
            key = f"invited-again:{group.room_id}:{user}"
            return await tx.notices.first(key, self._clock.now(), again_after=ASK_AGAIN_AFTER)

    async def _try(self, group: Group, action: str, body: Mapping[str, Any]) -> bool:
        try:
            await self._session.api.request("POST", "rooms", str(group.room_id), action, body=body)
        except HomeserverRefused as error:
            log.warning("room.refused", action=action, user=body["user_id"], errcode=error.params.get("errcode"))
            return False
        return True


def _field(answer: object, name: str, kind: type) -> Any:
    """A field of an answer. Raises HomeserverAway if it is not there: something else answered in the server's place."""
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(value, kind):
        raise HomeserverAway
    return value
