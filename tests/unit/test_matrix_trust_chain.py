"""What an answer to /keys/query proves, and what it does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.matrix.chain import identity, signed_devices
from tests.parts.matrix_person import HandDevice, HandIdentity

ADA = "@ada:test"


def _answer(who: HandIdentity, *devices: HandDevice) -> dict[str, Any]:
    objects = who.objects()
    return {
        "device_keys": {who.user: {device.id: device.object() for device in devices}},
        "master_keys": {who.user: objects["master_key"]},
        "self_signing_keys": {who.user: objects["self_signing_key"]},
    }


@pytest.fixture
def ada() -> HandIdentity:
    return HandIdentity(ADA)


@pytest.fixture
def signed(ada: HandIdentity) -> HandDevice:
    device = HandDevice(ADA, "SIGNED")
    ada.sign(device)
    return device


def test_a_whole_chain_counts_and_a_device_that_is_not_signed_does_not(ada: HandIdentity, signed: HandDevice) -> None:
    answer = _answer(ada, signed, HandDevice(ADA, "GHOST"))
    shown = identity(answer, ADA)
    assert shown is not None
    assert (ada.master_public, ada.self_signing_public) == (shown.master, shown.self_signing)
    found = signed_devices(answer, shown)
    assert ["SIGNED"] == list(found)
    assert signed.account.curve25519_key.to_base64() == found["SIGNED"].curve25519


def _breaks(answer: dict[str, Any], other: HandIdentity) -> dict[str, dict[str, Any]]:
    """Answers in each of which one thing about the identity is wrong."""
    broken: dict[str, dict[str, Any]] = {}

    def variant(name: str) -> dict[str, Any]:
        broken[name] = copy.deepcopy(answer)
        return broken[name]

    del variant("no master key")["master_keys"][ADA]
    del variant("no self-signing key")["self_signing_keys"][ADA]
    variant("another user's master key")["master_keys"][ADA]["user_id"] = "@eve:test"
    variant("another user's self-signing key")["self_signing_keys"][ADA]["user_id"] = "@eve:test"
    variant("another master key")["master_keys"][ADA] = other.objects()["master_key"]
    variant("a self-signing key of another master")["self_signing_keys"][ADA] = other.objects()["self_signing_key"]
    variant("no signature")["self_signing_keys"][ADA]["signatures"] = {}
    variant("wrong usage")["self_signing_keys"][ADA]["usage"] = ["user_signing"]
    variant("master key for another use")["master_keys"][ADA]["usage"] = ["self_signing"]
    variant("two master keys")["master_keys"][ADA]["keys"]["ed25519:x"] = other.master_public
    variant("misnamed master key")["master_keys"][ADA]["keys"] = {"ed25519:x": other.master_public}
    variant("a list in the place of an object")["master_keys"] = []
    variant("null keys")["self_signing_keys"][ADA]["keys"] = None
    return broken


def test_no_broken_identity_counts(ada: HandIdentity, signed: HandDevice) -> None:
    broken = _breaks(_answer(ada, signed), HandIdentity(ADA))
    assert 13 == len(broken)
    assert {} == {name: answer for name, answer in broken.items() if identity(answer, ADA) is not None}


def test_no_device_counts_whose_object_is_not_the_signed_one(ada: HandIdentity, signed: HandDevice) -> None:
    answer = _answer(ada, signed)
    shown = identity(answer, ADA)
    assert shown is not None
    other = HandDevice(ADA, "SIGNED")
    for change in (
        {"keys": other.object()["keys"]},
        {"keys": {**signed.object()["keys"], "curve25519:SIGNED": other.account.curve25519_key.to_base64()}},
        {"user_id": "@eve:test"},
        {"device_id": "OTHER"},
        {
            "signatures": {
                ADA: {f"ed25519:{ada.self_signing_public}": other.object()["signatures"][ADA]["ed25519:SIGNED"]}
            }
        },
        {"keys": None},
    ):
        changed = {**answer, "device_keys": {ADA: {"SIGNED": {**signed.object(), **change}}}}
        assert {} == signed_devices(changed, shown)
    moved = {**answer, "device_keys": {ADA: {"OTHER": signed.object()}}}
    assert {} == signed_devices(moved, shown)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from([ADA, "master_keys", "self_signing_keys", "keys", "usage", "user_id"]), inner
            )
        ),
        max_leaves=15,
    )
)
def test_nothing_that_a_server_makes_up_is_an_identity(answer: object) -> None:
    assert identity({"master_keys": answer, "self_signing_keys": answer}, ADA) is None
    assert identity(answer if isinstance(answer, dict) else {}, ADA) is None
