"""A Matrix person written out by hand on vodozemac and Ed25519: no nio, and nothing of the code under test.

Devices with their keys, a cross-signing identity, one-time keys; reads what is sent to the device. It holds no
connection: ``uploads`` are put on whatever homeserver the test uses (``publish`` does so on a real one).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import vodozemac
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.parts.synapse import CLIENT_API, Account, Login, MatrixRefused, Synapse

ALGORITHMS: Final = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


def unpadded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def unsigned_bytes(value: Mapping[str, Any]) -> bytes:
    """The canonical form, for objects of strings only."""
    body = {name: item for name, item in value.items() if name not in {"signatures", "unsigned"}}
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class HandDevice:
    """One device: an Olm account and what it can read."""

    def __init__(self, user: str, device_id: str) -> None:
        self.user = user
        self.id = device_id
        self.account = vodozemac.Account()
        self.signatures: dict[str, str] = {f"ed25519:{device_id}": ""}
        self.channels: list[vodozemac.Session] = []
        self.room_keys: dict[str, vodozemac.InboundGroupSession] = {}

    def object(self) -> dict[str, Any]:
        """The device object as it is uploaded, signed by the device, and by its owner after ``HandIdentity.sign``."""
        body: dict[str, Any] = {
            "user_id": self.user,
            "device_id": self.id,
            "algorithms": ALGORITHMS,
            "keys": {
                f"ed25519:{self.id}": self.account.ed25519_key.to_base64(),
                f"curve25519:{self.id}": self.account.curve25519_key.to_base64(),
            },
        }
        own = {f"ed25519:{self.id}": self.account.sign(unsigned_bytes(body)).to_base64()}
        signatures = {name: text for name, text in self.signatures.items() if text}
        return {**body, "signatures": {self.user: own | signatures}}

    def one_time_keys(self, count: int) -> dict[str, Any]:
        """New keys, as they are uploaded."""
        self.account.generate_one_time_keys(count)
        found = {}
        for key_id, key in self.account.one_time_keys.items():
            found[f"signed_curve25519:{key_id}"] = self.signed_key({"key": key.to_base64()})
        self.account.mark_keys_as_published()
        return found

    def signed_key(self, body: dict[str, Any]) -> dict[str, Any]:
        """``body`` with the device's signature, whatever is in it."""
        signature = self.account.sign(unsigned_bytes(body)).to_base64()
        return {**body, "signatures": {self.user: {f"ed25519:{self.id}": signature}}}

    def read(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """The payload of an Olm to-device message's content; a room key in it is kept. None if it is not for us."""
        part = message.get("ciphertext", {}).get(self.account.curve25519_key.to_base64())
        if part is None:
            return None
        body = base64.b64decode(part["body"] + "=" * (-len(part["body"]) % 4))
        payload = json.loads(self._open(message["sender_key"], vodozemac.AnyOlmMessage.from_parts(part["type"], body)))
        if payload["type"] == "m.room_key":
            content = payload["content"]
            self.room_keys[content["session_id"]] = vodozemac.InboundGroupSession(
                vodozemac.SessionKey(content["session_key"])
            )
        return dict(payload)

    def _open(self, sender_key: str, message: vodozemac.AnyOlmMessage) -> bytes:
        for channel in self.channels:
            try:
                return bytes(channel.decrypt(message))
            except ValueError:
                continue
        pre_key = message.to_pre_key()
        assert pre_key is not None, "a message of a channel that is not known"
        sender = vodozemac.Curve25519PublicKey.from_base64(sender_key)
        channel, plaintext = self.account.create_inbound_session(sender, pre_key)
        self.channels.append(channel)
        return bytes(plaintext)

    def can_read(self, event: Mapping[str, Any]) -> bool:
        """Whether the content of an encrypted room event opens with a key that this device got."""
        return self.decrypt(event) is not None

    def decrypt(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        room_key = self.room_keys.get(event["session_id"])
        if room_key is None:
            return None
        try:
            opened = room_key.decrypt(vodozemac.MegolmMessage.from_base64(event["ciphertext"]))
        except ValueError:
            return None
        return dict(json.loads(opened.plaintext))


@dataclass
class HandIdentity:
    """The three cross-signing keys of a person."""

    user: str
    master: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    self_signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    user_signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def objects(self) -> dict[str, Any]:
        """The body of ``/keys/device_signing/upload``."""
        keys = {"master": self.master, "self_signing": self.self_signing, "user_signing": self.user_signing}
        found: dict[str, Any] = {}
        for usage, key in keys.items():
            public = unpadded(key.public_key().public_bytes_raw())
            body: dict[str, Any] = {"user_id": self.user, "usage": [usage], "keys": {f"ed25519:{public}": public}}
            if usage != "master":
                body["signatures"] = {self.user: {f"ed25519:{self.master_public}": self._sign(self.master, body)}}
            found[f"{usage}_key"] = body
        return found

    @property
    def master_public(self) -> str:
        return unpadded(self.master.public_key().public_bytes_raw())

    @property
    def self_signing_public(self) -> str:
        return unpadded(self.self_signing.public_key().public_bytes_raw())

    def sign(self, device: HandDevice) -> None:
        """Vouch for ``device``: its object bears our signature from now on."""
        device.signatures[f"ed25519:{self.self_signing_public}"] = self._sign(self.self_signing, device.object())

    @staticmethod
    def _sign(key: Ed25519PrivateKey, body: Mapping[str, Any]) -> str:
        return unpadded(key.sign(unsigned_bytes(body)))


@dataclass
class HandPerson:
    """A person with one signed device on a real homeserver."""

    server: Synapse
    account: Account
    login: Login
    device: HandDevice
    identity: HandIdentity
    since: str | None = None

    @property
    def user(self) -> str:
        return self.account.user_id

    @classmethod
    def arrive(cls, server: Synapse, name: str, *, keys: int = 5) -> HandPerson:
        account = server.new_account(name)
        login = server.log_in(account)
        device, identity = HandDevice(account.user_id, login.device_id), HandIdentity(account.user_id)
        publish(server, login, device, keys=keys)
        server.call("POST", f"{CLIENT_API}/keys/device_signing/upload", identity.objects(), token=login.access_token)
        identity.sign(device)
        signed = {account.user_id: {device.id: device.object()}}
        server.call("POST", f"{CLIENT_API}/keys/signatures/upload", signed, token=login.access_token)
        return cls(server, account, login, device, identity)

    def join(self, room_id: str) -> None:
        self.call("POST", f"join/{quote(room_id, safe='')}", {})

    def leave(self, room_id: str) -> None:
        self.call("POST", f"rooms/{quote(room_id, safe='')}/leave", {})

    def call(self, method: str, path: str, body: object | None = None) -> dict[str, Any]:
        return self.server.call(method, f"{CLIENT_API}/{path}", body, token=self.login.access_token)

    def messages(self, room_id: str) -> list[dict[str, Any]]:
        """The latest events of a room that are no state, oldest first."""
        answer = self.call("GET", f"rooms/{quote(room_id, safe='')}/messages?dir=b&limit=50")
        return [event for event in reversed(answer["chunk"]) if "state_key" not in event]

    def to_device(self) -> list[dict[str, Any]]:
        """To-device events since the last call; room keys in them are kept."""
        events, self.since = to_device(self.server, self.login, self.since)
        for event in events:
            if event["type"] == "m.room.encrypted":
                self.device.read(event["content"])
        return events


def publish(server: Synapse, login: Login, device: HandDevice, *, keys: int = 5) -> None:
    """Upload the device's keys and ``keys`` one-time keys."""
    body = {"device_keys": device.object(), "one_time_keys": device.one_time_keys(keys) if keys else {}}
    server.call("POST", f"{CLIENT_API}/keys/upload", body, token=login.access_token)


def to_device(server: Synapse, login: Login, since: str | None) -> tuple[list[dict[str, Any]], str]:
    """What was sent to a login's device since then."""
    query = f"?timeout=0&since={quote(since)}" if since else "?timeout=0"
    answer = server.call("GET", f"{CLIENT_API}/sync{query}", token=login.access_token)
    return list(answer.get("to_device", {}).get("events", [])), str(answer["next_batch"])


def ghost(server: Synapse, account: Account) -> tuple[Login, HandDevice]:
    """A device that somebody who knows the password adds to ``account``: keys uploaded, signed by nobody."""
    login = server.log_in(account, device_id=f"GHOST{secrets.token_hex(3).upper()}")
    device = HandDevice(account.user_id, login.device_id)
    publish(server, login, device)
    return login, device


def replace_identity(server: Synapse, account: Account, identity: HandIdentity) -> None:
    """What "reset identity" in a client does, with the password."""
    token = server.log_in(account).access_token
    path, body = f"{CLIENT_API}/keys/device_signing/upload", identity.objects()
    try:
        server.call("POST", path, body, token=token)
    except MatrixRefused as asked:
        auth = {
            "type": "m.login.password",
            "session": asked.answer["session"],
            "identifier": {"type": "m.id.user", "user": account.user_id},
            "password": account.password,
        }
        server.call("POST", path, {**body, "auth": auth}, token=token)
