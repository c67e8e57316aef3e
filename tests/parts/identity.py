"""A person's cross-signing identity, and the question which devices a person's identity signed.

Written after the Matrix specification (v1.11, 11.12.2 "Cross-signing") and on ``cryptography`` alone, so that the
bot's own code is judged by something that shares no line with it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

USAGES: Final = ("master", "self_signing", "user_signing")


@dataclass(frozen=True, slots=True)
class SignedDevice:
    """A device whose keys the owner's self-signing key signed."""

    user_id: str
    device_id: str
    ed25519: str
    curve25519: str


class Identity:
    """Three fresh keys of one user."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self._keys = {usage: Ed25519PrivateKey.generate() for usage in USAGES}

    @property
    def master_key(self) -> str:
        """The public master key, unpadded base64."""
        return self._public("master")

    def upload_body(self) -> dict[str, Any]:
        """The body of ``POST /keys/device_signing/upload``."""
        return {f"{usage}_key": self._public_object(usage) for usage in USAGES}

    def sign_device(self, device: Mapping[str, Any]) -> dict[str, Any]:
        """``device`` as of ``/keys/query``, with the self-signing key's signature and no other."""
        bare = {name: value for name, value in device.items() if name not in ("signatures", "unsigned")}
        return bare | {"signatures": self._signature("self_signing", bare)}

    def _public_object(self, usage: str) -> dict[str, Any]:
        public = self._public(usage)
        bare = {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}
        return bare if usage == "master" else bare | {"signatures": self._signature("master", bare)}

    def _signature(self, usage: str, bare: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        signature = encode(self._keys[usage].sign(canonical(bare)))
        return {self.user_id: {f"ed25519:{self._public(usage)}": signature}}

    def _public(self, usage: str) -> str:
        return encode(self._keys[usage].public_key().public_bytes_raw())


def signed_devices(answer: Mapping[str, Any], user_id: str) -> frozenset[SignedDevice]:
    """The devices of ``user_id`` in a ``/keys/query`` answer that the chain master → self-signing → device holds."""
    try:
        master = answer["master_keys"][user_id]
        self_signing = answer["self_signing_keys"][user_id]
        master_key, signing_key = _sole_key(master, user_id, "master"), _sole_key(self_signing, user_id, "self_signing")
    except (KeyError, ValueError, TypeError):
        return frozenset()
    if not is_signed(self_signing, user_id, master_key, master_key):
        return frozenset()
    devices = answer.get("device_keys", {}).get(user_id, {})
    return frozenset(
        SignedDevice(
            user_id, device_id, device["keys"][f"ed25519:{device_id}"], device["keys"][f"curve25519:{device_id}"]
        )
        for device_id, device in devices.items()
        if _names_itself(device, user_id, device_id) and is_signed(device, user_id, signing_key, signing_key)
    )


def is_signed(item: Mapping[str, Any], user_id: str, key_id: str, public_key: str) -> bool:
    """Whether ``item`` bears a good ed25519 signature of ``user_id`` under ``key_id``."""
    try:
        signature = decode(item["signatures"][user_id][f"ed25519:{key_id}"])
        Ed25519PublicKey.from_public_bytes(decode(public_key)).verify(signature, canonical(item))
    except (KeyError, ValueError, TypeError, AttributeError, InvalidSignature):
        return False
    return True


def canonical(item: Mapping[str, Any]) -> bytes:
    """Canonical JSON (Matrix appendix 3.1) of what a signature covers."""
    covered = {name: value for name, value in item.items() if name not in ("signatures", "unsigned")}
    return json.dumps(covered, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def encode(data: bytes) -> str:
    """Unpadded base64."""
    return base64.b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _sole_key(item: Mapping[str, Any], user_id: str, usage: str) -> str:
    ((key_id, public_key),) = item["keys"].items()
    if key_id != f"ed25519:{public_key}" or item["user_id"] != user_id or usage not in item["usage"]:
        raise ValueError(usage)
    return str(public_key)


def _names_itself(device: Mapping[str, Any], user_id: str, device_id: str) -> bool:
    names = {f"ed25519:{device_id}", f"curve25519:{device_id}"}
    return device.get("user_id") == user_id and device.get("device_id") == device_id and names <= set(device["keys"])
