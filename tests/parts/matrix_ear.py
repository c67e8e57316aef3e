"""The bot's sync in a test: what its listeners were told, and what it kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bridges.matrix.incoming import Incoming
from bridges.matrix.sync import Listeners, Sync
from bridges.ports import RoomMessage
from storage.records import EventItem
from tests.parts.matrix_bot import Bot
from tests.parts.responder import Responder
from trust.errors import Undecryptable
from trust.records import Group

PATIENCE = 20.0


@dataclass
class Ear:
    """A sync of ``bot`` that remembers what it told. Make it anew after ``bot.restart``."""

    bot: Bot
    rung: int = 0
    keys: list[str] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        listeners = Listeners(
            on_events=self._ring, on_room_key=self.keys.append, on_state=self._changed, on_devices=self._devices
        )
        self.sync = Sync(
            self.bot.session, self.bot.database, self.bot.clock, listeners, long_poll=timedelta(milliseconds=300)
        )
        self.incoming = Incoming(self.bot.session, self.bot.database, self.bot.devices, file_limit_mb=1)

    def _ring(self) -> None:
        self.rung += 1

    def _changed(self, room_id: str) -> None:
        self.rooms.append(room_id)
        self.bot.rooms.changed(room_id)

    def _devices(self, users: Any) -> None:
        found = list(users)
        self.users += found
        self.bot.devices.changed(found)

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def take(self, count: int) -> list[EventItem]:
        """Sync until ``count`` events are there, and claim them; none may be left."""
        taken: list[EventItem] = []
        async with asyncio.timeout(PATIENCE):
            while len(taken) < count:
                await self.sync.round()
                while (item := await self.claim()) is not None:
                    taken.append(item)
        await self.sync.round()
        assert await self.claim() is None, "more events than were expected"
        return taken

    async def claim(self) -> EventItem | None:
        """The next event, settled at once."""
        async with self.bot.database.transaction() as tx:
            item = await tx.events.claim(self.bot.clock.now(), lease=timedelta(minutes=5))
            if item is not None:
                await tx.events.finish(item.id)
        return item

    async def hear(self, group: Group, count: int = 1) -> list[RoomMessage | None]:
        """The next ``count`` messages of the group's room, read. Raises what reading raises."""
        return [await self.read(group, item) for item in await self.take(count)]

    async def read(self, group: Group, item: EventItem) -> RoomMessage | None:
        """Read an event; if its key is not there yet, sync until it is."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self.incoming.read(group, item.event)
                except Undecryptable:
                    if not await self.sync.round():
                        raise


async def room_with(bot: Bot, *people: Responder) -> Group:
    """A group whose room ``people`` have joined; the bot has made its first sync."""
    await Ear(bot).sync.round()
    group = await bot.group(*[person.user_id for person in people])
    await bot.rooms.reconcile(group)
    for person in people:
        await person.accept_invite(group.room_id)
    return group
