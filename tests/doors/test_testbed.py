"""The parts themselves: what they let through and what they keep out must hold before they can judge the bot."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.parts.loopback import OutsideWorld
from tests.parts.postfix import Postfix
from tests.parts.responder import Responder
from tests.parts.synapse import Synapse

NewResponder = Callable[..., Awaitable[Responder]]


async def test_two_responders_talk_in_an_encrypted_room(synapse: Synapse) -> None:
    async with await Responder.create(synapse, "ada") as ada, await Responder.create(synapse, "ben") as ben:
        room_id = await ada.create_room(ben.user_id, name="testbed")
        assert room_id == await ben.accept_invite()
        question = await ada.say(room_id, "Phishing on bank.example")
        heard = await ben.wait_for("Phishing")
        assert (question, ada.user_id, True) == (heard.event_id, heard.sender, heard.verified)
        await ben.say(room_id, "Seen here too", reply_to=question)
        assert question == (await ada.wait_for("Seen here")).reply_to
        await ben.say(room_id, "Taking it down", thread=question)
        assert question == (await ada.wait_for("Taking it")).thread
        assert not ada.undecryptable
        assert not ada.faults
        assert {"m.room.encrypted"} == {e["type"] for e in synapse.stored_events(room_id) if "state_key" not in e}


async def test_a_ghost_device_reads_nothing_and_is_not_believed(synapse: Synapse, responder: NewResponder) -> None:
    ada, ben = await responder("ada"), await responder("ben")
    room_id = await ada.create_room(ben.user_id)
    await ben.accept_invite()
    async with await ben.unsigned_device() as ghost:
        await ghost.wait_for_room(room_id)
        event_id = await ada.say(room_id, "Not for ghosts")
        assert (await ben.wait_for("ghosts")).body == "Not for ghosts"
        await ghost.wait_until(lambda: ghost.withheld, what="the notice that the key is withheld")
        assert (await ghost.wait_unreadable(event_id)).reason == "withheld:m.unverified"
        forged = await ghost.say(room_id, "It is me, Ben")
        assert (await ada.wait_unreadable(forged)).reason == "device-not-signed"
        assert "It is me, Ben" not in {message.body for message in ada.messages}


async def test_every_signed_device_of_a_person_reads(responder: NewResponder) -> None:
    ada, ben = await responder("ada"), await responder("ben")
    room_id = await ada.create_room(ben.user_id)
    await ben.accept_invite()
    await ada.say(room_id, "before")
    async with await ben.second_device() as tablet:
        await tablet.wait_for_room(room_id)
        await ada.say(room_id, "after")
        assert (await tablet.wait_for("after")).body == "after"
        await tablet.say(room_id, "from the tablet")
        assert (await ben.wait_for("tablet")).body == "from the tablet"
        assert ben.user_id == (await ada.wait_for("tablet")).sender


async def test_who_has_no_identity_is_shut_out(responder: NewResponder) -> None:
    ada, ben = await responder("ada"), await responder("ben", cross_signed=False)
    room_id = await ada.create_room(ben.user_id)
    await ben.accept_invite()
    event_id = await ada.say(room_id, "hello?")
    await ben.wait_unreadable(event_id)


async def test_a_reset_identity_is_a_new_one(responder: NewResponder) -> None:
    ada, ben = await responder("ada"), await responder("ben")
    room_id = await ada.create_room(ben.user_id)
    await ben.accept_invite()
    assert ben.identity
    before = ben.identity.master_key
    await ben.reset_identity()
    answer = await ada.call("POST", "/keys/query", {"device_keys": {ben.user_id: []}})
    assert f"ed25519:{before}" not in answer["master_keys"][ben.user_id]["keys"]
    await ada.say(room_id, "still you?")
    assert (await ben.wait_for("still")).body == "still you?"


async def test_a_file_arrives_as_it_was_sent(responder: NewResponder, synapse: Synapse) -> None:
    ada, ben = await responder("ada"), await responder("ben")
    room_id = await ada.create_room(ben.user_id)
    await ben.accept_invite()
    sent = bytes(range(256)) * 1000
    await ada.send_file(room_id, "trace.pcap", sent, "application/octet-stream")
    shown = await ben.wait_for("trace.pcap")
    assert sent == await ben.fetch(shown)
    stored = b"".join(path.read_bytes() for path in (synapse.directory / "media").rglob("*") if path.is_file())
    assert sent[:300] not in stored


async def test_nothing_is_missed_while_away(responder: NewResponder) -> None:
    ada, ben = await responder("ada"), await responder("ben")
    room_id = await ada.create_room(ben.user_id)
    await ben.accept_invite()
    await ada.say(room_id, "number 0")
    await ben.wait_for("number 0")
    await ben.pause()
    wanted = [f"number {number}" for number in range(130)]  # more than Synapse puts into one sync
    for body in wanted[1:]:
        await ada.say(room_id, body)
    ben.unpause()
    await ben.wait_for(wanted[-1])
    assert wanted == [message.body for message in ben.messages]


async def test_a_hostile_event_stops_nothing(responder: NewResponder) -> None:
    ada, ben = await responder("ada"), await responder("ben")
    room_id = await ada.create_room(ben.user_id)
    await ben.accept_invite()
    hostile = {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "x"}, "unsigned": None}
    event_id = await ada.send_encrypted(room_id, hostile)
    await ada.say(room_id, "and on")
    await ben.wait_for("and on")
    assert (await ben.wait_unreadable(event_id)).reason == "broken"


async def test_people_outlive_a_restart_of_the_homeserver(tmp_path: Path) -> None:
    with Synapse(tmp_path / "synapse") as server:
        async with await Responder.create(server, "ada") as ada, await Responder.create(server, "ben") as ben:
            room_id = await ada.create_room(ben.user_id)
            await ben.accept_invite()
            await asyncio.to_thread(server.restart)
            await ada.say(room_id, "back again")
            await ben.wait_for("back again")


async def test_postfix_hands_over_by_lmtp_and_relays_the_rest(postfix: Postfix) -> None:
    lists, others = Inbox(), Inbox()
    loop = asyncio.get_running_loop()
    lmtp = await loop.create_server(lambda: LMTP(lists), "127.0.0.1", postfix.lmtp_port)
    relay = await loop.create_server(lambda: SMTP(others), "127.0.0.1", postfix.relay_port)
    async with lmtp, relay:
        for recipient in ("tld-ops@lists.test", "carl@example.nl"):
            await asyncio.to_thread(send_by_smtp, postfix.port, recipient)
        await asyncio.to_thread(postfix.wait_until_empty)
    assert (lists.recipients, others.recipients) == (["tld-ops@lists.test"], ["carl@example.nl"])


def test_servers_leave_no_process_behind(tmp_path: Path, short_dir: Path) -> None:
    for server in (Synapse(tmp_path / "synapse"), Postfix(short_dir)):
        with server:
            master = server.pid
            assert family(master)
        end = time.monotonic() + 5  # Postfix's helpers end when they see that their master has gone
        while alive := family(master):
            assert time.monotonic() < end, alive
            time.sleep(0.05)


def family(master: int) -> set[str]:
    """A process and those of its group that still run; zombies are their parent's affair (proc(5), ``stat``)."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _parent, of_group = status.read_text().rpartition(")")[2].split()[:3]
            if state != "Z" and str(master) in (of_group, status.parent.name):
                found.add(status.parent.name)
    return found


class Inbox:
    """An aiosmtpd handler that takes everything."""

    def __init__(self) -> None:
        self.recipients: list[str] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        self.recipients += envelope.rcpt_tos
        return "250 2.0.0 Taken"


def send_by_smtp(port: int, recipient: str) -> None:
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("bob@example.org", [recipient], f"From: bob@example.org\r\nTo: {recipient}\r\n\r\nHello\r\n")


def test_nothing_leaves_the_machine() -> None:
    with socket.socket() as outgoing, pytest.raises(OutsideWorld):
        outgoing.connect(("192.0.2.1", 80))
    with pytest.raises(OutsideWorld):
        socket.getaddrinfo("example.org", 443)
