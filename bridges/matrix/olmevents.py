"""Shapes of what comes in through Olm and Megolm, read without trust.

Pure: every function takes what strangers wrote and returns a value or raises ValueError, nothing else. Knows no keys
and no store. Source: Matrix Client-Server API, module "End-to-end encryption", the definitions of m.room.encrypted,
m.room_key and m.room_key.withheld.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bridges.matrix.canonical import KEY_BYTES, decode_base64
from bridges.matrix.chain import entry

OLM: Final = "m.olm.v1.curve25519-aes-sha2"
MEGOLM: Final = "m.megolm.v1.aes-sha2"
LONGEST_ID: Final = 255
"""Bytes of a user, room or event id (Matrix specification, Appendices, "Identifier Grammar")."""
WITHHELD_CODES: Final = frozenset(
    {"m.blacklisted", "m.unverified", "m.unauthorised", "m.unavailable", "m.no_olm", "m.history_not_shared"}
)


@dataclass(frozen=True, slots=True)
class OlmEnvelope:
    """One ``m.room.encrypted`` to-device event, as far as it is addressed to us."""

    sender: str
    sender_key: str
    is_prekey: bool
    ciphertext: str


@dataclass(frozen=True, slots=True)
class OlmPayload:
    """What an Olm message says inside, its claims checked against the envelope and ourselves."""

    type: str
    content: Mapping[str, Any] = field(repr=False)
    ed25519: str
    """The fingerprint key that the sending device claims; believed only if the device list says the same."""


@dataclass(frozen=True, slots=True)
class RoomKey:
    room_id: str
    session_id: str
    session_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Withheld:
    """Somebody's client tells that it excludes us from a room key. Ids only: ready for the log."""

    user: str
    room_id: str
    session_id: str
    code: str


@dataclass(frozen=True, slots=True)
class MegolmEnvelope:
    """One ``m.room.encrypted`` event of a room. ``sender_key`` and ``device_id`` may be absent (Matrix 1.3)."""

    sender: str
    session_id: str
    ciphertext: str


def olm_envelope(event: Mapping[str, Any], own_key: str) -> OlmEnvelope:
    content = entry(event, "content")
    if content.get("algorithm") != OLM:
        raise ValueError("not Olm")
    for_us = entry(content, "ciphertext", own_key)
    kind = for_us.get("type")
    if isinstance(kind, bool) or kind not in (0, 1):
        raise ValueError("not for this device, or of no known type")
    return OlmEnvelope(
        sender=identifier(event.get("sender")),
        sender_key=public_key(content.get("sender_key")),
        is_prekey=kind == 0,
        ciphertext=text(for_us.get("body")),
    )


def olm_payload(plaintext: str, *, sender: str, recipient: str, recipient_ed25519: str) -> OlmPayload:
    """Checks that the message is from ``sender`` and was made for us, so that nobody can pass it on as his own."""
    payload = json_object(plaintext)
    if payload.get("sender") != sender:
        raise ValueError("another sender inside than outside")
    if payload.get("recipient") != recipient or entry(payload, "recipient_keys").get("ed25519") != recipient_ed25519:
        raise ValueError("made for somebody else")
    claimed = public_key(entry(payload, "keys").get("ed25519"))
    return OlmPayload(text(payload.get("type")), entry(payload, "content"), claimed)


def room_key(content: Mapping[str, Any]) -> RoomKey:
    if content.get("algorithm") != MEGOLM:
        raise ValueError("not Megolm")
    return RoomKey(
        room_id=identifier(content.get("room_id")),
        session_id=public_key(content.get("session_id")),
        session_key=text(content.get("session_key")),
    )


def withheld(event: Mapping[str, Any]) -> Withheld:
    content = entry(event, "content")
    code = content.get("code")
    return Withheld(
        user=identifier(event.get("sender")),
        # Absent for m.no_olm, which is about all rooms.
        room_id=identifier(content.get("room_id")) if "room_id" in content else "",
        session_id=identifier(content.get("session_id")) if "session_id" in content else "",
        code=code if code in WITHHELD_CODES else "other",
    )


def megolm_envelope(event: Mapping[str, Any]) -> MegolmEnvelope:
    content = entry(event, "content")
    if content.get("algorithm") != MEGOLM:
        raise ValueError("not Megolm")
    return MegolmEnvelope(
        sender=identifier(event.get("sender")),
        session_id=identifier(content.get("session_id")),
        ciphertext=text(content.get("ciphertext")),
    )


def json_object(written: str) -> Mapping[str, Any]:
    """The JSON object in ``written``; what has no standard meaning (``NaN``) becomes null."""
    try:
        value = json.loads(written, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for all that strangers get wrong
    return value


def text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("not a text")
    return value


def identifier(value: object) -> str:
    """An id that may be looked up, stored and logged: printable, not long."""
    written = text(value)
    if len(written.encode("utf-8", "surrogatepass")) > LONGEST_ID or not written.isprintable():
        raise ValueError("not an id")
    return written


def public_key(value: object) -> str:
    """The unpadded base64 of 32 bytes: a curve25519 or ed25519 key, or a session id."""
    written = text(value)
    if written.endswith("=") or len(decode_base64(written)) != KEY_BYTES:
        raise ValueError("not a key")
    return written
