"""A thousand deliveries that can't be made, and mail that comes a hundred times: the others notice nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from email import message_from_bytes
from typing import Final

import pytest
import pytest_asyncio

from tests.parts.backlog import MESSAGE_ID, queue_posts
from tests.parts.faulty_relay import FaultyRelay, Step, Trouble, faulty_relay
from tests.parts.mail import Collected
from tests.parts.ports import LOOPBACK
from tests.parts.synapse import Synapse
from tests.parts.town import Town
from tests.parts.traffic import Figures, hand_over, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER: Final = "flooded"
READERS: Final = 20
POSTS: Final = 50
ROUNDS: Final = 8
"""Mails and messages of each stretch, one after the other."""
AS_FAST: Final = 2.0
GRANTED: Final = 0.5
"""The median may be so many times as long as usual, and so many seconds on top for what else a busy machine does."""
IN_ANY_CASE: Final = 5.0
"""Seconds that no single one may take longer than."""
SETTLED: Final = 3.0
"""Seconds after a start, so that starting is not measured."""
PARALLEL: Final = 20
COPIES: Final = 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse) -> AsyncIterator[Town]:
    """The town's own group, and beside it one that nobody is in yet."""
    async with AsyncExitStack() as closing:
        relay = await closing.enter_async_context(faulty_relay())
        reached = {"host": LOOPBACK, "port": relay.port, "tls": "none", "timeout": "5s"}
        built = await Town.build(closing, synapse, sink=relay, settings={"mail": {"relay": reached}})
        await built.open_group()
        await built.operator("group", "create", OTHER, "--address", f"{OTHER}@lists.example")
        yield built


def relay_of(town: Town) -> FaultyRelay:
    assert isinstance(town.sink, FaultyRelay)
    return town.sink


async def mails_to_the_room(town: Town, word: str) -> Figures:
    """How long each mail of Boris takes from its 250 to the room."""
    delays = []
    for number in range(ROUNDS):
        text = f"[{word} to the room {number}]"
        await town.boris.write(word, text)
        began = time.monotonic()
        await town.ada.wait_for(text)
        delays.append(time.monotonic() - began)
    return Figures(tuple(delays))


async def messages_to_the_mail(town: Town, word: str) -> Figures:
    """How long each message of Ada takes to the relay, for both readers by mail."""
    delays = []
    for number in range(ROUNDS):
        text = f"[{word} to the mail {number}]"
        await town.ada.say(town.room, text)
        began = time.monotonic()
        for reader in (town.boris, town.chen):
            letter = await reader.receive(text)
            delays.append(max(0.0, letter.at - began))
    return Figures(tuple(delays))


async def messages_to_posts(town: Town, word: str) -> Figures:
    """How long each message of Ada takes until it is a post: sealed, and on its way to a relay that is dead."""
    delays = []
    for number in range(ROUNDS):
        before = town.bridge.log.count('"event": "post.taken_in"')
        await town.ada.say(town.room, f"[{word} to a post {number}]")
        began = time.monotonic()
        assert await until(lambda: town.bridge.log.count('"event": "post.taken_in"') > before, most=30)  # noqa: B023
        delays.append(time.monotonic() - began)
    return Figures(tuple(delays))


def is_queued(mail: Collected) -> bool:
    return mail.recipients[0].endswith(f"@{OTHER}.example")


@pytest.mark.long
@pytest.mark.deadline(300)
async def test_a_thousand_deliveries_to_sick_mailboxes_or_a_dead_relay_delay_no_other_group(town: Town) -> None:
    relay = relay_of(town)
    usual_in, usual_out = await mails_to_the_room(town, "usual"), await messages_to_the_mail(town, "usual")
    usual_posts = await messages_to_posts(town, "usual")
    print(f"\nusual: mail to room {usual_in}; room to mail {usual_out}; room to post {usual_posts}")  # noqa: T201

    await town.bridge.stop()
    addresses = await queue_posts(town.bridge.config_file, OTHER, readers=READERS, posts=POSTS)
    for address in addresses:
        relay.fault(Step.RCPT, Trouble.SILENCE, to=address)
    await town.bridge.start()
    await asyncio.sleep(SETTLED)
    sick_in, sick_out = await mails_to_the_room(town, "sick"), await messages_to_the_mail(town, "sick")
    print(f"{READERS} sick mailboxes: mail to room {sick_in}; room to mail {sick_out}")  # noqa: T201

    await relay.die()
    dead_in, dead_posts = await mails_to_the_room(town, "dead"), await messages_to_posts(town, "dead")
    print(f"dead relay: mail to room {dead_in}; room to post {dead_posts}")  # noqa: T201
    assert not any(is_queued(mail) for mail in relay.mails)

    relay.heal()
    await relay.listen()
    returned, taken = time.monotonic(), len(relay.mails)
    await town.chen.receive(f"[dead to the room {ROUNDS - 1}]", timeout=60)
    ours_after = time.monotonic() - returned
    first = next(place for place, mail in enumerate(relay.mails[taken:]) if not is_queued(mail))
    assert await until(lambda: sum(map(is_queued, relay.mails)) >= READERS * POSTS, most=180)
    everything_after = time.monotonic() - returned
    print(  # noqa: T201
        f"relay back: the small group's mail is there after {ours_after:.1f} s, its first one as number {first + 1};"
        f" all {READERS * POSTS} after {everything_after:.1f} s"
    )

    assert sick_in.median < AS_FAST * usual_in.median + GRANTED
    assert sick_out.median < AS_FAST * usual_out.median + GRANTED
    assert dead_in.median < AS_FAST * usual_in.median + GRANTED
    assert dead_posts.median < AS_FAST * usual_posts.median + GRANTED
    assert max(each.longest for each in (sick_in, sick_out, dead_in, dead_posts)) < IN_ANY_CASE
    assert first < READERS * POSTS / 10
    wanted = [f"<{MESSAGE_ID.format(number=number)}>" for number in range(1, POSTS + 1)]
    for address in addresses:
        ours = [mail.data for mail in relay.mails if mail.recipients == [address]]
        assert [message_from_bytes(data)["Message-ID"] for data in ours] == wanted


async def test_the_same_mail_a_hundred_times_twenty_at_once_is_one_post(town: Town) -> None:
    text = "[a hundred times]"
    mail = await town.boris.compose("Again", text)
    where = {"port": town.mail_port, "sender": town.boris.address, "to": town.boris.list_address}
    with ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(lambda _: hand_over(mail, **where), range(COPIES)))  # type: ignore[arg-type]
    after = "[behind the hundred]"
    await town.boris.write("After", after)
    await town.ada.wait_for(after)
    await town.chen.receive(after)
    assert Counter(answer.code for answer in answers) == {250: COPIES}
    assert sum(text in message.body for message in town.ada.messages) == 1
    assert sum(text in letter.text for letter in town.chen.letters()) == 1
