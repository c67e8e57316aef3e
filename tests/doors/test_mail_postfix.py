"""Behind a real Postfix: it hands over by LMTP, keeps what we can't take now, and carries what we send."""

from __future__ import annotations

import asyncio
import smtplib
from pathlib import Path

from bridges.mail.parse import read_envelope
from tests.parts.mail import LIST, armour, encrypted_mail, mail_sink, mailroom, relay_to
from tests.parts.postfix import Postfix

OTHER = "other@lists.test"


async def hand_in(postfix: Postfix, raw: bytes, *recipients: str) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", postfix.port, timeout=10) as client:
            client.sendmail("ada@example.test", list(recipients), raw)

    await asyncio.to_thread(send)


async def test_postfix_hands_a_mail_for_two_lists_over_in_one_transaction(postfix: Postfix, tmp_path: Path) -> None:
    async with mailroom(tmp_path, protocol="lmtp", port=postfix.lmtp_port) as room:
        await hand_in(postfix, encrypted_mail(), LIST, OTHER)
        await asyncio.to_thread(postfix.wait_until_empty)
        stored = await room.stored()

    assert len(stored) == 2
    assert stored[0][1] == stored[1][1]
    assert read_envelope(stored[0][1]).message == armour()
    assert "queued as" in postfix.log()


async def test_a_refusal_reaches_the_sender_through_postfix_in_our_words(postfix: Postfix, tmp_path: Path) -> None:
    async with (
        mailroom(tmp_path, protocol="lmtp", port=postfix.lmtp_port) as room,
        mail_sink(port=postfix.relay_port) as sink,
    ):
        await hand_in(postfix, b"Subject: x\r\n\r\nin the clear\r\n", LIST)
        await asyncio.to_thread(postfix.wait_until_empty)
        assert await room.stored() == []

    assert [mail.recipients for mail in sink.mails] == [["ada@example.test"]]
    assert b"550 5.7.1 mail-not-encrypted" in sink.mails[0].data


async def test_postfix_keeps_a_mail_while_we_are_away(postfix: Postfix, tmp_path: Path) -> None:
    await hand_in(postfix, encrypted_mail(headers=b"X-Note: patience\n"), LIST)
    async with mailroom(tmp_path, protocol="lmtp", port=postfix.lmtp_port) as room:
        await asyncio.to_thread(postfix.wait_until_empty)

        assert len(await room.stored()) == 1


async def test_postfix_relays_what_we_send(postfix: Postfix) -> None:
    async with mail_sink(port=postfix.relay_port) as sink, relay_to(postfix.port) as relay:
        await relay.send(sender=LIST, recipient="bob@elsewhere.test", mail=b"Subject: x\r\n\r\nhello\r\n")
        seen = await relay.probe()
        await asyncio.to_thread(postfix.wait_until_empty)

    assert [(mail.sender, mail.recipients) for mail in sink.mails] == [(LIST, ["bob@elsewhere.test"])]
    assert seen.size_limit == 52428800
