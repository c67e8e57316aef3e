"""``secir member``: who takes part in which group, by the room or by mail."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from bot.cli import contacts, desk, lookup
from bot.cli.command import Call
from storage.store import Store
from trust.errors import BadValue, MemberNeedsAddress, MemberNeedsMatrixId, NoSuchMember
from trust.keys import usable
from trust.records import Contact, Door, Member, MemberState, Role


class _Ways(NamedTuple):
    """How a member is reached in a group."""

    address: str | None
    matrix_id: str | None


async def add(call: Call) -> None:
    key = await contacts.given_key(call)
    door = Door(call.words.by)
    async with desk.database(call) as database, database.transaction() as tx:
        group = await lookup.group(tx, call.words.group)
        contact = await lookup.contact(tx, call.words.contact)
        contact = await contacts.complete(tx, contact, call, key)
        ways = _ways(call, contact, door)
        member = await tx.members.add(
            group=group.id,
            contact=contact.id,
            door=door,
            role=Role(call.words.role),
            state=MemberState.ACTIVE,
            address=ways.address,
            matrix_id=ways.matrix_id,
        )
        await tx.audit.add(
            desk.now(), "member.added", group=group.id, actor="operator", subject=str(member.id), detail=door
        )
    call.console.say(f"{member.name} is a member of {group.name}, by {door}.")
    _hint(call, member)


def _ways(call: Call, contact: Contact, door: Door) -> _Ways:
    """What the options name, or the only one there is. The other door's way is kept if it is clear which.

    Raises MemberNeedsAddress, MemberNeedsMatrixId, BadValue.
    """
    mail = call.words.mail.lower() if call.words.mail else None
    address = mail or _only([entry.address for entry in contact.addresses], "--mail", needed=door is Door.MAIL)
    matrix_id = call.words.matrix or _only(contact.matrix_ids, "--matrix", needed=door is Door.ROOM)
    if door is Door.MAIL and address is None:
        raise MemberNeedsAddress(contact=contact.name)
    if door is Door.ROOM and matrix_id is None:
        raise MemberNeedsMatrixId(contact=contact.name)
    return _Ways(address, matrix_id)


def _only(ways: list[str] | tuple[str, ...], option: str, *, needed: bool) -> str | None:
    if len(ways) > 1 and needed:
        raise BadValue(what=f"The command (which of {', '.join(ways)}?)", example=f"{option} {ways[0]}")
    return ways[0] if len(ways) == 1 else None


def _hint(call: Call, member: Member) -> None:
    """What the operator should know now."""
    if member.door is Door.ROOM:
        call.console.say("The bridge invites the member to the room within a minute, if it runs.")
    elif member.address is None or not usable(member.address.key, desk.now()):
        call.console.say(
            "There is no valid key for this member: mail is held, and nothing is sent in clear.",
            f'Next: secir contact set "{member.name}" --key FILE',
        )


async def list_all(call: Call) -> None:
    async with desk.database(call) as database, database.transaction() as tx:
        group = await lookup.group(tx, call.words.group)
        members = await tx.members.of(group.id)
    if call.words.json:
        call.console.as_json([in_json(member) for member in members])
        return
    if not members:
        call.console.say(
            f"{group.name} has no members yet.", f"Next: secir member add {group.name} CONTACT --by room|mail"
        )
        return
    now = desk.now()
    headings = ["member", "by", "role", "state", "reached at", "key"]
    call.console.table(headings, [as_row(member, now) for member in members])


async def remove(call: Call) -> None:
    async with desk.database(call) as database, database.transaction() as tx:
        group = await lookup.group(tx, call.words.group)
        member = await _member(tx, call, await lookup.contact(tx, call.words.contact))
        await tx.members.set_state(member.id, MemberState.LEFT)
        dropped = await tx.deliveries.drop_for(member.id)
        await tx.audit.add(desk.now(), "member.removed", group=group.id, actor="operator", subject=str(member.id))
    call.console.say(
        f"{member.name} is no longer a member of {group.name}. Mail that waited and was dropped: {dropped}."
    )
    if member.matrix_id:
        call.console.say(
            "From now on no key goes to the member; the bridge removes the account from the room within a minute."
        )


async def _member(tx: Store, call: Call, contact: Contact) -> Member:
    group = await lookup.group(tx, call.words.group)
    found = next((m for m in await tx.members.of(group.id) if m.contact_id == contact.id), None)
    if found is None:
        raise NoSuchMember(contact=contact.name, group=group.name)
    return found


def as_row(member: Member, now: datetime) -> list[str]:
    """One line of a table of members."""
    mail = lookup.address_facts(member.address) if member.address else ""
    reached = member.matrix_id if member.door is Door.ROOM else mail
    key = lookup.key_facts(member.address.key, now) if member.address else ""
    return [member.name, member.door, member.role, member.state, reached or "", key]


def in_json(member: Member) -> dict[str, Any]:
    """A member for programs."""
    return {
        "name": member.name,
        "by": member.door,
        "role": member.role,
        "state": member.state,
        "address": member.address.address if member.address else None,
        "key": member.address.key.fingerprint if member.address and member.address.key else None,
        "paused_at": member.address.paused_at.isoformat() if member.address and member.address.paused_at else None,
        "matrix_id": member.matrix_id,
    }
