"""The guarded send: the only way anything is said in a group's room.

Nothing but ``m.room.encrypted`` leaves here, because that type is a constant of the request and its content is put
together from the fields of the ciphertext alone. Everything that must be true before is asked for each time; whatever
is missing is an error, never a reason to send otherwise.

Owns that order, and each room's lock; knows nothing of how a post looks (``render``) or when to try again (the caller).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import structlog
from nio.exceptions import EncryptionError, GroupEncryptionError

from bridges.matrix.keyshare import MEGOLM, KeyShare, Shared
from bridges.matrix.rooms import Rooms
from bridges.matrix.session import Session
from bridges.ports import Alarm
from storage.database import Database
from trust.errors import EncryptionNotLoaded, EventRefusal, HomeserverAway, KeyNotShared, RoomNotReady, SecirError
from trust.members import responders
from trust.records import Group

log = structlog.get_logger()

WIRE_TYPE: Final = "m.room.encrypted"
CIPHERTEXT_FIELDS: Final = ("algorithm", "ciphertext", "device_id", "sender_key", "session_id")
RELATION: Final = "m.relates_to"


class Outgoing:
    """Sends events to the groups' rooms, encrypted to the devices of those who may read there."""

    def __init__(self, session: Session, database: Database, rooms: Rooms, keys: KeyShare, *, alarm: Alarm) -> None:
        self._session = session
        self._database = database
        self._rooms = rooms
        self._keys = keys
        self._alarm = alarm
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._told: set[tuple[str, str]] = set()

    async def send(
        self, group: Group, content: Mapping[str, Any], event_type: str = "m.room.message", *, transaction: str
    ) -> str:
        """Encrypt ``content`` and send it to the group's room; the event's id.

        The same ``transaction`` for the same event: the server answers a repetition with the first one's id. Messages
        of one room go out one after another, in the order of the calls.

        Raises EncryptionNotLoaded, RoomNotReady, RoomDrifted, StrangerInRoom, KeyNotShared; RateLimited (with
        ``retry_after``) and other HomeserverFaults. Nothing was sent then, or the server did not say that it was.
        """
        self._require_encryption()
        await self._rooms.check(group)
        room_id = _room(group)
        async with self._locks[room_id]:
            # Again, for the wait: free of cost as long as no state event came.
            await self._rooms.check(group)
            shared = await self._keys.share(room_id, await self._readers(group))
            event_id = await self._put(room_id, self._encrypt(room_id, event_type, content), transaction)
        await self._tell(group, shared)
        return event_id

    def _require_encryption(self) -> None:
        # nio's own way of sending puts clear text on the wire when its Olm machine is not there.
        if getattr(self._session, "olm", None) is None or getattr(self._session.olm, "account", None) is None:
            raise EncryptionNotLoaded

    async def _readers(self, group: Group) -> list[str]:
        """Who may read is decided by the database, whoever is in the room."""
        async with self._database.transaction() as tx:
            members = await tx.members.of(group.id)
        return sorted({member.matrix_id for member in responders(members) if member.matrix_id})

    def _encrypt(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> dict[str, Any]:
        payload = {"type": event_type, "content": dict(content)}
        try:
            ciphertext = self._session.olm.group_encrypt(room_id, payload)
        except (EncryptionError, GroupEncryptionError) as error:  # spent between the sharing and now
            self._keys.drop(room_id)
            raise KeyNotShared(count=0) from error
        if ciphertext.get("algorithm") != MEGOLM or not ciphertext.get("ciphertext"):
            raise EncryptionNotLoaded
        wire: dict[str, Any] = {field: ciphertext[field] for field in CIPHERTEXT_FIELDS}
        if RELATION in content:
            # Servers read relations, so they stand outside as well (Client-Server API, "Relationship types").
            wire[RELATION] = content[RELATION]
        return wire

    async def _put(self, room_id: str, wire: Mapping[str, Any], transaction: str) -> str:
        self._require_encryption()
        answer = await self._session.api.request("PUT", "rooms", room_id, "send", WIRE_TYPE, transaction, body=wire)
        event_id = answer.get("event_id") if isinstance(answer, Mapping) else None
        if not isinstance(event_id, str):
            raise HomeserverAway  # something else answered in its place
        log.info("room.sent", room=room_id, event_id=event_id)
        return event_id

    async def _tell(self, group: Group, shared: Shared) -> None:
        """Report devices that were newly excluded; after the message, which must not wait for it, nor fail by it."""
        for refusal in shared.refusals:
            key = (group.address, _subject(refusal))
            if key in self._told:
                continue
            self._told.add(key)
            try:
                await self._alarm(group, refusal)
            except SecirError as error:
                self._told.discard(key)
                log.warning("alarm.failed", group=group.id, code=error.code)


def _room(group: Group) -> str:
    if group.room_id is None:
        raise RoomNotReady(group=group.name)
    return group.room_id


def _subject(refusal: EventRefusal) -> str:
    return " ".join([refusal.code, *(str(value) for value in refusal.params.values())])
