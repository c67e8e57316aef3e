"""A bounce is told apart from all other mail, and so is what it says of the address."""

from __future__ import annotations

import random
import time
from typing import Final

import pytest

from bridges.mail import bounces, parse
from bridges.mail.bounces import Bounce, read_bounce
from tests.parts import bounces as given
from tests.parts.bounces import BOUNCED, report
from tests.parts.mail import CORPORA
from trust.bounces import BounceKind
from trust.errors import MailRefusal

HARD, SOFT, DELAYED = BounceKind.HARD, BounceKind.SOFT, BounceKind.DELAYED


# --- reports (RFC 3464) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "status", "expected"),
    [
        ("failed", "5.1.1", HARD),
        ("failed", "5.4.4", HARD),
        ("failed", "5.2.2", SOFT),
        ("failed", "4.4.1", SOFT),  # tried until its time was over
        ("failed (temporarily)", "5.2.2", SOFT),
        ("delayed", "4.4.1", DELAYED),
    ],
)
def test_action_and_status_of_a_report_decide(action: str, status: str, expected: BounceKind) -> None:
    assert Bounce(expected, (BOUNCED,), status) == read_bounce(report(status, action, diagnostic="smtp; no"))


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded"])
def test_good_news_is_no_bounce(action: str) -> None:
    assert read_bounce(report("2.0.0", action, diagnostic="smtp; 250 Ok")) is None


@pytest.mark.parametrize(
    ("status", "diagnostic", "expected"),
    [
        ("5.0.0", "smtp; 550 <bob@elsewhere.test>: User unknown in virtual mailbox table", (HARD, "5.0.0")),
        ("5.0.0", "smtp; 552 Account(s) <bob@elsewhere.test> does not have enough space", (SOFT, "5.0.0")),
        ("5.0.0", "smtp; 550 5.1.1 That one left", (HARD, "5.1.1")),
        ("5.7.1", "smtp; 554 5.7.1 Recipient address rejected: Nonexistent user", (HARD, "5.7.1")),
        ("5.7.1", "smtp; 550 5.7.1 Blocked by a DNSBL", (SOFT, "5.7.1")),
        ("5.0.0", "X-Postfix; mail for elsewhere.test loops back to myself", (SOFT, "5.0.0")),
        ("", "smtp; 550 5.2.1 disabled", (HARD, "5.2.1")),
    ],
)
def test_a_status_that_says_little_gives_way_to_what_the_server_said(
    status: str, diagnostic: str, expected: tuple[BounceKind, str]
) -> None:
    found = read_bounce(report(status, diagnostic=diagnostic))
    assert found is not None
    assert expected == (found.kind, found.status)


def test_of_several_recipients_the_worst_counts() -> None:
    more = "\nFinal-Recipient: rfc822; second@elsewhere.test\nAction: failed\nStatus: 5.1.1\n"
    assert Bounce(HARD, ("second@elsewhere.test",), "5.1.1") == read_bounce(
        report("4.2.2", diagnostic="smtp; full", more=more)
    )
    assert Bounce(HARD, (BOUNCED,), "5.1.1") == read_bounce(
        report(more="\nFinal-Recipient: rfc822; second@elsewhere.test\nAction: relayed\nStatus: 2.0.0\n")
    )


def test_a_report_without_an_address_of_its_own_names_the_original_one() -> None:
    found = read_bounce(report().replace(b"Final-Recipient: rfc822; bob@elsewhere.test", b"Final-Recipient: system;<>"))
    assert found is not None
    assert (BOUNCED,) == found.recipients


def test_a_report_needs_no_type_but_is_not_believed_inside_a_persons_mail() -> None:
    untyped = report().replace(b" report-type=delivery-status;", b"")
    assert Bounce(HARD, (BOUNCED,), "5.1.1") == read_bounce(untyped)
    forwarded = untyped.replace(b"multipart/report", b"multipart/mixed").replace(b"MAILER-DAEMON@", b"bob@")
    assert read_bounce(forwarded.replace(b"(Mail Delivery System)", b"(Bob)")) is None


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(given.EXIM, Bounce(HARD, (BOUNCED,)), id="exim"),
        pytest.param(given.QMAIL, Bounce(HARD, (BOUNCED,), "5.1.1"), id="qmail"),
        pytest.param(given.QMAIL_FULL, Bounce(SOFT, (BOUNCED,)), id="qmail-full"),
        pytest.param(given.EXCHANGE, Bounce(HARD, (BOUNCED,)), id="exchange"),
        pytest.param(given.HTML_ONLY, Bounce(HARD, (BOUNCED,)), id="html"),
        pytest.param(given.LATE, Bounce(DELAYED, (BOUNCED,)), id="late"),
        pytest.param(given.UNCLEAR, Bounce(SOFT, (BOUNCED,)), id="unclear"),
    ],
)
def test_what_servers_write_without_a_report_is_understood(raw: bytes, expected: Bounce) -> None:
    assert expected == read_bounce(raw)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(given.VACATION, id="vacation"),
        pytest.param(given.RECEIPT, id="receipt"),
        pytest.param(given.COMPLAINT, id="complaint"),
    ],
)
@pytest.mark.parametrize("from_nobody", [True, False])
def test_other_automatic_mail_is_no_bounce(raw: bytes, from_nobody: bool) -> None:
    assert read_bounce(raw, from_nobody=from_nobody) is None


