"""Key files that an operator is given, read by real GnuPG."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bridges.openpgp import packets
from bridges.openpgp.safe import GnuPGSafe
from tests.parts.pgp import Crowd, Person
from trust.errors import (
    KeyCannotEncrypt,
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
from trust.records import PublicKey


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with Crowd() as crowd:
        yield crowd


@pytest.fixture(scope="module")
def anna(crowd: Crowd) -> Person:
    return crowd.person("Anna")


@pytest.fixture
def safe(crowd: Crowd) -> GnuPGSafe:
    return GnuPGSafe(crowd.directory, lambda _: "unused")


async def read(safe: GnuPGSafe, data: bytes) -> PublicKey:
    return await safe.read_key(data, datetime.now(UTC))


async def refusal(safe: GnuPGSafe, data: bytes) -> KeyRefusal:
    with pytest.raises(KeyRefusal) as caught:
        await read(safe, data)
    return caught.value


@pytest.mark.parametrize(
    ("algorithm", "encryption"),
    [
        ("ed25519", "cv25519"),
        ("rsa2048", "rsa2048"),
        ("nistp256", "nistp256"),
        ("nistp521", "nistp384"),
        ("brainpoolP256r1", "brainpoolP512r1"),
    ],
)
async def test_the_usual_kinds_of_key_are_read(safe: GnuPGSafe, crowd: Crowd, algorithm: str, encryption: str) -> None:
    person = crowd.person("Olga", algorithm=algorithm, encryption=encryption)
    key = await read(safe, person.armoured_key)
    assert (person.fingerprint, None) == (key.fingerprint, key.expires_at)


async def test_binary_armour_and_a_mail_around_the_armour_give_the_same_key(safe: GnuPGSafe, anna: Person) -> None:
    armoured = anna.armoured_key
    forms = [anna.public_key, armoured, armoured.replace(b"\n", b"\r\n"), b"My key:\n\n" + armoured + b"\n-- \nAnna\n"]
    assert 1 == len(set(await asyncio.gather(*(read(safe, form) for form in forms))))


async def test_what_is_kept_can_be_read_again_and_stays_the_same(safe: GnuPGSafe, anna: Person) -> None:
    key = await read(safe, anna.armoured_key)
    assert key == await read(safe, key.data)


async def test_the_expiry_that_counts_is_the_earlier_one_of_key_and_subkey(safe: GnuPGSafe, crowd: Crowd) -> None:
    person = crowd.person("Petra", encryption=None, expires="90d")
    person.add_subkey("cv25519", "encr", expires="30d")
    left = (await read(safe, person.public_key)).expires_at
    assert left is not None
    assert timedelta(days=29) < left - datetime.now(UTC) <= timedelta(days=30)


async def test_others_signatures_are_not_kept(safe: GnuPGSafe, crowd: Crowd) -> None:
    person, friends = crowd.person("Quin"), [crowd.person(name) for name in ("Ria", "Sam")]
    alone = (await read(safe, person.public_key)).data
    key = person.public_key
    for friend in friends:
        friend.learn(key)
        friend.gpg("--quick-sign-key", person.fingerprint)
        key = friend.gpg("--export", person.fingerprint).output
    assert len(key) > len(alone) + 200
    assert alone == (await read(safe, key)).data


async def test_an_expired_key_is_refused_with_its_day(safe: GnuPGSafe, crowd: Crowd) -> None:
    person = crowd.person("Tina", at="20240101T120000", expires="10d")
    error = await refusal(safe, person.public_key)
    assert (KeyExpired, "2024-01-11") == (type(error), error.params["date"])


async def test_a_revoked_key_is_refused(safe: GnuPGSafe, crowd: Crowd) -> None:
    person = crowd.person("Ulla")
    person.revoke()
    assert KeyRevoked is type(await refusal(safe, person.public_key))


async def test_a_key_that_cannot_encrypt_is_refused(safe: GnuPGSafe, crowd: Crowd) -> None:
    assert KeyCannotEncrypt is type(await refusal(safe, crowd.person("Vera", encryption=None).public_key))


@pytest.mark.parametrize(
    ("algorithm", "encryption", "named"),
    [
        ("rsa1024", "rsa1024", "RSA 1024"),
        ("dsa1024", "elg1024", "SHA-1"),
        ("dsa2048", "elg2048", "DSA 2048"),
        ("ed25519", "elg2048", "ElGamal 2048"),
    ],
)
async def test_weak_keys_are_refused_by_name(
    safe: GnuPGSafe, crowd: Crowd, algorithm: str, encryption: str, named: str
) -> None:
    person = crowd.person("Willi", algorithm=algorithm, encryption=encryption)
    error = await refusal(safe, person.public_key)
    assert (KeyWeak, named) == (type(error), error.params["algorithm"])


async def test_a_name_that_turns_the_line_around_is_refused(safe: GnuPGSafe, crowd: Crowd) -> None:
    person = crowd.person("Xi\u202eeve", "xi@example.test")
    assert KeyNameUnsafe is type(await refusal(safe, person.public_key))


async def test_a_secret_key_is_refused_as_such(safe: GnuPGSafe, anna: Person) -> None:
    armoured = anna.secret_key
    binary = anna.gpg("--passphrase", "", "--export-secret-keys", anna.fingerprint).output
    for data in (armoured, binary, anna.armoured_key + armoured, anna.public_key + binary, armoured[:300]):
        assert SecretKeyGiven is type(await refusal(safe, data))


async def test_several_keys_are_refused_with_their_number(safe: GnuPGSafe, crowd: Crowd, anna: Person) -> None:
    other = crowd.person("Yara")
    for data in (anna.public_key + other.public_key, anna.armoured_key + b"\n" + other.armoured_key):
        error = await refusal(safe, data)
        assert (SeveralKeys, 2) == (type(error), error.params["count"])


async def test_what_is_no_key_is_refused(safe: GnuPGSafe, anna: Person) -> None:
    signature = anna.gpg("--local-user", anna.fingerprint, "--armor", "--detach-sign", data=b"x").output
    message = anna.seal(b"x", anna.public_key)
    bare = next(packets.packets(anna.public_key)).framed()
    for data in (b"", b"hello", signature, message, bare, anna.public_key[:-1], anna.armoured_key[:200], b"\xc6\x00"):
        assert NotAKey is type(await refusal(safe, data))


async def test_a_certificate_whose_own_signatures_are_broken_is_no_key(safe: GnuPGSafe, anna: Person) -> None:
    parts = list(packets.packets(anna.public_key))
    broken = b"".join(
        packets.Packet(p.tag, p.body[:-1] + bytes((p.body[-1] ^ 1,)) if p.tag == packets.SIGNATURE else p.body).framed()
        for p in parts
    )
    assert NotAKey is type(await refusal(safe, broken))


@pytest.mark.parametrize("size", [256 * 1024 + 1, 17 * 1024 * 1024])
async def test_a_file_that_is_too_big_is_refused(safe: GnuPGSafe, anna: Person, size: int) -> None:
    error = await refusal(safe, anna.public_key.ljust(size, b"\x00"))
    assert (KeyTooBig, 256) == (type(error), error.params["limit_kb"])


async def test_reading_a_key_leaves_nothing_behind(
    safe: GnuPGSafe, anna: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    await safe.read_key(anna.public_key, datetime.now(UTC))
    assert [] == os.listdir(tmp_path)
