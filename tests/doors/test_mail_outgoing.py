"""Handing over to a relay, on real sockets: what each answer means, and that TLS is never given up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridges.mail import outgoing
from bridges.mail.door import SmtpMailDoor
from bridges.mail.letters import LetterLimits
from bridges.mail.outgoing import Relay
from bridges.mail.parse import read_envelope
from bridges.ports import Copy, MailDoor
from tests.parts.mail import (
    LIST,
    RETURNS,
    MailSink,
    Sentences,
    a_group,
    a_post,
    armour,
    mail_sink,
    relay_to,
    self_signed,
)
from tests.parts.ports import free_port
from trust.errors import MailIsAutomatic, RelayAway, RelayBroke, RelayBusy, RelayFault, RelayNotTrusted, RelayRefused
from trust.records import DeliveryId

MAIL = b"Subject: x\r\n\r\n.dot\r\nend\r\n"


async def send(relay: Relay, recipient: str = "bob@x.test") -> None:
    await relay.send(sender=LIST, recipient=recipient, mail=MAIL)


async def fault(relay: Relay, recipient: str = "bob@x.test") -> tuple[type[RelayFault], object]:
    with pytest.raises(RelayFault) as caught:
        await send(relay, recipient)
    return type(caught.value), caught.value.params["reply"]


async def test_the_octets_arrive_as_they_are_in_one_transaction_per_recipient() -> None:
    async with mail_sink() as sink, relay_to(sink) as relay:
        await send(relay)
        await send(relay, "carl@x.test")

    assert [(mail.sender, mail.recipients, mail.data) for mail in sink.mails] == [
        (LIST, ["bob@x.test"], MAIL),
        (LIST, ["carl@x.test"], MAIL),
    ]
    assert sink.connections == 1


async def test_the_door_wraps_a_copy_and_sends_it_from_the_return_address_of_its_delivery() -> None:
    async with mail_sink() as sink, relay_to(sink) as relay:
        door: MailDoor = SmtpMailDoor(relay, returns=RETURNS, phrases=Sentences(), limits=LetterLimits())
        await door.send(Copy(a_group(), a_post(), DeliveryId(1), "bob@x.test", (), armour()))

    returned = RETURNS.read(sink.mails[0].sender)
    assert returned is not None
    assert (returned.group_address, returned.delivery, sink.mails[0].recipients) == (LIST, 1, ["bob@x.test"])
    assert RETURNS.is_genuine(returned, a_post().reference)
    assert b"bob" not in sink.mails[0].data
    with pytest.raises(MailIsAutomatic):
        read_envelope(sink.mails[0].data)


@pytest.mark.parametrize(
    ("step", "answer", "expected"),
    [
        ("bob@x.test", "450 4.2.0 Greylisted for bob@x.test", (RelayBusy, "450 4.2.0")),
        ("bob@x.test", "550 5.1.1 No bob@x.test here", (RelayRefused, "550 5.1.1")),
        ("bob@x.test", "553 nonsense", (RelayRefused, "553")),
        ("DATA", "451 4.3.0 Later", (RelayBusy, "451 4.3.0")),
        ("DATA", "554 5.7.1 Spam", (RelayRefused, "554 5.7.1")),
        ("MAIL", "451 4.7.1 Later", (RelayBusy, "451 4.7.1")),
        ("MAIL", "553 5.7.1 Sender not owned", (RelayNotTrusted, "553 5.7.1")),
        ("MAIL", "552 5.3.4 Too big", (RelayRefused, "552 5.3.4")),
        ("MAIL", "530 5.7.0 Log in first", (RelayNotTrusted, "530 5.7.0")),
        ("bob@x.test", "hang up", (RelayBroke, "")),
        ("bob@x.test", "552 Full", (RelayBusy, "552")),
        ("bob@x.test", "550 5.2.2 Full", (RelayBusy, "550 5.2.2")),
        ("DATA", "552 Too big", (RelayRefused, "552")),
        ("bob@x.test", "421 4.7.0 Slow down", (RelayAway, "421 4.7.0")),
        ("DATA", "hang up", (RelayBroke, "")),
    ],
)
async def test_each_answer_has_its_outcome_and_only_codes_are_kept(
    step: str, answer: str, expected: tuple[type[RelayFault], str]
) -> None:
    async with mail_sink() as sink, relay_to(sink) as relay:
        sink.replies[step] = answer

        assert await fault(relay) == expected

        sink.replies.clear()
        await send(relay)
        assert len(sink.mails) == 1


async def test_one_refused_recipient_does_not_cost_the_others_their_connection() -> None:
    async with mail_sink() as sink, relay_to(sink) as relay:
        sink.replies["bob@x.test"] = "550 5.1.1 No"
        await send(relay, "carl@x.test")
        await fault(relay)
        await send(relay, "dora@x.test")

    assert [mail.recipients for mail in sink.mails] == [["carl@x.test"], ["dora@x.test"]]
    assert sink.connections == 1


async def test_many_at_once_share_few_connections() -> None:
    async with mail_sink() as sink, relay_to(sink) as relay:
        await asyncio.gather(*(send(relay, f"m{number}@x.test") for number in range(40)))

    assert len(sink.mails) == 40
    assert sink.connections <= 8


async def test_an_idle_connection_is_closed_and_the_next_mail_opens_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "IDLE_SECONDS", 0.05)
    async with mail_sink() as sink, relay_to(sink) as relay:
        await send(relay)
        await asyncio.sleep(0.2)
        assert relay._idle == []
        await send(relay)

    assert (sink.connections, len(sink.mails)) == (2, 2)


async def test_a_relay_that_restarted_in_between_is_no_fault() -> None:
    async with mail_sink() as first:
        port = first.port
        async with relay_to(first) as relay:
            await send(relay)
            for client, _ in relay._idle:
                client.close()
            await send(relay)

    assert len(first.mails) == 2
    assert port


async def test_nobody_listening_is_a_relay_that_is_away() -> None:
    async with relay_to(free_port()) as relay:
        assert await fault(relay) == (RelayAway, "")


async def test_a_relay_that_says_nothing_is_away_in_bounded_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with relay_to(server.sockets[0].getsockname()[1], timeout=0.2) as relay:
        assert await fault(relay) == (RelayAway, "")
    server.close()


async def test_a_relay_that_never_answers_the_final_dot_broke_this_mail_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing, "TRANSACTION_SECONDS", 0.3)

    async def stall(self: object, server: object, session: object, envelope: object) -> str:
        await asyncio.sleep(5)
        return "250 2.0.0 Ok"

    monkeypatch.setattr(MailSink, "handle_DATA", stall)
    async with mail_sink() as sink, relay_to(sink) as relay:
        assert await fault(relay) == (RelayBroke, "")
        assert relay._idle == []


async def test_an_address_that_would_inject_a_command_is_refused_by_us() -> None:
    async with mail_sink() as sink, relay_to(sink) as relay:
        kind, _ = await fault(relay, "bob@x.test>\r\nRCPT TO:<eve@x.test")

    assert kind is RelayRefused
    assert sink.mails == []


# --- TLS and login ---------------------------------------------------------------------------------------------------


async def test_starttls_with_a_certificate_that_we_trust(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    trusted = {"tls": "starttls", "authorities": str(certificate.chain)}
    async with mail_sink(tls=certificate.server()) as sink, relay_to(sink, **trusted) as relay:
        await send(relay)
        seen = await relay.probe()

    assert [mail.tls for mail in sink.mails] == [True]
    assert (seen.tls, seen.logged_in) == ("TLSv1.3", False)


async def test_a_certificate_that_we_do_not_trust_stops_everything(tmp_path: Path) -> None:
    async with mail_sink(tls=self_signed(tmp_path).server()) as sink, relay_to(sink, tls="starttls") as relay:
        assert await fault(relay) == (RelayNotTrusted, "")

    assert sink.mails == []


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_relay_without_the_tls_we_ask_for_gets_nothing(tls: str) -> None:
    async with mail_sink() as sink, relay_to(sink, tls=tls, timeout=2) as relay:
        kind, _ = await fault(relay)

    assert kind is RelayNotTrusted
    assert sink.mails == []


async def test_logging_in(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    known = {"tls": "starttls", "authorities": str(certificate.chain), "username": "secir"}
    async with mail_sink(tls=certificate.server(), password="p4ss") as sink:
        async with relay_to(sink, **known, password="p4ss") as relay:
            await send(relay)
            assert (await relay.probe()).logged_in
        async with relay_to(sink, **known, password="wrong") as relay:
            kind, reply = await fault(relay)

    assert len(sink.mails) == 1
    assert (kind, str(reply)[:3]) == (RelayNotTrusted, "535")


async def test_a_probe_sends_no_mail_and_tells_the_size_limit() -> None:
    async with mail_sink() as sink, relay_to(sink) as relay:
        seen = await relay.probe()

    assert (seen.tls, seen.logged_in, seen.size_limit) == (None, False, 2**25)
    assert sink.mails == []


async def test_a_probe_tells_what_is_wrong() -> None:
    async with relay_to(free_port()) as relay:
        with pytest.raises(RelayAway):
            await relay.probe()