def test_a_person_who_quotes_a_bounce_sends_none() -> None:
    assert read_bounce(given.PERSONS) is None


def test_the_null_sender_is_a_sign_of_a_machine() -> None:
    unsigned = given.QMAIL.replace(b"MAILER-DAEMON@", b"qmail@")
    assert read_bounce(unsigned) is None
    assert Bounce(HARD, (BOUNCED,), "5.1.1") == read_bounce(unsigned, from_nobody=True)


# --- hostile ones ----------------------------------------------------------------------------------------------------

SAMPLES: Final = (report(), given.EXIM, given.QMAIL, given.EXCHANGE, given.HTML_ONLY, given.LATE, given.RECEIPT)


def test_cut_and_mangled_bounces_raise_nothing() -> None:
    chance = random.Random(3464)  # noqa: S311 - repeatable, not secret
    for _ in range(600):
        raw = bytearray(chance.choice(SAMPLES))
        for _ in range(chance.randrange(1, 12)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        if chance.random() < 0.5:
            del raw[chance.randrange(len(raw)) :]
        read_bounce(bytes(raw), from_nobody=chance.random() < 0.5)


FROM: Final = b"From: mailer-daemon@x.test\r\nSubject: failure notice\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(FROM + b"X: y\r\n" * 20_000 + b"\r\n", id="headers"),
        pytest.param(FROM + b"\r\n" + b"a@" * 500_000, id="at"),
        pytest.param(FROM + b"\r\n" + b"<a" * 500_000, id="tags"),
        pytest.param(
            FROM.replace(b"\r\nSubject", b"\r\nContent-Type: text/html\r\nSubject") + b"\r\n" + b"<a" * 500_000,
            id="html",
        ),
        pytest.param(FROM + b"\r\n" + b"delivery to " * 100_000, id="phrases"),
        pytest.param(FROM + b"\r\n" + b" " * 1_000_000, id="blanks"),
        pytest.param(report(more="\n \n" * 300_000), id="groups"),
        pytest.param(report("5" * 500_000), id="status"),
        pytest.param(report(diagnostic="smtp; " + "not able to " * 50_000), id="diagnostic"),
        pytest.param(report(recipient="a@b." * 100_000), id="recipient"),
    ],
)
def test_a_hostile_bounce_takes_little_time(raw: bytes) -> None:
    began = time.monotonic()
    read_bounce(raw, from_nobody=True)
    assert time.monotonic() - began < 2


# --- real ones of other projects -------------------------------------------------------------------------------------

