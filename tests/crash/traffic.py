"""People who keep writing while the bridge dies and comes back: numbered posts, by mail and in the room."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from random import Random
from typing import Final

from tests.crash.ledger import Numbered
from tests.crash.scene import ADA, Scene
from tests.parts.people import MailMember
from tests.parts.traffic import Answer, hand_over

AGAIN: Final = 0.1
"""Seconds until a mail that was not taken is handed over again."""
PAUSE: Final = (1.5, 5.0)
"""Seconds between two posts of one writer."""
MOST_WAITING: Final = 40
"""Copies on their way, beyond which nobody writes: the bridge lives only half of the time."""
PERMANENT: Final = 500


class NotTaken(AssertionError):
    """A good mail was refused for good."""


class Traffic:
    """Everybody writes until ``finish``; then the mail in hand is taken, too."""

    def __init__(self, scene: Scene, random: Random) -> None:
        self._scene = scene
        self._random = random
        self._enough = asyncio.Event()
        self._numbers: Counter[str] = Counter()

    def finish(self) -> None:
        """Nothing new."""
        self._enough.set()

    async def run(self) -> None:
        """Until ``finish``. Raises NotTaken."""
        async with asyncio.TaskGroup() as tasks:
            for writer in self._scene.members[:2]:
                tasks.create_task(self._mails(writer))
            tasks.create_task(self._messages())

    async def _mails(self, writer: MailMember) -> None:
        while await self._may_go_on():
            await self.mail(writer)

    async def _messages(self) -> None:
        while await self._may_go_on():
            await self.say()

    async def mail(self, writer: MailMember) -> None:
        """The next mail, the same bytes until it is answered with 250."""
        post = self._next(writer.name)
        raw = await writer.compose("Traffic", post.text)
        while not (await self._try(writer, raw)).is_taken:  # noqa: ASYNC110 - the bridge comes back
            await asyncio.sleep(AGAIN)
        self._scene.ledger.accept(post)

    async def say(self) -> None:
        """The next message, which the homeserver has when this returns."""
        post = self._next(ADA)
        await self._scene.ada.say(self._scene.room, post.text)
        self._scene.ledger.accept(post)

    def _next(self, sender: str) -> Numbered:
        self._numbers[sender] += 1
        return Numbered(sender, self._numbers[sender])

    async def _try(self, writer: MailMember, raw: bytes) -> Answer:
        transaction = partial(hand_over, raw, port=writer.port, sender=writer.address, to=writer.list_address)
        answer = await asyncio.to_thread(transaction)
        if answer.code >= PERMANENT:
            raise NotTaken(answer.said)
        return answer

    async def _may_go_on(self) -> bool:
        """A pause, and longer if too much is on its way. False when it is enough."""
        await asyncio.sleep(self._random.uniform(*PAUSE))
        while self._scene.missing > MOST_WAITING and not self._enough.is_set():  # noqa: ASYNC110 - the bridge does it
            await asyncio.sleep(0.1)
        return not self._enough.is_set()
