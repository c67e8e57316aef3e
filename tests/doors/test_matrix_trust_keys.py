"""Who gets a room's key, on a real homeserver. The members are written out by hand: see tests/parts/matrix_person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.parts.matrix_bot import Bot
from tests.parts.matrix_person import HandDevice, HandIdentity, HandPerson, ghost, publish, replace_identity, to_device
from tests.parts.responder import Responder
from tests.parts.synapse import CLIENT_API, Synapse
from trust.errors import HomeserverAway, KeyNotShared, RateLimited, StrangerInRoom
from trust.records import Group, MemberState


@pytest.fixture
async def bot(synapse: Synapse, tmp_path: Path) -> AsyncIterator[Bot]:
    bot = await Bot.arrive(synapse, tmp_path / "bot")
    await bot.sign_up()
    yield bot
    await bot.close()


async def _room(bot: Bot, *people: HandPerson) -> Group:
    """A group whose ``people`` are all in its room."""
    group = await bot.group(*(person.user for person in people))
    await bot.rooms.reconcile(group)
    for person in people:
        person.join(str(group.room_id))
    bot.rooms.changed(str(group.room_id))
    return group


def _texts(person: HandPerson, group: Group, device: HandDevice | None = None) -> list[str | None]:
    """What ``device`` of ``person`` (the first one, else) makes of the room's messages; None for what it can't read."""
    if device is None:
        person.to_device()
    found: list[str | None] = []
    for event in person.messages(str(group.room_id)):
        assert event["type"] == "m.room.encrypted"
        payload = (device or person.device).decrypt(event["content"])
        found.append(None if payload is None else payload["content"]["body"])
    return found


async def test_members_read_what_the_bot_says(bot: Bot, synapse: Synapse) -> None:
    ada, ben = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "ben")
    group = await _room(bot, ada, ben)
    for text in ("one", "two", "three"):
        await bot.say(group, text)
    assert ["one", "two", "three"] == _texts(ada, group) == _texts(ben, group)
    assert [] == bot.alarms.heard


async def test_a_client_that_shuts_out_unsigned_devices_reads_the_bot(bot: Bot, synapse: Synapse) -> None:
    async with await Responder.create(synapse, "strict", strict=True) as strict:
        group = await bot.group(strict.user_id)
        await bot.rooms.reconcile(group)
        await strict.accept_invite(group.room_id)
        await bot.say(group, "one")
        assert "one" == (await strict.wait_for("one")).body


async def test_a_ghost_in_a_members_account_gets_no_key_and_one_alarm_while_the_room_goes_on(
    bot: Bot, synapse: Synapse
) -> None:
    ada, ben = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "ben")
    group = await _room(bot, ada, ben)
    await bot.say(group, "before")

    login, intruder = ghost(synapse, ada.account)
    bot.devices.changed([ada.user])  # what the next sync says
    for text in ("one", "two", "three"):
        await bot.say(group, text)

    events, _ = to_device(synapse, login, None)
    assert ["m.room_key.withheld"] == [event["type"] for event in events]
    content = events[0]["content"]
    assert ("m.unverified", "said withheld-unverified") == (content["code"], content["reason"])
    assert group.room_id == content["room_id"]
    assert not intruder.room_keys
    assert [None] * 4 == _texts(ada, group, intruder)
    assert ["before", "one", "two", "three"] == _texts(ada, group) == _texts(ben, group)
    assert [(group.name, "device-not-verified", {"user": ada.user, "device": login.device_id})] == bot.alarms.heard


async def test_a_ghost_stays_shut_out_after_a_restart(bot: Bot, synapse: Synapse) -> None:
    ada = HandPerson.arrive(synapse, "ada")
    login, _ = ghost(synapse, ada.account)
    group = await _room(bot, ada)
    await bot.restart()
    await bot.say(group, "one")
    events, _ = to_device(synapse, login, None)
    assert ["m.room_key.withheld"] == [event["type"] for event in events]
    assert ["one"] == _texts(ada, group)


async def test_a_device_that_its_owner_signs_reads_from_then_on(bot: Bot, synapse: Synapse) -> None:
    ada = HandPerson.arrive(synapse, "ada")
    group = await _room(bot, ada)
    login, second = ghost(synapse, ada.account)
    await bot.say(group, "before")

    ada.identity.sign(second)
    ada.call("POST", "keys/signatures/upload", {ada.user: {second.id: second.object()}})
    bot.devices.changed([ada.user])
    await bot.say(group, "after")

    for event in to_device(synapse, login, None)[0]:
        if event["type"] == "m.room.encrypted":
            second.read(event["content"])
    assert [None, "after"] == _texts(ada, group, second)


async def test_a_member_without_an_identity_gets_no_key_and_is_told(bot: Bot, synapse: Synapse) -> None:
    ada, account = HandPerson.arrive(synapse, "ada"), synapse.new_account("bare")
    login = synapse.log_in(account)
    bare = HandDevice(account.user_id, login.device_id)
    publish(synapse, login, bare)
    group = await bot.group(ada.user, account.user_id)
    await bot.rooms.reconcile(group)
    ada.join(str(group.room_id))
    bot.rooms.changed(str(group.room_id))
    await bot.say(group, "one")
    events, _ = to_device(synapse, login, None)
    assert ["said withheld-identity"] == [event["content"]["reason"] for event in events]
    assert [(group.name, "no-identity", {"user": account.user_id})] == bot.alarms.heard
    assert ["one"] == _texts(ada, group)


async def test_a_changed_identity_excludes_all_devices_of_that_member(bot: Bot, synapse: Synapse) -> None:
    ada, ben = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "ben")
    group = await _room(bot, ada, ben)
    await bot.say(group, "before")

    other = HandIdentity(ada.user)
    replace_identity(synapse, ada.account, other)
    other.sign(ada.device)
    ada.call("POST", "keys/signatures/upload", {ada.user: {ada.device.id: ada.device.object()}})
    bot.devices.changed([ada.user])
    await bot.say(group, "after")
    await bot.restart()
    await bot.say(group, "after a restart")

    assert ["before", None, None] == _texts(ada, group)
    assert ["before", "after", "after a restart"] == _texts(ben, group)
    assert {("identity-changed", ada.user)} == {(code, params["user"]) for _, code, params in bot.alarms.heard}


async def test_a_removed_member_gets_no_key_for_what_is_said_later(bot: Bot, synapse: Synapse) -> None:
    ada, eve = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "eve")
    group = await _room(bot, ada, eve)
    await bot.say(group, "before")
    await bot.set_state(group, eve.user, MemberState.LEFT)
    with pytest.raises(StrangerInRoom):  # still in the room: nothing is said
        await bot.say(group, "too early")
    await bot.rooms.reconcile(group)
    event_id = await bot.say(group, "after")

    assert ["before", "after"] == _texts(ada, group)
    eve.to_device()
    event = next(event for event in ada.messages(str(group.room_id)) if event["event_id"] == event_id)
    assert not eve.device.can_read(event["content"])  # even if somebody handed the event to her
    assert 1 == len(eve.device.room_keys)


@pytest.mark.parametrize("error", [HomeserverAway(), None], ids=["refused", "cancelled"])
@pytest.mark.parametrize("step", ["sendToDevice", "claim", "query"])
async def test_a_share_that_did_not_come_to_its_end_is_never_taken_for_a_shared_one(
    bot: Bot, synapse: Synapse, step: str, error: Exception | None
) -> None:
    ada = HandPerson.arrive(synapse, "ada")
    group = await _room(bot, ada)
    segments = (step,) if step == "sendToDevice" else ("keys", step)
    expected: type[BaseException] = TimeoutError if error is None else HomeserverAway
    if error is not None and step == "sendToDevice":
        expected = KeyNotShared
    for _ in range(2):
        async with bot.obstacle(*segments, error=error) as came:
            with pytest.raises(expected):
                async with asyncio.timeout(2):
                    await bot.say(group, "lost")
            assert came.is_set()
    async with asyncio.timeout(10):  # no room hangs
        await bot.say(group, "one")
    assert ["one"] == _texts(ada, group)


async def test_a_later_share_that_fails_is_noticed_as_well(bot: Bot, synapse: Synapse) -> None:
    ada = HandPerson.arrive(synapse, "ada")
    group = await _room(bot, ada)
    await bot.say(group, "one")
    ben = HandPerson.arrive(synapse, "ben")
    await bot.add(group, ben.user)
    await bot.rooms.reconcile(group)
    ben.join(str(group.room_id))
    bot.rooms.changed(str(group.room_id))
    async with bot.obstacle("sendToDevice", error=HomeserverAway()):
        with pytest.raises(KeyNotShared):
            await bot.say(group, "lost")
    await bot.say(group, "two")
    assert ["one", "two"] == _texts(ada, group)
    assert "two" in _texts(ben, group)


async def test_a_send_cancelled_on_its_way_leaves_the_room_usable(bot: Bot, synapse: Synapse) -> None:
    ada = HandPerson.arrive(synapse, "ada")
    group = await _room(bot, ada)
    async with bot.obstacle("rooms", str(group.room_id), "send"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await bot.say(group, "lost")
    async with asyncio.timeout(10):
        await asyncio.gather(*(bot.say(group, str(number)) for number in range(5)))
    assert ["0", "1", "2", "3", "4"] == _texts(ada, group)


async def test_a_device_without_one_time_keys_waits_while_the_others_read(bot: Bot, synapse: Synapse) -> None:
    ada, dry = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "dry", keys=0)
    group = await _room(bot, ada, dry)
    await bot.say(group, "one")
    dry.call("POST", "keys/upload", {"one_time_keys": dry.device.one_time_keys(1)})
    await bot.say(group, "two")
    assert ["one", "two"] == _texts(ada, group)
    assert [None, "two"] == _texts(dry, group)


async def test_a_device_with_malformed_keys_harms_nobody_but_itself(bot: Bot, synapse: Synapse) -> None:
    ada, odd = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "odd", keys=0)
    group = await _room(bot, ada, odd)
    # A one-time key that is no point on the curve, rightly signed by the device: all zero, and too short.
    for key_id, key in (("AAAAZZ", "A" * 43), ("AAAAZY", "AAAA")):
        signed = odd.device.signed_key({"key": key})
        odd.call("POST", "keys/upload", {"one_time_keys": {f"signed_curve25519:{key_id}": signed}})
        async with asyncio.timeout(10):
            await bot.say(group, key_id)
    # And devices whose identity keys are none.
    for number, keys in enumerate(({"curve25519": "AAAA"}, {"ed25519": "!"}, {"ed25519": "A" * 43})):
        login = synapse.log_in(odd.account, device_id=f"ODD{number}")
        broken = HandDevice(odd.user, login.device_id)
        synapse.call(
            "POST", f"{CLIENT_API}/keys/upload", {"device_keys": _with_keys(broken, keys)}, token=login.access_token
        )
        bot.devices.changed([odd.user])
        async with asyncio.timeout(10):
            await bot.say(group, str(number))
    assert ["AAAAZZ", "AAAAZY", "0", "1", "2"] == _texts(ada, group)


def _with_keys(device: HandDevice, keys: dict[str, str]) -> dict[str, Any]:
    shown = device.object()
    shown["keys"] = {**shown["keys"], **{f"{kind}:{device.id}": text for kind, text in keys.items()}}
    return shown


@pytest.mark.deadline(180)
async def test_the_servers_default_rate_limit_is_told_with_its_time(tmp_path: Path) -> None:
    with Synapse(tmp_path / "synapse", default_limits=True) as server:
        bot = await Bot.arrive(server, tmp_path / "bot")
        await bot.sign_up()
        ada = HandPerson.arrive(server, "ada")
        group = await _room(bot, ada)
        waits: list[float] = []
        sent = [await _patiently(bot, group, str(number), waits) for number in range(12)]
        assert waits
        assert all(0 < wait < 10 for wait in waits)
        assert 12 == len(set(sent))
        assert [str(number) for number in range(12)] == _texts(ada, group)
        await bot.close()


async def _patiently(bot: Bot, group: Group, text: str, waits: list[float]) -> str:
    """Send ``text``, waiting as long as the server says; the seconds are added to ``waits``."""
    while True:
        try:
            return await bot.outgoing.send(group, {"msgtype": "m.text", "body": text}, transaction=f"number-{text}")
        except RateLimited as limited:
            waits.append(limited.retry_after)
        await asyncio.sleep(waits[-1])
