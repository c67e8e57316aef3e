"""The guarded send, the identity policy and key sharing against a hostile homeserver in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from bridges.matrix import crosssigning
from bridges.matrix.devices import Devices
from bridges.matrix.keyshare import KeyShare
from bridges.matrix.outgoing import Outgoing
from bridges.matrix.rooms import Rooms
from bridges.matrix.roomstate import RoomState, creation
from bridges.matrix.session import Session
from storage.database import Database
from tests.parts.matrix_bot import HandClock, HeardAlarms, PlainPhrases
from tests.parts.matrix_double import HomeserverDouble, SessionDouble
from tests.parts.matrix_person import HandDevice, HandIdentity
from trust.errors import (
    DeviceKeysDiffer,
    EncryptionNotLoaded,
    HomeserverAway,
    HomeserverRefused,
    IdentityChanged,
    IdentityElsewhere,
    KeyNotShared,
    NoIdentity,
    RoomNotReady,
)
from trust.records import Door, Fingerprint, Group, MemberState, PublicKey, Role

ROOM = "!room"
HELLO = {"msgtype": "m.text", "body": "hello"}


class World:
    """The trust side with a homeserver double, a real database, and one group whose room is as agreed."""

    def __init__(self, database: Database) -> None:
        self.server = HomeserverDouble()
        self.double = SessionDouble(self.server)
        self.session = cast(Session, self.double)
        self.database = database
        self.clock = HandClock()
        self.alarms = HeardAlarms()
        phrases = PlainPhrases()
        self.devices = Devices(self.session, database, self.clock)
        self.keys = KeyShare(self.session, self.devices, phrases)
        self.rooms = Rooms(self.session, database, self.clock, alarm=self.alarms, phrases=phrases)
        self.outgoing = Outgoing(self.session, database, self.rooms, self.keys, alarm=self.alarms)
        self.group: Group

    async def begin(self) -> None:
        async with self.database.transaction() as tx:
            group = await tx.groups.add(
                name="ops",
                address="ops@lists.test",
                description="",
                key=PublicKey(Fingerprint("A" * 40), b"key"),
                federate=True,
                room_token="token",
            )
            self.server.rooms[ROOM] = self._made(group)
            await tx.groups.set_room(group.id, ROOM, RoomState.read(self.server.rooms[ROOM]).pin())
            self.group = await tx.groups.get(group.id)

    def _made(self, group: Group) -> list[dict[str, Any]]:
        asked = creation(group, self.server.user_id, "12")
        state = [(s["type"], "", s["content"]) for s in asked["initial_state"]]
        state.append(("m.room.create", "", asked["creation_content"]))
        state.append(("m.room.member", self.server.user_id, {"membership": "join"}))
        return [{"type": t, "state_key": k, "content": dict(c), "sender": self.server.user_id} for t, k, c in state]

    async def reader(self, user: str, *, signed: bool = True, keys: int = 5) -> HandDevice:
        """A reader of the group with one device."""
        device, identity = HandDevice(user, "PHONE"), HandIdentity(user)
        if signed:
            identity.sign(device)
        self.server.add(device, identity if signed else None, keys=keys)
        async with self.database.transaction() as tx:
            contact = await tx.contacts.add(user)
            await tx.contacts.add_matrix_id(contact.id, user)
            await tx.members.add(
                group=self.group.id,
                contact=contact.id,
                door=Door.ROOM,
                role=Role.MEMBER,
                state=MemberState.ACTIVE,
                address=None,
                matrix_id=user,
            )
        return device

    async def say(self, text: str = "hello") -> str:
        content = {"msgtype": "m.text", "body": text}
        return await self.outgoing.send(self.group, content, transaction=f"t-{text}")

    def heard_by(self, device: HandDevice) -> list[str | None]:
        """What ``device`` reads of all that was sent to the room."""
        for content in self.server.reach("m.room.encrypted", device):
            device.read(content)
        self.server.to_device = [m for m in self.server.to_device if m[0] != "m.room.encrypted"]
        opened = [device.decrypt(event["content"]) for event in self.server.events]
        return [payload["content"]["body"] if payload else None for payload in opened]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    database = Database(f"sqlite:///{tmp_path}/secir.db", b"s" * 32)
    await database.upgrade()
    await database.open()
    world = World(database)
    await world.begin()
    yield world
    await database.close()


# --- the guarded send ------------------------------------------------------------------------------------------------


async def test_only_ciphertext_leaves_whatever_the_type_and_content(world: World) -> None:
    ada = await world.reader("@ada:test")
    for kind, content in (
        ("m.room.message", HELLO),
        ("m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$1", "key": "x"}}),
        ("m.room.redaction", {"redacts": "$1", "reason": "secret"}),
        ("m.room.encrypted", {"body": "in clear"}),
        ("m.room.name", {"name": "x"}),
    ):
        await world.outgoing.send(world.group, content, kind, transaction="t")
    assert 5 == len(world.server.events)  # the double fails on anything that is not ciphertext
    assert ada is not None


async def test_a_relation_stands_outside_as_well_as_inside(world: World) -> None:
    ada = await world.reader("@ada:test")
    relation = {"rel_type": "m.thread", "event_id": "$root"}
    await world.outgoing.send(world.group, {**HELLO, "m.relates_to": relation}, transaction="t")
    assert ["hello"] == world.heard_by(ada)
    wire = world.server.events[0]["content"]
    assert relation == wire["m.relates_to"]
    inside = ada.decrypt(wire)
    assert inside is not None
    assert relation == inside["content"]["m.relates_to"]
    assert (ROOM, "m.room.message") == (inside["room_id"], inside["type"])


@pytest.mark.parametrize("missing", ["olm", "account"])
async def test_without_the_olm_machine_nothing_leaves(world: World, missing: str) -> None:
    await world.reader("@ada:test")
    setattr(world.double if missing == "olm" else world.double.olm, missing, None)
    with pytest.raises(EncryptionNotLoaded):
        await world.say()
    assert [] == world.server.calls


async def test_an_olm_machine_that_does_not_encrypt_sends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.reader("@ada:test")
    monkeypatch.setattr(world.double.olm, "group_encrypt", lambda _room, payload: payload["content"])
    with pytest.raises(EncryptionNotLoaded):
        await world.say()
    assert [] == world.server.events


async def test_a_group_without_a_room_sends_nothing(world: World) -> None:
    async with world.database.transaction() as tx:
        bare = await tx.groups.add(
            name="bare",
            address="bare@lists.test",
            description="",
            key=PublicKey(Fingerprint("B" * 40), b"key"),
            federate=True,
            room_token="other",
        )
    with pytest.raises(RoomNotReady):
        await world.outgoing.send(bare, HELLO, transaction="t")
    assert [] == world.server.calls


async def test_a_group_stopped_for_a_reason_of_others_is_not_resumed(world: World) -> None:
    async with world.database.transaction() as tx:
        await tx.groups.stop(world.group.id, "list-key-missing")
    with pytest.raises(RoomNotReady):
        await world.say()
    async with world.database.transaction() as tx:
        assert "list-key-missing" == (await tx.groups.get(world.group.id)).stopped


async def test_a_state_change_during_the_look_is_looked_at_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request = world.server.request

    async def and_then_it_changes(method: str, *segments: str, **options: Any) -> Any:
        answer = await request(method, *segments, **options)
        if segments[-1] == "state":
            world.rooms.changed(ROOM)
        return answer

    monkeypatch.setattr(world.server, "request", and_then_it_changes)
    await world.rooms.check(world.group)
    await world.rooms.check(world.group)
    assert 2 == world.server.calls.count(("rooms", ROOM, "state"))


# --- whose devices ---------------------------------------------------------------------------------------------------


async def test_the_first_identity_is_pinned_and_another_one_is_not_believed(world: World) -> None:
    await world.reader("@ada:test")
    first = (await world.devices.refresh(["@ada:test"]))["@ada:test"]
    assert (("PHONE",), (), None, "first-use") == (first.trusted, first.excluded, first.problem, first.level)

    other = HandIdentity("@ada:test")
    device = HandDevice("@ada:test", "PHONE2")
    other.sign(device)
    world.server.add(device, other)
    world.devices.changed(["@ada:test"])
    second = (await world.devices.refresh(["@ada:test"]))["@ada:test"]
    assert first.identity == second.identity
    assert ((), ("PHONE", "PHONE2")) == (second.trusted, second.excluded)
    assert isinstance(second.problem, IdentityChanged)
    assert [] == world.devices.recipients(["@ada:test"])


async def test_a_pin_outlives_the_process(world: World) -> None:
    await world.reader("@ada:test")
    first = (await world.devices.refresh(["@ada:test"]))["@ada:test"]
    for kind, shown in HandIdentity("@ada:test").objects().items():
        world.server.keys[f"{kind}s"]["@ada:test"] = shown
    later = Devices(world.session, world.database, world.clock)
    second = (await later.refresh(["@ada:test"]))["@ada:test"]
    assert first.identity == second.identity
    assert isinstance(second.problem, IdentityChanged)


async def test_an_identity_that_vanished_excludes_all_devices(world: World) -> None:
    ada = await world.reader("@ada:test")
    await world.say("before")
    del world.server.keys["master_keys"]["@ada:test"]
    world.devices.changed(["@ada:test"])
    await world.say("after")
    assert ["before", None] == world.heard_by(ada)
    assert [NoIdentity.code] == world.alarms.codes()


async def test_a_server_that_does_not_answer_changes_nothing_and_adds_nobody(world: World) -> None:
    ada = await world.reader("@ada:far")
    await world.say("one")
    ghost = HandDevice("@ada:far", "GHOST")
    world.server.add(ghost)
    world.server.away.add("@ada:far")
    world.devices.changed(["@ada:far"])
    await world.say("two")
    restarted = Devices(world.session, world.database, world.clock)
    standing = (await restarted.refresh(["@ada:far"]))["@ada:far"]
    assert (("PHONE",), (), None) == (standing.trusted, standing.excluded, standing.problem)
    assert ["one", "two"] == world.heard_by(ada)
    assert [] == world.server.reach("m.room.encrypted", ghost)


async def test_a_user_never_heard_of_whose_server_is_away_has_no_devices(world: World) -> None:
    world.server.away.add("@new:far")
    standing = (await world.devices.refresh(["@new:far"]))["@new:far"]
    assert (None, (), (), None) == (standing.identity, standing.trusted, standing.excluded, standing.problem)


async def test_devices_are_asked_for_again_when_they_changed_or_after_an_hour_and_not_before(world: World) -> None:
    await world.reader("@ada:test")

    async def queries() -> int:
        await world.devices.refresh(["@ada:test"])
        return world.server.calls.count(("keys", "query"))

    assert 1 == await queries()
    assert 1 == await queries()
    world.devices.changed(["@ada:test"])
    assert 2 == await queries()
    world.clock.forward(timedelta(minutes=61))
    assert 3 == await queries()


async def test_a_query_that_failed_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.reader("@ada:test")
    with monkeypatch.context() as patch:
        patch.setattr(world.server, "_query", _raise(HomeserverAway()))
        with pytest.raises(HomeserverAway):
            await world.devices.refresh(["@ada:test"])
    assert ("PHONE",) == (await world.devices.refresh(["@ada:test"]))["@ada:test"].trusted


async def test_users_that_nobody_asked_for_are_not_learned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.reader("@ada:test")
    eve = HandDevice("@eve:test", "EVE")
    query = world.server._query

    def generous(users: Any) -> dict[str, Any]:
        answer = query(users)
        answer["device_keys"]["@eve:test"] = {"EVE": eve.object()}
        return answer

    monkeypatch.setattr(world.server, "_query", generous)
    await world.devices.refresh(["@ada:test"])
    assert [] == list(world.double.olm.device_store.active_user_devices("@eve:test"))


@pytest.mark.parametrize(
    "answer",
    [{}, [], {"device_keys": None}, {"device_keys": {"@ada:test": None}}, {"device_keys": {"@ada:test": {"PHONE": 5}}}],
)
async def test_a_senseless_answer_trusts_nobody(world: World, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.reader("@ada:test")
    monkeypatch.setattr(world.server, "_query", lambda _: answer)
    assert () == (await world.devices.refresh(["@ada:test"]))["@ada:test"].trusted
    await world.say()
    assert [] == world.server.to_device or all(kind != "m.room.encrypted" for kind, *_ in world.server.to_device)


# --- key sharing -----------------------------------------------------------------------------------------------------


async def test_a_session_is_used_for_a_hundred_messages_and_seven_days_at_most(world: World) -> None:
    ada = await world.reader("@ada:test")
    for number in range(101):
        await world.say(str(number))
    sessions = [event["content"]["session_id"] for event in world.server.events]
    assert 1 == len(set(sessions[:100]))
    assert sessions[100] not in sessions[:100]
    outbound = world.double.olm.outbound_group_sessions[ROOM]
    outbound.creation_time -= timedelta(days=7)
    await world.say("101")
    assert 3 == len({event["content"]["session_id"] for event in world.server.events})
    assert [str(number) for number in range(102)] == world.heard_by(ada)


async def test_many_devices_are_reached_in_several_requests_and_one_failure_drops_the_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [await world.reader(f"@p{number}:test") for number in range(45)]
    take, requests = world.server._take_to_device, 0

    def second_fails(kind: str, messages: Any) -> None:
        nonlocal requests
        requests += 1
        if requests == 2:
            raise HomeserverAway
        take(kind, messages)

    monkeypatch.setattr(world.server, "_take_to_device", second_fails)
    with pytest.raises(KeyNotShared) as failed:
        await world.say("lost")
    assert {"count": 25} == failed.value.params
    assert ROOM not in world.double.olm.outbound_group_sessions
    await world.say("one")
    assert 5 == requests
    for person in people:
        for content in world.server.reach("m.room.encrypted", person):
            person.read(content)
        assert person.can_read(world.server.events[0]["content"])


async def test_a_device_whose_keys_change_while_we_wait_gets_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.reader("@ada:test")
    claim = world.server._claim

    def and_meanwhile(users: Any) -> Any:
        """Another task learns other keys for this device, to which there is a channel, after it was judged."""
        olm, eve = world.double.olm, HandDevice("@eve:test", "EVE")
        (device,) = olm.device_store.active_user_devices("@ada:test")
        (offered,) = eve.one_time_keys(1).values()
        device.keys["curve25519"] = eve.account.curve25519_key.to_base64()
        olm.create_session(offered["key"], device.curve25519)
        return claim(users)

    monkeypatch.setattr(world.server, "_claim", and_meanwhile)
    with pytest.raises(KeyNotShared):
        await world.say()
    assert [] == world.server.to_device


async def test_an_excluded_device_is_told_once_a_session_and_a_failure_there_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await world.reader("@ada:test")
    ghost = HandDevice("@ada:test", "GHOST")
    world.server.add(ghost)
    with monkeypatch.context() as patch:
        take = world.server._take_to_device
        patch.setattr(
            world.server,
            "_take_to_device",
            lambda kind, messages: _raise(HomeserverAway())() if "withheld" in kind else take(kind, messages),
        )
        await world.say("one")
    for text in ("two", "three"):
        await world.say(text)
    assert ["one", "two", "three"] == world.heard_by(ada)
    assert 1 == len(world.server.reach("m.room_key.withheld", ghost))
    assert ["device-not-verified"] == world.alarms.codes()


@pytest.mark.parametrize("key", [None, 5, "", "AAAA", "A" * 43, "not base64!"])
async def test_a_malformed_one_time_key_keeps_nobody_else_from_reading(world: World, key: object) -> None:
    ada, odd = await world.reader("@ada:test"), await world.reader("@odd:test", keys=0)
    world.server.one_time_keys["@odd:test", "PHONE"] = [{"signed_curve25519:AAAA": odd.signed_key({"key": key})}]
    await world.say("one")
    assert ["one"] == world.heard_by(ada)
    assert [] == world.server.reach("m.room.encrypted", odd)


async def test_a_one_time_key_that_the_device_did_not_sign_is_not_used(world: World) -> None:
    ada = await world.reader("@ada:test", keys=0)
    server = HandDevice("@ada:test", "PHONE")
    world.server.one_time_keys["@ada:test", "PHONE"] = [server.one_time_keys(1)]
    await world.say("one")
    assert [] == world.server.reach("m.room.encrypted", ada)
    assert [] == world.server.reach("m.room.encrypted", server)


@pytest.mark.parametrize("answer", [None, [], {}, {"one_time_keys": []}, {"one_time_keys": {"@ada:test": 5}}])
async def test_a_senseless_answer_to_a_claim_is_no_key(
    world: World, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.reader("@ada:test")
    request = world.server.request

    async def senseless(method: str, *segments: str, **options: Any) -> Any:
        return answer if segments == ("keys", "claim") else await request(method, *segments, **options)

    monkeypatch.setattr(world.server, "request", senseless)
    async with asyncio.timeout(5):
        await world.say("one")
    assert [] == world.server.to_device


def _raise(error: Exception) -> Any:
    def raiser(*_: object) -> None:
        raise error

    return raiser


# --- the bot's own identity ------------------------------------------------------------------------------------------


async def test_a_server_that_asks_for_the_password_gets_it_once(world: World) -> None:
    world.server.password = "right"
    await crosssigning.create(world.session, world.database, "right")
    assert 2 == len(world.server.uploads)
    await crosssigning.ensure(world.session, world.database)


async def test_a_wrong_password_is_refused_and_the_next_try_uploads_the_same_keys(world: World) -> None:
    world.server.password = "right"
    with pytest.raises(HomeserverRefused):
        await crosssigning.create(world.session, world.database, "wrong")
    assert 2 == len(world.server.uploads)
    await crosssigning.create(world.session, world.database, "right")
    assert 1 == len({str(upload["master_key"]["keys"]) for upload in world.server.uploads})


@pytest.mark.parametrize("step", ["device_signing", "signatures", "account_data"])
async def test_a_creation_that_was_interrupted_goes_on_with_the_same_identity(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = world.server.request

    async def breaks(method: str, *segments: str, **options: Any) -> Any:
        answer = await request(method, *segments, **options)
        if step in segments:
            raise HomeserverAway  # it was done, and we never learned
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(world.server, "request", breaks)
        with pytest.raises(HomeserverAway):
            await crosssigning.create(world.session, world.database, "")
    before = world.server.keys["master_keys"][world.server.user_id]
    recovery_key = await crosssigning.create(world.session, world.database, "")
    assert before == world.server.keys["master_keys"][world.server.user_id]
    assert 1 == len(world.server.uploads)
    await crosssigning.restore(world.session, world.database, recovery_key)


@pytest.mark.parametrize("kind", ["ed25519", "curve25519"])
async def test_keys_of_our_device_that_are_not_ours_are_never_signed(world: World, kind: str) -> None:
    shown = world.server.keys["device_keys"][world.server.user_id]["BOT"]
    shown["keys"][f"{kind}:BOT"] = HandDevice("@bot:test", "BOT").object()["keys"][f"{kind}:BOT"]
    with pytest.raises(DeviceKeysDiffer):
        await crosssigning.create(world.session, world.database, "")
    assert [] == world.server.uploads
    assert ("keys", "signatures", "upload") not in world.server.calls


async def test_signatures_that_the_server_did_not_take_are_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.server, "_take_signatures", lambda _: {"failures": {"@bot:test": {"BOT": {}}}})
    with pytest.raises(HomeserverRefused):
        await crosssigning.create(world.session, world.database, "")


async def test_a_self_signing_key_that_our_master_did_not_sign_is_not_ours(world: World) -> None:
    await crosssigning.create(world.session, world.database, "")
    world.server.keys["self_signing_keys"][world.server.user_id]["signatures"] = {}
    with pytest.raises(IdentityElsewhere):
        await crosssigning.ensure(world.session, world.database)


async def test_a_device_that_is_signed_already_is_not_signed_again(world: World) -> None:
    await crosssigning.create(world.session, world.database, "")
    before = len(world.server.calls)
    await crosssigning.ensure(world.session, world.database)
    assert [("keys", "query")] == world.server.calls[before:]
