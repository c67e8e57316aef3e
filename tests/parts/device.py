"""One Matrix device that keeps insecure devices out (MSC4153), on stock ``nio`` and an identity of its own.

Owns the sync, who gets room keys and who is believed; knows nothing about what people write. Encrypted
events are opened one by one, so that hostile ones which a test sends stop nothing. In strict mode ``nio`` is shown
only devices that their owner's identity signed.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import nio
from nio.exceptions import EncryptionError

from tests.parts.connection import Connection
from tests.parts.identity import Identity, SignedDevice, signed_devices
from tests.parts.messages import Message, Unreadable
from tests.parts.synapse import Account, MatrixRefused, Synapse

T = TypeVar("T")
PATIENCE: Final = 20.0
"""Seconds to wait for something unless told otherwise."""
POLL_MILLISECONDS: Final = 20_000
MEGOLM: Final = "m.megolm.v1.aes-sha2"
FILTER: Final = json.dumps({"room": {"timeline": {"limit": 100}}})
AWAY: Final = (aiohttp.ClientError, ConnectionError, TimeoutError, MatrixRefused)


class Device(Connection):
    """A logged-in device. ``strict``: room keys go to signed devices only, and only those are believed."""

    def __init__(self, synapse: Synapse, account: Account, *, identity: Identity | None, strict: bool) -> None:
        super().__init__(synapse, account)
        self.identity = identity
        self.strict = strict
        self.messages: list[Message] = []
        """What could be read, in the order it became readable; not what this very device wrote."""
        self.in_clear: list[Message] = []
        """Messages that came unencrypted: Element shows them with a red shield."""
        self.invites: dict[str, str] = {}
        """Open invitations: room id → who invited."""
        self.withheld: dict[str, str] = {}
        """Room keys that their owners said they keep from us: session id → code."""
        self.faults: list[str] = []
        """Exceptions that stock nio raised on (hostile) to-device or state events."""
        self._signed: dict[str, frozenset[SignedDevice]] = {}
        self._readers: dict[str, frozenset[str]] = {}
        self._excluded: dict[str, frozenset[str]] = {}
        self._audiences: dict[str, frozenset[tuple[str, str]]] = {}
        self._told: set[tuple[str, str, str]] = set()
        self._closed: dict[str, tuple[str, dict[str, Any]]] = {}
        self._unreadable: dict[str, Unreadable] = {}
        self._seen: set[str] = set()
        self._since: str | None = None
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    @property
    def undecryptable(self) -> list[Unreadable]:
        """The events that can't be read now, oldest first; one whose key comes late moves to ``messages``."""
        return list(self._unreadable.values())

    async def log_in(self, device_name: str) -> None:
        """Log in, publish the device's keys and start to listen."""
        await super().log_in(device_name)
        self.unpause()

    async def pause(self) -> None:
        """Stop listening, as a closed laptop does."""
        if self._listener:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    def unpause(self) -> None:
        self._listener = asyncio.create_task(self._listen(), name=f"{self.user_id} {self.device_id}")

    async def close(self) -> None:
        """Stop listening for good. The device stays on the server."""
        await self.pause()
        await super().close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- writing -----------------------------------------------------------------------------------------------------

    async def send_encrypted(self, room_id: str, plaintext: Mapping[str, Any]) -> str:
        """Encrypt any plaintext, also one that no honest client would make. Returns the event id."""
        async with self._sending:
            await self._share_key(room_id)
            sealed = self._client.olm.group_encrypt(room_id, dict(plaintext))
        content = plaintext.get("content")
        if isinstance(content, dict) and "m.relates_to" in content:
            sealed["m.relates_to"] = content["m.relates_to"]
        return await self.send_in_clear(room_id, "m.room.encrypted", sealed)

    async def send_in_clear(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> str:
        """Send an event as it stands. Returns the event id."""
        path = f"/rooms/{quote(room_id, safe='')}/send/{event_type}/{uuid.uuid4()}"
        return str((await self.call("PUT", path, dict(content)))["event_id"])

    async def wait_for_room(self, room_id: str, timeout: float = PATIENCE) -> None:
        """Until this device knows the room's state. Raises TimeoutError."""

        def known() -> bool:
            room = self._client.rooms.get(room_id)
            return room is not None and room.encrypted and self.user_id in room.users

        await self.wait_until(known, timeout, f"the state of {room_id}")

    async def _share_key(self, room_id: str) -> None:
        await self.wait_for_room(room_id)
        await self._client.joined_members(room_id)
        members = list((await self.call("GET", f"/rooms/{quote(room_id, safe='')}/joined_members"))["joined"])
        await self._learn_devices(members)
        audience = frozenset((user, device) for user in members for device in self._readers[user])
        if audience != self._audiences.get(room_id):
            self._client.invalidate_outbound_session(room_id)
            self._audiences[room_id] = audience
        if self._client.olm.should_share_group_session(room_id):
            await self._client.share_group_session(room_id, ignore_unverified_devices=not self.strict)
        await self._withhold(room_id, members)

    async def _withhold(self, room_id: str, members: Sequence[str]) -> None:
        """Tell excluded devices that they get no key, and why (client-server API, ``m.room_key.withheld``)."""
        session_id = self._client.olm.outbound_group_sessions[room_id].id
        excluded = {(session_id, user, device) for user in members for device in self._excluded[user]} - self._told
        if not excluded:
            return
        notice = {"algorithm": MEGOLM, "room_id": room_id, "session_id": session_id, "sender_key": self.curve25519}
        notice |= {"code": "m.unverified", "reason": "The sender has disabled encrypting to unverified devices."}
        to_device: dict[str, dict[str, Any]] = {}
        for _, user, device in excluded:
            to_device.setdefault(user, {})[device] = notice
        await self.call("PUT", f"/sendToDevice/m.room_key.withheld/{uuid.uuid4()}", {"messages": to_device})
        self._told |= excluded

    async def _learn_devices(self, users: Sequence[str]) -> None:
        """Ask for the devices of ``users``; show nio those that may read, and vouch for the signed ones."""
        answer = await self.call("POST", "/keys/query", {"device_keys": {user: [] for user in users}})
        for user in users:
            devices = answer["device_keys"].setdefault(user, {})
            self._signed[user] = signed_devices(answer, user)
            signed = frozenset(device.device_id for device in self._signed[user])
            self._readers[user] = signed if self.strict else frozenset(devices)
            self._excluded[user] = frozenset(devices) - self._readers[user] - {self.device_id}
            answer["device_keys"][user] = {device: devices[device] for device in self._readers[user]}
            for device in self._readers[user] & self._client.device_store[user].keys():
                self._client.device_store[user][device].deleted = False  # nio forgets that a device can come back
        await self._client.receive_response(nio.KeysQueryResponse.from_dict(answer))
        for signed_device in (device for user in users for device in self._signed[user]):
            if known := self._client.device_store[signed_device.user_id].get(signed_device.device_id):
                self._client.verify_device(known)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def wait_until(self, look: Callable[[], T | None], timeout: float = PATIENCE, what: str = "it") -> T:
        """The first true value that ``look`` returns, asked after each sync. Raises TimeoutError."""
        try:
            async with asyncio.timeout(timeout):
                while not (found := look()):
                    await self._news.wait()
        except TimeoutError as error:
            seen = f"{len(self.messages)} messages, {len(self.in_clear)} in clear, {len(self._unreadable)} unreadable"
            raise TimeoutError(f"{self.user_id} waited {timeout:g} s for {what}: {seen}; {self.faults}") from error
        return found

    async def _listen(self) -> None:
        while True:
            query = {"timeout": POLL_MILLISECONDS if self._since else 0, "filter": FILTER}
            since = {"since": self._since} if self._since else {}
            try:
                answer = await self.call("GET", f"/sync?{urlencode(query | since)}")
                await self._take(answer)
                await self._keep_keys()
            except AWAY:  # a homeserver that a test stops, suspends or restarts comes back
                await asyncio.sleep(0.2)
                continue
            self._since = answer["next_batch"]
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def _take(self, answer: dict[str, Any]) -> None:
        rooms = answer.get("rooms", {}).get("join", {})
        for room_id, room in rooms.items():
            for event in [*await self._missed(room_id, room["timeline"]), *room["timeline"]["events"]]:
                self._set_aside(room_id, event)
            room["timeline"]["events"] = [item for item in room["timeline"]["events"] if not _is_closed(item)]
        self._take_to_device(answer.get("to_device", {}).get("events", []))
        for user in (user for users in answer.get("device_lists", {}).values() for user in users):
            self._signed.pop(user, None)
        await self._show_nio(answer)
        for room_id, room in answer.get("rooms", {}).get("invite", {}).items():
            self.invites[room_id] = next(_inviters(room, self.user_id), "")
        for room_id in rooms:
            self.invites.pop(room_id, None)
        for event_id, (room_id, event) in list(self._closed.items()):
            await self._open(event_id, room_id, event)

    async def _missed(self, room_id: str, timeline: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Events between our last sync and a timeline that leaves some out, oldest first."""
        missed: list[dict[str, Any]] = []
        position = timeline.get("prev_batch")
        if room_id not in self._client.rooms or not self._since:
            return missed
        while timeline.get("limited") and position:
            query = urlencode({"dir": "b", "from": position, "to": self._since, "limit": 100})
            page = await self.call("GET", f"/rooms/{quote(room_id, safe='')}/messages?{query}")
            missed += page["chunk"]
            position = page.get("end") if page["chunk"] else None
        return missed[::-1]

    def _set_aside(self, room_id: str, event: dict[str, Any]) -> None:
        """Keep an encrypted event until it opens, and note one in clear."""
        content = event.get("content", {})
        if event["event_id"] in self._seen:
            return
        self._seen.add(event["event_id"])
        if _is_closed(event) and "ciphertext" in content:
            self._closed[event["event_id"]] = (room_id, event)
        elif event["type"] == "m.room.message" and content:
            self.in_clear.append(Message(event["event_id"], room_id, event["sender"], False, content))

    def _take_to_device(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            content = event.get("content")
            if event.get("type") == "m.room_key.withheld" and isinstance(content, dict):
                self.withheld[str(content.get("session_id"))] = str(content.get("code"))

    async def _show_nio(self, answer: Mapping[str, Any]) -> None:
        try:
            await self._client.receive_response(nio.SyncResponse.from_dict(answer))
        except Exception as error:  # stock nio raises anything on the hostile events that tests send
            self.faults.append(f"{type(error).__name__}: {error}")

    async def _keep_keys(self) -> None:
        if self._client.should_upload_keys:
            await self._client.keys_upload()
        if self._client.should_claim_keys:
            await self._client.keys_claim(self._client.get_users_for_key_claiming())
        await self._client.send_to_device_messages()

    async def _open(self, event_id: str, room_id: str, event: dict[str, Any]) -> None:
        """Decrypt an event and judge its sender; what fails is tried again after the next sync."""
        opened = self._decrypt(room_id, event)
        if isinstance(opened, str):
            self._unreadable[event_id] = Unreadable(event_id, room_id, event["sender"], opened)
            return
        if event["sender"] not in self._signed:
            await self._learn_devices([event["sender"]])
        verified = self._is_from_signed_device(room_id, event)
        if self.strict and not verified:
            self._unreadable[event_id] = Unreadable(event_id, room_id, event["sender"], "device-not-signed")
            return
        self._unreadable.pop(event_id, None)
        del self._closed[event_id]
        if opened["type"] == "m.room.message" and event["content"]["sender_key"] != self.curve25519:
            self.messages.append(Message(event_id, room_id, event["sender"], verified, opened["content"]))

    def _decrypt(self, room_id: str, event: dict[str, Any]) -> dict[str, Any] | str:
        """The plaintext, or why there is none."""
        closed = nio.Event.parse_event(event)
        if not isinstance(closed, nio.MegolmEvent):
            return "broken"
        try:
            opened = self._client.olm.decrypt_megolm_event(closed, room_id)
        except EncryptionError:
            if self._session(room_id, event) is not None:
                return "broken"
            code = self.withheld.get(closed.session_id)
            return f"withheld:{code}" if code else "no-key"
        except Exception:  # stock nio raises anything on the hostile events that tests send
            return "broken"
        return dict(opened.source) if opened.source else "broken"

    def _is_from_signed_device(self, room_id: str, event: Mapping[str, Any]) -> bool:
        """Whether the key that opened ``event`` came from a device that the sender's identity signed."""
        session = self._session(room_id, event)
        if session.sender_key == self.curve25519:
            return bool(event["sender"] == self.user_id)
        return any(
            (device.curve25519, device.ed25519) == (session.sender_key, session.ed25519)
            for device in self._signed[event["sender"]]
        )

    def _session(self, room_id: str, event: Mapping[str, Any]) -> Any:
        content = event["content"]
        return self._client.olm.inbound_group_store.get(room_id, content["sender_key"], content["session_id"])


def _is_closed(event: Mapping[str, Any]) -> bool:
    return event.get("type") == "m.room.encrypted" and "state_key" not in event


def _inviters(room: Mapping[str, Any], user_id: str) -> Iterator[str]:
    for event in room.get("invite_state", {}).get("events", []):
        if event.get("type") == "m.room.member" and event.get("state_key") == user_id:
            yield event["sender"]
