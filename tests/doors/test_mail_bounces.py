"""What comes to the return address of a delivery, by SMTP and by LMTP: counted, dropped or refused, never answered."""

from __future__ import annotations

import asyncio
import smtplib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridges.alarms import Alarms
from bridges.mail import compose
from bridges.ports import Copy
from storage.records import DeliveryState
from storage.store import Store
from tests.parts import bounces as mails
from tests.parts.bounces import report
from tests.parts.mail import (
    LIST,
    NOW,
    RETURNS,
    Mailroom,
    Sentences,
    Wire,
    a_group,
    a_post,
    armour,
    encrypted_mail,
    mail_sink,
    mailroom,
)
from tests.parts.postfix import Postfix
from tests.storage import given
from trust.bounces import WITHIN, BounceKind
from trust.errors import SafeUnavailable, StoreAway, StoreFull
from trust.records import DeliveryId, Door, Member, MemberState, Role

BOB = "bob@ops.example"
UNKNOWN = "550 5.1.1 unknown-address"
"""What strangers are told."""


@pytest.fixture(params=["smtp", "lmtp"])
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Mailroom]:
    async with mailroom(tmp_path, protocol=request.param) as opened:
        yield opened


@pytest.fixture
async def lmtp(tmp_path: Path) -> AsyncIterator[Mailroom]:
    async with mailroom(tmp_path, protocol="lmtp") as opened:
        yield opened


async def bob(room: Mailroom) -> Member:
    """A member by mail, in a group whose admin is in the room."""
    async with room.database.transaction() as tx:
        ada = await given.contact(tx, "Ada")
        await tx.members.add(
            group=room.group.id,
            contact=ada.id,
            door=Door.ROOM,
            role=Role.ADMIN,
            state=MemberState.ACTIVE,
            address=None,
            matrix_id="@ada:hs.example",
        )
        return await given.member(tx, room.group, "Bob")


async def sent(room: Mailroom, to: Member, *, finished: bool = True) -> tuple[DeliveryId, str]:
    """A delivery that was handed over, and its return address."""
    async with room.database.transaction() as tx:
        post = await given.post(tx, room.group)
        delivery = await given.delivery(tx, post, to.id)
        if finished:
            await tx.deliveries.finish(delivery, at=NOW)
    return delivery, RETURNS.address(room.group, delivery, post.reference)


async def hand_in(room: Mailroom, raw: bytes, *recipients: str, sender: str = "") -> list[str]:
    """The replies to the mail, one or (LMTP) one for each recipient; or to its recipients, if none is accepted."""
    wire = await Wire.to(room.port)
    is_lmtp = room.listener._settings.protocol == "lmtp"
    await wire.ask("LHLO client.test" if is_lmtp else "EHLO client.test")
    await wire.ask(f"MAIL FROM:<{sender}>")
    asked = [await wire.ask(f"RCPT TO:<{recipient}>") for recipient in recipients]
    accepted = [reply for reply in asked if reply.startswith("250")]
    if not accepted:
        wire.close()
        return asked
    if not (ready := await wire.ask("DATA")).startswith("354"):
        return [ready]
    wire.send(raw + b".\r\n")
    replies = [await wire.reply() for _ in (accepted if is_lmtp else accepted[:1])]
    wire.close()
    return replies


async def counted(room: Mailroom, address: str = BOB) -> dict[BounceKind, int]:
    async with room.database.transaction() as tx:
        found = await tx.bounces.counts(address, NOW - WITHIN)
    return {kind: number for kind, number in found.items() if number}


async def states(room: Mailroom) -> dict[str, int]:
    async with room.database.transaction() as tx:
        return await tx.deliveries.counts(room.group.id)


# --- bounces ---------------------------------------------------------------------------------------------------------


async def test_a_bounce_to_the_return_address_of_a_delivery_is_counted(room: Mailroom) -> None:
    _, address = await sent(room, await bob(room))

    assert ["250 2.0.0"] == [reply[:9] for reply in await hand_in(room, report(), address)]
    assert {BounceKind.HARD: 1} == await counted(room)
    assert {DeliveryState.BOUNCED: 1} == await states(room)
    assert [] == room.notices
    assert [] == await room.stored()


