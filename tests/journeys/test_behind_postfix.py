"""The set-up that the operator's guide recommends: PostgreSQL behind, Postfix in front, LMTP between."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.parts.databases import PostgresServer
from tests.parts.postfix import Postfix
from tests.parts.synapse import Synapse
from tests.parts.town import Town

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse, postgres: PostgresServer) -> AsyncIterator[Town]:
    async with AsyncExitStack() as closing:
        # Not below pytest's own folder, into which Postfix's user may not look.
        folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="postfix-", dir="/tmp"))
        front = closing.enter_context(Postfix(Path(folder), list_domain="lists.example"))
        settings = {"database": {"url": postgres.empty()}}
        built = await Town.build(closing, synapse, settings=settings, front=front)
        await built.open_group()
        yield built


async def test_a_mail_handed_over_by_postfix_reaches_the_room_and_the_other_member(town: Town) -> None:
    text = "By way of Postfix."
    await town.boris.write("Postfix", text)
    assert (await town.ada.wait_for(text)).verified
    assert (await town.chen.receive(text)).signer == town.chen.list_fingerprint


async def test_a_room_message_leaves_by_postfix_and_its_answer_comes_back_into_the_thread(town: Town) -> None:
    text, answer = "Who is awake?", "I am."
    asked = await town.ada.say(town.room, text)
    letter = await town.boris.receive(text)
    assert letter.session_keys == 1
    await town.boris.write(f"Re: {letter.subject}", answer, answers=letter)
    assert (await town.ada.wait_for(answer)).reply_to == asked


async def test_the_bridge_goes_on_after_a_restart_on_postgresql(town: Town) -> None:
    await town.bridge.stop()
    await town.ada.say(town.room, "Said while PostgreSQL kept the position.")
    await town.bridge.start()
    await town.chen.receive("Said while PostgreSQL kept the position.")
