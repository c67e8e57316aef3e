"""A homeserver in memory, as hostile as a test wants it. It takes encrypted events and fails on anything else.

It answers what ``bridges.matrix.api.Api.request`` is asked for by the trust side; persons are those of
``matrix_person``. What it was sent is in ``events``, ``to_device`` and ``calls``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from nio.store import SqliteMemoryStore

from bridges.matrix.api import InteractiveAuthNeeded
from bridges.matrix.olm import HardenedOlm
from tests.parts.matrix_person import HandDevice, HandIdentity
from trust.errors import HomeserverRefused


class ClearTextSent(AssertionError):
    """Something that is not ``m.room.encrypted``, or holds more than ciphertext, was put into a room."""


CIPHERTEXT = {"algorithm", "ciphertext", "device_id", "sender_key", "session_id", "m.relates_to"}


class HomeserverDouble:
    """In the place of an ``Api``."""

    def __init__(self, user_id: str = "@bot:test", device_id: str = "BOT") -> None:
        self.user_id = user_id
        self.device_id = device_id
        self.keys: dict[str, Any] = {
            "device_keys": {},
            "master_keys": {},
            "self_signing_keys": {},
            "user_signing_keys": {},
        }
        self.one_time_keys: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.away: set[str] = set()
        """Users whose servers do not answer."""
        self.rooms: dict[str, list[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self.to_device: list[tuple[str, str, str, dict[str, Any]]] = []
        """(type, user, device, content)"""
        self.calls: list[tuple[str, ...]] = []
        self.data: dict[str, Any] = {}
        self.password: str | None = None
        """If set, cross-signing keys are taken with it only."""
        self.uploads: list[dict[str, Any]] = []

    def add(self, device: HandDevice, identity: HandIdentity | None = None, *, keys: int = 5) -> None:
        """The server shows ``device``, and ``identity`` if given, and has one-time keys to give away."""
        self.keys["device_keys"].setdefault(device.user, {})[device.id] = device.object()
        if identity:
            for usage, shown in identity.objects().items():
                self.keys[f"{usage}s"][device.user] = shown
        if keys:
            offered = [{key_id: key} for key_id, key in device.one_time_keys(keys).items()]
            self.one_time_keys[device.user, device.id] = offered

    def reach(self, kind: str, device: HandDevice) -> list[dict[str, Any]]:
        """The contents of the to-device messages of a type that were sent to ``device``."""
        return [c for k, user, device_id, c in self.to_device if (k, user, device_id) == (kind, device.user, device.id)]

    async def request(  # noqa: PLR0911 - one answer per endpoint
        self, method: str, *segments: str, body: Any = None, query: Mapping[str, str] | None = None, timeout: float = 30
    ) -> Any:
        self.calls.append(segments)
        body = copy.deepcopy(body)
        match method, *segments:
            case "POST", "keys", "query":
                return self._query(body["device_keys"])
            case "POST", "keys", "claim":
                return {"one_time_keys": self._claim(body["one_time_keys"]), "failures": {}}
            case "POST", "keys", "device_signing", "upload":
                return self._take_identity(body)
            case "POST", "keys", "signatures", "upload":
                return self._take_signatures(body)
            case "PUT", "sendToDevice", kind, _:
                self._take_to_device(kind, body["messages"])
                return {}
            case "GET", "rooms", room_id, "state":
                return copy.deepcopy(self.rooms[room_id])
            case "PUT", "rooms", room_id, "send", kind, transaction:
                if kind != "m.room.encrypted" or not CIPHERTEXT.issuperset(body) or "ciphertext" not in body:
                    raise ClearTextSent(kind, sorted(body))
                self.events.append({"room_id": room_id, "transaction": transaction, "content": body})
                return {"event_id": f"${len(self.events)}"}
            case "PUT", "user", _, "account_data", name:
                self.data[name] = body
                return {}
            case "GET", "user", _, "account_data", name:
                if name not in self.data:
                    raise HomeserverRefused(errcode="M_NOT_FOUND", status=404)
                return copy.deepcopy(self.data[name])
        raise AssertionError(f"not expected: {method} {segments}")

    def _query(self, users: Mapping[str, Any]) -> dict[str, Any]:
        heard = [user for user in users if user not in self.away]
        answer: dict[str, Any] = {"failures": {user.partition(":")[2]: {} for user in users if user in self.away}}
        for kind, shown in self.keys.items():
            answer[kind] = {user: copy.deepcopy(shown[user]) for user in heard if user in shown}
        for user in heard:
            answer["device_keys"].setdefault(user, {})
        return answer

    def _claim(self, users: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for user, devices in users.items():
            for device_id in devices:
                offered = self.one_time_keys.get((user, device_id))
                if offered:
                    given.setdefault(user, {})[device_id] = offered.pop(0)
        return given

    def _take_identity(self, body: dict[str, Any]) -> dict[str, Any]:
        self.uploads.append(body)
        auth = body.pop("auth", None)
        if self.password is not None and (auth or {}).get("password") != self.password:
            flows = [{"stages": ["m.login.password"]}]
            raise InteractiveAuthNeeded(session="s", flows=flows, errcode="M_FORBIDDEN" if auth else "")
        for kind, shown in body.items():
            self.keys[f"{kind}s"][self.user_id] = shown
        return {}

    def _take_signatures(self, body: dict[str, Any]) -> dict[str, Any]:
        for user, devices in body.items():
            for device_id, signed in devices.items():
                shown = self.keys["device_keys"][user][device_id]
                shown["signatures"].setdefault(user, {}).update(signed["signatures"][user])
        return {"failures": {}}

    def _take_to_device(self, kind: str, messages: Mapping[str, Mapping[str, Any]]) -> None:
        for user, devices in messages.items():
            for device_id, content in devices.items():
                self.to_device.append((kind, user, device_id, content))


class SessionDouble:
    """In the place of a ``Session``: the double's server, a real Olm machine in memory."""

    def __init__(self, server: HomeserverDouble) -> None:
        self.api = server
        self.user_id = server.user_id
        self.device_id = server.device_id
        self.olm = HardenedOlm(
            server.user_id, server.device_id, SqliteMemoryStore(server.user_id, server.device_id, "k")
        )
        own = HandDevice(server.user_id, server.device_id).object()
        ours = self.olm.account.identity_keys
        own["keys"] = {f"{kind}:{server.device_id}": ours[kind] for kind in ("curve25519", "ed25519")}
        own["signatures"] = {}
        server.keys["device_keys"][server.user_id] = {server.device_id: own}
