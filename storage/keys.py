"""The pinned OpenPGP keys. Each belongs to one contact, whichever of its addresses use it.

Knows nothing of OpenPGP: a key was judged before it comes here.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import insert_into
from storage.schema import addresses, contacts, keys
from trust.errors import KeyTaken
from trust.records import ContactId, Fingerprint, PublicKey


async def pin(connection: AsyncConnection, contact: ContactId, key: PublicKey) -> None:
    """Keep ``key`` for ``contact``; the newest form of it wins. Raises KeyTaken if it is another contact's."""
    newest = {"data": key.data, "expires_at": key.expires_at}
    statement = insert_into(connection, keys).values(fingerprint=key.fingerprint, contact_id=contact, **newest)
    kept = await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["fingerprint"], set_=newest, where=keys.c.contact_id == contact
        ).returning(keys.c.fingerprint)
    )
    if kept.scalar_one_or_none() is None:
        raise KeyTaken(fingerprint=key.fingerprint, contact=await _owner(connection, key.fingerprint))


async def unpin_unused(connection: AsyncConnection, contact: ContactId) -> None:
    """Forget the keys of ``contact`` that none of its addresses uses any more."""
    used = select(addresses.c.fingerprint).where(
        addresses.c.contact_id == contact, addresses.c.fingerprint.is_not(None)
    )
    await connection.execute(delete(keys).where(keys.c.contact_id == contact, keys.c.fingerprint.not_in(used)))


async def _owner(connection: AsyncConnection, fingerprint: Fingerprint) -> str:
    owner = select(contacts.c.name).join(keys).where(keys.c.fingerprint == fingerprint)
    name: str = (await connection.execute(owner)).scalar_one()
    return name


def key_of(row: Row[Any]) -> PublicKey | None:
    """The key of a row that has ``fingerprint``, ``data`` and ``expires_at``; None where there is none."""
    if row.fingerprint is None:
        return None
    return PublicKey(Fingerprint(row.fingerprint), row.data, row.expires_at)
