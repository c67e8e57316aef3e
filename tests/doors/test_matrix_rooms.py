"""The groups' rooms on a real homeserver: how they are made, watched, and kept to the roll."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bridges.matrix.roomstate import MARK
from tests.parts.matrix_bot import Bot
from tests.parts.matrix_person import HandPerson
from tests.parts.synapse import MatrixRefused, Synapse
from trust.errors import HomeserverRefused, RoomDrifted, RoomNotReady, StrangerInRoom
from trust.records import Group, MemberState


@pytest.fixture
async def bot(synapse: Synapse, tmp_path: Path) -> AsyncIterator[Bot]:
    bot = await Bot.arrive(synapse, tmp_path / "bot")
    await bot.sign_up()
    yield bot
    await bot.close()


async def _state(bot: Bot, group: Group) -> dict[str, Any]:
    events = await bot.session.api.request("GET", "rooms", str(group.room_id), "state")
    return {event["type"]: event["content"] for event in events if event["state_key"] == ""}


async def _members(bot: Bot, group: Group) -> dict[str, str]:
    events = await bot.session.api.request("GET", "rooms", str(group.room_id), "state")
    return {e["state_key"]: e["content"]["membership"] for e in events if e["type"] == "m.room.member"}


async def _filled(bot: Bot, *people: HandPerson) -> Group:
    group = await bot.group(*(person.user for person in people))
    await bot.rooms.reconcile(group)
    for person in people:
        person.join(str(group.room_id))
    bot.rooms.changed(str(group.room_id))
    return group


# --- making ----------------------------------------------------------------------------------------------------------


async def _check_made(bot: Bot, group: Group, *, federate: bool) -> dict[str, Any]:
    state = await _state(bot, group)
    assert "m.megolm.v1.aes-sha2" == state["m.room.encryption"]["algorithm"]
    assert 100 == state["m.room.encryption"]["rotation_period_msgs"]
    assert {"history_visibility": "joined"} == state["m.room.history_visibility"]
    assert {"join_rule": "invite"} == state["m.room.join_rules"]
    assert {"guest_access": "forbidden"} == state["m.room.guest_access"]
    assert {"name": group.name} == state["m.room.name"]
    assert federate is state["m.room.create"]["m.federate"]
    levels = state["m.room.power_levels"]
    for act in ("invite", "kick", "ban", "redact", "state_default"):
        assert 100 == levels[act]
    assert (0, 0) == (levels["events_default"], levels["users_default"])
    assert group.room_pin is not None
    assert {kind: state[kind] for kind in group.room_pin} == group.room_pin
    return state


@pytest.mark.parametrize("federate", [True, False])
async def test_a_room_is_made_encrypted_closed_and_ruled_by_the_bot_alone(bot: Bot, federate: bool) -> None:
    group = await bot.group(federate=federate)
    state = await _check_made(bot, group, federate=federate)
    assert "12" == state["m.room.create"]["room_version"]  # this Synapse's default
    assert {} == state["m.room.power_levels"].get("users", {})
    assert {bot.account.user_id: "join"} == await _members(bot, group)


@pytest.mark.parametrize("version", ["6", "10", "11"])
async def test_older_room_versions_name_the_bot_and_put_the_tombstone_out_of_reach(
    tmp_path: Path, version: str
) -> None:
    with Synapse(tmp_path / "synapse", settings={"default_room_version": version}) as server:
        bot = await Bot.arrive(server, tmp_path / "bot")
        await bot.sign_up()
        group = await bot.group(federate=True)
        state = await _check_made(bot, group, federate=True)
        assert version == state["m.room.create"]["room_version"]
        assert {bot.account.user_id: 100} == state["m.room.power_levels"]["users"]
        assert {"m.room.tombstone": 150} == state["m.room.power_levels"]["events"]
        ada = HandPerson.arrive(server, "ada")
        await bot.add(group, ada.user)
        await bot.rooms.reconcile(group)
        ada.join(str(group.room_id))
        await bot.say(group, "one")
        await bot.close()


async def test_a_member_can_change_nothing_in_the_room(bot: Bot, synapse: Synapse) -> None:
    ada, eve = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "eve")
    group = await _filled(bot, ada)
    room = f"rooms/{quote(str(group.room_id), safe='')}"
    for kind in ("m.room.name", "m.room.topic", "m.room.power_levels", "m.room.tombstone", "m.room.encryption"):
        with pytest.raises(MatrixRefused):
            ada.call("PUT", f"{room}/state/{kind}", {"name": "x"})
    for action in ("invite", "kick", "ban"):
        with pytest.raises(MatrixRefused):
            ada.call("POST", f"{room}/{action}", {"user_id": eve.user})


async def test_a_room_made_just_before_a_crash_is_found_again_and_not_made_twice(bot: Bot) -> None:
    group = await bot.group(room=False)
    room_id = await bot.rooms._create(group)  # and here the process dies
    await bot.restart()
    found = await bot.rooms.ensure(group)
    assert room_id == found.room_id
    assert [room_id] == (await bot.session.api.request("GET", "joined_rooms"))["joined_rooms"]
    assert found == await bot.rooms.ensure(group)


async def test_a_room_that_somebody_else_marked_as_ours_is_not_taken(bot: Bot, synapse: Synapse) -> None:
    eve = HandPerson.arrive(synapse, "eve")
    group = await bot.group(room=False)
    body = {"creation_content": {MARK: group.room_token}, "invite": [bot.account.user_id], "name": group.name}
    trap = eve.call("POST", "createRoom", body)["room_id"]
    await bot.session.api.request("POST", "join", trap, body={})
    made = await bot.rooms.ensure(group)
    assert trap != made.room_id
    await bot.rooms.check(made)


async def test_a_room_that_the_server_made_otherwise_is_not_used(bot: Bot) -> None:
    group = await bot.group(room=False)
    room_id = await bot.rooms._create(group)
    shared = {"history_visibility": "shared"}
    await bot.session.api.request("PUT", "rooms", room_id, "state", "m.room.history_visibility", "", body=shared)
    with pytest.raises(RoomDrifted) as refused:
        await bot.rooms.ensure(group)
    assert {"group": group.name, "types": "m.room.history_visibility"} == refused.value.params
    with pytest.raises(RoomNotReady):
        await bot.say(group, "lost")


# --- watching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("m.room.history_visibility", {"history_visibility": "shared"}),
        ("m.room.history_visibility", {"history_visibility": "world_readable"}),
        ("m.room.join_rules", {"join_rule": "public"}),
        ("m.room.join_rules", {"join_rule": "restricted", "allow": []}),
        ("m.room.guest_access", {"guest_access": "can_join"}),
        ("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 100000}),
        ("m.room.encryption", {}),
        ("m.room.power_levels", {"users_default": 100}),
        ("m.room.name", {"name": "another group"}),
    ],
)
async def test_drift_stops_sending_tells_once_and_ends_when_all_is_as_agreed(
    bot: Bot, synapse: Synapse, kind: str, content: dict[str, Any]
) -> None:
    ada = HandPerson.arrive(synapse, "ada")
    group = await _filled(bot, ada)
    await bot.say(group, "before")
    await bot.put_state(group, kind, content)
    for _ in range(2):
        with pytest.raises(RoomDrifted) as drifted:
            await bot.say(group, "lost")
        assert {"group": group.name, "types": kind} == drifted.value.params
    assert "room-drifted" == await bot.stopped(group)
    assert ["room-drifted"] == bot.alarms.codes()
    sent = [event["type"] for event in ada.messages(str(group.room_id))]
    assert ["m.room.encrypted"] == sent

    assert group.room_pin is not None
    await bot.put_state(group, kind, group.room_pin.get(kind, {}))  # type: ignore[arg-type]
    await bot.say(group, "after")
    assert await bot.stopped(group) is None
    assert ["room-drifted"] == bot.alarms.codes()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("m.room.tombstone", {"body": "moved", "replacement_room": "!other:localhost"}),
        ("m.room.server_acl", {"allow": ["localhost"]}),
    ],
)
async def test_what_can_not_be_taken_back_stops_sending_for_good(bot: Bot, kind: str, content: dict[str, Any]) -> None:
    group = await bot.group()
    await bot.put_state(group, kind, content)
    with pytest.raises(RoomDrifted):
        await bot.say(group, "lost")
    assert ["room-drifted"] == bot.alarms.codes()
    async with bot.database.transaction() as tx:
        assert group.room_id == (await tx.groups.get(group.id)).room_id


async def test_what_decides_nothing_may_change(bot: Bot) -> None:
    group = await bot.group()
    await bot.put_state(group, "m.room.topic", {"topic": "rules"})
    await bot.put_state(group, "m.room.avatar", {"url": "mxc://localhost/a"})
    await bot.rooms.check(group)


async def test_a_room_that_the_bot_is_no_longer_in_is_drift(bot: Bot) -> None:
    group = await bot.group()
    await bot.session.api.request("POST", "rooms", str(group.room_id), "leave", body={})
    bot.rooms.changed(str(group.room_id))
    with pytest.raises(RoomDrifted) as drifted:
        await bot.rooms.check(group)
    assert "m.room.member" in str(drifted.value.params["types"])


async def test_the_state_is_asked_for_once_while_nothing_changes_and_again_after_a_while(bot: Bot) -> None:
    group = await bot.group()
    await bot.rooms.check(group)
    async with bot.obstacle("rooms", error=AssertionError("asked again")) as asked:
        await bot.rooms.check(group)
        bot.clock.forward(timedelta(minutes=11))
        with pytest.raises(AssertionError):
            await bot.rooms.check(group)
    assert asked.is_set()


async def test_a_stranger_who_joined_stops_sending_until_the_room_is_clean(bot: Bot, synapse: Synapse) -> None:
    ada, eve = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "eve")
    group = await _filled(bot, ada)
    await bot.session.api.request("POST", "rooms", str(group.room_id), "invite", body={"user_id": eve.user})
    eve.join(str(group.room_id))
    bot.rooms.changed(str(group.room_id))
    for _ in range(2):
        with pytest.raises(StrangerInRoom) as stranger:
            await bot.say(group, "lost")
    assert {"group": group.name, "users": eve.user} == stranger.value.params
    assert ["stranger-in-room"] == bot.alarms.codes()
    assert "stranger-in-room" == await bot.stopped(group)

    await bot.rooms.reconcile(group)
    assert {bot.account.user_id: "join", ada.user: "join", eve.user: "leave"} == await _members(bot, group)
    await bot.say(group, "after")
    assert await bot.stopped(group) is None
    assert ["stranger-in-room"] == bot.alarms.codes()
    assert not [event for event in eve.to_device() if event["type"] == "m.room.encrypted"]


# --- keeping to the roll ---------------------------------------------------------------------------------------------


async def test_missing_readers_are_invited_once(bot: Bot, synapse: Synapse) -> None:
    ada, ben = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "ben")
    group = await bot.group(ada.user, ben.user)
    await bot.rooms.reconcile(group)
    ada.join(str(group.room_id))
    for _ in range(3):
        await bot.rooms.reconcile(group)
    assert {bot.account.user_id: "join", ada.user: "join", ben.user: "invite"} == await _members(bot, group)
    changes = [event for event in synapse.stored_events(str(group.room_id)) if event["type"] == "m.room.member"]
    assert 4 == len(changes)  # the bot's joining, two invitations, one joining
    await bot.say(group, "one")  # one who is invited and has not come yet hinders nobody


async def test_those_who_may_not_read_any_more_are_removed_with_a_reason(bot: Bot, synapse: Synapse) -> None:
    ada, ben, idle = (HandPerson.arrive(synapse, name) for name in ("ada", "ben", "idle"))
    group = await _filled(bot, ada, ben, idle)
    await bot.set_state(group, ben.user, MemberState.LEFT)
    await bot.set_state(group, idle.user, MemberState.IDLE)
    await bot.rooms.reconcile(group)
    members = await _members(bot, group)
    assert {bot.account.user_id: "join", ada.user: "join", ben.user: "leave", idle.user: "leave"} == members
    events = synapse.stored_events(str(group.room_id))
    reasons = {e["state_key"]: e["content"].get("reason") for e in events if e["type"] == "m.room.member"}
    assert ("said room-removed-member",) * 2 == (reasons[ben.user], reasons[idle.user])
    assert [] == bot.alarms.codes()
    await bot.set_state(group, idle.user, MemberState.ACTIVE)
    await bot.rooms.reconcile(group)
    assert "invite" == (await _members(bot, group))[idle.user]


async def test_a_removal_that_the_server_refuses_stops_the_room_and_is_an_alarm(bot: Bot, synapse: Synapse) -> None:
    ada, ben = HandPerson.arrive(synapse, "ada"), HandPerson.arrive(synapse, "ben")
    group = await _filled(bot, ada)
    await bot.set_state(group, ada.user, MemberState.BLOCKED)
    await bot.add(group, ben.user)
    refused = HomeserverRefused(errcode="M_FORBIDDEN", status=403)
    async with bot.obstacle("rooms", str(group.room_id), "kick", error=refused):
        await bot.rooms.reconcile(group)
    assert ["stranger-in-room"] == bot.alarms.codes()
    assert "stranger-in-room" == await bot.stopped(group)
    assert "invite" == (await _members(bot, group))[ben.user]


async def test_an_invited_stranger_is_uninvited(bot: Bot, synapse: Synapse) -> None:
    eve = HandPerson.arrive(synapse, "eve")
    group = await bot.group()
    await bot.session.api.request("POST", "rooms", str(group.room_id), "invite", body={"user_id": eve.user})
    await bot.rooms.reconcile(group)
    assert "leave" == (await _members(bot, group))[eve.user]


async def test_one_who_left_by_their_own_hand_is_asked_again_at_most_once_a_day(bot: Bot, synapse: Synapse) -> None:
    ada = HandPerson.arrive(synapse, "ada")
    group = await _filled(bot, ada)
    room_id, found = str(group.room_id), []
    for _ in range(3):
        ada.leave(room_id)
        await bot.rooms.reconcile(group)
        found.append((await _members(bot, group))[ada.user])
        bot.clock.forward(timedelta(hours=13))
    assert ["invite", "leave", "invite"] == found


async def test_one_persons_trouble_does_not_keep_the_others_out(bot: Bot, synapse: Synapse) -> None:
    ada = HandPerson.arrive(synapse, "zoe")
    group = await bot.group("@nobody:elsewhere.example", ada.user)  # this room does not federate
    await bot.rooms.reconcile(group)
    assert {bot.account.user_id: "join", ada.user: "invite"} == await _members(bot, group)
