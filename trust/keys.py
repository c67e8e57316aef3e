"""May this key be used: the policy on OpenPGP certificates that somebody wants to register.

Pure. What a key *is* comes as facts from the crypto layer, what it *may* is decided here, in lists that read from top
to bottom. ``now`` is always aware.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from trust.errors import (
    KeyCannotEncrypt,
    KeyCannotSign,
    KeyExpired,
    KeyNameUnsafe,
    KeyRevoked,
    KeyTooBig,
    KeyWeak,
    NotAKey,
    SecretKeyGiven,
    SeveralKeys,
)
from trust.records import Fingerprint, PublicKey

MAX_FILE_KB: Final = 256
MAX_NAME_BYTES: Final = 256
MIN_RSA_BITS: Final = 2048

RSA: Final = frozenset({1, 2, 3})
"""Public-key algorithm ids of RFC 9580, 9.1."""

ELLIPTIC: Final = frozenset({18, 19, 22})
"""ECDH, ECDSA, EdDSA (legacy)."""

ALGORITHM_NAMES: Final = {1: "RSA", 2: "RSA", 3: "RSA", 16: "ElGamal", 17: "DSA", 18: "ECDH", 19: "ECDSA", 22: "EdDSA"}

CURVES: Final = frozenset(
    {
        "ed25519",
        "cv25519",
        "nistp256",
        "nistp384",
        "nistp521",
        "brainpoolP256r1",
        "brainpoolP384r1",
        "brainpoolP512r1",
    }
)
"""By GnuPG's names. Each is read by GnuPG, Sequoia and RNP alike."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a key file is made of. ``readable``: OpenPGP packets that begin with a key."""

    size: int
    readable: bool = True
    secret: bool = False
    keys: int = 1


@dataclass(frozen=True, slots=True)
class KeyPart:
    """A primary key or a subkey. ``valid`` is False for one without a good binding signature."""

    algorithm: int
    bits: int
    curve: str
    can_sign: bool
    can_encrypt: bool
    expires_at: datetime | None = None
    revoked: bool = False
    valid: bool = True

    def lives(self, now: datetime) -> bool:
        return self.valid and not self.revoked and not self.is_over(now)

    def is_over(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A certificate, reduced to its own self-signatures. ``names`` are its user ids, octet for octet."""

    fingerprint: Fingerprint
    data: bytes = field(repr=False)
    names: tuple[bytes, ...] = field(repr=False)
    primary: KeyPart
    subkeys: tuple[KeyPart, ...] = ()

    @property
    def parts(self) -> tuple[KeyPart, ...]:
        return (self.primary, *self.subkeys)


def judge_file(file: FileFacts) -> None:
    """Is this a file with one public key? Raises KeyTooBig, SecretKeyGiven, NotAKey, SeveralKeys."""
    if file.size > MAX_FILE_KB * 1024:
        raise KeyTooBig(limit_kb=MAX_FILE_KB)
    if file.secret:
        raise SecretKeyGiven
    if not file.readable or file.keys == 0:
        raise NotAKey
    if file.keys > 1:
        raise SeveralKeys(count=file.keys)


def judge_key(key: KeyFacts, now: datetime) -> PublicKey:
    """The certificate to pin.

    Raises KeyRevoked, KeyExpired, KeyNameUnsafe, KeyWeak, KeyCannotEncrypt, KeyCannotSign: the first that holds.
    """
    for check in CHECKS:
        check(key, now)
    return PublicKey(key.fingerprint, key.data, _usable_until(key, now))


def usable(key: PublicKey | None, now: datetime) -> bool:
    """May a post be sealed to ``key`` at ``now``?"""
    return key is not None and (key.expires_at is None or now < key.expires_at)


def _revoked(key: KeyFacts, _now: datetime) -> None:
    if key.primary.revoked:
        raise KeyRevoked(fingerprint=key.fingerprint)


def _expired(key: KeyFacts, now: datetime) -> None:
    """The primary key, or each subkey that could encrypt: the same to the person, whom a longer expiry date helps."""
    if key.primary.is_over(now):
        raise KeyExpired(fingerprint=key.fingerprint, date=_day(key.primary.expires_at))
    able = [part for part in key.parts if part.can_encrypt and part.valid and not part.revoked]
    if able and all(part.is_over(now) for part in able):
        last = max(part.expires_at for part in able if part.expires_at)
        raise KeyExpired(fingerprint=key.fingerprint, date=_day(last))


def _unsafe_name(key: KeyFacts, _now: datetime) -> None:
    """Control and format characters can forge a line of a log, a listing or a status pipe, or turn a name around."""
    if not all(map(_is_safe_name, key.names)):
        raise KeyNameUnsafe(fingerprint=key.fingerprint)


def _weak(key: KeyFacts, now: datetime) -> None:
    """Any living part: GnuPG would take a signature by a weak subkey as readily as one by a strong one."""
    for part in key.parts:
        if part is key.primary or part.lives(now):
            _refuse_weak(key, part)


def _cannot_encrypt(key: KeyFacts, now: datetime) -> None:
    if not any(part.can_encrypt and part.lives(now) for part in key.parts):
        raise KeyCannotEncrypt(fingerprint=key.fingerprint)


def _cannot_sign(key: KeyFacts, now: datetime) -> None:
    if not any(part.can_sign and part.lives(now) for part in key.parts):
        raise KeyCannotSign(fingerprint=key.fingerprint)


CHECKS: Final = (_revoked, _expired, _unsafe_name, _weak, _cannot_encrypt, _cannot_sign)


def _refuse_weak(key: KeyFacts, part: KeyPart) -> None:
    strong_rsa = part.algorithm in RSA and part.bits >= MIN_RSA_BITS
    if not strong_rsa and not (part.algorithm in ELLIPTIC and part.curve in CURVES):
        name = ALGORITHM_NAMES.get(part.algorithm, f"algorithm {part.algorithm}")
        detail = part.curve if part.algorithm in ELLIPTIC else str(part.bits)
        raise KeyWeak(fingerprint=key.fingerprint, algorithm=f"{name} {detail}")


def _is_safe_name(name: bytes) -> bool:
    if len(name) > MAX_NAME_BYTES:
        return False
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in text)


def _usable_until(key: KeyFacts, now: datetime) -> datetime | None:
    """The primary key's end, or that of the last subkey which can encrypt, whichever comes first."""
    ends = [part.expires_at for part in key.parts if part.can_encrypt and part.lives(now)]
    last = None if None in ends else max(end for end in ends if end)
    known = [end for end in (key.primary.expires_at, last) if end is not None]
    return min(known, default=None)


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).date().isoformat()