CORPUS: Final = {
    "bounces/malformed_bounce_01.txt.eml": (HARD, "mithlesh_pm@rediffmail.com"),
    "bounces/tt_1234175799.txt.eml": (HARD, "agris.ameriks@amerimailzzz.lv"),
    "bounces/tt_1234177688.txt.eml": (HARD, "aaaaagggrrriiiizz@inbox.lv"),
    "bounces/tt_1234210655.txt.eml": (HARD, "this_doesnotexistinaac@accenture.com"),
    "bounces/tt_1234211357.txt.eml": (HARD, "agris.ameriksneexistee@gmail.com"),
    "bounces/tt_1234211929.txt.eml": (SOFT, "jekaterina@tv5.lv"),
    "bounces/tt_1234211931.txt.eml": (SOFT, "info.rietumuradio.lv@mail.studio7.lv"),
    "bounces/tt_1234211932.txt.eml": (HARD, "dace.balode@rigasvilni.lv"),
    "bounces/tt_1234241665.txt.eml": (HARD, "annas@sfl.lv"),
    "bounces/tt_1234285532.txt.eml": (HARD, "doesntexistthisemaill@yahoo.com"),
    "bounces/tt_1234285668.txt.eml": (SOFT, "agrisa@one.lv"),
    "bounces/tt_bounce_01.txt.eml": (HARD, "thornborrow@connect4free.net"),
    "bounces/tt_bounce_02.txt.eml": (HARD, "thornborrow@connect4free.net"),
    "bounces/tt_bounce_03.txt.eml": (HARD, "agrisa@apollo.lv"),
    "bounces/tt_bounce_04.txt.eml": (HARD, "agrisa@apollo.lv"),
    "bounces/tt_bounce_05.txt.eml": (HARD, "evor@apollo.lv"),
    "bounces/tt_bounce_06.txt.eml": (SOFT, "info@koblenz.lv"),
    "bounces/tt_bounce_07.txt.eml": (HARD, "ilona.kalnina@citrus.lv"),
    "bounces/tt_bounce_08.txt.eml": (SOFT, "jauatkales@gmial.com"),
    "bounces/tt_bounce_09.txt.eml": (SOFT, "gintsgrube@pop.ml.lv"),
    "bounces/tt_bounce_10.txt.eml": (SOFT, "info.rietumuradio.lv@mail.studio7.lv"),
    "bounces/tt_bounce_11.txt.eml": (SOFT, ""),  # it names a person, and no address
    "bounces/tt_bounce_12_soft.txt.eml": (DELAYED, "info@radioliepaja.lv"),
    "bounces/tt_bounce_13.txt.eml": (SOFT, "ilzeb@lvaei.lv"),
    "bounces/tt_bounce_14.txt.eml": (SOFT, "jolanta_putnina@ogreszinas.lv"),
    "bounces/tt_bounce_15.txt.eml": (HARD, "info@rimibaltic.com"),
    "bounces/tt_bounce_16.txt.eml": (SOFT, "jekaterina@tv5.lv"),
    "bounces/tt_bounce_17.txt.eml": (HARD, "agris.brivers@motosports.lv"),
    "bounces/tt_bounce_18.txt.eml": (DELAYED, "welcome6_@one.lv"),
    "bounces/tt_bounce_19.txt.eml": (DELAYED, "26461101@sms.id.lv"),
    "bounces/tt_bounce_20.txt.eml": (SOFT, "26461101@sms.id.lv"),
    "bounces/tt_bounce_21.txt.eml": (SOFT, "kasparsramins@gmail.com"),  # it gives no reason
    "bounces/tt_bounce_22.txt.eml": (HARD, "flughafentransfer@loackertours.at"),
    "bounces/tt_bounce_23.txt.eml": (HARD, "rihards_freimanis@exigengroup.com"),
    "bounces/tt_bounce_24.txt.eml": (HARD, "customer.testemail@test-receive-domain.se"),
    "bounces/tt_bounce_25.txt.eml": (HARD, "delar-med-frun@live.se"),
    "bounces/undeliverable_gmail.txt.eml": (HARD, "undeliverable@coupa.com"),
    "bounces/unknown_code_bounce_01.txt.eml": (SOFT, "sdrake@tradingpost.ch"),
    "names-and-quotes/gmail_ndn.eml": (HARD, "assidhfaaspocwaeofi@gmail.com"),
    "names-and-quotes/gmail_ndn_group.eml": (HARD, "assidhfaaspocwaeofi@gmail.com"),
    "names-and-quotes/gmx_ndn.eml": (HARD, "snaerituhaeirns@gmail.com"),
    "names-and-quotes/posteo_ndn.eml": (HARD, "hanerthaertidiuea@gmx.de"),
    "names-and-quotes/testrun_ndn.eml": (HARD, "hcksocnsofoejx@five.chat"),
    "names-and-quotes/testrun_ndn_2.eml": (HARD, "bob@example.org"),
    "names-and-quotes/tiscali_ndn.eml": (HARD, "shenauithz@testrun.org"),
    "names-and-quotes/yahoo_ndn.eml": (HARD, "haeclirth.sinoenrat@yahoo.com"),
}
"""Read by a person. The delayed ones are bounces too, only not for good."""
OTHERS: Final = sorted(
    path
    for path in CORPORA.glob("*/*")
    if path.suffix in {".eml", ".txt"} and str(path.relative_to(CORPORA)) not in CORPUS and path.is_file()
)


@pytest.mark.parametrize("name", [name for name in CORPUS if (CORPORA / name).is_file()])
def test_a_real_bounce_is_told_apart_with_the_address_that_it_names(name: str) -> None:
    found = read_bounce((CORPORA / name).read_bytes())
    assert found is not None
    assert CORPUS[name] == (found.kind, next(iter(found.recipients), ""))


def test_every_real_bounce_is_in_the_table() -> None:
    assert [] == [path.name for path in OTHERS if path.parent.name == "bounces" or "ndn" in path.name]


@pytest.mark.parametrize("path", OTHERS, ids=[path.name for path in OTHERS])
def test_other_real_mail_is_no_bounce(path: object) -> None:
    assert isinstance(path, type(CORPORA))
    assert read_bounce(path.read_bytes()) is None
    assert path.parent.name == "malformed" or read_bounce(path.read_bytes(), from_nobody=True) is None


@pytest.mark.parametrize("name", [name for name in CORPUS if (CORPORA / name).is_file()])
def test_a_real_bounce_is_never_taken_for_a_post(name: str) -> None:
    with pytest.raises(MailRefusal):
        parse.read_envelope((CORPORA / name).read_bytes())


def test_only_the_head_of_a_bounce_is_looked_at() -> None:
    head, body = given.QMAIL.split(b"\r\n\r\n", 1)
    far_below = head.replace(b"failure notice", b"hello") + b"\r\n\r\n" + b"x" * bounces.MAX_TEXT + b"\r\n" + body
    assert read_bounce(far_below, from_nobody=True) is None
