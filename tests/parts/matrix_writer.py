"""A Matrix device that writes: Olm messages and room events made by hand on vodozemac, honest ones and others.

Knows nothing of the code under test but the keys that it is given.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import vodozemac

from tests.parts.matrix_person import HandDevice, unpadded

MEGOLM: Final = "m.megolm.v1.aes-sha2"
OLM: Final = "m.olm.v1.curve25519-aes-sha2"


@dataclass(frozen=True, slots=True)
class Addressee:
    """The device that is written to, by its public keys."""

    user: str
    curve25519: str
    ed25519: str


class Writer(HandDevice):
    """A device with one outbound room session."""

    def __init__(self, user: str, device_id: str) -> None:
        super().__init__(user, device_id)
        self.room_session = vodozemac.GroupSession()
        self.channel: vodozemac.Session | None = None

    def meet(self, addressee: Addressee, one_time_key: str) -> None:
        """Open a channel with a one-time key of theirs."""
        self.channel = self.account.create_outbound_session(
            vodozemac.Curve25519PublicKey.from_base64(addressee.curve25519),
            vodozemac.Curve25519PublicKey.from_base64(one_time_key),
        )

    # --- to the device -----------------------------------------------------------------------------------------------

    def payload(self, addressee: Addressee, kind: str, content: object) -> dict[str, Any]:
        return {
            "type": kind,
            "content": content,
            "sender": self.user,
            "recipient": addressee.user,
            "recipient_keys": {"ed25519": addressee.ed25519},
            "keys": {"ed25519": self.account.ed25519_key.to_base64()},
        }

    def envelope(self, addressee: Addressee, payload: object) -> dict[str, Any]:
        """``payload`` as an encrypted to-device event."""
        assert self.channel is not None, "meet first"
        text = payload if isinstance(payload, str) else json.dumps(payload)
        kind, body = self.channel.encrypt(text.encode()).to_parts()
        return self.wrapped(addressee, {"type": kind, "body": unpadded(body)})

    def wrapped(self, addressee: Addressee, for_them: object, **changed: object) -> dict[str, Any]:
        content: dict[str, object] = {
            "algorithm": OLM,
            "sender_key": self.account.curve25519_key.to_base64(),
            "ciphertext": {addressee.curve25519: for_them},
        }
        return {"type": "m.room.encrypted", "sender": self.user, "content": content | changed}

    def room_key(self, room_id: str, session: vodozemac.GroupSession | None = None) -> dict[str, Any]:
        """The content of ``m.room_key`` for the session as it stands now."""
        session = session or self.room_session
        return {
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": session.session_id,
            "session_key": session.session_key.to_base64(),
        }

    def share(self, addressee: Addressee, room_id: str) -> dict[str, Any]:
        """The to-device event that hands the room's key over."""
        return self.envelope(addressee, self.payload(addressee, "m.room_key", self.room_key(room_id)))

    # --- to a room ---------------------------------------------------------------------------------------------------

    def post(self, room_id: str, payload: object, **changed: object) -> dict[str, Any]:
        """``payload`` as an encrypted event of the room; ``changed`` are fields around the content."""
        text = payload if isinstance(payload, str) else json.dumps(payload)
        content = {
            "algorithm": MEGOLM,
            "ciphertext": self.room_session.encrypt(text.encode()).to_base64(),
            "session_id": self.room_session.session_id,
        }
        return {
            "type": "m.room.encrypted",
            "room_id": room_id,
            "event_id": f"${secrets.token_urlsafe(32)}",
            "sender": self.user,
            "origin_server_ts": 1_790_000_000_000,
            "content": content,
        } | changed

    def say(self, room_id: str, text: str, **changed: object) -> dict[str, Any]:
        return self.post(room_id, message(room_id, text), **changed)


def message(room_id: str, text: str, **more: object) -> dict[str, Any]:
    """The payload of a text message."""
    content: Mapping[str, object] = {"msgtype": "m.text", "body": text} | more
    return {"type": "m.room.message", "room_id": room_id, "content": content}


def garbage(length: int = 80) -> str:
    """Base64 of bytes that mean nothing."""
    return base64.b64encode(b"\x03" + b"\x41" * (length - 1)).decode().rstrip("=")
