"""May this key be used: each check of the policy passes one key and refuses its nearest lookalike."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from trust.errors import (
    KeyCannotEncrypt,
    KeyCannotSign,
    KeyExpired,
    KeyNameUnsafe,
    KeyRefusal,
    KeyRevoked,
    KeyTooBig,
    KeyWeak,
    NotAKey,
    SecretKeyGiven,
    SeveralKeys,
)
from trust.keys import FileFacts, KeyFacts, KeyPart, judge_file, judge_key, usable
from trust.records import Fingerprint, PublicKey

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
FPR = Fingerprint("A" * 40)

SIGN = KeyPart(22, 255, "ed25519", can_sign=True, can_encrypt=False)
ENCRYPT = KeyPart(18, 255, "cv25519", can_sign=False, can_encrypt=True)
RSA = KeyPart(1, 2048, "", can_sign=True, can_encrypt=True)
GOOD = KeyFacts(FPR, b"data", (b"Anna <anna@example.test>",), SIGN, (ENCRYPT,))


def refusal(key: KeyFacts) -> KeyRefusal:
    with pytest.raises(KeyRefusal) as caught:
        judge_key(key, NOW)
    return caught.value


def test_a_good_key_is_pinned_by_its_fingerprint() -> None:
    assert PublicKey(FPR, b"data", None) == judge_key(GOOD, NOW)


@pytest.mark.parametrize("curve", ["nistp256", "nistp384", "nistp521", "brainpoolP256r1", "brainpoolP512r1"])
def test_the_usual_curves_pass(curve: str) -> None:
    part = KeyPart(19, 256, curve, can_sign=True, can_encrypt=False)
    assert FPR == judge_key(replace(GOOD, primary=part), NOW).fingerprint


def test_rsa_of_2048_bits_passes_and_of_2047_is_weak() -> None:
    assert FPR == judge_key(replace(GOOD, primary=RSA, subkeys=()), NOW).fingerprint
    error = refusal(replace(GOOD, primary=replace(RSA, bits=2047), subkeys=()))
    assert (KeyWeak, {"fingerprint": FPR, "algorithm": "RSA 2047"}) == (type(error), error.params)


@pytest.mark.parametrize(
    ("algorithm", "bits", "curve", "named"),
    [
        (17, 3072, "", "DSA 3072"),
        (16, 4096, "", "ElGamal 4096"),
        (19, 256, "secp256k1", "ECDSA secp256k1"),
        (99, 8, "", "algorithm 99 8"),
    ],
)
def test_dsa_elgamal_and_unknown_algorithms_are_weak(algorithm: int, bits: int, curve: str, named: str) -> None:
    error = refusal(replace(GOOD, primary=KeyPart(algorithm, bits, curve, can_sign=True, can_encrypt=True)))
    assert (KeyWeak, named) == (type(error), error.params["algorithm"])


def test_one_living_weak_subkey_makes_the_key_weak_and_a_dead_one_does_not() -> None:
    weak = KeyPart(1, 1024, "", can_sign=True, can_encrypt=False)
    assert KeyWeak is type(refusal(replace(GOOD, subkeys=(ENCRYPT, weak))))
    for dead in (replace(weak, revoked=True), replace(weak, expires_at=NOW - DAY), replace(weak, valid=False)):
        assert FPR == judge_key(replace(GOOD, subkeys=(ENCRYPT, dead)), NOW).fingerprint


def test_a_revoked_key_is_refused() -> None:
    assert KeyRevoked is type(refusal(replace(GOOD, primary=replace(SIGN, revoked=True))))


def test_an_expired_key_is_refused_with_its_day() -> None:
    error = refusal(replace(GOOD, primary=replace(SIGN, expires_at=NOW - DAY)))
    assert (KeyExpired, {"fingerprint": FPR, "date": "2026-11-21"}) == (type(error), error.params)


def test_a_key_expires_at_the_instant_and_not_after_it() -> None:
    assert KeyExpired is type(refusal(replace(GOOD, primary=replace(SIGN, expires_at=NOW))))
    assert (
        FPR == judge_key(replace(GOOD, primary=replace(SIGN, expires_at=NOW + timedelta(seconds=1))), NOW).fingerprint
    )


def test_a_key_whose_last_encryption_subkey_expired_is_refused_with_that_day() -> None:
    subkeys = (replace(ENCRYPT, expires_at=NOW - 9 * DAY), replace(ENCRYPT, expires_at=NOW - 2 * DAY))
    error = refusal(replace(GOOD, subkeys=subkeys))
    assert (KeyExpired, "2026-11-20") == (type(error), error.params["date"])


@pytest.mark.parametrize("subkeys", [(), (replace(ENCRYPT, revoked=True),), (replace(ENCRYPT, valid=False),)])
def test_a_key_that_cannot_encrypt_is_refused(subkeys: tuple[KeyPart, ...]) -> None:
    assert KeyCannotEncrypt is type(refusal(replace(GOOD, subkeys=subkeys)))


def test_a_key_that_cannot_sign_is_refused() -> None:
    certify_only = replace(SIGN, can_sign=False)
    assert KeyCannotSign is type(refusal(replace(GOOD, primary=certify_only)))
    assert FPR == judge_key(replace(GOOD, primary=certify_only, subkeys=(ENCRYPT, SIGN)), NOW).fingerprint


@pytest.mark.parametrize(
    "name",
    [
        b"Anna\n<anna@example.test>",
        b"Anna\r",
        b"Anna\x00",
        b"Anna\x1b[2J",
        "Anna\u0085".encode(),
        "Anna\u2028".encode(),
        "Anna\u2029".encode(),
        "Anna\u202egro".encode(),
        "An\u200bna".encode(),
        b"Anna \xff",
        b"\xed\xa0\x80",
        b"x" * 257,
    ],
)
def test_a_name_with_control_or_format_characters_or_too_long_or_not_utf_8_is_refused(name: bytes) -> None:
    assert KeyNameUnsafe is type(refusal(replace(GOOD, names=(*GOOD.names, name))))


@pytest.mark.parametrize("name", ["Žofie Ångström <z@example.test>".encode(), "陳大文".encode(), b"x" * 256])
def test_the_names_of_people_pass(name: bytes) -> None:
    assert FPR == judge_key(replace(GOOD, names=(name,)), NOW).fingerprint


@pytest.mark.parametrize(
    ("primary", "subkeys", "expected"),
    [
        (None, (None,), None),
        (9, (None,), 9),
        (None, (5,), 5),
        (9, (5,), 5),
        (5, (9,), 5),
        (9, (2, 7), 7),
        (None, (2, None), None),
    ],
)
def test_a_key_is_usable_until_it_could_no_longer_encrypt(
    primary: int | None, subkeys: tuple[int | None, ...], expected: int | None
) -> None:
    def end(days: int | None) -> datetime | None:
        return None if days is None else NOW + days * DAY

    parts = tuple(replace(ENCRYPT, expires_at=end(days)) for days in subkeys)
    key = judge_key(replace(GOOD, primary=replace(SIGN, expires_at=end(primary)), subkeys=parts), NOW)
    assert end(expected) == key.expires_at


def test_only_a_key_that_has_not_ended_is_usable() -> None:
    assert usable(PublicKey(FPR, b""), NOW)
    assert usable(PublicKey(FPR, b"", NOW + DAY), NOW)
    assert not usable(PublicKey(FPR, b"", NOW), NOW)
    assert not usable(None, NOW)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (FileFacts(256 * 1024 + 1), KeyTooBig),
        (FileFacts(9, secret=True), SecretKeyGiven),
        (FileFacts(9, readable=False, secret=True), SecretKeyGiven),
        (FileFacts(9, readable=False), NotAKey),
        (FileFacts(9, keys=0), NotAKey),
        (FileFacts(9, keys=2), SeveralKeys),
    ],
)
def test_a_file_that_is_not_one_public_key_is_refused(file: FileFacts, expected: type[KeyRefusal]) -> None:
    with pytest.raises(expected):
        judge_file(file)


def test_a_file_with_one_public_key_passes() -> None:
    judge_file(FileFacts(256 * 1024))
