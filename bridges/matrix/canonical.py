"""Signed JSON as Matrix makes it: canonical form, unpadded base64, Ed25519 signatures.

Owns the bytes that are signed; knows nothing of users' identities or of what a signature means. Sources:
Matrix specification, Appendices: "Canonical JSON", "Signing JSON", "Unpadded Base64".
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_BYTES: Final = 32
UNSIGNED_FIELDS: Final = frozenset({"signatures", "unsigned"})
LARGEST_INTEGER: Final = 2**53 - 1
BASE64: Final = re.compile(r"[A-Za-z0-9+/]*")


def encode_base64(data: bytes) -> str:
    """Unpadded standard base64."""
    return base64.b64encode(data).decode("ascii").rstrip("=")


def decode_base64(text: object) -> bytes:
    """The bytes of standard base64, padded or not. Raises ValueError for anything else."""
    bare = text.rstrip("=") if isinstance(text, str) else "\0"
    if not BASE64.fullmatch(bare):
        raise ValueError("not base64")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error as error:
        raise ValueError("not base64") from error


def canonical(value: Mapping[str, Any]) -> bytes:
    """``value`` without its signatures, as the bytes to be signed.

    Raises ValueError for what has no canonical form: floats, integers beyond 2^53-1, lone surrogates, endless nesting.
    """
    body = {key: item for key, item in value.items() if key not in UNSIGNED_FIELDS}
    try:
        _require_canonical(body)
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError("no canonical form") from error


def _require_canonical(value: object) -> None:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is not a string")
        for item in value.values():
            _require_canonical(item)
    elif isinstance(value, list):
        for item in value:
            _require_canonical(item)
    elif isinstance(value, float) or (isinstance(value, int) and abs(value) > LARGEST_INTEGER):
        raise ValueError("a number without a canonical form")


def public_part(key: Ed25519PrivateKey) -> str:
    """The public key in unpadded base64: a cross-signing key's id and value."""
    return encode_base64(key.public_key().public_bytes_raw())


def sign(value: Mapping[str, Any], key: Ed25519PrivateKey) -> str:
    """The signature of ``value`` in unpadded base64. Raises ValueError as ``canonical`` does."""
    return encode_base64(key.sign(canonical(value)))


def is_signed(value: object, *, user: str, key_id: str, public_key: str) -> bool:
    """Whether ``value`` bears a good signature by ``public_key`` as ``signatures.<user>.ed25519:<key_id>``.

    Never raises, whatever ``value`` is: it comes from strangers.
    """
    if not isinstance(value, Mapping):
        return False
    try:
        signature = decode_base64(value["signatures"][user][f"ed25519:{key_id}"])
        Ed25519PublicKey.from_public_bytes(decode_base64(public_key)).verify(signature, canonical(value))
    except (KeyError, TypeError, ValueError, InvalidSignature):
        return False
    return True