async def test_the_sender_and_the_case_of_the_return_address_do_not_matter(room: Mailroom) -> None:
    _, address = await sent(room, await bob(room))

    await hand_in(room, mails.QMAIL, address.upper(), sender="mailer-daemon@mx.elsewhere.test")

    assert {BounceKind.HARD: 1} == await counted(room)


async def test_the_same_bounce_twice_counts_once(room: Mailroom) -> None:
    _, address = await sent(room, await bob(room))

    for raw in (report(), report(), mails.EXIM):
        assert "250" == (await hand_in(room, raw, address))[0][:3]

    assert {BounceKind.HARD: 1} == await counted(room)


async def test_a_delivery_that_is_late_first_and_fails_then_counts_as_failed(room: Mailroom) -> None:
    _, address = await sent(room, await bob(room))

    await hand_in(room, mails.LATE, address)
    assert ({BounceKind.DELAYED: 1}, {"done": 1}) == (await counted(room), await states(room))
    await hand_in(room, report(), address)
    await hand_in(room, mails.LATE, address)
    assert ({BounceKind.HARD: 1}, {"bounced": 1}) == (await counted(room), await states(room))


async def test_after_three_hard_ones_the_address_is_paused_what_waits_is_held_and_the_admins_are_told_once(
    room: Mailroom,
) -> None:
    member = await bob(room)
    returns = [(await sent(room, member))[1] for _ in range(4)]
    await sent(room, member, finished=False)

    for address in returns:
        await hand_in(room, report(), address)

    async with room.database.transaction() as tx:
        after = await tx.members.get(member.id)
        held = await tx.deliveries.held_for(member.id)
        audit = await tx.audit.recent(room.group.id, 9)
    assert after.address is not None
    assert NOW == after.address.paused_at
    assert ["address-paused"] == [item.code for item in held]
    assert {"bounced": 4, "held": 1} == await states(room)
    assert ["address.paused"] == [entry.action for entry in audit]
    assert 1 == len(room.notices)


async def test_soft_ones_pause_an_address_later_than_hard_ones(room: Mailroom) -> None:
    member = await bob(room)
    for number in range(9):
        assert [] == room.notices, number
        await hand_in(room, mails.QMAIL_FULL, (await sent(room, member))[1])
    assert 1 == len(room.notices)


async def test_an_address_that_is_resumed_begins_anew(room: Mailroom) -> None:
    member = await bob(room)
    returns = [(await sent(room, member))[1] for _ in range(3)]
    for address in returns:
        await hand_in(room, report(), address)

    async with room.database.transaction() as tx:
        assert await tx.contacts.resume(BOB)
    for address in (*returns, (await sent(room, member))[1]):
        await hand_in(room, report(), address)

    async with room.database.transaction() as tx:
        after = await tx.members.get(member.id)
    assert after.address is not None
    assert after.address.paused_at is None
    assert {BounceKind.HARD: 1} == await counted(room)


async def test_a_bounce_that_names_an_earlier_address_of_the_member_counts_against_that_one(room: Mailroom) -> None:
    member = await bob(room)
    async with room.database.transaction() as tx:
        await tx.contacts.add_address(member.contact_id, "bob@earlier.example")
    _, address = await sent(room, member)

    await hand_in(room, report(recipient="Bob@earlier.example"), address)

    assert ({}, {BounceKind.HARD: 1}) == (await counted(room), await counted(room, "bob@earlier.example"))


async def test_a_bounce_that_overtakes_its_delivery_is_put_off(room: Mailroom) -> None:
    delivery, address = await sent(room, await bob(room), finished=False)
    async with room.database.transaction() as tx:
        await tx.deliveries.claim(given.NOON, lease=given.MINUTE, target=Door.MAIL)

    assert (await hand_in(room, report(), address))[0].startswith("451 4.3.0")

    async with room.database.transaction() as tx:
        await tx.deliveries.finish(delivery, at=NOW)
    assert (await hand_in(room, report(), address))[0].startswith("250")
    assert {"bounced": 1} == await states(room)


