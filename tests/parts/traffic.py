"""Steady traffic: members write numbered mails and hand each over again until it is taken, as mail servers do."""

from __future__ import annotations

import asyncio
import math
import smtplib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from tests.parts.people import MailMember
from tests.parts.ports import LOOPBACK
from tests.parts.town import Town

AGAIN: Final = 0.5
"""Seconds until a mail that was not taken is handed over again."""
ANSWER_BOUND: Final = 60.0
"""Seconds for each answer of the bridge; longer is no answer."""
LAST_MAIL: Final = 60.0
"""Seconds for the mail in hand to be taken, once nothing new is written."""
NO_ANSWER: Final = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one SMTP transaction: the first reply that is no 250, or the one to the final dot."""

    code: int
    said: str
    began: float
    ended: float

    @property
    def is_taken(self) -> bool:
        return self.code == 250

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def hand_over(mail: bytes, *, port: int, sender: str, to: str) -> Answer:
    """One transaction, in the calling thread."""
    began = time.monotonic()
    try:
        code, said = _transaction(mail, port, sender, to)
    except smtplib.SMTPResponseException as refused:
        code, said = refused.smtp_code, refused.smtp_error
    except (smtplib.SMTPException, OSError) as error:
        code, said = NO_ANSWER, type(error).__name__
    return Answer(code, said if isinstance(said, str) else said.decode(), began, time.monotonic())


def _transaction(mail: bytes, port: int, sender: str, to: str) -> tuple[int, bytes | str]:
    smtp = smtplib.SMTP(LOOPBACK, port, local_hostname="client.test", timeout=ANSWER_BOUND)
    try:
        smtp.ehlo()
        answer = smtp.mail(sender)
        if answer[0] == 250:
            answer = smtp.rcpt(to)
        return smtp.data(mail) if answer[0] == 250 else answer
    finally:
        smtp.close()  # without QUIT: its answer says nothing of the mail


@dataclass
class Written:
    """One mail, and what was said to each try."""

    text: str
    answers: list[Answer] = field(default_factory=list)

    @property
    def taken_at(self) -> float:
        """When it was answered with 250, by the monotonic clock."""
        return self.answers[-1].ended


class Writer:
    """``async with Writer(boris, "load", every=1.0) as writer: ...`` writes until the block ends.

    Then the mail in hand is taken, too: ``written`` holds taken mails only, in their order.
    """

    def __init__(self, member: MailMember, word: str, *, every: float, size: int = 0, most: int | None = None) -> None:
        self.member = member
        self.written: list[Written] = []
        self.refused: list[Answer] = []
        """Every answer that was no 250."""
        self._word = word
        self._every = every
        self._files = {"padding.bin": bytes(size)} if size else None
        self._most = most
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def texts(self) -> list[str]:
        return [mail.text for mail in self.written]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.finish()

    async def finish(self) -> None:
        """Write nothing new, and wait until the mail in hand is taken."""
        self._enough.set()
        assert self._task is not None
        async with asyncio.timeout(LAST_MAIL):
            await self._task

    async def _run(self) -> None:
        while not self._enough.is_set() and len(self.written) != self._most:
            await self.write_one()
            try:
                async with asyncio.timeout(self._every):
                    await self._enough.wait()
            except TimeoutError:
                continue

    async def write_one(self) -> Written:
        """One mail, until it is taken."""
        text = f"[{self._word} of {self.member.name}: {len(self.written) + 1:04}]"
        mail = Written(text)
        raw = await self.member.compose(self._word, text, files=self._files)
        where = {"port": self.member.port, "sender": self.member.address, "to": self.member.list_address}
        while True:
            answer = await asyncio.to_thread(hand_over, raw, **where)  # type: ignore[arg-type]
            mail.answers.append(answer)
            if answer.is_taken:
                break
            self.refused.append(answer)
            await asyncio.sleep(AGAIN)
        self.written.append(mail)
        return mail


def heard(texts: Sequence[str], bodies: Iterable[str]) -> list[str]:
    """Which of ``texts`` stand in ``bodies``, in the order of these; one that stands in two is there twice."""
    return [text for body in bodies for text in texts if text in body]


async def arrived_once_in_order(town: Town, *writers: Writer, within: float) -> float:
    """Wait for what each writer wrote, in the room and at the other readers. Raises TimeoutError.

    Then see that it is there once and in order; the seconds it took.
    """
    began = time.monotonic()
    readers = {writer: [each for each in town.mail_members if each is not writer.member] for writer in writers}
    for writer in writers:
        await town.ada.wait_for(writer.texts[-1], within)
        for reader in readers[writer]:
            await reader.receive(writer.texts[-1], timeout=within)
    took = time.monotonic() - began
    for writer in writers:
        assert heard(writer.texts, [message.body for message in town.ada.messages]) == writer.texts
        for reader in readers[writer]:
            assert heard(writer.texts, [letter.text for letter in reader.letters()]) == writer.texts
    return took


async def until(look: Callable[[], object], *, most: float) -> bool:
    """Wait until ``look`` is true, at most so many seconds; whether it is."""
    end = time.monotonic() + most
    while not (found := look()) and time.monotonic() < end:  # noqa: ASYNC110 - it looks at what others change
        await asyncio.sleep(0.05)
    return bool(found)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Figures:
    """Delays of one stretch of a test, in seconds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        return percentile(self.values, 0.99)

    @property
    def longest(self) -> float:
        return max(self.values)

    def __str__(self) -> str:
        figures = f"median {self.median:.3f} s, p99 {self.p99:.3f} s, longest {self.longest:.3f} s"
        return f"{figures} ({len(self.values)} mails)"
