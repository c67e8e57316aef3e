"""Trust groups: one room, one list, one policy each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import folded, insert_into
from storage.schema import groups
from trust.errors import AlreadyThere, NoSuchGroup
from trust.records import Fingerprint, Group, GroupId, PublicKey


class Groups:
    """The trust groups of this bridge."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self, *, name: str, address: str, description: str, key: PublicKey, federate: bool, room_token: str
    ) -> Group:
        """``address`` is kept in lower case. Raises AlreadyThere for a name (in any case), address or key in use."""
        statement = insert_into(self._connection, groups).values(
            name=name,
            name_folded=folded(name),
            address=address.lower(),
            description=description,
            key_fingerprint=key.fingerprint,
            key_data=key.data,
            key_expires_at=key.expires_at,
            federate=federate,
            room_token=room_token,
        )
        added = await self._connection.execute(statement.on_conflict_do_nothing().returning(groups))
        if (row := added.one_or_none()) is None:
            raise AlreadyThere(what=name if await self.by_name(name) else address.lower())
        return _group(row)

    async def get(self, group: GroupId) -> Group:
        """Raises NoSuchGroup."""
        found = await self._one(groups.c.id == group)
        if found is None:
            raise NoSuchGroup(group=group)
        return found

    async def by_name(self, name: str) -> Group | None:
        return await self._one(groups.c.name_folded == folded(name))

    async def by_address(self, address: str) -> Group | None:
        return await self._one(groups.c.address == address.lower())

    async def by_room(self, room_id: str) -> Group | None:
        return await self._one(groups.c.room_id == room_id)

    async def all(self) -> list[Group]:
        return [_group(row) for row in await self._connection.execute(select(groups).order_by(groups.c.name_folded))]

    async def set_room(self, group: GroupId, room_id: str, pin: Mapping[str, object]) -> None:
        """Remember the room and its state as agreed. Raises AlreadyThere if it is another group's room."""
        other = await self.by_room(room_id)
        if other is not None and other.id != group:
            raise AlreadyThere(what=room_id)
        await self._set(group, room_id=room_id, room_pin=dict(pin))

    async def stop(self, group: GroupId, code: str) -> None:
        """Nothing is to be sent to the room, for the reason that ``code`` names."""
        await self._set(group, stopped=code)

    async def resume(self, group: GroupId) -> None:
        await self._set(group, stopped=None)

    async def _set(self, group: GroupId, **values: object) -> None:
        await self._connection.execute(update(groups).where(groups.c.id == group).values(**values))

    async def _one(self, where: ColumnElement[bool]) -> Group | None:
        row = (await self._connection.execute(select(groups).where(where))).one_or_none()
        return None if row is None else _group(row)


def _group(row: Row[Any]) -> Group:
    return Group(
        id=row.id,
        name=row.name,
        address=row.address,
        description=row.description,
        key=PublicKey(Fingerprint(row.key_fingerprint), row.key_data, row.key_expires_at),
        federate=row.federate,
        room_token=row.room_token,
        room_id=row.room_id,
        room_pin=row.room_pin,
        stopped=row.stopped,
    )
