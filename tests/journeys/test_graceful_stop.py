"""A stop in the middle of everything: quick, orderly, and the next start goes on where it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
import pytest_asyncio

from tests.parts.bridge import Refused
from tests.parts.faulty_relay import FaultyRelay, Step, Trouble, faulty_relay
from tests.parts.mail import Wire
from tests.parts.synapse import Synapse
from tests.parts.town import CHEN, LIST, Town
from tests.parts.traffic import Writer, arrived_once_in_order, heard, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

STOPPED: Final = 10.0
"""Seconds a service manager waits."""
SOON: Final = 45.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse) -> AsyncIterator[Town]:
    async with AsyncExitStack() as closing:
        relay = await closing.enter_async_context(faulty_relay())
        built = await Town.build(closing, synapse, sink=relay)
        await built.open_group()
        yield built


async def in_the_middle_of_a_mail(town: Town) -> Wire:
    """A client that has sent half a mail."""
    wire = await Wire.to(town.mail_port)
    for command in ("EHLO client.test", "MAIL FROM:<boris@registry.example>", f"RCPT TO:<{LIST}>", "DATA"):
        answer = await wire.ask(command)
    assert answer.startswith("354")
    wire.send(b"From: Boris <boris@registry.example>\r\n")
    return wire


async def test_a_stop_under_load_ends_in_time_with_code_0_and_everything_arrives_once_after_the_next_start(
    town: Town,
) -> None:
    """Mails in flight, a client in the middle of one, a relay that hangs: none of it holds up the stop."""
    relay, said = town.sink, "[said before the stop]"
    assert isinstance(relay, FaultyRelay)
    async with Writer(town.boris, "stop", every=0.2) as boris, Writer(town.chen, "stop", every=0.2) as chen:
        await town.ada.say(town.room, said)
        assert await until(lambda: min(len(boris.written), len(chen.written)) > 2, most=20)
        hung = relay.fault(Step.RCPT, Trouble.SILENCE, to=CHEN[1])
        client = await in_the_middle_of_a_mail(town)
        assert await until(lambda: hung.struck, most=20)
        began = time.monotonic()
        code = await town.bridge.stop()
        took = time.monotonic() - began
        client.abort()
        relay.heal()
        await town.bridge.start()
        await asyncio.sleep(1)
    print(f"stopped in {took:.1f} s with {code}, {len(boris.written) + len(chen.written)} mails")  # noqa: T201
    assert code == 0
    assert took < STOPPED
    await arrived_once_in_order(town, boris, chen, within=SOON)
    for reader in (town.boris, town.chen):
        assert heard([said], [letter.text for letter in reader.letters()]) == [said]
    assert "Traceback" not in town.bridge.log
    assert '"level": "error"' not in town.bridge.log


async def test_a_second_instance_refuses_in_plain_words_and_harms_not_the_first(town: Town) -> None:
    with pytest.raises(Refused) as refused:
        await town.bridge.cli("run")
    assert refused.value.code == 1
    assert "Another bridge uses" in refused.value.said
    assert "Traceback" not in refused.value.said
    text = "[the first one works on]"
    await town.boris.write("Alone", text)
    await town.chen.receive(text)
