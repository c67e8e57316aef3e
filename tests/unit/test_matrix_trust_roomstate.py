"""What a group's room must be like, and what counts as drift."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.matrix.roomstate import (
    FORBIDDEN,
    MARK,
    PINNED,
    RoomState,
    creation,
    drift,
    outsiders,
    power_levels,
    room_version,
    unmet,
)
from trust.records import Fingerprint, Group, GroupId, PublicKey

BOT = "@bot:test"
GROUP = Group(
    id=GroupId(1),
    name="tld-ops",
    address="tld-ops@lists.test",
    description="",
    key=PublicKey(Fingerprint("A" * 40), b""),
    federate=False,
    room_token="token",
)


def _event(kind: str, content: dict[str, Any], *, key: str = "", sender: str = BOT) -> dict[str, Any]:
    return {"type": kind, "state_key": key, "content": content, "sender": sender}


def made(version: str = "12") -> list[dict[str, Any]]:
    """The state that a server makes of what we ask for."""
    asked = creation(GROUP, BOT, version)
    return [
        _event("m.room.create", {**asked["creation_content"], "room_version": version}),
        _event("m.room.member", {"membership": "join"}, key=BOT),
        _event("m.room.power_levels", {**asked["power_level_content_override"], "historical": 100}),
        *(_event(state["type"], dict(state["content"])) for state in asked["initial_state"]),
        _event("m.room.name", {"name": asked["name"]}),
    ]


@pytest.mark.parametrize("version", ["1", "9", "11", "12", "13"])
def test_a_room_that_was_made_as_asked_is_pinned_and_does_not_drift(version: str) -> None:
    state = RoomState.read(made(version))
    assert () == unmet(GROUP, BOT, state)
    assert () == drift(state.pin(), BOT, state)
    assert PINNED.keys() == state.pin().keys()


@pytest.mark.parametrize("kind", sorted(PINNED))
def test_any_other_content_of_a_pinned_type_is_drift(kind: str) -> None:
    before = RoomState.read(made())
    events = made()
    changed = next(event for event in events if event["type"] == kind)
    changed["content"] = {**changed["content"], "org.example.extra": 1}
    assert (kind,) == drift(before.pin(), BOT, RoomState.read(events))


@pytest.mark.parametrize("kind", sorted(PINNED))
def test_a_pinned_type_that_is_gone_is_drift(kind: str) -> None:
    before = RoomState.read(made())
    after = RoomState.read([event for event in made() if event["type"] != kind])
    assert kind in drift(before.pin(), BOT, after)
    assert kind in unmet(GROUP, BOT, after)


@pytest.mark.parametrize("kind", sorted(FORBIDDEN))
@pytest.mark.parametrize("key", ["", "token"])
def test_a_forbidden_type_is_drift_under_any_state_key_unless_it_is_empty(kind: str, key: str) -> None:
    before = RoomState.read(made())
    assert (kind,) == drift(before.pin(), BOT, RoomState.read([*made(), _event(kind, {"a": 1}, key=key)]))
    assert (kind,) == unmet(GROUP, BOT, RoomState.read([*made(), _event(kind, {"a": 1}, key=key)]))
    assert () == drift(before.pin(), BOT, RoomState.read([*made(), _event(kind, {}, key=key)]))


def test_a_room_by_another_creator_is_drift_and_never_taken() -> None:
    events = made()
    events[0]["sender"] = "@eve:test"
    assert ("m.room.create",) == drift(RoomState.read(made()).pin(), BOT, RoomState.read(events))
    assert ("m.room.create",) == unmet(GROUP, BOT, RoomState.read(events))


@pytest.mark.parametrize(
    ("index", "content"),
    [
        (0, {MARK: "token", "m.federate": True, "room_version": "12"}),
        (0, {MARK: "other", "m.federate": False, "room_version": "12"}),
        (2, {**power_levels(BOT, "12"), "users": {"@eve:test": 100}}),
        (2, {**power_levels(BOT, "12"), "invite": 0}),
        (3, {"algorithm": "m.megolm.v1.aes-sha2"}),
    ],
)
def test_a_room_that_was_not_made_as_asked_is_told_from_one_that_was(index: int, content: dict[str, Any]) -> None:
    events = made()
    events[index]["content"] = content
    assert (events[index]["type"],) == unmet(GROUP, BOT, RoomState.read(events))


def test_the_bots_own_absence_is_drift() -> None:
    events = made()
    pin = RoomState.read(events).pin()
    events[1]["content"] = {"membership": "leave"}
    assert ("m.room.member",) == drift(pin, BOT, RoomState.read(events))
    assert "m.room.member" in drift(pin, BOT, RoomState.read([]))


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "state_key", "content", "sender", "membership"]), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_server_answers_is_read_and_is_drift(answer: object) -> None:
    state = RoomState.read(answer)
    assert drift(RoomState.read(made()).pin(), BOT, state)
    assert unmet(GROUP, BOT, state)


def test_the_tombstone_is_out_of_reach_and_the_creator_listed_only_before_version_12() -> None:
    for version in ("1", "11"):
        assert {BOT: 100} == power_levels(BOT, version)["users"]
        assert {"m.room.tombstone": 150} == power_levels(BOT, version)["events"]
    for version in ("12", "13"):
        assert {} == power_levels(BOT, version)["users"]


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ({"default": "12", "available": {"1": "stable"}}, "12"),
        ({"default": "org.example.1", "available": {"9": "stable", "11": "stable", "12": "unstable"}}, "11"),
        ({"default": "org.example.1", "available": {}}, "11"),
        ({}, "11"),
        ([], "11"),
        ({"default": 5, "available": []}, "5"),
    ],
)
def test_the_servers_default_room_version_is_asked_for_if_it_is_matrixs_own(offered: Any, expected: str) -> None:
    assert expected == room_version({"capabilities": {"m.room_versions": offered}})


def test_outsiders_are_those_who_are_in_or_coming_in_and_not_on_the_roll() -> None:
    events = copy.deepcopy(made())
    states = {"@a:t": "join", "@b:t": "join", "@c:t": "invite", "@d:t": "leave", "@e:t": "ban", "@f:t": "knock"}
    events += [_event("m.room.member", {"membership": state}, key=user) for user, state in states.items()]
    assert {"@b:t", "@c:t", "@f:t"} == outsiders(RoomState.read(events), ["@a:t"], BOT)
