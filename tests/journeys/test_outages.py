"""The homeserver away for a minute under load: mail goes on as if nothing were, and the room catches up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.parts.people import MailMember
from tests.parts.synapse import Synapse
from tests.parts.town import Town
from tests.parts.traffic import Figures, Writer, arrived_once_in_order, heard

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOWN: Final = 60.0
BEFORE: Final = 10.0
"""Seconds of the same traffic with everything in order, to compare with."""
EVERY: Final = 1.5
CAUGHT_UP: Final = 60.0
"""Seconds after the homeserver's return in which the room must have everything."""
AS_FAST: Final = 2.0
"""Times as long a mail may take to the other reader while the homeserver is away …"""
GRANTED: Final = 0.5
"""… and seconds on top, for what else a busy machine does."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """On a homeserver of its own, which may be stopped."""
    async with AsyncExitStack() as closing:
        homeserver = closing.enter_context(Synapse(Path(tmp_path_factory.mktemp("own-synapse"))))
        built = await Town.build(closing, homeserver)
        await built.open_group()
        yield built


def delays(writer: Writer, reader: MailMember, *, since: float, until: float) -> Figures:
    """Seconds from the 250 to the reader's relay, for what was taken in that stretch."""
    arrived = {text: letter.at for letter in reader.letters() for text in writer.texts if text in letter.text}
    taken = [mail for mail in writer.written if since <= mail.taken_at < until]
    return Figures(tuple(max(0.0, arrived[mail.text] - mail.taken_at) for mail in taken))


@pytest.mark.long
@pytest.mark.deadline(240)
async def test_a_homeserver_that_is_away_for_a_minute_delays_no_mail_and_gets_every_post_once_in_order(
    town: Town,
) -> None:
    began = time.monotonic()
    async with Writer(town.boris, "minute", every=EVERY) as boris, Writer(town.chen, "minute", every=EVERY) as chen:
        await asyncio.sleep(BEFORE)
        down = time.monotonic()
        await asyncio.to_thread(town.synapse.stop)
        await asyncio.sleep(DOWN)
        up = time.monotonic()
        await asyncio.to_thread(town.synapse.start)
    returned = time.monotonic()
    for writer in (boris, chen):
        await town.ada.wait_for(writer.texts[-1], CAUGHT_UP)
    caught_up = time.monotonic() - returned
    await arrived_once_in_order(town, boris, chen, within=CAUGHT_UP)

    assert (boris.refused, chen.refused) == ([], [])
    usual = delays(boris, town.chen, since=began, until=down)
    meanwhile = delays(boris, town.chen, since=down, until=up)
    print(f"mail to the other reader: usual {usual}; homeserver away {meanwhile}")  # noqa: T201
    posts = len(boris.texts) + len(chen.texts)
    print(f"{posts} posts in the room, the last one {caught_up:.1f} s after the return")  # noqa: T201
    assert meanwhile.median < AS_FAST * usual.median + GRANTED

    said = "[said after the return]"
    await town.ada.say(town.room, said)
    for reader in (town.boris, town.chen):
        await reader.receive(said)


async def test_a_homeserver_that_hangs_delays_no_mail_and_stops_no_bridge(town: Town) -> None:
    """Connections stay open and nothing is answered; the bridge is told to stop in the middle of it."""
    text, other = "[while it hangs]", "[before the stop]"
    town.synapse.suspend()
    try:
        await town.boris.write("Hangs", text)
        await town.chen.receive(text)
        await town.boris.write("Hangs", other)
        began = time.monotonic()
        code = await town.bridge.stop()
        took = time.monotonic() - began
    finally:
        town.synapse.resume()
    print(f"stopped in {took:.1f} s with {code}")  # noqa: T201
    assert code == 0
    await town.bridge.start()
    for wanted in (text, other):
        await town.ada.wait_for(wanted, CAUGHT_UP)
        await town.chen.receive(wanted)
    assert heard([text, other], [message.body for message in town.ada.messages]) == [text, other]
    assert heard([text, other], [letter.text for letter in town.chen.letters()]) == [text, other]


async def test_a_bridge_that_starts_while_the_homeserver_is_away_takes_mail_and_passes_it_on(town: Town) -> None:
    text = "[started without a homeserver]"
    await town.bridge.stop()
    await asyncio.to_thread(town.synapse.stop)
    try:
        await town.bridge.start()
        await town.boris.write("Start", text)
        await town.chen.receive(text)
    finally:
        await asyncio.to_thread(town.synapse.start)
    await town.ada.wait_for(text, CAUGHT_UP)


@pytest.mark.long
async def test_more_than_a_hundred_messages_said_while_the_bridge_was_down_arrive_once_in_order(town: Town) -> None:
    """So many that the homeserver leaves some out of its answer (``limited``), and they must be asked for."""
    said = [f"[gap {number:03}]" for number in range(1, 106)]
    await town.bridge.stop()
    for text in said:
        await town.ada.say(town.room, text)
    began = time.monotonic()
    await town.bridge.start()
    await town.chen.receive(said[-1], timeout=90)
    print(f"{len(said)} messages caught up in {time.monotonic() - began:.1f} s")  # noqa: T201
    assert heard(said, [letter.text for letter in town.chen.letters()]) == said
