"""A member's mailbox dies: Postfix, in front and behind, sends the mails back, and the address is paused."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.parts.postfix import Postfix
from tests.parts.synapse import Synapse
from tests.parts.town import Town

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {"limits": {"max_bounces": 2}}
NO_SUCH_USER = "550 5.1.1 <boris@registry.example>: no such user"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postfix() -> AsyncIterator[Postfix]:
    # Not below pytest's own folder, into which Postfix's user may not look.
    with (
        tempfile.TemporaryDirectory(prefix="postfix-", dir="/tmp") as folder,
        Postfix(Path(folder), list_domain="lists.example") as server,
    ):
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse, postfix: Postfix) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        built = await Town.build(stack, synapse, settings=SETTINGS, front=postfix)
        await built.open_group()
        yield built


def rows(town: Town, statement: str) -> list[tuple[object, ...]]:
    """What the bridge remembers."""
    with closing(sqlite3.connect(f"file:{town.bridge.directory / 'data' / 'secir.db'}?mode=ro", uri=True)) as database:
        return database.execute(statement).fetchall()


async def until(town: Town, statement: str, expected: list[tuple[object, ...]]) -> None:
    async with asyncio.timeout(30):
        while (found := await asyncio.to_thread(rows, town, statement)) != expected:
            assert len(found) <= len(expected), found
            await asyncio.sleep(0.1)


BOUNCES = "SELECT address, kind, status FROM bounces ORDER BY id"
TO_BORIS = """SELECT deliveries.state, deliveries.code FROM deliveries JOIN members ON members.id = deliveries.member_id
    WHERE members.address = 'boris@registry.example' ORDER BY deliveries.id"""
DEAD = ("boris@registry.example", "hard", "5.1.1")
BOUNCED, HELD = ("bounced", "bounced"), ("held", "address-paused")


async def test_the_envelope_sender_is_an_address_of_the_delivery_that_no_other_delivery_has(town: Town) -> None:
    text = "To each a return address."
    await town.ada.say(town.room, text)
    for person in (town.boris, town.chen):
        await person.receive(text)
    senders = {mail.sender for mail in town.sink.mails}
    assert len(senders) == len(town.sink.mails)
    assert all(sender.startswith("tld-ops-bounce+") and sender.endswith("@lists.example") for sender in senders)


async def test_mails_that_postfix_sends_back_pause_the_address_and_nobody_elses(town: Town) -> None:
    town.sink.replies["boris@registry.example"] = NO_SUCH_USER
    await town.ada.say(town.room, "The first one for a dead mailbox.")
    await until(town, BOUNCES, [DEAD])
    await town.ada.say(town.room, "The second one for a dead mailbox.")
    await until(town, BOUNCES, [DEAD, DEAD])

    assert (await town.ada.wait_for("came back 2 times, so boris@registry.example gets nothing for now")).verified

    await town.ada.say(town.room, "The third one, which waits.")
    for text in ("The first one", "The second one", "The third one"):
        await town.chen.receive(text)
    await until(town, TO_BORIS, [("done", None), BOUNCED, BOUNCED, HELD])
    assert [DEAD, DEAD] == rows(town, BOUNCES)


async def test_what_did_not_arrive_is_told_to_its_author(town: Town) -> None:
    assert (await town.ada.wait_for("not brought to Boris Petrov (came back)")).verified


async def test_when_the_address_is_resumed_what_waited_arrives(town: Town) -> None:
    del town.sink.replies["boris@registry.example"]
    await town.operator("contact", "resume", "boris@registry.example")

    await town.boris.receive("The third one, which waits.")
    await town.ada.say(town.room, "And all is as before.")
    await town.boris.receive("And all is as before.")
    assert not town.boris.has("dead mailbox")


async def test_nobody_was_answered_and_nothing_is_left_in_postfix(town: Town, postfix: Postfix) -> None:
    await asyncio.to_thread(postfix.wait_until_empty)
    known = {"boris@registry.example", "chen@nic.example"}
    assert known == {recipient for mail in town.sink.mails for recipient in mail.recipients}
