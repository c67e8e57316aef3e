"""The worst mails that the limits allow, sent to one group: another group's mail keeps flowing (SECURITY P9)."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.parts.people import MailMember
from tests.parts.synapse import Synapse
from tests.parts.town import Town
from tests.parts.traffic import Figures, Writer, heard

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

OTHER: Final = "attacked"
OTHER_LIST: Final = "attacked@lists.example"
MEGABYTE: Final = 1024 * 1024
BOMB: Final = 200 * MEGABYTE
"""What the bomb unpacks to; 25 MB is the limit."""
NEARLY: Final = 24 * MEGABYTE
SESSION_KEYS: Final = 256
NESTED: Final = 100
STRETCH: Final = 15.0
"""Seconds of the good traffic alone, and then with the attack."""
EVERY: Final = 0.5
AS_FAST: Final = 2.0
GRANTED: Final = 1.0
"""The delays may be so many times as long, and so many seconds on top for what else a busy machine does."""
MOST_MEMORY: Final = 2 * 128 * MEGABYTE
"""That the bridge may grow by: SECURITY P9 grants 128 MB to one such mail, and here the next one is on its heels."""
SOON: Final = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse) -> AsyncIterator[Town]:
    async with AsyncExitStack() as closing:
        built = await Town.build(closing, synapse)
        await built.open_group()
        yield built


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mallory(town: Town) -> AsyncIterator[MailMember]:
    """A member of another group, with a key that counts there."""
    person = MailMember.create("Mallory", "mallory@evil.example", town.mail_port, town.sink, to=OTHER_LIST)
    await town.operator("group", "create", OTHER, "--address", OTHER_LIST)
    await town.operator("contact", "add", person.name, "--mail", person.address, "--key", str(person.key_file))
    await town.operator("member", "add", OTHER, person.name, "--by", "mail")
    person.learn_list_key((await town.bridge.cli("group", "show", OTHER, "--key")).encode())
    yield person
    person.close()


def signed(person: MailMember, entity: bytes) -> bytes:
    return person.wrap(person.person.seal(entity, person.list_key, options=["--compress-level", "9"]))


def many_session_keys(person: MailMember) -> bytes:
    """As many session-key packets as are allowed, all for the list's key; only the last one opens the message."""
    packets = person.person.seal(b"Content-Type: text/plain\r\n\r\nx\r\n", person.list_key, armour=False)
    # An old-format header with one octet of length, as GnuPG writes it for a key packet of an elliptic curve.
    assert packets[0] == 0x84
    good, data = packets[: 2 + packets[1]], packets[2 + packets[1] :]
    bad = good[:-1] + bytes([good[-1] ^ 1])
    lines = base64.encodebytes(bad * (SESSION_KEYS - 1) + good + data)
    return person.wrap(b"-----BEGIN PGP MESSAGE-----\n\n" + lines + b"-----END PGP MESSAGE-----\n")


def deep_entity(depth: int) -> bytes:
    heads = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(depth))
    ends = b"".join(b"--b%d--\r\n" % n for n in reversed(range(depth)))
    return heads + b"Content-Type: text/plain\r\n\r\nx\r\n" + ends


def hostile_mails(person: MailMember) -> list[bytes]:
    text = b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
    html = b"Content-Type: text/html; charset=utf-8\r\n\r\n" + b"<div><b>" * 50_000
    many_parts = b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + b"--b\r\n\r\nx\r\n" * 20_000 + b"--b--\r\n"
    return [
        signed(person, text + bytes(BOMB)),
        signed(person, text + b"zero " * (NEARLY // 5)),
        many_session_keys(person),
        signed(person, deep_entity(NESTED)),
        signed(person, html),
        signed(person, many_parts),
    ]


def peak_memory(pid: int) -> int:
    """The most that a process had in memory so far, in octets."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def attack(person: MailMember, mails: list[bytes], sent: list[int]) -> None:
    """Each mail in turn, a little different each time, one after the other without a pause."""
    while True:
        for mail in mails:
            await person.hand_over(f"X-Number: {len(sent)}\r\n".encode() + mail)
            sent.append(len(mail))
            await asyncio.sleep(0.2)


def delays(writer: Writer, reader: MailMember, first: int, last: int) -> Figures:
    """Seconds from the 250 to the reader's relay, for a stretch of what was written."""
    arrived = {text: letter.at for letter in reader.letters() for text in writer.texts if text in letter.text}
    return Figures(tuple(max(0.0, arrived[mail.text] - mail.taken_at) for mail in writer.written[first:last]))


@pytest.mark.deadline(240)
async def test_the_worst_mails_to_one_group_hold_up_no_mail_of_another(town: Town, mallory: MailMember) -> None:
    mails, sent = await asyncio.to_thread(hostile_mails, mallory), list[int]()
    async with Writer(town.boris, "good", every=EVERY) as boris:
        await asyncio.sleep(STRETCH)
        quiet, memory = len(boris.written), peak_memory(town.bridge.pid)
        attacking = asyncio.create_task(attack(mallory, mails, sent))
        await asyncio.sleep(STRETCH)
        attacking.cancel()
        under_attack = len(boris.written)
    await town.chen.receive(boris.texts[-1], timeout=SOON)
    await town.ada.wait_for(boris.texts[-1], SOON)
    grown = peak_memory(town.bridge.pid) - memory

    usual, meanwhile = delays(boris, town.chen, 0, quiet), delays(boris, town.chen, quiet, under_attack)
    print(f"\n{len(sent)} hostile mails; usual {usual}; meanwhile {meanwhile}")  # noqa: T201
    print(f"memory grew by {grown / MEGABYTE:.0f} MB over {memory / MEGABYTE:.0f} MB")  # noqa: T201
    assert boris.refused == []
    assert heard(boris.texts, [letter.text for letter in town.chen.letters()]) == boris.texts
    assert heard(boris.texts, [message.body for message in town.ada.messages]) == boris.texts
    assert meanwhile.median < AS_FAST * usual.median + GRANTED
    assert meanwhile.p99 < AS_FAST * usual.p99 + GRANTED
    assert grown < MOST_MEMORY
    assert "worker.unexpected" not in town.bridge.log
