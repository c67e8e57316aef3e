"""What a relay can do to us, at each step of the dialogue: which error it is, and that the next mail goes its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridges.mail import outgoing
from bridges.mail.outgoing import Relay
from tests.parts.faulty_relay import FaultyRelay, Step, Trouble, faulty_relay
from tests.parts.mail import LIST, relay_to, self_signed
from trust.errors import RelayAway, RelayBroke, RelayBusy, RelayFault, RelayNotTrusted, RelayRefused

MAIL = b"Subject: x\r\n\r\n" + b"A line of a mail that is a little longer than one packet.\r\n" * 2000
BOB = "bob@x.test"
TIMEOUT = 0.3
BOUND = 5.0
"""Seconds in which a silent relay is known to be silent, on a busy machine."""

IN_A_TRANSACTION = (Step.MAIL, Step.RCPT, Step.DATA, Step.BODY, Step.DOT)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[FaultyRelay, Relay]]:
    """A relay that can misbehave, and our side of it."""
    async with faulty_relay() as far, relay_to(far, timeout=TIMEOUT) as near:
        yield far, near


async def send(relay: Relay, recipient: str = BOB) -> None:
    await relay.send(sender=LIST, recipient=recipient, mail=MAIL)


async def fault(relay: Relay, recipient: str = BOB) -> tuple[type[RelayFault], object]:
    with pytest.raises(RelayFault) as caught:
        await send(relay, recipient)
    return type(caught.value), caught.value.params["reply"]


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "TRANSACTION_SECONDS", 1.0)


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "answer", "expected"),
    [
        (Step.CONNECT, "421 4.3.2 Closing", RelayAway),
        (Step.CONNECT, "554 5.3.2 No service", RelayAway),
        (Step.EHLO, "421 4.3.2 Closing", RelayAway),
        (Step.MAIL, "451 4.3.0 Later", RelayBusy),
        (Step.RCPT, "450 4.2.0 Greylisted", RelayBusy),
        (Step.DATA, "451 4.3.0 Later", RelayBusy),
        (Step.DOT, "452 4.3.1 No space", RelayBusy),
        (Step.RCPT, "550 5.1.1 Nobody", RelayRefused),
        (Step.DATA, "554 5.7.1 No", RelayRefused),
        (Step.DOT, "554 5.6.0 Spam", RelayRefused),
        (Step.MAIL, "550 5.7.1 Not your address", RelayNotTrusted),
        (Step.MAIL, "530 5.7.0 Log in first", RelayNotTrusted),
    ],
    ids=lambda value: value.name if isinstance(value, Step) else None,
)
async def test_each_answer_at_each_step_has_its_error_and_the_next_mail_goes_its_way(
    step: Step, answer: str, expected: type[RelayFault]
) -> None:
    async with pair() as (far, near):
        far.fault(step, answer, times=1)
        assert await fault(near) == (expected, answer[:9])
        await send(near)
        assert far.taken_for(BOB) == 1


@pytest.mark.parametrize("step", [Step.RCPT, Step.DOT], ids=lambda step: step.name)
async def test_a_full_mailbox_is_not_for_ever_though_the_answer_says_552(step: Step) -> None:
    async with pair() as (far, near):
        far.fault(step, "552 5.2.2 Mailbox full")
        assert await fault(near) == (RelayBusy, "552 5.2.2")


async def test_a_mail_too_big_for_the_relay_is_for_ever() -> None:
    async with pair() as (far, near):
        far.fault(Step.MAIL, "552 5.3.4 Too big")
        assert await fault(near) == (RelayRefused, "552 5.3.4")


@pytest.mark.parametrize("step", IN_A_TRANSACTION[:-2], ids=lambda step: step.name)
async def test_a_relay_that_says_421_and_closes_is_away_and_the_next_mail_opens_a_connection(step: Step) -> None:
    async with pair() as (far, near):
        far.fault(step, "421 4.3.2 Shutting down", times=1)
        kind, reply = await fault(near)
        assert (issubclass(kind, (RelayAway, RelayBusy)), reply) == (True, "421 4.3.2")
        await send(near)
        assert (far.taken_for(BOB), far.connections) == (1, 2)


# --- connections that break, and silence -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", IN_A_TRANSACTION, ids=lambda step: step.name)
async def test_a_connection_that_breaks_in_a_mail_concerns_that_mail_alone(step: Step) -> None:
    async with pair() as (far, near):
        far.fault(step, Trouble.HANG_UP, times=1)
        assert await fault(near) == (RelayBroke, "")
        await send(near)
        assert far.taken_for(BOB) == 1


@pytest.mark.parametrize("step", IN_A_TRANSACTION, ids=lambda step: step.name)
async def test_silence_in_a_mail_concerns_that_mail_alone_and_ends_in_bounded_time(step: Step) -> None:
    async with pair() as (far, near):
        far.fault(step, Trouble.SILENCE, to=BOB if step is not Step.MAIL else None, times=1)
        began = time.monotonic()
        assert await fault(near) == (RelayBroke, "")
        assert time.monotonic() - began < BOUND
        await send(near)
        assert far.taken_for(BOB) == 1


@pytest.mark.parametrize("step", [Step.CONNECT, Step.EHLO], ids=lambda step: step.name)
@pytest.mark.parametrize("trouble", [Trouble.HANG_UP, Trouble.SILENCE, Trouble.GARBAGE], ids=lambda what: what.name)
async def test_whatever_is_wrong_before_the_first_mail_is_a_relay_that_is_away(step: Step, trouble: Trouble) -> None:
    async with pair() as (far, near):
        far.fault(step, trouble, times=1 if step is Step.CONNECT else 2)  # a broken EHLO is asked again as HELO
        began = time.monotonic()
        kind, _ = await fault(near)
        assert kind is RelayAway
        assert time.monotonic() - began < BOUND
        far.heal()
        await send(near)
        assert far.taken_for(BOB) == 1


async def test_a_port_that_nobody_listens_on_is_a_relay_that_is_away() -> None:
    async with pair() as (far, near):
        await far.die()
        assert await fault(near) == (RelayAway, "")
        await far.listen()
        await send(near)
        assert far.taken_for(BOB) == 1


async def test_a_250_that_is_lost_leaves_the_mail_to_be_sent_once_more() -> None:
    """RFC 1047: we can't know that it was taken. The next try bears the same Message-ID."""
    async with pair() as (far, near):
        far.fault(Step.DOT, Trouble.LOST_250, times=1)
        assert await fault(near) == (RelayBroke, "")
        await send(near)
        assert [mail.data for mail in far.mails] == [MAIL, MAIL]


