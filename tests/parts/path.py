"""The path between the doors on a real database, with doors that do as they are told: for faults at an exact moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bot.phrases import Phrases
from bridges.alarms import Alarms
from bridges.bounced import Returns
from bridges.carrier import Carrier
from bridges.intake import Draft, Intake
from bridges.ports import Copy, Heading, RoomPost, Sealed
from bridges.undelivered import Undelivered
from storage.database import Database
from tests.parts.databases import SECRET
from trust.errors import SecirError
from trust.posts import Rules, Submission
from trust.records import Content, Door, Fingerprint, Group, Member, MemberState, PublicKey, Role

NOON: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class MovingClock:
    time: datetime = NOON

    def now(self) -> datetime:
        return self.time


class OpenSafe:
    """Seals nothing, but keeps who could open what."""

    async def seal(self, group: Group, entity: bytes, recipients: Sequence[PublicKey]) -> Sealed:
        readers = [group.key, *recipients]
        return Sealed(entity, {key.fingerprint: key.fingerprint.encode() for key in readers})

    async def reopen(self, group: Group, packet: bytes, session_key: bytes) -> bytes:
        assert session_key == group.key.fingerprint.encode()
        return packet

    def armour(self, session_key: bytes, packet: bytes) -> bytes:
        return session_key + b"/" + packet


@dataclass
class Doors:
    """Both doors. ``fails`` names for an address (or ``room``) what is raised."""

    mails: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    room: list[str] = field(default_factory=list)
    tries: list[str] = field(default_factory=list)
    fails: dict[str, SecirError] = field(default_factory=dict)

    def write_entity(self, heading: Heading, content: Content) -> bytes:
        return content.text.encode()

    def read_entity(self, entity: bytes) -> Content:
        return Content("", entity.decode())

    async def _answer(self, name: str) -> None:
        self.tries.append(name)
        if name in self.fails:
            raise self.fails[name]

    async def to_member(self, copy: Copy) -> None:
        await self._answer(copy.recipient)
        self.mails[copy.recipient].append(copy.message.partition(b"/")[2].decode())

    async def to_room(self, post: RoomPost) -> tuple[str, ...]:
        await self._answer("room")
        self.room.append(post.content.text)
        return (f"${len(self.room)}",)


class _MailDoor:
    def __init__(self, doors: Doors) -> None:
        self.write_entity, self.read_entity, self.send = doors.write_entity, doors.read_entity, doors.to_member


class _RoomDoor:
    def __init__(self, doors: Doors) -> None:
        self.send = doors.to_room


@dataclass
class Path:
    """``post`` puts a message in; ``carry`` lets workers bring out what is due."""

    database: Database
    clock: MovingClock
    doors: Doors
    intake: Intake
    alarms: Alarms
    carrier: Carrier
    undelivered: Undelivered

    async def group(self, name: str = "tld-ops") -> Group:
        async with self.database.transaction() as tx:
            number = len(await tx.groups.all()) + 1
            return await tx.groups.add(
                name=name,
                address=f"{name}@lists.example",
                description="",
                key=a_key(900 + number),
                federate=False,
                room_token=name,
            )

    async def member(
        self, group: Group, name: str, *, number: int, door: Door = Door.MAIL, role: Role = Role.MEMBER, more: str = ""
    ) -> Member:
        """``number`` names the key; ``more`` is a second address, its key ``number`` + 100."""
        async with self.database.transaction() as tx:
            person = await tx.contacts.add(name)
            address = f"{name.lower()}@mail.example"
            await tx.contacts.add_address(person.id, address, a_key(number))
            if more:
                await tx.contacts.add_address(person.id, more, a_key(number + 100))
            await tx.contacts.add_matrix_id(person.id, f"@{name.lower()}:hs.example")
            return await tx.members.add(
                group=group.id,
                contact=person.id,
                door=door,
                role=role,
                state=MemberState.ACTIVE,
                address=address,
                matrix_id=f"@{name.lower()}:hs.example",
            )

    async def post(self, group: Group, author: Member, text: str) -> None:
        """A message of ``author`` by mail: to the room, and to each other reader by mail."""
        draft = Draft(group, Door.MAIL, author, Content("subject", text))
        submission = Submission(Door.MAIL, author, empty=False, now=self.clock.now())
        await self.intake.submit(draft, submission, _settles_nothing)

    async def carry(self, door: Door = Door.MAIL) -> int:
        """One after the other, until nothing is due. Returns how many were tried."""
        claim = self.carrier.claim_for_member if door is Door.MAIL else self.carrier.claim_for_room
        tried = 0
        while (item := await claim()) is not None:
            tried += 1
            try:
                await self.carrier.handle(item)
            except SecirError as error:
                await self.carrier.fail(item, error)
            self.carrier.claims.done(item)
        return tried

    def later(self, **span: float) -> None:
        self.clock.time += timedelta(**span)


async def _settles_nothing(_tx: object) -> None:
    """There is no row behind what these tests post."""


def a_key(number: int) -> PublicKey:
    return PublicKey(Fingerprint(f"{number:040X}"), f"key {number}".encode())


@asynccontextmanager
async def path(url: str, *, workers: int = 8) -> AsyncIterator[Path]:
    """A path on the database ``url``."""
    database, clock, doors, phrases = Database(url, SECRET), MovingClock(), Doors(), Phrases.load()
    safe: Any = OpenSafe()
    mail: Any = _MailDoor(doors)
    room: Any = _RoomDoor(doors)
    intake = Intake(
        database=database,
        safe=safe,
        mail=mail,
        phrases=phrases,
        clock=clock,
        rules=Rules(),
        ring=lambda: None,
    )
    alarms = Alarms(database=database, clock=clock, phrases=phrases, notify=intake.notify)
    returns = Returns(database=database, alarms=alarms, clock=clock, limit=3)
    give_up_after = timedelta(days=5)
    carrier = Carrier(
        database=database,
        safe=safe,
        mail=mail,
        room=room,
        intake=intake,
        alarms=alarms,
        clock=clock,
        give_up_after=give_up_after,
        mail_workers=workers,
        on_refused=returns.refused,
        ring=lambda: None,
    )
    undelivered = Undelivered(
        database=database,
        alarms=alarms,
        notify=intake.notify,
        phrases=phrases,
        clock=clock,
        give_up_after=give_up_after,
    )
    yield Path(database, clock, doors, intake, alarms, carrier, undelivered)
    await database.close()
