"""Who takes part in which trust group, by which door, and where each one stands."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import insert_into
from storage.keys import key_of
from storage.schema import addresses, contacts, keys, matrix_ids, members
from trust.errors import AlreadyThere, MemberNeedsAddress, MemberNeedsMatrixId, NoSuchMember
from trust.records import (
    ContactId,
    Door,
    Fingerprint,
    GroupId,
    MailAddress,
    Member,
    MemberId,
    MemberState,
    Role,
)


class Members:
    """Memberships. One that was left keeps its row, so that what the member wrote keeps its author."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        *,
        group: GroupId,
        contact: ContactId,
        door: Door,
        role: Role,
        state: MemberState,
        address: str | None,
        matrix_id: str | None,
    ) -> Member:
        """Add a contact, or take back one that left.

        ``address`` and ``matrix_id`` must be the contact's own; the door's one must be given. Raises AlreadyThere,
        MemberNeedsAddress, MemberNeedsMatrixId.
        """
        address = address.lower() if address else None
        await self._check(contact, door, address, matrix_id)
        standing = {"door": door, "role": role, "state": state, "address": address, "matrix_id": matrix_id}
        statement = insert_into(self._connection, members).values(group_id=group, contact_id=contact, **standing)
        added = await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["group_id", "contact_id"], set_=standing, where=members.c.state == MemberState.LEFT
            ).returning(members.c.id)
        )
        if (row_id := added.scalar_one_or_none()) is None:
            raise AlreadyThere(what=await self._name(contact))
        return await self.get(row_id)

    async def get(self, member: MemberId) -> Member:
        """In any state. Raises NoSuchMember."""
        found = await self._load(members.c.id == member)
        if not found:
            raise NoSuchMember(contact=member, group="")
        return found[0]

    async def of(self, group: GroupId) -> list[Member]:
        """All who have not left, in the order they were added."""
        return await self._load(members.c.group_id == group, _STAYS)

    async def of_contact(self, contact: ContactId) -> list[Member]:
        """The contact's memberships that were not left."""
        return await self._load(members.c.contact_id == contact, _STAYS)

    async def by_fingerprint(self, group: GroupId, fingerprint: Fingerprint) -> Member | None:
        """The one for whose address in this group the key is pinned, in any state but LEFT."""
        return await self._one(group, addresses.c.fingerprint == fingerprint)

    async def by_matrix_id(self, group: GroupId, matrix_id: str) -> Member | None:
        return await self._one(group, members.c.matrix_id == matrix_id)

    async def by_address(self, group: GroupId, address: str) -> Member | None:
        return await self._one(group, members.c.address == address.lower())

    async def set_state(self, member: MemberId, state: MemberState) -> None:
        await self._connection.execute(update(members).where(members.c.id == member).values(state=state))

    async def _check(self, contact: ContactId, door: Door, address: str | None, matrix_id: str | None) -> None:
        own_address = addresses.c.contact_id == contact, addresses.c.address == address
        if (address or door is Door.MAIL) and not await self._there(*own_address):
            raise MemberNeedsAddress(contact=await self._name(contact))
        own_id = matrix_ids.c.contact_id == contact, matrix_ids.c.matrix_id == matrix_id
        if (matrix_id or door is Door.ROOM) and not await self._there(*own_id):
            raise MemberNeedsMatrixId(contact=await self._name(contact))

    async def _there(self, *where: ColumnElement[bool]) -> bool:
        return bool((await self._connection.execute(select(select(1).where(*where).exists()))).scalar_one())

    async def _name(self, contact: ContactId) -> str:
        found = await self._connection.execute(select(contacts.c.name).where(contacts.c.id == contact))
        return found.scalar_one_or_none() or str(contact)

    async def _one(self, group: GroupId, where: ColumnElement[bool]) -> Member | None:
        found = await self._load(members.c.group_id == group, _STAYS, where)
        return found[0] if found else None

    async def _load(self, *where: ColumnElement[bool]) -> list[Member]:
        rows = await self._connection.execute(_WITH_KEY.where(*where).order_by(members.c.id))
        return [_member(row) for row in rows]


_STAYS: Final = members.c.state != MemberState.LEFT

_WITH_KEY: Final = (
    select(members, contacts.c.name, addresses.c.fingerprint, addresses.c.paused_at, keys.c.data, keys.c.expires_at)
    .select_from(members)
    .join(contacts, contacts.c.id == members.c.contact_id)
    .outerjoin(addresses, addresses.c.address == members.c.address)
    .outerjoin(keys, keys.c.fingerprint == addresses.c.fingerprint)
)


def _member(row: Row[Any]) -> Member:
    return Member(
        id=row.id,
        group_id=row.group_id,
        contact_id=row.contact_id,
        name=row.name,
        door=row.door,
        role=row.role,
        state=row.state,
        address=MailAddress(row.address, key_of(row), row.paused_at) if row.address is not None else None,
        matrix_id=row.matrix_id,
    )