async def test_an_address_is_paused_in_every_group_and_the_admins_of_each_are_told(room: Mailroom) -> None:
    member = await bob(room)
    async with room.database.transaction() as tx:
        other = await tx.groups.by_name("other")
        assert other is not None
        there = await tx.members.add(
            group=other.id,
            contact=member.contact_id,
            door=Door.MAIL,
            role=Role.MEMBER,
            state=MemberState.ACTIVE,
            address=BOB,
            matrix_id=None,
        )
        ada = (await tx.contacts.find("Ada"))[0]
        await tx.members.add(
            group=other.id,
            contact=ada.id,
            door=Door.ROOM,
            role=Role.ADMIN,
            state=MemberState.ACTIVE,
            address=None,
            matrix_id="@ada:hs.example",
        )
        waits = await given.delivery(tx, await given.post(tx, other), there.id)
    for _ in range(3):
        await hand_in(room, report(), (await sent(room, member))[1])

    async with room.database.transaction() as tx:
        assert [waits] == [item.id for item in await tx.deliveries.held_for(there.id)]
    assert 2 == len(room.notices)


async def test_what_our_own_relay_refuses_counts_as_well(tmp_path: Path) -> None:
    async with mailroom(tmp_path) as room:
        member = await bob(room)
        for reply in ("550 5.1.1", "550 5.7.1", "554", "550 5.1.1", "550 5.1.1"):
            delivery, _ = await sent(room, member)
            await room.returns.refused(delivery, reply)
        await room.returns.refused(DeliveryId(10**15), "550 5.1.1")  # of a member who was removed meanwhile

        assert {BounceKind.HARD: 3, BounceKind.SOFT: 2} == await counted(room)
        assert 1 == len(room.notices)


# --- other mail to a return address ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "sender"),
    [
        pytest.param(mails.VACATION, "bob@ops.example", id="vacation"),
        pytest.param(mails.VACATION, "", id="vacation-from-nobody"),
        pytest.param(mails.UNSIGNED_VACATION, "", id="unsigned-vacation-from-nobody"),
        pytest.param(mails.RECEIPT, "bob@ops.example", id="receipt"),
        pytest.param(mails.COMPLAINT, "", id="complaint"),
        pytest.param(report("2.0.0", "delivered"), "", id="delivered"),
        pytest.param(encrypted_mail(headers=b"X-Loop: a@b.test\n"), "a@b.test", id="loop"),
    ],
)
async def test_automatic_mail_that_is_no_bounce_is_taken_and_dropped(room: Mailroom, raw: bytes, sender: str) -> None:
    _, address = await sent(room, await bob(room))

    assert "250" == (await hand_in(room, raw, address, sender=sender))[0][:3]
    assert ({}, {"done": 1}, []) == (await counted(room), await states(room), await room.stored())


@pytest.mark.parametrize("raw", [mails.PERSONS, encrypted_mail()], ids=["clear", "encrypted"])
async def test_a_person_is_sent_to_the_address_of_the_list(room: Mailroom, raw: bytes) -> None:
    _, address = await sent(room, await bob(room))

    assert ["550 5.7.1 returns-only"] == [
        reply[:22] for reply in await hand_in(room, raw, address, sender="bob@ops.example")
    ]
    assert ({}, []) == (await counted(room), await room.stored())


async def test_line_ends_are_minded_in_bounces_too(room: Mailroom) -> None:
    _, address = await sent(room, await bob(room))

    assert (await hand_in(room, mails.QMAIL.replace(b"Hi.", b"Hi\n."), address))[0].startswith("554 5.6.0")
    assert {} == await counted(room)


