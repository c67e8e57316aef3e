"""Signed JSON: canonical form, base64, signatures. Vectors: Matrix specification, Appendices."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from bridges.matrix.canonical import canonical, decode_base64, encode_base64, is_signed, public_part, sign

SPEC_SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
"""The signing key of the specification's "Cryptographic Test Vectors"."""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "{}"),
        ({"one": 1, "two": "Two"}, '{"one":1,"two":"Two"}'),
        ({"b": "2", "a": "1"}, '{"a":"1","b":"2"}'),
        ({"a": "日本語"}, '{"a":"日本語"}'),
        ({"本": 2, "日": 1}, '{"日":1,"本":2}'),
        ({"a": "\u65e5"}, '{"a":"日"}'),
        ({"a": None}, '{"a":null}'),
        ({"a": True, "b": [1, {"d": 2, "c": 1}]}, '{"a":true,"b":[1,{"c":1,"d":2}]}'),
    ],
)
def test_the_canonical_form_is_the_specifications(value: dict[str, Any], expected: str) -> None:
    assert expected.encode() == canonical(value)


def test_signatures_and_unsigned_are_no_part_of_what_is_signed() -> None:
    assert b'{"a":1}' == canonical({"a": 1, "signatures": {"x": 1.5}, "unsigned": {"age": 3}})


@pytest.mark.parametrize(
    "value",
    [{"a": 1.0}, {"a": 2**53}, {"a": -(2**53)}, {"a": "\ud800"}, {"a": [{"b": 0.5}]}, {"a": {1: 2}}, {"a": {1, 2}}],
)
def test_what_has_no_canonical_form_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        canonical(value)


def test_endless_nesting_is_refused() -> None:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(ValueError):
        canonical(value)


@pytest.mark.parametrize(
    ("value", "signature"),
    [
        ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_signatures_are_those_of_the_specifications_vectors(value: dict[str, Any], signature: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(decode_base64(SPEC_SEED))
    assert signature == sign(value, key)


@given(st.binary(max_size=100))
def test_base64_comes_back_padded_or_not(data: bytes) -> None:
    text = encode_base64(data)
    assert "=" not in text
    assert data == decode_base64(text)
    assert data == decode_base64(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("text", ["a", "ab-_", "ab c", "äöü", None, 5, b"AAAA", "=a"])
def test_what_is_not_base64_is_refused(text: object) -> None:
    with pytest.raises(ValueError):
        decode_base64(text)


def _signed(value: dict[str, Any], key: Ed25519PrivateKey, key_id: str = "K") -> dict[str, Any]:
    return {**value, "signatures": {"@a:x": {f"ed25519:{key_id}": sign(value, key)}}}


def test_a_signature_counts_for_its_user_key_and_content_only() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    value = _signed({"a": 1}, key)
    assert is_signed(value, user="@a:x", key_id="K", public_key=public_part(key))
    assert is_signed({**value, "unsigned": {"age": 1.5}}, user="@a:x", key_id="K", public_key=public_part(key))
    assert not is_signed({**value, "a": 2}, user="@a:x", key_id="K", public_key=public_part(key))
    assert not is_signed({**value, "b": 2}, user="@a:x", key_id="K", public_key=public_part(key))
    assert not is_signed(value, user="@b:x", key_id="K", public_key=public_part(key))
    assert not is_signed(value, user="@a:x", key_id="L", public_key=public_part(key))
    assert not is_signed(value, user="@a:x", key_id="K", public_key=public_part(other))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["signatures", "@a:x", "a"]), inner)
        ),
        max_leaves=8,
    )
)
def test_nothing_that_a_stranger_wrote_counts_or_raises(value: object) -> None:
    public = public_part(Ed25519PrivateKey.generate())
    assert not is_signed(value, user="@a:x", key_id="K", public_key=public)
    assert not is_signed(json.loads(json.dumps(value)), user="@a:x", key_id="K", public_key="no key")
