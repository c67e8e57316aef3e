"""A group with its members on one database, and the bridge that is to be killed."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.crash.bridge import ForkedBridge
from tests.crash.ledger import ROOM, Copy, Ledger
from tests.crash.nursery import Nursery
from tests.crash.reading import Mailboxes, in_room
from tests.crash.store import Store
from tests.parts.mail import mail_sink
from tests.parts.people import MailMember
from tests.parts.responder import Responder
from tests.parts.synapse import Synapse
from tests.parts.town import GROUP, LIST

ADA: Final = "ada"
MEMBERS: Final = ("boris", "chen", "dana", "emil", "fatou")
INVITED: Final = 60.0
LOOK_EVERY: Final = 0.1
RECONCILE_EVERY: Final = "30s"
"""As the product has it by itself; other tests hurry it, which costs every start some work."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everybody there, the bridge running. ``ledger`` knows what they wrote."""

    name: str
    bridge: ForkedBridge
    ada: Responder
    members: Sequence[MailMember]
    room: str
    store: Store
    ledger: Ledger
    mailboxes: Mailboxes

    @classmethod
    async def build(
        cls, closing: AsyncExitStack, synapse: Synapse, nursery: Nursery, store: Store, *, members: int
    ) -> Self:
        """``closing`` ends it all. Of the mail members the first two write as well, in the room it is Ada."""
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="crash-", dir="/tmp")))
        sink = await closing.enter_async_context(mail_sink())
        bridge = ForkedBridge(
            directory,
            nursery,
            homeserver=synapse.url,
            account=await asyncio.to_thread(synapse.new_account, "secir"),
            relay_port=sink.port,
            settings={"matrix": {"reconcile_every": RECONCILE_EVERY}, **store.settings},
        )
        await closing.enter_async_context(bridge)
        await bridge.set_up()
        store.open(bridge)
        await bridge.start()
        ada = await closing.enter_async_context(await Responder.create(synapse, ADA))
        people = [MailMember.create(n, f"{n}@{n}.example", bridge.mail_port, sink, to=LIST) for n in MEMBERS[:members]]
        for person in people:
            closing.callback(person.close)
        room = await _open_group(bridge, ada, people)
        ledger = Ledger(MEMBERS[:members], in_room=ADA)
        return cls(store.name, bridge, ada, people, room, store, ledger, Mailboxes(sink, people))

    @property
    def arrived(self) -> int:
        """How many copies there are, repeated ones and all."""
        return len(self.mailboxes.mails()) + len(self.ada.messages)

    @property
    def missing(self) -> int:
        """How many copies are still to come."""
        came = Counter(reader for reader, _ in set(self.mailboxes.mails()))
        came[ROOM] = len({copy.post for copy in in_room(self.ada) if copy.post})
        return sum(max(0, number - came[destination]) for destination, number in self.ledger.expected.items())

    async def drained(self, timeout: float) -> bool:
        """Whether everything arrives within so many seconds, and is recorded: it asks the bridge's database."""
        try:
            async with asyncio.timeout(timeout):
                while self.missing or await asyncio.to_thread(self.store.unfinished):  # noqa: ASYNC110 - others do it
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            return False
        return True

    async def copies(self) -> list[Copy]:
        """Everything that arrived anywhere, at each destination in the order in which it came."""
        return await asyncio.to_thread(self.mailboxes.copies) + in_room(self.ada)


async def _open_group(bridge: ForkedBridge, ada: Responder, people: Sequence[MailMember]) -> str:
    await bridge.cli("group", "create", GROUP, "--address", LIST)
    list_key = (await bridge.cli("group", "show", GROUP, "--key")).encode()
    await bridge.cli("contact", "add", ADA, "--matrix", ada.user_id)
    await bridge.cli("member", "add", GROUP, ADA, "--by", "room", "--role", "admin")
    for person in people:
        await bridge.cli("contact", "add", person.name, "--mail", person.address, "--key", str(person.key_file))
        await bridge.cli("member", "add", GROUP, person.name, "--by", "mail")
        person.learn_list_key(list_key)
    return await ada.accept_invite(timeout=INVITED)
