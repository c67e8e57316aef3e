"""Many readers by mail, and posts that wait for them, put straight into a bridge's database.

A thousand deliveries by the way of real mails would take minutes, and so would some dozens of commands; the bridge that
finds these rows can't tell. The posts are sealed as the bridge seals.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bot import config, parts
from bridges.openpgp.safe import GnuPGSafe
from storage.store import Store
from tests.parts.people import MailMember
from tests.parts.pgp import Person
from trust.records import Door, Group, Member, MemberState, PublicKey, Role

MESSAGE_ID: Final = "queued-{number:04}@lists.example"


async def add_readers(config_file: Path, group_name: str, people: Sequence[MailMember]) -> None:
    """Make people members by mail, each with the own key. The bridge may run."""
    settings, now = config.load(config_file), datetime.now(UTC)
    async with parts.open_database(settings) as database, parts.open_safe(settings) as safe:
        for person in people:
            key = await safe.read_key(person.person.public_key, now)
            async with database.transaction() as tx:
                await _reader(tx, await _group(tx, group_name), person.name, person.address, key)


async def queue_posts(config_file: Path, group_name: str, *, readers: int, posts: int) -> list[str]:
    """Add so many readers to a group and so many posts for each of them. Their addresses.

    The bridge must not run. The posts' Message-IDs are ``MESSAGE_ID``, from 1, in the order they were added.
    """
    settings, now = config.load(config_file), datetime.now(UTC)
    async with parts.open_database(settings) as database, parts.open_safe(settings) as safe:
        keys = await _keys(safe, readers, now)
        async with database.transaction() as tx:
            group = await _group(tx, group_name)
            members = [
                await _reader(tx, group, f"Reader {number}", f"reader{number:03}@{group_name}.example", key)
                for number, key in enumerate(keys, 1)
            ]
        for number in range(1, posts + 1):
            entity = f"Content-Type: text/plain\r\n\r\nQueued, number {number}\r\n".encode()
            sealed = await safe.seal(group, entity, keys)
            async with database.transaction() as tx:
                post = await tx.posts.add(
                    group=group.id,
                    reference=f"QUEUE{number:03}",
                    door=Door.ROOM,
                    author=None,
                    message_id=MESSAGE_ID.format(number=number),
                    sealed_at=now,
                )
                body = await tx.posts.seal(post.id, sealed.packet, sealed.session_keys[group.key.fingerprint])
                for member in members:
                    await tx.deliveries.add(
                        post.id,
                        sealed=body,
                        target=Door.MAIL,
                        member=member.id,
                        session_key=sealed.session_keys[_key(member).fingerprint],
                        due=now,
                    )
    return [member.address.address for member in members if member.address]


async def _keys(safe: GnuPGSafe, count: int, now: datetime) -> list[PublicKey]:
    owner = Person.create(None, "Owner of many keys", "many@example.test")
    try:
        return [await safe.read_key(certificate, now) for certificate in owner.add_certificates(count)]
    finally:
        owner.close()


async def _group(tx: Store, name: str) -> Group:
    group = await tx.groups.by_name(name)
    assert group is not None
    return group


async def _reader(tx: Store, group: Group, name: str, address: str, key: PublicKey) -> Member:
    contact = await tx.contacts.add(name)
    await tx.contacts.add_address(contact.id, address, key)
    return await tx.members.add(
        group=group.id,
        contact=contact.id,
        door=Door.MAIL,
        role=Role.MEMBER,
        state=MemberState.ACTIVE,
        address=address,
        matrix_id=None,
    )


def _key(member: Member) -> PublicKey:
    assert member.address is not None
    assert member.address.key is not None
    return member.address.key
