"""The groups' rooms: made, watched and kept to the roll. What is true of a room is asked of the server, never of nio.

Owns the pin of a room's state, stopping and resuming, invitations and removals. Knows nothing of keys or messages.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from bridges.matrix import roomstate
from bridges.matrix.roomstate import RoomState
from bridges.matrix.session import Session
from bridges.ports import Alarm, Clock, Phrasebook
from storage.database import Database
from trust.errors import HomeserverRefused, RoomDrifted, RoomFault, RoomNotReady, StrangerInRoom
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
    """The group as it is now, and who of its members is what, by Matrix id."""

    group: Group
    readers: frozenset[str]
    known: frozenset[str]
    """Readers and all other members: no strangers, though some may not be in the room."""


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
        for room_id in sorted(map(str, joined.get("joined_rooms", []))):
            if roomstate.is_ours(group, self._session.user_id, await self._fetch(room_id)):
                log.info("room.found", group=group.id, room=room_id)
                return room_id
        return None

    async def _create(self, group: Group) -> str:
        api, user = self._session.api, self._session.user_id
        version = roomstate.room_version(await api.request("GET", "capabilities"))
        made = await api.request("POST", "createRoom", body=roomstate.creation(group, user, version))
        log.info("room.created", group=group.id, room=made["room_id"], version=version)
        return str(made["room_id"])

    # --- watching --------------------------------------------------------------------------------------------------

    def changed(self, room_id: str) -> None:
        """A state event of the room arrived: look before the next message."""
        self._changes[room_id] += 1
        self._seen.pop(room_id, None)

    async def check(self, group: Group) -> frozenset[str]:
        """The joined users, if the room is as agreed and they all may read; a room that was stopped is resumed then.

        Otherwise the group is stopped, those whom it concerns are told once, and RoomDrifted or StrangerInRoom is
        raised; nothing may be sent. Raises RoomNotReady if there is no room yet, or it was stopped for another reason;
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
        if isinstance(fault, RoomDrifted) or self._strangers(roll, state):
            await self._stop(group, fault)
        raise fault

    def _fault(self, roll: _Roll, state: RoomState) -> RoomFault | None:
        group = roll.group
        if group.room_pin is None:
            return RoomNotReady(group=group.name)
        types = roomstate.drift(group.room_pin, self._session.user_id, state)
        if types:
            return RoomDrifted(group=group.name, types=", ".join(types))
        others = sorted(state.joined() - roll.readers - {self._session.user_id})
        if others:
            return StrangerInRoom(group=group.name, users=", ".join(others))
        if group.stopped is not None and group.stopped not in OURS_TO_RESUME:
            return RoomNotReady(group=group.name)
        return None

    def _strangers(self, roll: _Roll, state: RoomState) -> frozenset[str]:
        """Joined, and no members of any kind. A member who may not read here any more alarms nobody: see reconcile."""
        return state.joined() - roll.known - {self._session.user_id}

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
        return _Roll(
            group=group,
            readers=frozenset(member.matrix_id for member in responders(members) if member.matrix_id),
            known=frozenset(member.matrix_id for member in members if member.matrix_id),
        )

    # --- keeping to the roll -----------------------------------------------------------------------------------------

    async def reconcile(self, group: Group) -> None:
        """Remove those who may not read in the room, then invite the readers who are missing.

        Someone who is not a member at all is an alarm (StrangerInRoom), too. Nobody is invited who is invited already;
        one person's trouble does not stop the others. Raises RoomNotReady, RateLimited and other HomeserverFaults:
        what is left is done the next time.
        """
        if group.room_id is None:
            raise RoomNotReady(group=group.name)
        state = await self._fetch(group.room_id)
        roll = await self._roll(group.id)
        strangers = sorted(self._strangers(roll, state))
        try:
            await self._remove(group.room_id, roll, state)
            await self._invite(group.room_id, roll, state)
        finally:
            self.changed(group.room_id)
            if strangers:
                await self._stop(group, StrangerInRoom(group=group.name, users=", ".join(strangers)))

    async def _remove(self, room_id: str, roll: _Roll, state: RoomState) -> None:
        for user in sorted(roomstate.outsiders(state, roll.readers, self._session.user_id)):
            reason = self._phrases.say("room-removed-member" if user in roll.known else "room-removed-stranger")
            if await self._try(room_id, "kick", {"user_id": user, "reason": reason}):
                log.info("room.removed", group=roll.group.id, user=user)

    async def _invite(self, room_id: str, roll: _Roll, state: RoomState) -> None:
        for user in sorted(roll.readers):
            if await self._is_due(room_id, user, state) and await self._try(room_id, "invite", {"user_id": user}):
                log.info("room.invited", group=roll.group.id, user=user)

    async def _is_due(self, room_id: str, user: str, state: RoomState) -> bool:
        membership = state.members.get(user)
        if membership is None or (membership.state == "leave" and membership.by != user):
            return True
        if membership.state != "leave":
            return False  # joined, invited, or banned by someone: a person's decision
        async with self._database.transaction() as tx:
            key = f"invited-again:{room_id}:{user}"
            return await tx.notices.first(key, self._clock.now(), again_after=ASK_AGAIN_AFTER)

    async def _try(self, room_id: str, action: str, body: Mapping[str, Any]) -> bool:
        try:
            await self._session.api.request("POST", "rooms", room_id, action, body=body)
        except HomeserverRefused as error:
            log.warning("room.refused", action=action, user=body["user_id"], errcode=error.params.get("errcode"))
            return False
        return True