@pytest.mark.parametrize("step", [Step.MAIL, Step.RCPT, Step.DATA, Step.DOT], ids=lambda step: step.name)
async def test_an_answer_that_is_no_smtp_is_nobodys_refusal(step: Step) -> None:
    async with pair() as (far, near):
        far.fault(step, Trouble.GARBAGE, times=1)
        kind, _ = await fault(near)
        assert kind.retryable
        await send(near)
        assert far.taken_for(BOB) == 1


async def test_one_reader_with_whom_the_relay_falls_silent_does_not_delay_the_others() -> None:
    async with pair() as (far, near):
        far.fault(Step.RCPT, Trouble.SILENCE, to=BOB)
        began = time.monotonic()
        stuck = asyncio.create_task(fault(near))
        await asyncio.gather(*(send(near, f"m{number}@x.test") for number in range(30)))
        took, still_stuck = time.monotonic() - began, not stuck.done()
        assert await stuck == (RelayBroke, "")
    print(f"30 mails beside a stuck one: {took:.3f} s")  # noqa: T201
    assert len(far.mails) == 30
    assert still_stuck or took > TIMEOUT


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["454 4.7.0 TLS is not available", "502 5.5.1 No", Trouble.GARBAGE, Trouble.HANG_UP, Trouble.SILENCE],
    ids=lambda what: what.name if isinstance(what, Trouble) else what[:3],
)
async def test_starttls_that_fails_sends_nothing_in_clear_and_concerns_every_mail(
    what: str | Trouble, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    trusted = {"tls": "starttls", "authorities": str(certificate.chain), "timeout": TIMEOUT}
    async with faulty_relay(tls=certificate.server()) as far, relay_to(far, **trusted) as near:
        far.fault(Step.STARTTLS, what, times=1)
        kind, _ = await fault(near)
        assert issubclass(kind, (RelayAway, RelayNotTrusted))
        await send(near)
    assert [mail.tls for mail in far.mails] == [True]
