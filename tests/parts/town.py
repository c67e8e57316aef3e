"""A small trust group on real parts: a bridge, Ada in the room, Boris and Chen with only mail.

Made by the commands that an operator types, each of which is told to ``narrate`` (the demo prints them).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tests.parts.bridge import Bridge
from tests.parts.mail import Sink, mail_sink
from tests.parts.people import MailMember
from tests.parts.postfix import Postfix
from tests.parts.responder import Responder
from tests.parts.synapse import Synapse

GROUP: Final = "tld-ops"
LIST: Final = "tld-ops@lists.example"
ADA: Final = "Ada Lovelace"
BORIS: Final = ("Boris Petrov", "boris@registry.example")
CHEN: Final = ("Chen Li", "chen@nic.example")
JOINED: Final = 60.0
"""Seconds until the invitation must have come."""


def _in_silence(_: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Town:
    synapse: Synapse
    bridge: Bridge
    sink: Sink
    ada: Responder
    mail_port: int
    closing: AsyncExitStack = field(repr=False)
    narrate: Callable[[str], None] = field(repr=False)
    rooms: list[str] = field(default_factory=list)
    mail_members: list[MailMember] = field(default_factory=list)

    @classmethod
    async def build(
        cls,
        closing: AsyncExitStack,
        synapse: Synapse,
        *,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        front: Postfix | None = None,
        sink: Sink | None = None,
        narrate: Callable[[str], None] = _in_silence,
    ) -> Self:
        """Everybody there, the bridge running, the group not made yet. ``closing`` ends it all.

        With ``front``, all mail goes through that Postfix, in (by LMTP) and out. ``sink`` is a relay that runs already.
        """
        # GnuPG's sockets need a short path.
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="town-", dir="/tmp")))
        if sink is None:
            sink = await closing.enter_async_context(mail_sink(port=front.relay_port if front else 0))
        bridge = Bridge(
            directory,
            homeserver=synapse.url,
            account=await asyncio.to_thread(synapse.new_account, "secir"),
            relay_port=front.port if front else sink.port,
            protocol="lmtp" if front else "smtp",
            mail_port=front.lmtp_port if front else None,
            settings=settings,
            environment=environment,
        )
        await closing.enter_async_context(bridge)
        await bridge.set_up()
        await bridge.start()
        ada = await closing.enter_async_context(await Responder.create(synapse, "ada"))
        town = cls(synapse, bridge, sink, ada, front.port if front else bridge.mail_port, closing, narrate)
        town.mail_members.extend(town.mail_member(*who) for who in (BORIS, CHEN))
        return town

    async def open_group(self) -> str:
        """The group with its three members; returns the id of its room, which Ada has joined."""
        await self.operator("group", "create", GROUP, "--address", LIST, "--description", "ccTLD incident response")
        list_key = (await self.bridge.cli("group", "show", GROUP, "--key")).encode()
        await self.operator("contact", "add", ADA, "--matrix", self.ada.user_id)
        await self.operator("member", "add", GROUP, ADA, "--by", "room", "--role", "admin")
        for person in (self.boris, self.chen):
            await self.operator(
                *("contact", "add", person.name, "--mail", person.address, "--key", str(person.key_file))
            )
            await self.operator("member", "add", GROUP, person.name, "--by", "mail")
            person.learn_list_key(list_key)
        self.rooms.append(await self.ada.accept_invite(timeout=JOINED))
        return self.room

    def mail_member(self, name: str, address: str) -> MailMember:
        """A person who could be a member by mail."""
        made = MailMember.create(name, address, self.mail_port, self.sink, to=LIST)
        self.closing.callback(made.close)
        return made

    @property
    def boris(self) -> MailMember:
        return self.mail_members[0]

    @property
    def chen(self) -> MailMember:
        return self.mail_members[1]

    @property
    def room(self) -> str:
        """The group's room."""
        return self.rooms[0]

    async def operator(self, *words: str) -> str:
        """What the operator types; the answer. Raises Refused."""
        self.narrate("$ secir " + " ".join(f'"{word}"' if " " in word else word for word in words))
        return await self.bridge.cli(*words)
