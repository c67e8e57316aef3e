"""What a crash leaves behind is done after the next start: once, and in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from tests.parts.town import Town

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def die_with_an_event_in_hand(town: Town) -> int:
    """Run a bridge that takes an event in and is killed before it handles it; its exit code."""
    program = (sys.executable, "-m", "tests.parts.takes_in_and_dies", str(town.bridge.config_file))
    process = await asyncio.create_subprocess_exec(*program, env=dict(os.environ), stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


async def test_an_event_that_was_received_but_not_handled_arrives_once_after_a_sigkill(town: Town) -> None:
    first, second = "Before the crash: our AXFR feed stopped.", "After the crash: it is back."
    await town.bridge.stop()
    await town.ada.say(town.room, first)
    assert await die_with_an_event_in_hand(town) == -signal.SIGKILL
    await town.bridge.start()
    await town.boris.receive(first)
    await town.ada.say(town.room, second)
    await town.boris.receive(second)
    await town.chen.receive(second)
    for person in (town.boris, town.chen):
        texts = [letter.text for letter in person.letters()]
        assert sum(first in text for text in texts) == 1
        assert [first in text for text in texts].index(True) < [second in text for text in texts].index(True)


async def test_what_was_said_while_the_bridge_was_down_arrives_in_order(town: Town) -> None:
    await town.bridge.stop()
    said = [f"While you were away, number {number}." for number in range(1, 8)]
    for text in said:
        await town.ada.say(town.room, text)
    await town.bridge.start()
    await town.chen.receive(said[-1])
    heard = [text for letter in town.chen.letters() for text in said if text in letter.text]
    assert heard == said


async def test_a_mail_that_was_answered_with_250_survives_a_sigkill_at_once(town: Town) -> None:
    text = "Taken in, and then the power went."
    await town.boris.write("Power", text)
    await town.bridge.kill()
    await town.bridge.start()
    await town.ada.wait_for(text)
    await town.chen.receive(text)
    after = "The power is back."
    await town.boris.write("Power", after)
    await town.ada.wait_for(after)
    assert sum(text in message.body for message in town.ada.messages) == 1


async def test_the_bot_is_the_same_cross_signed_device_after_a_restart(town: Town) -> None:
    before = await town.bridge.cli("identity", "show")
    await town.bridge.stop()
    await town.bridge.start()
    text = "Do you still trust me?"
    await town.boris.write("Trust", text)
    shown = await town.ada.wait_for(text)
    assert shown.verified
    assert await town.bridge.cli("identity", "show") == before


async def test_a_second_instance_on_the_same_data_refuses_to_start_and_says_why(town: Town) -> None:
    with pytest.raises(Exception, match="Another bridge uses") as refused:
        await town.bridge.cli("run")
    assert "Next: Stop that one first" in str(refused.value)
