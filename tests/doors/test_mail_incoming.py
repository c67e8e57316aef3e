"""Mail is taken for known groups only, and 250 means committed. Real sockets throughout."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import smtplib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiosmtplib
import pytest
from sqlalchemy import event

from bridges.mail import incoming, parse
from tests.parts.mail import LIST, Mailroom, Wire, encrypted_mail, mailroom, self_signed
from trust.errors import PortTaken, StoreAway

PLAIN = b"From: eve@example.test\r\nSubject: hi\r\n\r\nin the clear\r\n"


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Mailroom]:
    async with mailroom(tmp_path) as opened:
        yield opened


@pytest.fixture
async def lmtp(tmp_path: Path) -> AsyncIterator[Mailroom]:
    async with mailroom(tmp_path, protocol="lmtp") as opened:
        yield opened


async def ready(room: Mailroom, sender: str = "ada@example.test") -> Wire:
    """A connection that has come as far as MAIL FROM."""
    wire = await Wire.to(room.port)
    await wire.ask("EHLO client.test")
    await wire.ask(f"MAIL FROM:<{sender}>")
    return wire


# --- taken in --------------------------------------------------------------------------------------------------------


async def test_a_mail_is_committed_before_it_is_acknowledged(room: Mailroom) -> None:
    raw = encrypted_mail()
    wire = await Wire.to(room.port)

    reply = await wire.mail(raw)

    assert reply.startswith("250 2.0.0 Ok: queued as ")
    assert [(room.group.id, raw)] == await room.stored()
    assert room.arrivals == [None]


async def test_the_same_bytes_are_acknowledged_again_and_stored_once(room: Mailroom) -> None:
    wire = await Wire.to(room.port)

    first, second = await wire.mail(encrypted_mail()), await wire.mail(encrypted_mail())

    assert first == second
    assert len(await room.stored()) == 1
    assert room.arrivals == [None]


async def test_a_hundred_equal_mails_at_once_are_one(room: Mailroom) -> None:
    async def hand_in() -> str:
        wire = await Wire.to(room.port)
        return await wire.mail(encrypted_mail())

    replies = await asyncio.gather(*(hand_in() for _ in range(20)))

    assert {"250"} == {reply[:3] for reply in replies}
    assert len(await room.stored()) == 1


async def test_a_store_that_is_away_leaves_the_mail_with_its_sender(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = await ready(room)
    await wire.ask(f"RCPT TO:<{LIST}>")
    await wire.ask("DATA")
    monkeypatch.setattr(room.database, "transaction", _away)

    wire.send(encrypted_mail() + b".\r\n")

    assert (await wire.reply()).startswith("451 4.3.0 mail-not-stored")


async def test_a_store_that_is_away_puts_a_recipient_off(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await ready(room)
    monkeypatch.setattr(room.database, "transaction", _away)

    assert (await wire.ask(f"RCPT TO:<{LIST}>")).startswith("451 4.3.0 ")


@asynccontextmanager
async def _away() -> AsyncIterator[None]:
    raise StoreAway
    yield


async def test_a_mistake_of_ours_is_never_answered_with_250(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(raw: bytes) -> None:
        raise ZeroDivisionError("secret words")

    monkeypatch.setattr(parse, "read_envelope", broken)
    wire = await Wire.to(room.port)

    assert await wire.mail(encrypted_mail()) == "421 4.3.0 Internal error, closing the connection"
    assert await wire.reply() == ""
    assert await room.stored() == []


async def test_one_mail_to_two_groups_is_stored_for_each(room: Mailroom) -> None:
    wire = await Wire.to(room.port)

    await wire.mail(encrypted_mail(), LIST, "other@lists.test")

    assert {1, 2} == {group for group, _ in await room.stored()}


async def test_the_envelope_decides_and_not_the_headers(room: Mailroom) -> None:
    wire = await Wire.to(room.port)

    await wire.mail(encrypted_mail(), "other@lists.test")  # its To: names tld-ops

    async with room.database.transaction() as tx:
        other = await tx.groups.by_name("other")
    assert other is not None
    assert [other.id] == [group for group, _ in await room.stored()]


async def test_two_listeners_of_the_standard_library_and_of_aiosmtplib_are_understood(room: Mailroom) -> None:
    def by_smtplib() -> None:
        with smtplib.SMTP("127.0.0.1", room.port, timeout=10) as client:
            client.sendmail("ada@example.test", [LIST], encrypted_mail())

    await asyncio.to_thread(by_smtplib)
    await aiosmtplib.send(
        encrypted_mail(headers=b"X-Other: 1\n"),
        sender="bob@example.test",
        recipients=[LIST],
        hostname="127.0.0.1",
        port=room.port,
        start_tls=False,
    )
    assert len(await room.stored()) == 2


async def test_dots_at_the_start_of_lines_come_through(room: Mailroom) -> None:
    raw = encrypted_mail(headers=b"X-Note: a\n .hidden\n ..two.\n")
    wire = await Wire.to(room.port)

    await wire.mail(raw.replace(b"\r\n.", b"\r\n.."))

    assert [raw] == [stored for _, stored in await room.stored()]


async def test_a_line_of_a_hundred_thousand_octets_is_no_reason_to_lose_a_mail(room: Mailroom) -> None:
    raw = encrypted_mail(headers=b"Comments: " + b"x" * 50_000 + b"\n").replace(b"OpenPGP/MIME", b"y." * 100_000)
    wire = await Wire.to(room.port)

    assert (await wire.mail(raw)).startswith("250 ")
    assert [raw] == [stored for _, stored in await room.stored()]


async def test_neither_logger_nor_aiosmtpd_tells_what_was_said(
    room: Mailroom, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    wire = await Wire.to(room.port)
    await wire.mail(encrypted_mail(headers=b"X-Canary: kanarienvogel\n"), LIST, "kanarienvogel@lists.test")
    await wire.mail(PLAIN.replace(b"hi", b"kanarienvogel"))

    told = [record for record in caplog.records if record.name != "aiosqlite"]  # it repeats SQL: bot.log silences it
    out, err = capsys.readouterr()
    assert "mail.taken_in" in out
    assert [word for word in ("kanarienvogel", "ada@", "tld-ops") if word in f"{told}{out}{err}"] == []


# --- recipients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["TLD-OPS@lists.test", "Tld-Ops@LISTS.test"])
async def test_the_case_of_an_address_does_not_matter(room: Mailroom, address: str) -> None:
    wire = await ready(room)

    assert await wire.ask(f"RCPT TO:<{address}>") == "250 2.1.5 Ok"


@pytest.mark.parametrize(
    "address",
    ["nobody@lists.test", "tld-ops+x@lists.test", "postmaster@lists.test", "tld-ops@elsewhere.test", "tld-ops"],
)
async def test_every_other_recipient_gets_one_identical_refusal(room: Mailroom, address: str) -> None:
    wire = await ready(room)

    reply = await wire.ask(f"RCPT TO:<{address}>")

    assert reply == "550 5.1.1 unknown-address happened... Next: mend it."


async def test_no_recipient_gets_into_the_next_mail_of_the_connection(room: Mailroom) -> None:
    wire = await ready(room)
    await wire.ask(f"RCPT TO:<{LIST}>")
    await wire.ask("RSET")
    await wire.ask("MAIL FROM:<ada@example.test>")

    assert (await wire.ask("DATA")).startswith("503 5.5.1")

    await wire.ask("RCPT TO:<other@lists.test>")
    await wire.ask("DATA")
    wire.send(encrypted_mail() + b".\r\n")
    await wire.reply()
    await wire.ask("MAIL FROM:<ada@example.test>")
    assert (await wire.ask("DATA")).startswith("503 5.5.1")
    assert [group for group, _ in await room.stored()] == [2]


async def test_the_51st_recipient_is_put_off_and_the_mail_goes_to_the_others(room: Mailroom) -> None:
    wire = await ready(room)
    replies = [await wire.ask(f"RCPT TO:<{LIST}>") for _ in range(51)]

    assert [reply[:3] for reply in replies] == ["250"] * 50 + ["452"]
    await wire.ask("DATA")
    wire.send(encrypted_mail() + b".\r\n")
    assert (await wire.reply()).startswith("250 ")
    assert len(await room.stored()) == 1


async def test_who_tries_out_addresses_is_hung_up_on(room: Mailroom) -> None:
    wire = await Wire.to(room.port)
    await wire.ask("EHLO client.test")
    replies: list[str] = []
    while "421" not in [reply[:3] for reply in replies] and len(replies) < 300:
        await wire.ask("RSET")
        await wire.ask("MAIL FROM:<ada@example.test>")
        wire.send(b"RCPT TO:<nobody@lists.test>\r\n" * 50)
        replies += [await wire.reply() for _ in range(50)]

    assert incoming.MAX_REFUSED < len(replies) <= incoming.MAX_REFUSED + 50


# --- refused in the dialogue -----------------------------------------------------------------------------------------

REFUSED = [
    ("not encrypted", PLAIN, "550 5.7.1 mail-not-encrypted"),
    ("S/MIME", b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\nMIAG\r\n", "550 5.7.1 mail-is"),
    ("auto-reply", encrypted_mail(headers=b"Auto-Submitted: auto-replied\n"), "550 5.7.1 mail-automatic"),
    ("bulk", encrypted_mail(headers=b"Precedence: Bulk\n"), "550 5.7.1 mail-automatic"),
    ("our own", encrypted_mail(headers=b"X-Loop: tld-ops@lists.test\n"), "550 5.7.1 mail-automatic"),
    ("a list's", encrypted_mail(headers=b"List-Id: <other.lists.test>\n"), "550 5.7.1 mail-automatic"),
    ("going round", encrypted_mail(headers=b"Received: from a by b\n" * 31), "550 5.7.1 mail-automatic"),
    ("bare LF", encrypted_mail().replace(b"Version: 1\r\n", b"Version: 1\n"), "554 5.6.0 mail-bare-newline"),
    ("bare CR", encrypted_mail().replace(b"Version: 1\r\n", b"Version: 1\r"), "554 5.6.0 mail-bare-newline"),
    ("NUL", encrypted_mail(headers=b"X-Note: a\0b\n"), "554 5.6.0 mail-bare-newline"),
    ("endless headers", encrypted_mail(headers=b"X-Note: a\n" * 8000), "550 5.6.0 mail-broken"),
    ("too big", encrypted_mail(message=b"x" * 1_100_000), "552 5.3.4 mail-too-big"),
]


@pytest.mark.parametrize(("raw", "reply"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_mail_is_refused_with_its_own_code_and_reason_and_the_next_is_taken(
    room: Mailroom, raw: bytes, reply: str
) -> None:
    wire = await Wire.to(room.port)

    assert (await wire.mail(raw)).startswith(reply)
    assert await room.stored() == []
    assert (await wire.mail(encrypted_mail())).startswith("250 ")


async def test_a_bounce_is_refused_at_its_recipient_so_that_sender_checks_work(room: Mailroom) -> None:
    wire = await ready(room, sender="")

    assert (await wire.ask("RCPT TO:<nobody@lists.test>")).startswith("550 5.1.1 unknown-address")
    assert (await wire.ask(f"RCPT TO:<{LIST}>")).startswith("550 5.7.1 mail-automatic")


async def test_the_size_limit_is_announced_and_a_larger_size_refused_before_the_data(room: Mailroom) -> None:
    wire = await Wire.to(room.port)

    assert "250-SIZE 1048576" in (await wire.ask("EHLO client.test")).split("\n")
    assert (await wire.ask("MAIL FROM:<ada@example.test> SIZE=1048577")).startswith("552 5.3.4 mail-too-big")


async def test_a_refusal_is_one_line_of_ascii_and_of_limited_length(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.parts.mail.Sentences.explain", lambda self, error: "Ä\r\nQUIT\r\n" + "ß… " * 1000)
    wire = await ready(room)

    reply = await wire.ask("RCPT TO:<nobody@lists.test>")

    assert reply.startswith("550 5.1.1 A QUIT ")
    assert len(reply) <= 510


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n.\0\r\n"], ids=repr
)
async def test_nothing_but_the_one_true_end_of_data_ends_a_mail(room: Mailroom, end: bytes) -> None:
    smuggled = b"MAIL FROM:<eve@example.test>\r\nRCPT TO:<" + LIST.encode() + b">\r\nDATA\r\n" + encrypted_mail()
    wire = await Wire.to(room.port)

    reply = await wire.mail(encrypted_mail()[:-2] + end + smuggled)

    assert reply.startswith("554 5.6.0 mail-bare-newline")
    assert (await wire.ask("NOOP")).startswith("250 ")
    assert await room.stored() == []


async def test_every_reply_bears_an_enhanced_status_code_as_announced(room: Mailroom) -> None:
    wire = await Wire.to(room.port)
    announced = await wire.ask("EHLO client.test")
    replies = [await wire.ask(each) for each in ("NOOP", "RSET", "NONSENSE", "MAIL", "AUTH PLAIN x", "VRFY x", "QUIT")]

    assert {"ENHANCEDSTATUSCODES", "PIPELINING", "8BITMIME"} <= {line[4:] for line in announced.split("\n")}
    assert "AUTH" not in announced
    assert [reply[4:9] == f"{reply[0]}.{reply[6:9]}" for reply in replies] == [True] * 7
    assert replies[2][:3] == "500"


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_connections_beyond_the_limit_are_told_to_come_back(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "MAX_CONNECTIONS", 2)
    first, _second = await Wire.to(room.port), await Wire.to(room.port)
    third = Wire(*await asyncio.open_connection("127.0.0.1", room.port))

    assert (await third.reply()).startswith("421 4.7.0 too-many-connections")
    assert await third.reply() == ""

    await first.ask("QUIT")
    await eventually(lambda: len(room.listener._open) == 1)
    assert (await (await Wire.to(room.port)).mail(encrypted_mail())).startswith("250 ")


async def test_one_peer_can_not_take_all_connections(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MAX_PER_PEER", 1)
    await Wire.to(room.port)
    await Wire.to(room.port)  # loopback is our own mail server
    monkeypatch.setattr(incoming, "_is_loopback", lambda peer: False)

    third = Wire(*await asyncio.open_connection("127.0.0.1", room.port))

    assert (await third.reply()).startswith("421 ")


async def test_who_says_nothing_is_hung_up_on_in_a_command_and_in_a_mail(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "IDLE_SECONDS", 0.3)
    silent = await Wire.to(room.port)
    sending = await ready(room)
    await sending.ask(f"RCPT TO:<{LIST}>")
    await sending.ask("DATA")

    assert await silent.reply() == ""
    assert await sending.reply() == ""
    assert await room.stored() == []


async def test_a_mail_that_comes_slowly_but_steadily_is_taken(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "IDLE_SECONDS", 0.4)
    raw = encrypted_mail(headers=b"X-Note: a.\n" * 8)
    wire = await ready(room)
    await wire.ask(f"RCPT TO:<{LIST}>")
    await wire.ask("DATA")
    for line in raw.splitlines(keepends=True)[:8]:
        wire.send(line)
        await asyncio.sleep(0.1)
    wire.send(b"".join(raw.splitlines(keepends=True)[8:]) + b".\r\n")

    assert (await wire.reply()).startswith("250 ")


async def test_a_mail_that_never_ends_is_ended(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "DATA_SECONDS", 0.5)
    wire = await ready(room)
    await wire.ask(f"RCPT TO:<{LIST}>")
    await wire.ask("DATA")

    async def dripping() -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                wire.send(b"X-Note: a.\r\n")
                await asyncio.sleep(0.05)

    drip = asyncio.ensure_future(dripping())
    assert await _until_closed(wire) == ""
    await drip


async def _until_closed(wire: Wire) -> str:
    with contextlib.suppress(ConnectionError):
        return await wire.reply()
    return ""


async def test_a_client_that_vanishes_in_a_mail_leaves_nothing_behind(room: Mailroom) -> None:
    wire = await ready(room)
    await wire.ask(f"RCPT TO:<{LIST}>")
    await wire.ask("DATA")
    wire.send(encrypted_mail()[:200])
    wire.close()

    await eventually(lambda: not room.listener._open)
    assert await room.stored() == []


async def test_a_port_that_another_program_has_is_named(room: Mailroom, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with pytest.raises(PortTaken) as refused:
        async with mailroom(tmp_path / "second", port=room.port):
            pass
    assert {"host": "127.0.0.1", "port": room.port} == refused.value.params


async def test_clients_that_hang_up_while_the_database_works_do_not_cost_it_its_connection(room: Mailroom) -> None:
    opened: list[object] = []
    event.listen(room.database._engine.sync_engine, "connect", lambda *_: opened.append(_))
    for number in range(40):
        wire = await ready(room)
        wire.send(f"RCPT TO:<{LIST}>\r\n".encode())
        await asyncio.sleep(number / 20_000)
        wire.abort()

    await eventually(lambda: not room.listener._open)
    assert (await (await Wire.to(room.port)).mail(encrypted_mail())).startswith("250")
    assert opened == []


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_starttls_is_offered_and_used(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    async with mailroom(tmp_path, tls=certificate.server()) as room:
        await aiosmtplib.send(
            encrypted_mail(),
            sender="ada@example.test",
            recipients=[LIST],
            hostname="127.0.0.1",
            port=room.port,
            start_tls=True,
            tls_context=ssl.create_default_context(cafile=str(certificate.chain)),
        )
        assert len(await room.stored()) == 1


async def test_a_peer_on_another_machine_must_use_tls_where_there_is_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "_is_loopback", lambda peer: False)
    async with mailroom(tmp_path, tls=self_signed(tmp_path).server()) as room:
        wire = await Wire.to(room.port)
        await wire.ask("EHLO client.test")

        assert (await wire.ask("MAIL FROM:<ada@example.test>")).startswith("530 ")


async def test_what_is_sent_along_with_starttls_is_thrown_away(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    async with mailroom(tmp_path, tls=certificate.server()) as room:
        reader, writer = await asyncio.open_connection("127.0.0.1", room.port)
        wire = Wire(reader, writer)
        await wire.reply()
        await wire.ask("EHLO client.test")
        wire.send(b"STARTTLS\r\nMAIL FROM:<eve@example.test>\r\n")
        assert (await wire.reply()).startswith("220 ")
        await writer.start_tls(ssl.create_default_context(cafile=str(certificate.chain)), server_hostname="127.0.0.1")
        await wire.ask("EHLO client.test")

        assert (await wire.ask(f"RCPT TO:<{LIST}>")).startswith("503 ")  # no MAIL was seen


# --- LMTP ------------------------------------------------------------------------------------------------------------


async def test_lmtp_answers_each_accepted_recipient_after_the_mail(lmtp: Mailroom) -> None:
    wire = await Wire.to(lmtp.port)
    raw = encrypted_mail()

    first = await wire.mail(raw, LIST, "nobody@lists.test", "other@lists.test", LIST, greeting="LHLO")
    rest = [await wire.reply(), await wire.reply()]

    assert [first] * 2 == rest
    assert first.startswith("250 2.0.0 ")
    assert (await wire.ask("NOOP")).startswith("250 2.0.0 OK")
    assert len(await lmtp.stored()) == 2


@pytest.mark.parametrize(("raw", "reply"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_lmtp_answers_each_recipient_of_a_refused_mail_too(lmtp: Mailroom, raw: bytes, reply: str) -> None:
    wire = await Wire.to(lmtp.port)

    first = await wire.mail(raw, LIST, "other@lists.test", greeting="LHLO")

    assert first.startswith(reply)
    assert first == await wire.reply()
    assert (await wire.ask("NOOP")).startswith("250 2.0.0 OK")


async def test_lmtp_knows_no_ehlo(lmtp: Mailroom) -> None:
    wire = await Wire.to(lmtp.port)

    assert (await wire.ask("EHLO client.test")).startswith("500 ")
    assert (await wire.ask("HELO client.test")).startswith("500 ")
    assert (await wire.ask("LHLO client.test")).split("\n")[-1] == "250 ENHANCEDSTATUSCODES"


async def test_the_standard_library_speaks_lmtp_with_us(lmtp: Mailroom) -> None:
    def hand_over() -> dict[str, tuple[int, bytes]]:  # it reads one reply only, so it names one recipient
        with smtplib.LMTP("127.0.0.1", lmtp.port) as client:
            return client.sendmail("ada@example.test", [LIST], encrypted_mail())

    assert await asyncio.to_thread(hand_over) == {}
    assert len(await lmtp.stored()) == 1
