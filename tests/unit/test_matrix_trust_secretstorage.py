"""Secret storage and the recovery key. Source: Matrix Client-Server API, module "Secrets"; Appendices."""

from __future__ import annotations

import hashlib
import hmac
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.matrix.canonical import decode_base64, encode_base64
from bridges.matrix.secretstorage import (
    StorageKey,
    decrypt,
    encrypt,
    opens,
    read_recovery_key,
    write_recovery_key,
)
from trust.errors import RecoveryKeyWrong

KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS)
def test_a_recovery_key_comes_back_whatever_the_spaces(key: bytes) -> None:
    text = write_recovery_key(key)
    assert key == read_recovery_key(text)
    assert key == read_recovery_key(f"  {text.replace(' ', '')}\n")


@given(KEYS)
def test_a_recovery_key_begins_with_es_and_stands_in_groups_of_four(key: bytes) -> None:
    groups = write_recovery_key(key).split(" ")
    assert groups[0].startswith("Es")  # what the header 8b 01 becomes in base58
    assert {4} == {len(group) for group in groups}
    assert 48 == sum(map(len, groups))


@given(KEYS, st.integers(0, 47), st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"))
def test_a_mistyped_letter_never_gives_another_key_with_the_header(key: bytes, place: int, letter: str) -> None:
    text = write_recovery_key(key).replace(" ", "")
    typed = text[:place] + letter + text[place + 1 :]
    try:
        read = read_recovery_key(typed)
    except RecoveryKeyWrong:
        return
    # One parity byte lets 1 in 256 pass; those are found by the description's proof.
    assert read == key or not opens(read, StorageKey("id", key).description())


@pytest.mark.parametrize("text", ["", "1", "0OIl", "Es" * 24, "zzzz" * 12, "z" * 500, "EsTé", "🔑"])
def test_what_is_no_recovery_key_is_refused(text: str) -> None:
    with pytest.raises(RecoveryKeyWrong):
        read_recovery_key(text)


@given(KEYS, st.text(max_size=30), st.binary(max_size=100))
def test_a_secret_comes_back_under_its_own_name_only(key: bytes, name: str, secret: bytes) -> None:
    sealed = encrypt(key, name, secret)
    assert secret == decrypt(key, name, sealed)
    with pytest.raises(ValueError):
        decrypt(key, name + "x", sealed)
    with pytest.raises(ValueError):
        decrypt(bytes(32) if key != bytes(32) else b"1" * 32, name, sealed)


@pytest.mark.parametrize("part", ["iv", "ciphertext", "mac"])
def test_a_damaged_box_gives_nothing(part: str) -> None:
    key = secrets.token_bytes(32)
    sealed = encrypt(key, "a", b"a secret of some length")
    for broken in ({**sealed, part: "AAAA"}, {**sealed, part: None}, {**sealed, part: "!"}, {}):
        with pytest.raises(ValueError):
            decrypt(key, "a", broken)


def test_the_counter_bit_that_platforms_disagree_on_is_never_set() -> None:
    for _ in range(200):
        iv = decode_base64(encrypt(bytes(32), "a", b"")["iv"])
        assert 16 == len(iv)
        assert 0 == (int.from_bytes(iv) >> 63) & 1


def test_the_mac_is_taken_by_the_second_half_of_hkdf_under_the_secrets_name() -> None:
    """HKDF (RFC 5869) written out by hand: SHA-256, salt of 32 zero bytes, info = the name, 64 bytes."""
    key, name = secrets.token_bytes(32), "m.cross_signing.master"
    sealed = encrypt(key, name, b"secret")
    prk = hmac.digest(bytes(32), key, "sha256")
    first = hmac.digest(prk, name.encode() + b"\x01", "sha256")
    second = hmac.digest(prk, first + name.encode() + b"\x02", "sha256")
    expected = hmac.new(second, decode_base64(sealed["ciphertext"]), hashlib.sha256).digest()
    assert encode_base64(expected) == sealed["mac"]


def test_a_description_tells_the_right_key_from_others() -> None:
    storage = StorageKey.new()
    description = storage.description()
    assert "m.secret_storage.v1.aes-hmac-sha2" == description["algorithm"]
    assert opens(storage.key, description)
    assert not opens(secrets.token_bytes(32), description)
    assert not opens(storage.key, {**description, "algorithm": "m.secret_storage.v0"})
    assert not opens(storage.key, {**description, "iv": "AAAA"})
    assert opens(storage.key, {"algorithm": description["algorithm"]})


def test_neither_key_nor_seed_shows_in_a_repr() -> None:
    storage = StorageKey("id", b"\x01" * 32)
    assert "StorageKey(id='id')" == repr(storage)
