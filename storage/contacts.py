"""People and the organisations they work for: names, mail addresses, Matrix ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.bounces import Bounces
from storage.columns import folded, insert_into
from storage.keys import key_of, pin, unpin_unused
from storage.schema import addresses, contacts, keys, matrix_ids, organisations
from trust.errors import AlreadyThere, NoSuchContact
from trust.records import Contact, ContactId, Fingerprint, MailAddress, Organisation, OrganisationId, PublicKey


class Organisations:
    """Usually ccTLD managers."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, ident: str, name: str) -> Organisation:
        """``ident`` is kept in lower case. Raises AlreadyThere."""
        ident = ident.lower()
        statement = insert_into(self._connection, organisations).values(ident=ident, name=name)
        added = await self._connection.execute(statement.on_conflict_do_nothing().returning(organisations.c.id))
        if (row_id := added.scalar_one_or_none()) is None:
            raise AlreadyThere(what=ident)
        return Organisation(OrganisationId(row_id), ident, name)

    async def by_ident(self, ident: str) -> Organisation | None:
        found = await self._connection.execute(select(organisations).where(organisations.c.ident == ident.lower()))
        row = found.one_or_none()
        return None if row is None else Organisation(row.id, row.ident, row.name)

    async def all(self) -> list[Organisation]:
        found = await self._connection.execute(select(organisations).order_by(organisations.c.ident))
        return [Organisation(row.id, row.ident, row.name) for row in found]


class Contacts:
    """Persons and roles."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, name: str, organisation: OrganisationId | None = None) -> Contact:
        values = {"name": name, "name_folded": folded(name), "organisation_id": organisation}
        added = await self._connection.execute(insert(contacts).values(values).returning(contacts.c.id))
        return await self.get(added.scalar_one())

    async def get(self, contact: ContactId) -> Contact:
        """Raises NoSuchContact."""
        found = await self._load(contacts.c.id == contact)
        if not found:
            raise NoSuchContact(contact=contact)
        return found[0]

    async def all(self) -> list[Contact]:
        return await self._load()

    async def find(self, text: str) -> list[Contact]:
        """Those whose name, one of whose mail addresses or Matrix ids is exactly ``text``, upper or lower case."""
        by_address = select(addresses.c.contact_id).where(addresses.c.address == text.lower())
        by_matrix_id = select(matrix_ids.c.contact_id).where(func.lower(matrix_ids.c.matrix_id) == text.lower())
        return await self._load(
            or_(contacts.c.name_folded == folded(text), contacts.c.id.in_(by_address), contacts.c.id.in_(by_matrix_id))
        )

    async def by_fingerprint(self, fingerprint: Fingerprint) -> Contact | None:
        owner = select(keys.c.contact_id).where(keys.c.fingerprint == fingerprint)
        found = await self._load(contacts.c.id.in_(owner))
        return found[0] if found else None

    async def add_address(self, contact: ContactId, address: str, key: PublicKey | None = None) -> None:
        """An address belongs to one contact and is kept in lower case. Raises AlreadyThere, KeyTaken."""
        if key is not None:
            await pin(self._connection, contact, key)
        statement = insert_into(self._connection, addresses).values(
            address=address.lower(), contact_id=contact, fingerprint=key.fingerprint if key else None
        )
        added = await self._connection.execute(statement.on_conflict_do_nothing())
        if added.rowcount == 0:
            raise AlreadyThere(what=address.lower())

    async def set_key(self, address: str, key: PublicKey | None) -> None:
        """Pin another key, the same key in a newer form, or none. Raises KeyTaken, NoSuchContact."""
        is_it = addresses.c.address == address.lower()
        contact = (await self._connection.execute(select(addresses.c.contact_id).where(is_it))).scalar_one_or_none()
        if contact is None:
            raise NoSuchContact(contact=address)
        if key is not None:
            await pin(self._connection, contact, key)
        fingerprint = key.fingerprint if key else None
        await self._connection.execute(update(addresses).where(is_it).values(fingerprint=fingerprint))
        await unpin_unused(self._connection, contact)

    async def pause(self, address: str, at: datetime) -> bool:
        """Nothing is sent to it from now on. False if it was paused before, or is nobody's."""
        works = addresses.c.address == address.lower(), addresses.c.paused_at.is_(None)
        return (await self._connection.execute(update(addresses).where(*works).values(paused_at=at))).rowcount > 0

    async def resume(self, address: str) -> bool:
        """It works again, and what came back does not count any more. False if it was not paused, or is nobody's."""
        await Bounces(self._connection).forgive(address)
        paused = addresses.c.address == address.lower(), addresses.c.paused_at.is_not(None)
        return (await self._connection.execute(update(addresses).where(*paused).values(paused_at=None))).rowcount > 0

    async def add_matrix_id(self, contact: ContactId, matrix_id: str) -> None:
        """A Matrix id belongs to one contact. Raises AlreadyThere."""
        statement = insert_into(self._connection, matrix_ids).values(matrix_id=matrix_id, contact_id=contact)
        added = await self._connection.execute(statement.on_conflict_do_nothing())
        if added.rowcount == 0:
            raise AlreadyThere(what=matrix_id)

    async def _load(self, *where: ColumnElement[bool]) -> list[Contact]:
        """The contacts that match, by id, with all that hangs on them: three statements, however many they are."""
        rows = (await self._connection.execute(_WITH_ORGANISATION.where(*where).order_by(contacts.c.id))).all()
        ids = select(contacts.c.id).where(*where)
        mail = await self._grouped(_WITH_KEY.where(addresses.c.contact_id.in_(ids)).order_by(addresses.c.address))
        matrix = await self._grouped(
            select(matrix_ids).where(matrix_ids.c.contact_id.in_(ids)).order_by(matrix_ids.c.matrix_id)
        )
        return [_contact(row, mail[row.id], matrix[row.id]) for row in rows]

    async def _grouped(self, statement: Select[Any]) -> defaultdict[int, list[Row[Any]]]:
        """The rows of ``statement`` by their contact."""
        by_contact: defaultdict[int, list[Row[Any]]] = defaultdict(list)
        for row in await self._connection.execute(statement):
            by_contact[row.contact_id].append(row)
        return by_contact


_WITH_ORGANISATION: Final = select(
    contacts.c.id,
    contacts.c.name,
    contacts.c.organisation_id,
    organisations.c.ident,
    organisations.c.name.label("organisation_name"),
).select_from(contacts.outerjoin(organisations))

_WITH_KEY: Final = select(
    addresses.c.contact_id,
    addresses.c.address,
    addresses.c.fingerprint,
    addresses.c.paused_at,
    keys.c.data,
    keys.c.expires_at,
).select_from(addresses.outerjoin(keys))


def _contact(row: Any, mail: Sequence[Row[Any]], matrix: Sequence[Row[Any]]) -> Contact:
    organisation = None
    if row.organisation_id is not None:
        organisation = Organisation(row.organisation_id, row.ident, row.organisation_name)
    return Contact(
        id=row.id,
        name=row.name,
        organisation=organisation,
        addresses=tuple(MailAddress(entry.address, key_of(entry), entry.paused_at) for entry in mail),
        matrix_ids=tuple(entry.matrix_id for entry in matrix),
    )
