"""The login, our device's keys and the sync, on a real Synapse."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from structlog.typing import EventDict

from bridges.matrix.session import LOGIN, MatrixSettings, Session
from storage.database import Database
from tests.parts.matrix_bot import Bot
from tests.parts.matrix_ear import Ear, room_with
from tests.parts.matrix_person import HandDevice
from tests.parts.matrix_writer import garbage
from tests.parts.responder import Responder
from tests.parts.synapse import CLIENT_API, Login, MatrixRefused, Synapse
from trust.errors import (
    ConfigurationWrong,
    DeviceKeysDiffer,
    HomeserverAway,
    HomeserverRefused,
    IdentityMissing,
    LoginLost,
    StoreAway,
)

People = Callable[..., Awaitable[Responder]]


@pytest.fixture
async def bot(synapse: Synapse, tmp_path: Path) -> AsyncIterator[Bot]:
    arrived = await Bot.arrive(synapse, tmp_path / "bot")
    await arrived.sign_up()
    yield arrived
    await arrived.close()


@pytest.fixture
async def ada(responder: People) -> Responder:
    return await responder("ada")


def server_keys(server: Synapse, login: Login) -> dict[str, Any]:
    """What the server shows of the login's own device."""
    body: dict[str, Any] = {"device_keys": {login.user_id: []}}
    answer = server.call("POST", f"{CLIENT_API}/keys/query", body, token=login.access_token)
    return dict(answer["device_keys"].get(login.user_id, {}).get(login.device_id, {}))


def claim(server: Synapse, token: str, user: str, device: str, times: int) -> list[dict[str, Any]]:
    """Claim one-time keys of a device; the keys as they were given away."""
    found = []
    for _ in range(times):
        body = {"one_time_keys": {user: {device: "signed_curve25519"}}}
        answer = server.call("POST", f"{CLIENT_API}/keys/claim", body, token=token)
        found += [dict(key) for key in answer["one_time_keys"].get(user, {}).get(device, {}).values()]
    return found


async def login_of(bot: Bot) -> Login:
    async with bot.database.transaction() as tx:
        kept = json.loads(await tx.secrets.get(LOGIN) or b"{}")
    return Login(kept["user_id"], kept["device_id"], kept["access_token"])


# --- the login -------------------------------------------------------------------------------------------------------


async def test_a_login_is_kept_and_resumed_with_the_same_device_and_keys(bot: Bot) -> None:
    before = (bot.session.device_id, bot.session.olm.account.identity_keys)
    await bot.restart()
    await bot.session.publish_keys()
    assert (bot.session.device_id, bot.session.olm.account.identity_keys) == before


async def test_the_database_file_holds_no_access_token(bot: Bot) -> None:
    token = (await login_of(bot)).access_token
    await bot.database.close()
    files = [path.read_bytes() for path in bot.settings.store_dir.parent.rglob("*") if path.is_file()]
    assert (True, False) == (len(files) >= 2, any(token.encode() in data for data in files))


