"""From a stored event of a room to a message that may be acted upon: decrypted, genuine, fresh.

A policy in five steps, none of which can be left out: encrypted at all; decrypted; sent by a device that its owner's
pinned identity signed; not seen under another event id; understood. Knows nothing of members or lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog
from nio.crypto import decrypt_attachment
from nio.exceptions import EncryptionError

from bridges.matrix.canonical import KEY_BYTES
from bridges.matrix.chain import entry
from bridges.matrix.devices import Devices
from bridges.matrix.messages import understand
from bridges.matrix.olm import Decrypted
from bridges.matrix.olmevents import identifier, text
from bridges.matrix.session import Session
from bridges.ports import RoomFile, RoomMessage
from storage.database import Database
from trust.errors import (
    AttachmentTooBig,
    FileUnreadable,
    HomeserverRefused,
    MalformedEvent,
    NotEncryptedEvent,
    ReplayedEvent,
    UnverifiedDevice,
)
from trust.records import Attachment, Group

log = structlog.get_logger()

ENCRYPTED: Final = "m.room.encrypted"
VERIFICATION: Final = "m.key.verification."
"""The steps of a verification in a room travel in clear, by custom of all clients: they are no messages."""
MIB: Final = 1024 * 1024
MOST_ASKED: Final = 10_000
"""Sessions that are remembered as asked about; after that many, the memory starts anew."""


class Incoming:
    """Reads events and fetches files. ``file_limit_mb`` is for one file, decrypted."""

    def __init__(self, session: Session, database: Database, devices: Devices, *, file_limit_mb: int = 10) -> None:
        self._session = session
        self._database = database
        self._devices = devices
        self._limit_mb = file_limit_mb
        self._asked: set[str] = set()

    async def read(self, group: Group, event: Mapping[str, object]) -> RoomMessage | None:
        """The message in ``event``, which is of the group's room; None if nothing in it is for the list.

        Raises NotEncryptedEvent, MalformedEvent, ForgedState, Undecryptable, ReplayedEvent, UnverifiedDevice,
        NoIdentity, IdentityChanged, FileUnreadable, HomeserverFault.
        """
        if event.get("type") != ENCRYPTED:
            _refuse_clear(event)
            return None
        try:
            event_id = identifier(event.get("event_id"))
        except ValueError as error:
            raise MalformedEvent from error
        decrypted = await self._genuine(str(group.room_id), event)
        async with self._database.transaction() as tx:
            if not await tx.events.remember_index(decrypted.session_id, decrypted.index, event_id):
                raise ReplayedEvent
        return understand(
            event, kind=decrypted.type, content=decrypted.content, event_id=event_id, sender=decrypted.sender
        )

    async def fetch(self, file: RoomFile) -> Attachment:
        """The file, its hash checked. Raises FileUnreadable, AttachmentTooBig, HomeserverFault."""
        limit = self._limit_mb * MIB
        if file.size is not None and file.size > limit:
            raise AttachmentTooBig(limit_mb=self._limit_mb)
        try:
            mxc, key, digest, iv = _secrets(file.secrets)
        except ValueError as error:
            raise FileUnreadable from error
        try:
            sealed = await self._session.api.download(mxc, limit)
        except HomeserverRefused as error:  # gone, or never there: asking again won't bring it
            raise FileUnreadable from error
        try:
            data = await asyncio.to_thread(decrypt_attachment, sealed, key, digest, iv)
        except (EncryptionError, ValueError, TypeError) as error:
            raise FileUnreadable from error
        return Attachment(file.name, file.media_type, data)

    async def _genuine(self, room_id: str, event: Mapping[str, Any]) -> Decrypted:
        """The inside of the event, if it is the sender's own, by what is known of the sender's devices now."""
        olm, sender = self._session.olm, self._session.olm.decrypt(room_id, event).sender
        # Also for a device that was good so far: its owner's identity may have changed since. Free if nothing did.
        standing = (await self._devices.refresh([sender]))[sender]
        decrypted = olm.decrypt(room_id, event)
        if not decrypted.verified and standing.problem is None and self._not_asked(decrypted.session_id):
            # Signed a moment ago, and the homeserver has not told us yet. Once per session, or it could be hammered.
            standing = (await self._devices.refresh([sender], force=True))[sender]
            decrypted = olm.decrypt(room_id, event)
        if standing.problem is not None:
            raise type(standing.problem)(**standing.problem.params)
        if not decrypted.verified:
            raise UnverifiedDevice(user=sender, device=decrypted.device_id)
        return decrypted

    def _not_asked(self, session_id: str) -> bool:
        if len(self._asked) >= MOST_ASKED:
            self._asked.clear()
        new = session_id not in self._asked
        self._asked.add(session_id)
        return new


def _refuse_clear(event: Mapping[str, Any]) -> None:
    """Raises NotEncryptedEvent for a message in clear."""
    kind = event.get("type")
    said = entry(event, "content").get("msgtype")
    if kind == "m.room.message" and not (isinstance(said, str) and said.startswith(VERIFICATION)):
        log.warning("event.in_clear", event_id=event.get("event_id"))
        raise NotEncryptedEvent


def _secrets(file: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """URI, key, hash and initial counter of an encrypted file ("EncryptedFile", version v2). Raises ValueError."""
    key, hashes = entry(file, "key"), entry(file, "hashes")
    if file.get("v") != "v2" or key.get("alg") != "A256CTR" or key.get("kty") != "oct":
        raise ValueError("no encryption that we know")
    parts = text(file.get("url")), text(key.get("k")), text(hashes.get("sha256")), text(file.get("iv"))
    # AES would take shorter keys, which nobody meant; base64 has four characters for three bytes.
    if len(parts[1].rstrip("=")) != -(-KEY_BYTES * 4 // 3) or len(parts[3].rstrip("=")) != 22:
        raise ValueError("a key or counter of the wrong length")
    return parts
