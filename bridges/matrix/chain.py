"""What an answer to ``/keys/query`` proves about a user: device <- self-signing key <- master key.

Pure: it reads what strangers wrote and never raises; whom to believe is decided in ``devices``.
Source: Matrix Client-Server API, module "End-to-end encryption", section "Cross-signing".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from bridges.matrix.canonical import KEY_BYTES, decode_base64, is_signed


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's cross-signing identity: public keys in unpadded base64, the second signed by the first."""

    user: str
    master: str
    self_signing: str


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """The two keys of a device, unpadded base64."""

    ed25519: str
    curve25519: str


def identity(answer: Mapping[str, Any], user: str) -> Identity | None:
    """The identity that ``answer`` shows for ``user``, if it holds together."""
    master_entry = entry(answer, "master_keys", user)
    self_signing_entry = entry(answer, "self_signing_keys", user)
    master = only_key(master_entry, user, "master")
    self_signing = only_key(self_signing_entry, user, "self_signing")
    if not master or not self_signing:
        return None
    if not is_signed(self_signing_entry, user=user, key_id=master, public_key=master):
        return None
    return Identity(user, master, self_signing)


def signed_devices(answer: Mapping[str, Any], owner: Identity) -> dict[str, DeviceKeys]:
    """The devices in ``answer`` that ``owner`` vouches for, with the keys that the signature covers."""
    found: dict[str, DeviceKeys] = {}
    for device_id, shown in entry(answer, "device_keys", owner.user).items():
        keys = device_keys(shown, owner.user, device_id)
        if keys and is_signed(shown, user=owner.user, key_id=owner.self_signing, public_key=owner.self_signing):
            found[device_id] = keys
    return found


def device_keys(shown: object, user: str, device_id: str) -> DeviceKeys | None:
    """The keys of a device object, if it says itself that it is this device of this user."""
    if not isinstance(shown, Mapping) or shown.get("user_id") != user or shown.get("device_id") != device_id:
        return None
    keys = entry(shown, "keys")
    ed25519, curve25519 = keys.get(f"ed25519:{device_id}"), keys.get(f"curve25519:{device_id}")
    if not _is_key(ed25519) or not _is_key(curve25519):
        return None
    return DeviceKeys(ed25519=ed25519, curve25519=curve25519)


def only_key(shown: Mapping[str, Any], user: str, usage: str) -> str | None:
    """The public key of a cross-signing object of ``user``: exactly one, filed under its own name, for ``usage``."""
    uses, keys = shown.get("usage"), entry(shown, "keys")
    if shown.get("user_id") != user or not isinstance(uses, list) or usage not in uses or len(keys) != 1:
        return None
    ((key_id, public),) = keys.items()
    return public if _is_key(public) and key_id == f"ed25519:{public}" else None


def entry(answer: object, *path: str) -> Mapping[str, Any]:
    """The object at ``path``; empty if there is none, or it is not an object."""
    for part in path:
        answer = answer.get(part) if isinstance(answer, Mapping) else None
    return answer if isinstance(answer, Mapping) else {}


def _is_key(text: object) -> TypeGuard[str]:
    try:
        return len(decode_base64(text)) == KEY_BYTES
    except ValueError:
        return False