async def test_without_a_login_there_is_nothing_to_resume(synapse: Synapse, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/secir.db", b"s" * 32)
    await database.upgrade()
    settings = MatrixSettings(synapse.url, "@nobody:localhost", tmp_path / "store", "0" * 64)
    with pytest.raises(IdentityMissing):
        await Session.resume(settings, database)
    await database.close()


async def test_a_wrong_password_is_refused_and_nothing_is_kept(synapse: Synapse, tmp_path: Path) -> None:
    account = synapse.new_account("bot")
    database = Database(f"sqlite:///{tmp_path}/secir.db", b"s" * 32)
    await database.upgrade()
    settings = MatrixSettings(synapse.url, account.user_id, tmp_path / "store", "0" * 64)
    with pytest.raises(HomeserverRefused) as raised:
        await Session.log_in(settings, database, "wrong")
    assert ({"errcode": "M_FORBIDDEN", "status": 403}, False) == (raised.value.params, settings.store_dir.exists())
    await database.close()


@pytest.mark.parametrize("key", ["", "DEFAULT_KEY", "0" * 63, "x" * 64])
async def test_the_key_store_needs_a_real_key(synapse: Synapse, tmp_path: Path, key: str) -> None:
    database = Database(f"sqlite:///{tmp_path}/secir.db", b"s" * 32)
    settings = MatrixSettings(synapse.url, "@bot:localhost", tmp_path / "store", key)
    with pytest.raises(ConfigurationWrong):
        await Session.log_in(settings, database, "password")


async def test_a_dead_token_ends_the_sync_at_once(bot: Bot, synapse: Synapse) -> None:
    token = (await login_of(bot)).access_token
    synapse.call("POST", f"{CLIENT_API}/logout", {}, token=token)
    with pytest.raises(LoginLost):
        await asyncio.wait_for(Ear(bot).sync.run(), 10)


# --- our device's keys -----------------------------------------------------------------------------------------------


async def test_keys_that_the_server_forgot_are_published_again(bot: Bot, synapse: Synapse) -> None:
    old = await login_of(bot)
    synapse.call("POST", f"{CLIENT_API}/logout", {}, token=old.access_token)
    new = synapse.log_in(bot.account, device_id=old.device_id)
    forgotten = server_keys(synapse, new)
    async with bot.database.transaction() as tx:
        fields = {"user_id": new.user_id, "device_id": new.device_id, "access_token": new.access_token}
        await tx.secrets.put(LOGIN, json.dumps(fields).encode())
    await bot.restart()
    await bot.session.publish_keys()
    ours = bot.session.olm.account.identity_keys["ed25519"]
    assert ({}, ours) == (forgotten, server_keys(synapse, new)["keys"][f"ed25519:{new.device_id}"])


async def test_keys_of_another_under_our_device_are_never_overwritten(bot: Bot, synapse: Synapse) -> None:
    login = await login_of(bot)
    synapse.call("POST", f"{CLIENT_API}/logout", {}, token=login.access_token)
    new = synapse.log_in(bot.account, device_id=login.device_id)
    impostor = HandDevice(new.user_id, new.device_id)
    synapse.call("POST", f"{CLIENT_API}/keys/upload", {"device_keys": impostor.object()}, token=new.access_token)
    async with bot.database.transaction() as tx:
        fields = {"user_id": new.user_id, "device_id": new.device_id, "access_token": new.access_token}
        await tx.secrets.put(LOGIN, json.dumps(fields).encode())
    await bot.restart()
    with pytest.raises(DeviceKeysDiffer):
        await bot.session.publish_keys()
    assert impostor.object()["keys"] == server_keys(synapse, new)["keys"]


async def test_after_fifty_claims_the_fallback_key_is_given_and_a_sync_brings_new_keys(
    bot: Bot, ada: Responder, synapse: Synapse
) -> None:
    await Ear(bot).sync.round()
    user, device = bot.session.user_id, bot.session.device_id
    given = await asyncio.to_thread(claim, synapse, ada.access_token, user, device, 52)
    await Ear(bot).sync.round()
    after = await asyncio.to_thread(claim, synapse, ada.access_token, user, device, 50)
    once = {key["key"] for key in given[:50]}
    fallback = {key["key"] for key in given[50:]}
    again = {key["key"] for key in after if not key.get("fallback")}
    assert (50, 1, True, 50, set()) == (
        len(once),
        len(fallback),
        all(key.get("fallback") for key in given[50:]),
        len(again),
        (once | fallback) & again,
    )


async def test_a_used_fallback_key_is_replaced(bot: Bot, ada: Responder, synapse: Synapse) -> None:
    user, device = bot.session.user_id, bot.session.device_id
    first = (await asyncio.to_thread(claim, synapse, ada.access_token, user, device, 51))[-1]
    await Ear(bot).sync.round()
    second = (await asyncio.to_thread(claim, synapse, ada.access_token, user, device, 51))[-1]
    assert (True, True, False) == (first["fallback"], second["fallback"], first["key"] == second["key"])


async def test_a_newcomer_reaches_the_bot_though_all_its_keys_were_claimed_while_it_was_down(
    bot: Bot, ada: Responder, synapse: Synapse
) -> None:
    group = await room_with(bot, ada)
    user, device = bot.session.user_id, bot.session.device_id
    await asyncio.to_thread(claim, synapse, ada.access_token, user, device, 50)
    event_id = await ada.say(str(group.room_id), "hello")
    await bot.restart()
    (message,) = await Ear(bot).hear(group)
    assert message is not None
    assert (event_id, "hello") == (message.event_id, message.text)


async def test_keys_made_before_a_backup_was_restored_are_skipped(bot: Bot, synapse: Synapse) -> None:
    (store,) = bot.settings.store_dir.iterdir()
    backup = store.with_name("backup")
    await bot.session.close()
    shutil.copy(store, backup)
    await bot.restart()
    bot.session.olm.observe({"signed_curve25519": 0}, None)
    await bot.session.upload_keys()
    await bot.session.close()
    shutil.move(backup, store)
    await bot.restart()
    bot.session.olm.observe({"signed_curve25519": 0}, None)
    await bot.session.upload_keys()
    login = await login_of(bot)
    answer = synapse.call("POST", f"{CLIENT_API}/keys/upload", {}, token=login.access_token)
    assert 150 == answer["one_time_key_counts"]["signed_curve25519"]


# --- the sync: what is taken in --------------------------------------------------------------------------------------


async def clear(person: Responder, room_id: str, text: str) -> str:
    """A message in clear: quick to send, and kept like any other until it is read."""
    return await person.send_in_clear(room_id, "m.room.message", {"msgtype": "m.text", "body": text})


async def test_nothing_from_before_the_first_sync_is_handled(bot: Bot, ada: Responder) -> None:
    group = await bot.group(ada.user_id)
    await bot.rooms.reconcile(group)
    await ada.accept_invite(group.room_id)
    await clear(ada, str(group.room_id), "old")
    ear = Ear(bot)
    await ear.sync.round()
    event_id = await clear(ada, str(group.room_id), "new")
    assert [event_id] == [item.event_id for item in await ear.take(1)]


async def test_twenty_five_messages_written_while_the_bot_was_down_arrive_in_order(bot: Bot, ada: Responder) -> None:
    group = await room_with(bot, ada)
    await bot.session.close()
    texts = [f"message {number}" for number in range(25)]
    for text in texts:
        await ada.say(str(group.room_id), text)
    await bot.restart()
    heard = await Ear(bot).hear(group, 25)
    assert texts == [message.text for message in heard if message]


async def test_more_than_a_timeline_holds_arrives_in_order_after_a_restart(bot: Bot, ada: Responder) -> None:
    group = await room_with(bot, ada)
    sent = [await clear(ada, str(group.room_id), str(number)) for number in range(130)]
    await bot.restart()
    assert sent == [item.event_id for item in await Ear(bot).take(130)]


async def test_a_gap_is_filled_as_far_back_as_the_position_and_no_further(bot: Bot, ada: Responder) -> None:
    group, ear = await bot.group(ada.user_id), Ear(bot)
    await bot.rooms.reconcile(group)
    await ada.accept_invite(group.room_id)
    await clear(ada, str(group.room_id), "from before the first sync")
    await ear.sync.round()
    sent = [await clear(ada, str(group.room_id), str(number)) for number in range(105)]
    assert sent == [item.event_id for item in await ear.take(105)]


async def test_a_gap_that_can_not_be_filled_leaves_the_position_where_it_was(bot: Bot, ada: Responder) -> None:
    group = await room_with(bot, ada)
    sent = [await clear(ada, str(group.room_id), str(number)) for number in range(110)]
    ear = Ear(bot)
    async with bot.obstacle("rooms", str(group.room_id), "messages", error=HomeserverAway()):
        with pytest.raises(HomeserverAway):
            await ear.sync.round()
    assert (None, sent) == (await ear.claim(), [item.event_id for item in await ear.take(110)])


async def test_a_crash_before_the_commit_loses_no_message_and_no_room_key(
    bot: Bot, ada: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await room_with(bot, ada)
    await ada.say(str(group.room_id), "hello")

    async def away(*_: object) -> int:
        raise StoreAway

    with monkeypatch.context() as patch:
        patch.setattr("storage.events.Events.take_in", away)
        with pytest.raises(StoreAway):
            await Ear(bot).sync.round()
    await bot.restart()
    (message,) = await Ear(bot).hear(group)
    assert message is not None
    assert "hello" == message.text


async def test_a_failed_commit_wakes_the_waiting_events_when_it_succeeds(
    bot: Bot, ada: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    await ada.say(str(group.room_id), "hello")

    async def away(*_: object) -> int:
        raise StoreAway

    with monkeypatch.context() as patch:
        patch.setattr("storage.events.Events.take_in", away)
        with pytest.raises(StoreAway):
            await ear.sync.round()
    nothing = list(ear.keys)
    await ear.take(1)
    assert ([], 1) == (nothing, len(ear.keys))


async def test_an_answer_that_comes_twice_is_taken_in_once(bot: Bot, ada: Responder) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    async with bot.database.transaction() as tx:
        before = await tx.events.position(bot.session.user_id)
    event_id = await clear(ada, str(group.room_id), "once")
    taken = await ear.take(1)
    async with bot.database.transaction() as tx:
        await tx.events.take_in(bot.session.user_id, str(before), [])
    await ear.sync.round()
    assert ([event_id], None) == ([item.event_id for item in taken], await ear.claim())


async def test_what_the_bot_itself_says_never_comes_back(bot: Bot, ada: Responder) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    await bot.say(group, "from the bot")
    event_id = await clear(ada, str(group.room_id), "from Ada")
    assert [event_id] == [item.event_id for item in await ear.take(1)]


async def test_reactions_redactions_and_other_rooms_are_not_kept(bot: Bot, ada: Responder, responder: People) -> None:
    eve = await responder("eve")
    group, ear = await room_with(bot, ada), Ear(bot)
    other = await eve.create_room(bot.session.user_id)
    await bot.session.api.request("POST", "join", other, body={})
    await clear(eve, other, "elsewhere")
    gone = await clear(ada, str(group.room_id), "taken back")
    await ada.redact(str(group.room_id), gone)
    relation = {"m.relates_to": {"rel_type": "m.annotation", "event_id": gone, "key": "+1"}}
    await ada.send_in_clear(str(group.room_id), "m.reaction", relation)
    event_id = await clear(ada, str(group.room_id), "kept")
    assert [event_id] == [item.event_id for item in await ear.take(1)]


async def test_an_invitation_is_not_followed(bot: Bot, responder: People) -> None:
    ear, eve = Ear(bot), await responder("eve")
    await ear.sync.round()
    room_id = await eve.create_room(bot.session.user_id)
    await ear.sync.round()
    joined = await eve.call("GET", f"/rooms/{quote(room_id, safe='')}/joined_members")
    assert {eve.user_id} == set(joined["joined"])


async def test_a_change_of_state_and_of_devices_is_told(bot: Bot, ada: Responder) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    await ear.sync.round()
    ear.rooms.clear()
    ear.users.clear()
    await bot.put_state(group, "m.room.topic", {"topic": "changed"})
    second = await ada.second_device()
    await ear.sync.round()
    await second.close()
    assert ([group.room_id], True) == (ear.rooms, ada.user_id in ear.users)


async def test_being_removed_from_the_room_is_told(bot: Bot, ada: Responder) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    await ear.sync.round()
    ear.rooms.clear()
    await bot.session.api.request("POST", "rooms", str(group.room_id), "leave", body={})
    await ear.sync.round()
    assert [group.room_id] == ear.rooms


async def test_listeners_hear_of_what_is_committed_already(bot: Bot, ada: Responder) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    await clear(ada, str(group.room_id), "hello")
    database = sqlite3.connect(str(bot.settings.store_dir).replace("-store", "-secir.db"))
    seen: list[int] = []
    ear.sync._tell = _telling(ear, lambda: seen.append(database.execute("SELECT count(*) FROM events").fetchone()[0]))
    async with asyncio.timeout(20):
        while not seen:
            await ear.sync.round()
    database.close()
    assert [1] == seen


def _telling(ear: Ear, on_events: Callable[[], None]) -> Any:
    told = ear.sync._tell
    return type(told)(on_events, told.on_room_key, told.on_state, told.on_devices)


# --- the sync: hostile events ----------------------------------------------------------------------------------------


POISON: Final[list[tuple[str, Any]]] = [
    ("m.room.encrypted", {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": "x", "ciphertext": None}),
    ("m.room.encrypted", {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": garbage(32), "ciphertext": {}}),
    ("m.room.encrypted", {"algorithm": 5}),
    ("m.room.encrypted", {}),
    ("m.room_key", {"algorithm": "m.megolm.v1.aes-sha2", "session_key": garbage()}),
    ("m.forwarded_room_key", {"session_key": 5}),
    ("m.room_key_request", {"action": "request", "body": None}),
    ("m.room_key.withheld", {"code": {}, "room_id": []}),
    ("m.key.verification.start", {"method": "m.sas.v1"}),
    ("m.secret.request", {"name": "m.cross_signing.master"}),
]


async def test_a_stranger_who_shares_no_room_can_not_stop_the_sync(
    bot: Bot, ada: Responder, responder: People, synapse: Synapse
) -> None:
    group, ear, eve = await room_with(bot, ada), Ear(bot), await responder("eve")
    ours = bot.session.olm.account.identity_keys["curve25519"]
    bodies = [{"type": kind, "body": text} for kind in (0, 1) for text in (garbage(), "ä", "")]
    olm = {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": eve.curve25519}
    poison = [*POISON, *[("m.room.encrypted", {**olm, "ciphertext": {ours: body}}) for body in bodies]]
    for number, (kind, content) in enumerate(poison):
        messages = {"messages": {bot.session.user_id: {bot.session.device_id: content}}}
        await eve.call("PUT", f"/sendToDevice/{kind}/poison{number}", messages)
    await ada.say(str(group.room_id), "still here")
    (message,) = await ear.hear(group)
    assert message is not None
    assert "still here" == message.text


async def test_the_deepest_events_that_synapse_takes_do_not_stop_the_sync(
    bot: Bot, ada: Responder, responder: People
) -> None:
    group, ear, eve = await room_with(bot, ada), Ear(bot), await responder("eve")
    deepest = await _deepest_to_device(eve, bot)
    content = {"msgtype": "m.text", "body": "x", "deep": _nested(95), "nul": "\x00", "number": 2**53 - 1}
    await ada.send_in_clear(str(group.room_id), "m.room.message", content)
    event_id = await clear(ada, str(group.room_id), "after")
    assert (True, event_id) == (deepest > 500, (await ear.take(2))[-1].event_id)


def _nested(levels: int) -> Any:
    deep: Any = "bottom"
    for _ in range(levels):
        deep = [deep]
    return deep


async def _deepest_to_device(eve: Responder, bot: Bot) -> int:
    """Send the bot's device nested contents, the deepest that the server takes last; how deep that was."""
    low, high = 100, 2000
    while high - low > 1:
        middle = (low + high) // 2
        messages = {"messages": {bot.session.user_id: {bot.session.device_id: {"deep": _nested(middle)}}}}
        try:
            await eve.call("PUT", f"/sendToDevice/m.dummy/deep{middle}", messages)
            low = middle
        except (MatrixRefused, RecursionError):
            high = middle
    return low


# --- broken channels -------------------------------------------------------------------------------------------------


async def test_a_broken_channel_is_mended_and_the_next_message_is_read(
    bot: Bot, ada: Responder, logs: list[EventDict]
) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    await ada.say(str(group.room_id), "first")
    await ear.hear(group)
    await _forget_channels(bot)
    ear = Ear(bot)
    ada._client.invalidate_outbound_session(group.room_id)
    await ada.say(str(group.room_id), "lost")
    await ear.take(1)
    mended = [entry for entry in logs if entry["event"] == "channels.mended"]
    await asyncio.sleep(0.5)
    ada._client.invalidate_outbound_session(group.room_id)
    await ada.say(str(group.room_id), "read again")
    (message,) = await ear.hear(group)
    assert message is not None
    assert ([1], "read again") == ([entry["devices"] for entry in mended], message.text)


async def _forget_channels(bot: Bot) -> None:
    """As if the key store were an older copy."""
    (store,) = bot.settings.store_dir.iterdir()
    await bot.session.close()
    with sqlite3.connect(store) as database:
        database.execute("DELETE FROM olmsessions")
    database.close()
    await bot.restart()


async def test_nothing_that_people_write_is_logged(bot: Bot, ada: Responder, logs: list[EventDict]) -> None:
    group, ear = await room_with(bot, ada), Ear(bot)
    await ada.say(str(group.room_id), "canary")
    await clear(ada, str(group.room_id), "canary")
    await ear.take(2)
    assert "canary" not in json.dumps(logs, default=str)
