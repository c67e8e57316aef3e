"""A person in a Matrix room, as Element would behave with insecure devices excluded.

async with await Responder.create(synapse, "ada") as ada:
    room_id = await ada.accept_invite()
    event_id = await ada.say(room_id, "Phishing on bank.example")
    answer = await ada.wait_for("seen here too")
    assert answer.reply_to == event_id
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import quote

from tests.parts import messages
from tests.parts.device import MEGOLM, PATIENCE, Device
from tests.parts.identity import Identity
from tests.parts.messages import Message, Unreadable
from tests.parts.synapse import Account, Synapse


class Responder(Device):
    """One device of one person, and what the person does with it. End it by ``close``."""

    @classmethod
    async def create(
        cls, synapse: Synapse, name: str, *, strict: bool = True, cross_signed: bool = True, password: str | None = None
    ) -> Self:
        """A person with a new account (``name``, numbered if taken) and an identity that signed the device."""
        account = await asyncio.to_thread(synapse.new_account, name, password)
        identity = Identity(account.user_id) if cross_signed else None
        return await cls.sign_in(synapse, account, identity=identity, strict=strict, first=True)

    @classmethod
    async def sign_in(
        cls, synapse: Synapse, account: Account, *, identity: Identity | None, strict: bool = True, first: bool = False
    ) -> Self:
        """A device for ``account``, signed by ``identity`` if there is one; ``first`` publishes the identity."""
        person = cls(synapse, account, identity=identity, strict=strict)
        await person.log_in("Element")
        if identity and first:
            await person.publish_identity(identity)
        if identity:
            await person.sign_own_device(identity)
        return person

    async def second_device(self) -> Self:
        """Another device of the same person, signed by the same identity."""
        return await self.sign_in(self.synapse, self.account, identity=self.identity, strict=self.strict)

    async def unsigned_device(self) -> Self:
        """A ghost: someone who has the password, and no identity to sign the device with."""
        return await self.sign_in(self.synapse, self.account, identity=None, strict=False)

    async def reset_identity(self) -> None:
        """A new identity in the place of the old one, as "Reset all" in Element makes it."""
        self.identity = Identity(self.user_id)
        await self.publish_identity(self.identity)
        await self.sign_own_device(self.identity)

    # --- rooms -------------------------------------------------------------------------------------------------------

    async def create_room(self, *invite: str, name: str = "") -> str:
        """An encrypted room; who joins sees nothing from before."""
        state = [
            {"type": "m.room.encryption", "content": {"algorithm": MEGOLM}},
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}},
        ]
        body = {"preset": "private_chat", "name": name, "invite": list(invite), "initial_state": state}
        room_id = str((await self.call("POST", "/createRoom", body))["room_id"])
        await self.wait_for_room(room_id)
        return room_id

    async def join(self, room_id: str, *, timeout: float = PATIENCE) -> str:
        """Join, and wait until this device knows the room's state."""
        await self.call("POST", f"/join/{quote(room_id, safe='')}", {})
        await self.wait_for_room(room_id, timeout)
        return room_id

    async def accept_invite(self, room_id: str | None = None, *, timeout: float = PATIENCE) -> str:
        """Wait for an invitation (to ``room_id``, or any) and join. Returns the room's id."""

        def invitation() -> str | None:
            return next((invited for invited in self.invites if room_id in (None, invited)), None)

        return await self.join(await self.wait_until(invitation, timeout, "an invitation"), timeout=timeout)

    async def leave(self, room_id: str) -> None:
        await self.call("POST", f"/rooms/{quote(room_id, safe='')}/leave", {})

    # --- writing -----------------------------------------------------------------------------------------------------

    async def say(self, room_id: str, text: str, *, reply_to: str | None = None, thread: str | None = None) -> str:
        """Write a text; ``reply_to`` is the event answered, ``thread`` a thread's root. Returns the event id."""
        return await self.send(room_id, messages.text(text, messages.relation(reply_to, thread)))

    async def send_file(self, room_id: str, name: str, data: bytes, media_type: str) -> str:
        """Encrypt, upload and show a file. Returns the event id."""
        sealed, secret = messages.encrypt_file(data)
        answer = await self.request("POST", "/_matrix/media/v3/upload", sealed, "application/octet-stream")
        secret["url"] = json.loads(answer)["content_uri"]
        return await self.send(room_id, messages.file_message(name, media_type, len(data), secret))

    async def edit(self, room_id: str, event_id: str, text: str) -> str:
        """Replace the text of an event of one's own. Returns the edit's event id."""
        return await self.send(room_id, messages.edit(event_id, text))

    async def redact(self, room_id: str, event_id: str) -> str:
        path = f"/rooms/{quote(room_id, safe='')}/redact/{quote(event_id, safe='')}/{uuid.uuid4()}"
        return str((await self.call("PUT", path, {}))["event_id"])

    async def send(self, room_id: str, content: Mapping[str, Any]) -> str:
        """An encrypted ``m.room.message`` with any content. Returns the event id."""
        return await self.send_encrypted(room_id, {"type": "m.room.message", "content": dict(content)})

    # --- reading -----------------------------------------------------------------------------------------------------

    async def wait_for(self, wanted: str | Callable[[Message], bool], timeout: float = PATIENCE) -> Message:
        """The first message, come or to come, that holds the text ``wanted`` or fulfils it. Raises TimeoutError."""

        def fits(message: Message) -> bool:
            return wanted in message.body if isinstance(wanted, str) else wanted(message)

        def first() -> Message | None:
            return next((message for message in self.messages if fits(message)), None)

        return await self.wait_until(first, timeout, repr(wanted) if isinstance(wanted, str) else "a message")

    async def wait_unreadable(self, event_id: str, timeout: float = PATIENCE) -> Unreadable:
        """The entry of an event that came and can't be read. Raises TimeoutError."""
        return await self.wait_until(lambda: self._unreadable.get(event_id), timeout, f"{event_id} as unreadable")

    async def fetch(self, message: Message) -> bytes:
        """Download, check and decrypt the file of a message. Raises ValueError for a wrong hash."""
        if message.file is None:
            raise ValueError(f"{message.event_id} carries no file.")
        path = "/_matrix/client/v1/media/download/" + str(message.file["url"]).removeprefix("mxc://")
        return messages.decrypt_file(await self.request("GET", path), message.file)
