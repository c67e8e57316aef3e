"""From a room to a message that may be acted upon, and from a post to events that a strict client shows."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from bridges.matrix.door import MatrixDoor
from bridges.matrix.incoming import Incoming
from bridges.matrix.olm import NOTHING, Received
from bridges.ports import RoomAnswer, RoomFile, RoomPost
from tests.parts.matrix_bot import Bot
from tests.parts.matrix_ear import Ear, room_with
from tests.parts.responder import Responder
from tests.parts.synapse import Synapse
from trust.errors import (
    AttachmentTooBig,
    FileUnreadable,
    ForgedState,
    HomeserverAway,
    IdentityChanged,
    MalformedEvent,
    NoIdentity,
    NotEncryptedEvent,
    ReplayedEvent,
    SecirError,
    Undecryptable,
    UnverifiedDevice,
)
from trust.records import Attachment, Content, Group

People = Callable[..., Awaitable[Responder]]
PDF: Final = os.urandom(300_000)


@pytest.fixture
async def bot(synapse: Synapse, tmp_path: Path) -> AsyncIterator[Bot]:
    arrived = await Bot.arrive(synapse, tmp_path / "bot")
    await arrived.sign_up()
    yield arrived
    await arrived.close()


@pytest.fixture
async def ada(responder: People) -> Responder:
    return await responder("ada")


@pytest.fixture
async def group(bot: Bot, ada: Responder) -> Group:
    return await room_with(bot, ada)


def door(bot: Bot) -> MatrixDoor:
    return MatrixDoor(bot.session, Incoming(bot.session, bot.database, bot.devices, file_limit_mb=1), bot.outgoing)


async def refusal_of(bot: Bot, group: Group) -> SecirError:
    """What reading the next event raises."""
    ear = Ear(bot)
    (item,) = await ear.take(1)
    with pytest.raises(SecirError) as raised:
        await ear.incoming.read(group, item.event)
    return raised.value


# --- reading ---------------------------------------------------------------------------------------------------------


async def test_a_message_is_read_with_its_author(bot: Bot, ada: Responder, group: Group) -> None:
    event_id = await ada.say(str(group.room_id), "Phishing on bank.example")
    (message,) = await Ear(bot).hear(group)
    assert message is not None
    assert (event_id, ada.user_id, "Phishing on bank.example", None) == (
        message.event_id,
        message.sender,
        message.text,
        message.answers,
    )


async def test_answers_threads_and_corrections_are_read(bot: Bot, ada: Responder, group: Group) -> None:
    room_id = str(group.room_id)
    root = await ada.say(room_id, "root")
    answer = await ada.say(room_id, "answer", reply_to=root)
    await ada.say(room_id, "in the thread", thread=root, reply_to=answer)
    await ada.edit(room_id, root, "corrected")
    heard = await Ear(bot).hear(group, 4)
    assert [
        ("root", None, None),
        ("answer", RoomAnswer(root), None),
        ("in the thread", RoomAnswer(answer, root), None),
        ("corrected", None, root),
    ] == [(message.text, message.answers, message.replaces) for message in heard if message]


async def test_a_file_is_fetched_as_it_was_sent(bot: Bot, ada: Responder, group: Group) -> None:
    await ada.send_file(str(group.room_id), "report.pdf", PDF, "application/pdf")
    (message,) = await Ear(bot).hear(group)
    assert message is not None
    assert message.file is not None
    fetched = await door(bot).fetch(message.file)
    assert Attachment("report.pdf", "application/pdf", PDF) == fetched


async def test_events_in_clear_are_refused_and_the_steps_of_a_verification_are_not(
    bot: Bot, ada: Responder, group: Group
) -> None:
    room_id = str(group.room_id)
    steps = {"msgtype": "m.key.verification.request", "body": "x", "methods": ["m.sas.v1"], "to": bot.session.user_id}
    await ada.send_in_clear(room_id, "m.room.message", steps)
    await ada.send_in_clear(room_id, "m.key.verification.done", {"m.relates_to": {"rel_type": "m.reference"}})
    await ada.send_in_clear(room_id, "m.room.message", {"msgtype": "m.text", "body": "in clear"})
    ear = Ear(bot)
    request, message = await ear.take(2)
    assert await ear.incoming.read(group, request.event) is None
    with pytest.raises(NotEncryptedEvent):
        await ear.incoming.read(group, message.event)


async def test_an_encrypted_reaction_has_nothing_for_the_list(bot: Bot, ada: Responder, group: Group) -> None:
    await ada.send_encrypted(str(group.room_id), {"type": "m.reaction", "content": {"key": "+1"}})
    assert [None] == await Ear(bot).hear(group)


@pytest.mark.parametrize("kind", ["m.room.power_levels", "m.room.member", "m.room.tombstone", "m.room.name"])
async def test_encrypted_state_is_refused_and_changes_nothing(
    bot: Bot, ada: Responder, group: Group, kind: str
) -> None:
    before = await bot.rooms.check(group)
    content = {"users": {ada.user_id: 100}, "membership": "join", "replacement_room": "!x", "name": "mine"}
    await ada.send_encrypted(str(group.room_id), {"type": kind, "state_key": "@ghost:localhost", "content": content})
    refused = await refusal_of(bot, group)
    bot.rooms.changed(str(group.room_id))
    assert (ForgedState, before) == (type(refused), await bot.rooms.check(group))


async def test_an_event_whose_plaintext_has_nonsense_around_it_is_read(bot: Bot, ada: Responder, group: Group) -> None:
    payload = {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "x"}, "unsigned": None}
    await ada.send_encrypted(str(group.room_id), payload)
    (message,) = await Ear(bot).hear(group)
    assert message is not None
    assert "x" == message.text


async def test_a_broken_inside_is_refused(bot: Bot, ada: Responder, group: Group) -> None:
    await ada.send(str(group.room_id), {"msgtype": "m.text", "body": 5})
    assert MalformedEvent is type(await refusal_of(bot, group))


# --- whose it is -----------------------------------------------------------------------------------------------------


async def test_a_ghost_in_the_account_of_a_member_is_not_believed(bot: Bot, ada: Responder, group: Group) -> None:
    ghost = await ada.unsigned_device()
    await ghost.wait_for_room(str(group.room_id))
    await ghost.say(str(group.room_id), "I am Ada")
    refused = await refusal_of(bot, group)
    await ghost.close()
    assert (UnverifiedDevice, {"user": ada.user_id, "device": ghost.device_id}) == (type(refused), refused.params)


async def test_somebody_without_an_identity_is_told_so(bot: Bot, responder: People) -> None:
    eve = await responder("eve", cross_signed=False, strict=False)
    group = await room_with(bot, eve)
    await eve.say(str(group.room_id), "hello")
    assert NoIdentity is type(await refusal_of(bot, group))


async def test_somebody_with_another_identity_than_the_pinned_one_is_not_believed(
    bot: Bot, ada: Responder, group: Group
) -> None:
    await ada.say(str(group.room_id), "before")
    await Ear(bot).hear(group)
    await ada.reset_identity()
    await ada.say(str(group.room_id), "after")
    refused = await refusal_of(bot, group)
    assert (IdentityChanged, {"user": ada.user_id}) == (type(refused), refused.params)


async def test_a_device_that_was_signed_a_moment_ago_is_believed(bot: Bot, ada: Responder, group: Group) -> None:
    await ada.say(str(group.room_id), "first device")
    await Ear(bot).hear(group)
    second = await ada.second_device()
    await second.wait_for_room(str(group.room_id))
    await second.say(str(group.room_id), "second device")
    (message,) = await Ear(bot).hear(group)
    await second.close()
    assert message is not None
    assert (ada.user_id, "second device") == (message.sender, message.text)


async def test_a_message_that_the_server_relabels_is_nobodys(bot: Bot, ada: Responder, responder: People) -> None:
    eve = await responder("eve")
    group, ear = await room_with(bot, ada, eve), Ear(bot)
    await ada.say(str(group.room_id), "from Ada")
    await ear.hear(group)
    await eve.say(str(group.room_id), "from Eve")
    (item,) = await ear.take(1)
    with pytest.raises(UnverifiedDevice):
        await ear.incoming.read(group, {**item.event, "sender": ada.user_id})


async def test_an_unknown_session_is_asked_about_once(
    bot: Bot, ada: Responder, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = await ada.unsigned_device()
    await ghost.wait_for_room(str(group.room_id))
    for text in ("one", "two", "three"):
        await ghost.say(str(group.room_id), text)
    ear = Ear(bot)
    asked: list[bool] = []
    refresh = bot.devices.refresh

    async def counted(users: Any, *, force: bool = False) -> Any:
        asked.append(force)
        return await refresh(users, force=force)

    monkeypatch.setattr(bot.devices, "refresh", counted)
    for item in await ear.take(3):
        with pytest.raises(UnverifiedDevice):
            await ear.incoming.read(group, item.event)
    await ghost.close()
    assert 1 == asked.count(True)


# --- replays and late keys -------------------------------------------------------------------------------------------


async def test_a_replay_is_refused_even_after_a_restart_and_the_event_itself_may_be_read_again(
    bot: Bot, ada: Responder, group: Group
) -> None:
    await ada.say(str(group.room_id), "once")
    ear = Ear(bot)
    (item,) = await ear.take(1)
    first = await ear.read(group, item)
    await bot.restart()
    ear = Ear(bot)
    with pytest.raises(ReplayedEvent):
        await ear.incoming.read(group, {**item.event, "event_id": f"${secrets.token_urlsafe(32)}"})
    assert first == await ear.incoming.read(group, item.event)


async def test_a_key_that_comes_late_is_told_and_opens_the_event(
    bot: Bot, ada: Responder, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear, receive = Ear(bot), bot.session.olm.receive
    held: list[Any] = []

    def hold(event: Any) -> Received:
        held.append(event)
        return NOTHING

    with monkeypatch.context() as patch:
        patch.setattr(bot.session.olm, "receive", hold)
        await ada.say(str(group.room_id), "late")
        (item,) = await ear.take(1)
    with pytest.raises(Undecryptable) as raised:
        await ear.incoming.read(group, item.event)
    (session,) = {received for event in held if (received := receive(event).room_key_session)}
    message = await ear.incoming.read(group, item.event)
    assert message is not None
    assert (session, "late") == (raised.value.params["session_id"], message.text)


async def test_an_event_that_waits_is_due_as_soon_as_its_key_comes(
    bot: Bot, ada: Responder, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear, receive, held = Ear(bot), bot.session.olm.receive, list[Any]()

    def hold(event: Any) -> Received:
        held.append(event)
        return NOTHING

    def let_go(_: Any) -> Received:
        return next(received for event in held if (received := receive(event)).room_key_session)

    event_id = await ada.say(str(group.room_id), "late")
    monkeypatch.setattr(bot.session.olm, "receive", hold)
    item = None
    async with asyncio.timeout(20):
        while item is None:
            await ear.sync.round()
            async with bot.database.transaction() as tx:
                item = await tx.events.claim(bot.clock.now(), lease=timedelta(minutes=5))
    async with bot.database.transaction() as tx:
        session = str(item.event["content"]["session_id"])  # type: ignore[index]
        await tx.events.wait(item.id, session, "event-undecryptable", bot.clock.now() + timedelta(days=1))
    before = await ear.claim()
    monkeypatch.setattr(bot.session.olm, "receive", let_go)
    body: Any = {"messages": {bot.session.user_id: {bot.session.device_id: {}}}}
    await ada.call("PUT", f"/sendToDevice/m.dummy/{secrets.token_hex(4)}", body)
    (woken,) = await ear.take(1)
    assert (None, event_id, True) == (before, woken.event_id, woken.waiting)


async def test_a_client_that_excludes_the_bot_is_told_to_the_operator(
    bot: Bot, ada: Responder, group: Group, logs: list[Any]
) -> None:
    withheld = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "room_id": group.room_id,
        "session_id": "abc",
        "sender_key": ada.curve25519,
        "code": "m.unverified",
        "reason": "a canary",
    }
    body = {"messages": {bot.session.user_id: {bot.session.device_id: withheld}}}
    await ada.call("PUT", f"/sendToDevice/m.room_key.withheld/{secrets.token_hex(4)}", body)
    async with asyncio.timeout(20):
        while not (told := [entry for entry in logs if entry["event"] == "room-key.withheld-from-us"]):
            await Ear(bot).sync.round()
    assert [(ada.user_id, group.room_id, "abc", "m.unverified")] == [
        (entry["user"], entry["room"], entry["session"], entry["code"]) for entry in told
    ]


# --- files that are not what they seem -------------------------------------------------------------------------------


@pytest.fixture
async def file(bot: Bot, ada: Responder, group: Group) -> RoomFile:
    await ada.send_file(str(group.room_id), "a.txt", b"content", "text/plain")
    (message,) = await Ear(bot).hear(group)
    assert message is not None
    assert message.file is not None
    return message.file


def changed(file: RoomFile, **fields: object) -> RoomFile:
    return replace(file, secrets={**file.secrets, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"hashes": {"sha256": "A" * 43}},
        {"hashes": {}},
        {"hashes": None},
        {"hashes": {"sha256": "ä"}},
        {"key": {"kty": "oct", "alg": "A256CTR", "k": "AAAA"}},
        {"key": {"kty": "oct", "alg": "A256CTR", "k": "A" * 22}},
        {"key": {"kty": "oct", "alg": "A256CTR", "k": "ä" * 43}},
        {"key": {"kty": "oct", "alg": "A128CBC", "k": "A" * 43}},
        {"key": None},
        {"iv": "AAAA"},
        {"iv": None},
        {"v": "v1"},
        {"url": "https://localhost/x"},
        {"url": None},
        {"url": "mxc://localhost/doesnotexist"},
    ],
)
async def test_a_file_that_does_not_open_or_is_not_there_is_unreadable(
    bot: Bot, file: RoomFile, fields: Mapping[str, object]
) -> None:
    with pytest.raises(FileUnreadable):
        await door(bot).fetch(changed(file, **fields))


@pytest.mark.parametrize("announced", [None, 10, 2_000_000])
async def test_a_file_that_is_too_big_is_not_fetched_whatever_size_it_announces(
    bot: Bot, ada: Responder, group: Group, announced: int | None
) -> None:
    await ada.send_file(str(group.room_id), "big.bin", os.urandom(1_200_000), "application/octet-stream")
    (message,) = await Ear(bot).hear(group)
    assert message is not None
    assert message.file is not None
    with pytest.raises(AttachmentTooBig) as raised:
        await door(bot).fetch(replace(message.file, size=announced))
    assert {"limit_mb": 1} == raised.value.params


async def test_a_file_that_says_it_is_too_big_is_not_even_asked_for(
    bot: Bot, file: RoomFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def download(uri: str, _: int) -> bytes:
        asked.append(uri)
        return b""

    monkeypatch.setattr(bot.session.api, "download", download)
    with pytest.raises(AttachmentTooBig):
        await door(bot).fetch(replace(file, size=2_000_000))
    assert [] == asked


# --- showing a post --------------------------------------------------------------------------------------------------


def post(group: Group, text: str, *files: Attachment, answers: RoomAnswer | None = None) -> RoomPost:
    content = Content("Phishing", text, files)
    return RoomPost(group, "Bob (by mail)", content, answers, transaction=f"t{secrets.token_hex(4)}")


async def test_a_post_is_shown_by_a_strict_client_as_from_a_verified_device(
    bot: Bot, ada: Responder, group: Group, synapse: Synapse
) -> None:
    (event_id,) = await door(bot).send(post(group, "Seen here too."))
    message = await ada.wait_for("Seen here too.")
    stored = {event["type"] for event in synapse.stored_events(str(group.room_id)) if "state_key" not in event}
    assert (event_id, True, "Bob (by mail) · Phishing\n\nSeen here too.", {"m.room.encrypted"}) == (
        message.event_id,
        message.verified,
        message.body,
        stored,
    )


async def test_a_file_is_uploaded_sealed_and_opens_in_the_room(
    bot: Bot, ada: Responder, group: Group, synapse: Synapse
) -> None:
    events = await door(bot).send(post(group, "See file.", Attachment("report.pdf", "application/pdf", PDF)))
    message = await ada.wait_for(lambda found: found.file is not None)
    fetched = await ada.fetch(message)
    media = [path.read_bytes() for path in (synapse.directory / "media").rglob("*") if path.is_file()]
    assert (2, events[1], "report.pdf", hashlib.sha256(PDF).digest(), False) == (
        len(events),
        message.event_id,
        message.body,
        hashlib.sha256(fetched).digest(),
        any(PDF in data for data in media),
    )


async def test_a_second_try_shows_nothing_twice(bot: Bot, ada: Responder, group: Group) -> None:
    shown = post(group, "x" * 50_000, Attachment("a.txt", "text/plain", b"content"))
    async with bot.obstacle("rooms", str(group.room_id), "send", "m.room.encrypted", f"{shown.transaction}-1") as came:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await door(bot).send(shown)
    first = await door(bot).send(shown)
    await bot.restart()
    second = await door(bot).send(shown)
    await ada.wait_for(lambda found: found.file is not None)
    texts = [message for message in ada.messages if message.file is None]
    assert (True, 3, first, 3) == (came.is_set(), len(set(first)), second, len(ada.messages))
    assert 2 == len(texts)


async def test_a_file_that_can_not_be_uploaded_is_a_fault_that_may_be_tried_again(
    bot: Bot, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: bytes) -> str:
        raise HomeserverAway

    shown = post(group, "x", Attachment("a.txt", "text/plain", b"content"))
    with monkeypatch.context() as patch:
        patch.setattr(bot.session.api, "upload", away)
        with pytest.raises(HomeserverAway):
            await door(bot).send(shown)
    assert 2 == len(await door(bot).send(shown))


async def test_an_answer_and_a_thread_are_shown_as_such(bot: Bot, ada: Responder, group: Group) -> None:
    root = await ada.say(str(group.room_id), "question")
    await door(bot).send(post(group, "an answer", answers=RoomAnswer(root)))
    await door(bot).send(post(group, "in the thread", answers=RoomAnswer(root, root)))
    answer, threaded = await ada.wait_for("an answer"), await ada.wait_for("in the thread")
    assert ((root, None), (root, root)) == ((answer.reply_to, answer.thread), (threaded.reply_to, threaded.thread))


async def test_the_longest_text_in_the_worst_letters_arrives_in_three_parts(
    bot: Bot, ada: Responder, group: Group
) -> None:
    text = "\U0001f525 " * 8_500
    events = await door(bot).send(post(group, text))
    await ada.wait_for("(3/3)")
    words = sum(message.body.count("\U0001f525") for message in ada.messages)
    assert (3, 8_500) == (len(events), words)


async def test_a_text_beyond_three_parts_arrives_as_a_file(bot: Bot, ada: Responder, group: Group) -> None:
    text = "word " * 40_000
    await door(bot).send(post(group, text))
    message = await ada.wait_for(lambda found: found.file is not None)
    assert text.strip() == (await ada.fetch(message)).decode().strip()
