"""Secrets kept for us by the homeserver, which can't read them (``m.secret_storage.v1.aes-hmac-sha2``).

Owns the cryptography and the recovery key's written form; knows nothing of what the secrets are, nor of HTTP.
Sources: Matrix Client-Server API, module "Secrets", sections "Storage" and "m.secret_storage.v1.aes-hmac-sha2";
Appendices, "Cryptographic key representation" (the recovery key).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import xor
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bridges.matrix.canonical import decode_base64, encode_base64
from trust.errors import RecoveryKeyWrong

ALGORITHM: Final = "m.secret_storage.v1.aes-hmac-sha2"
KEY_BYTES: Final = 32
IV_BYTES: Final = 16
ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
HEADER: Final = b"\x8b\x01"
WRITTEN_BYTES: Final = len(HEADER) + KEY_BYTES + 1
GROUP: Final = 4
PROOF: Final = bytes(32)
"""What is encrypted, under the empty name, to tell a right key from a wrong one."""


@dataclass(frozen=True, slots=True)
class StorageKey:
    """A secret storage key and the id of its description in the account data."""

    id: str
    key: bytes = field(repr=False)

    @classmethod
    def new(cls) -> StorageKey:
        return cls(id=secrets.token_urlsafe(24), key=secrets.token_bytes(KEY_BYTES))

    def description(self) -> dict[str, str]:
        """The content of ``m.secret_storage.key.<id>``."""
        proof = encrypt(self.key, "", PROOF)
        return {"algorithm": ALGORITHM, "iv": proof["iv"], "mac": proof["mac"]}


def opens(key: bytes, description: Mapping[str, Any]) -> bool:
    """Whether ``key`` is the one described. A description without proof (both are optional there) refuses nothing."""
    if description.get("algorithm") != ALGORITHM:
        return False
    if "iv" not in description or "mac" not in description:
        return True
    try:
        mac = _apply(key, "", decode_base64(description["iv"]), PROOF)[1]
        return hmac.compare_digest(mac, decode_base64(description["mac"]))
    except ValueError:
        return False


def encrypt(key: bytes, name: str, secret: bytes) -> dict[str, str]:
    """``secret`` sealed under its ``name`` (the account data type): iv, ciphertext and mac in base64."""
    iv = _new_iv()
    ciphertext, mac = _apply(key, name, iv, secret)
    return {"iv": encode_base64(iv), "ciphertext": encode_base64(ciphertext), "mac": encode_base64(mac)}


def decrypt(key: bytes, name: str, sealed: Mapping[str, Any]) -> bytes:
    """The secret. Raises ValueError for a wrong key, another name, or a damaged or malformed box."""
    iv, ciphertext, mac = (decode_base64(sealed.get(part)) for part in ("iv", "ciphertext", "mac"))
    aes_key, mac_key = _derive(key, name)
    if not hmac.compare_digest(mac, hmac.digest(mac_key, ciphertext, "sha256")):
        raise ValueError("the mac does not match")
    return _aes_ctr(aes_key, iv, ciphertext)


def _apply(key: bytes, name: str, iv: bytes, data: bytes) -> tuple[bytes, bytes]:
    aes_key, mac_key = _derive(key, name)
    ciphertext = _aes_ctr(aes_key, iv, data)
    return ciphertext, hmac.digest(mac_key, ciphertext, "sha256")


def _derive(key: bytes, name: str) -> tuple[bytes, bytes]:
    both = HKDF(algorithm=SHA256(), length=64, salt=bytes(32), info=name.encode()).derive(key)
    return both[:32], both[32:]


def _aes_ctr(aes_key: bytes, iv: bytes, data: bytes) -> bytes:
    # AES-CTR is its own inverse. An iv of another length is a ValueError of the library.
    return Cipher(algorithms.AES(aes_key), modes.CTR(iv)).encryptor().update(data)


def _new_iv() -> bytes:
    # Bit 63 (from the end) is cleared: some platforms count in 64 bits and would carry differently.
    iv = bytearray(secrets.token_bytes(IV_BYTES))
    iv[8] &= 0x7F
    return bytes(iv)


def write_recovery_key(key: bytes) -> str:
    """``key`` as people write it down: base58 in groups of four, ending in a parity byte."""
    body = HEADER + key
    number = int.from_bytes(body + bytes([reduce(xor, body)]))
    letters = ""
    while number:
        number, digit = divmod(number, len(ALPHABET))
        letters = ALPHABET[digit] + letters
    return " ".join(letters[start : start + GROUP] for start in range(0, len(letters), GROUP))


def read_recovery_key(text: str) -> bytes:
    """The 32 bytes of a recovery key, white space ignored. Raises RecoveryKeyWrong for a mistyped one."""
    number = 0
    for letter in "".join(text.split()):
        digit = ALPHABET.find(letter)
        if digit < 0:
            raise RecoveryKeyWrong
        number = number * len(ALPHABET) + digit
    try:
        raw = number.to_bytes(WRITTEN_BYTES)
    except OverflowError as error:
        raise RecoveryKeyWrong from error
    if not raw.startswith(HEADER) or reduce(xor, raw):
        raise RecoveryKeyWrong
    return raw[len(HEADER) : -1]