FORGERIES: dict[str, Callable[[str], str]] = {
    "another MAC": lambda address: address.replace(address[-17 - len("lists.test") : -11], "a" * 16),
    "another delivery": lambda address: address.replace("bounce+1-", "bounce+2-"),
    "an unknown delivery": lambda address: address.replace("bounce+1-", "bounce+999999999999999999-"),
    "another group": lambda address: address.replace("tld-ops", "other"),
    "another domain": lambda address: address.replace("lists.test", "lists.example"),
    "no MAC": lambda address: "tld-ops-bounce+1@lists.test",
    "a longer number": lambda address: address.replace("bounce+1-", "bounce+1111111111111111111-"),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_return_address_is_unknown(room: Mailroom, forge: Callable[[str], str]) -> None:
    member = await bob(room)
    _, address = await sent(room, member)
    await sent(room, member)
    forged = forge(address)

    assert forged != address
    assert [UNKNOWN] == [reply[: len(UNKNOWN)] for reply in await hand_in(room, report(), forged)]


async def test_bounces_to_the_list_itself_are_refused_whoever_sends_them(room: Mailroom) -> None:
    await bob(room)
    for raw in (report(), mails.EXIM, mails.QMAIL, mails.EXCHANGE, mails.UNCLEAR, mails.VACATION):
        assert (await hand_in(room, raw, LIST))[0].startswith("550 5.7.1 mail-automatic")
        assert (await hand_in(room, raw, LIST, sender="eve@evil.test"))[0].startswith("550 5.7.1")
    assert ({}, []) == (await counted(room), await room.stored())


# --- several recipients ----------------------------------------------------------------------------------------------


async def test_lmtp_answers_each_recipient_of_a_mail_to_a_list_and_a_return_address(lmtp: Mailroom) -> None:
    _, address = await sent(lmtp, await bob(lmtp))

    replies = await hand_in(lmtp, encrypted_mail(), address, LIST, sender="ada@example.test")

    assert ["550 5.7.1 returns", "250 2.0.0 Ok: que"] == [reply[:17] for reply in replies]
    assert 1 == len(await lmtp.stored())


async def test_smtp_answers_such_a_mail_with_what_became_of_it_for_the_list(tmp_path: Path) -> None:
    async with mailroom(tmp_path) as room:
        _, address = await sent(room, await bob(room))

        assert (await hand_in(room, encrypted_mail(), address, LIST, sender="ada@example.test"))[0].startswith("250")
        assert 1 == len(await room.stored())
        assert (await hand_in(room, mails.QMAIL, address, LIST, sender="a@mx.test"))[0].startswith("250")
        assert ({BounceKind.HARD: 1}, []) == (await counted(room), await room.stored())


async def test_a_mail_that_came_back_for_two_deliveries_counts_for_both(room: Mailroom) -> None:
    member = await bob(room)
    (_, one), (_, two) = await sent(room, member), await sent(room, member)

    await hand_in(room, report(), one, two, one)

    assert {BounceKind.HARD: 2} == await counted(room)


# --- no backscatter --------------------------------------------------------------------------------------------------


async def test_a_hundred_mails_with_forged_senders_send_nothing(room: Mailroom) -> None:
    _, address = await sent(room, await bob(room))
    tasks = (
        hand_in(room, raw, to, sender=f"victim{number}@innocent.test")
        for number in range(25)
        for raw, to in (
            (mails.PERSONS, address),
            (mails.VACATION, address),
            (encrypted_mail(), "nobody@lists.test"),
            (mails.PERSONS, LIST),
        )
    )
    async with mail_sink() as sink:
        replies = await asyncio.gather(*tasks)

    assert {"550", "250"} == {reply[0][:3] for reply in replies}
    assert ([], [], {"done": 1}, []) == (sink.mails, room.notices, await states(room), await room.stored())


async def test_two_bridges_that_face_each_other_stop_at_the_first_mail(room: Mailroom) -> None:
    """What bridge A sends to a member whose address is the list of bridge B is refused there."""
    there = a_group(address="other-list@far.test", name="far")
    copy = Copy(there, a_post(), DeliveryId(1), LIST, (), armour())
    mail = compose.wrap(copy, Sentences())
    sender = RETURNS.address(there, DeliveryId(1), a_post().reference)

    assert (await hand_in(room, mail, LIST, sender=sender))[0].startswith("550 5.7.1 mail-automatic")
    assert ([], []) == (await room.stored(), room.notices)


# --- our own trouble -------------------------------------------------------------------------------------------------


async def test_with_the_disk_nearly_full_no_mail_is_taken(room: Mailroom) -> None:
    _, address = await sent(room, await bob(room))
    room.has_room = False

    assert ["452 4.3.1 no-space", "452 4.3.1 no-space"] == [
        reply[:18] for reply in await hand_in(room, encrypted_mail(), LIST, address, sender="ada@example.test")
    ]
    assert (await hand_in(room, encrypted_mail(), "nobody@lists.test", sender="a@b.test"))[0].startswith(UNKNOWN)


async def test_a_disk_that_fills_up_between_recipient_and_mail_puts_the_mail_off(room: Mailroom) -> None:
    wire = await Wire.to(room.port)
    await wire.ask("LHLO a.test")
    await wire.ask("EHLO a.test")
    await wire.ask("MAIL FROM:<ada@example.test>")
    await wire.ask(f"RCPT TO:<{LIST}>")
    room.has_room = False
    assert (await wire.ask("DATA")).startswith("452 4.3.1 no-space")
    room.has_room = True
    assert (await wire.ask("DATA")).startswith("354")
    wire.send(encrypted_mail() + b".\r\n")
    assert (await wire.reply()).startswith("250")


@pytest.mark.parametrize(("fault", "reply"), [(StoreFull, "452 4.3.1"), (StoreAway, "451 4.3.0")])
async def test_a_store_that_is_full_or_away_is_a_reply_of_its_own(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch, fault: type[Exception], reply: str
) -> None:
    _, address = await sent(room, await bob(room))

    @asynccontextmanager
    async def broken() -> AsyncIterator[Store]:
        raise fault
        yield

    for step in ("RCPT", "DATA"):
        for to, raw in ((address, report()), (LIST, encrypted_mail())):
            wire = await Wire.to(room.port)
            await wire.ask("LHLO a.test")
            await wire.ask("EHLO a.test")
            await wire.ask("MAIL FROM:<ada@example.test>")
            with monkeypatch.context() as patch:
                if step == "RCPT":
                    patch.setattr(room.database, "transaction", broken)
                    assert (await wire.ask(f"RCPT TO:<{to}>")).startswith(reply)
                    continue
                await wire.ask(f"RCPT TO:<{to}>")
                await wire.ask("DATA")
                patch.setattr(room.database, "transaction", broken)
                wire.send(raw + b".\r\n")
                assert (await wire.reply()).startswith(reply)
    assert ({}, []) == (await counted(room), await room.stored())


async def test_a_notice_that_could_not_be_sealed_is_told_when_the_bounce_comes_again(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = await bob(room)
    *before, last = [(await sent(room, member))[1] for _ in range(3)]
    for address in before:
        await hand_in(room, report(), address)

    async def fails(self: Alarms, *args: Any, **more: Any) -> None:
        raise SafeUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(Alarms, "tell", fails)
        assert (await hand_in(room, report(), last))[0].startswith("451 4.3.0")
    assert ({BounceKind.HARD: 3}, []) == (await counted(room), room.notices)

    assert (await hand_in(room, report(), last))[0].startswith("250")
    assert 1 == len(room.notices)


async def test_a_postfix_that_asks_before_it_takes_a_mail_lets_bounces_through_and_forgeries_not(
    tmp_path: Path,
) -> None:
    """With ``reject_unverified_recipient``, as in deploy/postfix."""
    asks = {
        "smtpd_recipient_restrictions": "reject_unverified_recipient",
        "unverified_recipient_reject_code": "550",
        "address_verify_map": "",
    }
    with tempfile.TemporaryDirectory(prefix="postfix-", dir="/tmp") as folder:
        server = Postfix(Path(folder), settings=asks)
        async with mailroom(tmp_path, protocol="lmtp", port=server.lmtp_port) as room:
            await asyncio.to_thread(server.start)
            try:
                _, address = await sent(room, await bob(room))

                def through(recipient: str) -> int:
                    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                        client.ehlo()
                        client.mail("")
                        code, _ = client.rcpt(recipient)
                        if code == 250:
                            code, _ = client.data(report())
                        return code

                assert 550 == await asyncio.to_thread(through, address.replace("bounce+1-", "bounce+2-"))
                assert 250 == await asyncio.to_thread(through, address)
                await asyncio.to_thread(server.wait_until_empty)
                assert {BounceKind.HARD: 1} == await counted(room)
            finally:
                await asyncio.to_thread(server.stop)
