"""The Matrix side of the bot, put together as ``bot/app.py`` does, with a clock and an alarm that tests can read."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bridges.matrix import crosssigning
from bridges.matrix.devices import Devices
from bridges.matrix.keyshare import KeyShare
from bridges.matrix.outgoing import Outgoing
from bridges.matrix.rooms import Rooms
from bridges.matrix.session import MatrixSettings, Session
from storage.database import Database
from tests.parts.synapse import Account, Synapse
from trust.errors import SecirError
from trust.records import Door, Fingerprint, Group, Member, MemberState, PublicKey, Role


class HandClock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def forward(self, step: timedelta) -> None:
        self.time += step


class HeardAlarms:
    """An Alarm that remembers: ``(group name, code, params)``."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, str | int]]] = []

    async def __call__(self, group: Group, error: SecirError) -> None:
        self.heard.append((group.name, error.code, error.params))

    def codes(self) -> list[str]:
        return [code for _, code, _ in self.heard]


class PlainPhrases:
    """A Phrasebook whose texts are their keys."""

    def explain(self, error: SecirError) -> str:
        return f"explained {error.code}"

    def say(self, key: str, /, **params: str | int) -> str:
        return f"said {key}"


@dataclass
class Bot:
    """One account on a real homeserver, with a database of its own."""

    server: Synapse
    account: Account
    settings: MatrixSettings
    database: Database
    session: Session
    clock: HandClock = field(default_factory=HandClock)
    alarms: HeardAlarms = field(default_factory=HeardAlarms)
    phrases: PlainPhrases = field(default_factory=PlainPhrases)

    def __post_init__(self) -> None:
        self._wire()

    def _wire(self) -> None:
        self.devices = Devices(self.session, self.database, self.clock)
        self.keys = KeyShare(self.session, self.devices, self.phrases)
        self.rooms = Rooms(self.session, self.database, self.clock, alarm=self.alarms, phrases=self.phrases)
        self.outgoing = Outgoing(self.session, self.database, self.rooms, self.keys, alarm=self.alarms)

    @classmethod
    async def arrive(cls, server: Synapse, directory: Path, *, account: Account | None = None) -> Bot:
        """A logged-in bot with its keys published and no identity yet; its files are ``directory``-something."""
        account = account or server.new_account("bot")
        settings = MatrixSettings(
            homeserver=server.url,
            user_id=account.user_id,
            store_dir=directory.with_name(f"{directory.name}-store"),
            pickle_key=secrets.token_hex(32),
            device_name="secir",
        )
        database = Database(f"sqlite:///{directory}-secir.db", b"s" * 32)
        await database.upgrade()
        await database.open()
        session = await Session.log_in(settings, database, account.password)
        await session.publish_keys()
        return cls(server, account, settings, database, session)

    async def sign_up(self) -> str:
        """Make the identity; the recovery key."""
        return await crosssigning.create(self.session, self.database, self.account.password)

    async def restart(self) -> None:
        """As after the end of the process: everything in memory is gone."""
        await self.session.close()
        await self.database.close()
        self.session = await Session.resume(self.settings, self.database)
        self._wire()

    async def close(self) -> None:
        await self.session.close()
        await self.database.close()

    # --- the roll --------------------------------------------------------------------------------------------------

    async def group(self, *readers: str, federate: bool = False, room: bool = True) -> Group:
        """A new group with ``readers``, and its room."""
        token = secrets.token_hex(8)
        async with self.database.transaction() as tx:
            group = await tx.groups.add(
                name=f"ops {token}",
                address=f"{token}@lists.test",
                description="",
                key=PublicKey(Fingerprint(secrets.token_hex(20).upper()), b"key"),
                federate=federate,
                room_token=token,
            )
        for reader in readers:
            await self.add(group, reader)
        return await self.rooms.ensure(group) if room else group

    async def add(self, group: Group, matrix_id: str) -> Member:
        async with self.database.transaction() as tx:
            contact = await tx.contacts.add(f"{matrix_id} {secrets.token_hex(3)}")
            await tx.contacts.add_matrix_id(contact.id, matrix_id)
            return await tx.members.add(
                group=group.id,
                contact=contact.id,
                door=Door.ROOM,
                role=Role.MEMBER,
                state=MemberState.ACTIVE,
                address=None,
                matrix_id=matrix_id,
            )

    async def set_state(self, group: Group, matrix_id: str, state: MemberState) -> None:
        async with self.database.transaction() as tx:
            member = await tx.members.by_matrix_id(group.id, matrix_id)
            assert member is not None
            await tx.members.set_state(member.id, state)

    async def stopped(self, group: Group) -> str | None:
        async with self.database.transaction() as tx:
            return (await tx.groups.get(group.id)).stopped

    # --- saying ----------------------------------------------------------------------------------------------------

    async def say(self, group: Group, text: str) -> str:
        content = {"msgtype": "m.text", "body": text}
        return await self.outgoing.send(group, content, transaction=f"t{secrets.token_hex(6)}")

    async def put_state(self, group: Group, kind: str, content: Mapping[str, Any]) -> None:
        """A state event in the bot's name: what a server, or whoever took the room over, could do."""
        await self.session.api.request("PUT", "rooms", str(group.room_id), "state", kind, "", body=content)
        self.rooms.changed(str(group.room_id))

    @asynccontextmanager
    async def obstacle(self, *segments: str, error: Exception | None = None) -> AsyncIterator[asyncio.Event]:
        """Requests whose path begins with ``segments`` raise ``error``, or hang; the event tells that one came."""
        came, request = asyncio.Event(), self.session.api.request

        async def obstructed(method: str, *path: str, **options: Any) -> Any:
            if path[: len(segments)] != segments:
                return await request(method, *path, **options)
            came.set()
            if error is None:
                await asyncio.Event().wait()
            raise error or AssertionError("never comes here")

        self.session.api.request = obstructed  # type: ignore[method-assign]
        try:
            yield came
        finally:
            self.session.api.request = request  # type: ignore[method-assign]
