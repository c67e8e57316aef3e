"""``secir contact``: people, how they are reached, and the keys that are theirs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bot import parts
from bot.cli import desk, lookup
from bot.cli.command import Call
from storage.store import Store
from trust.errors import AlreadyThere, BadValue, MemberNeedsAddress
from trust.records import Contact, GroupId, Member, OrganisationId, PublicKey

KEY_CHANGED: Final = "key-changed"
"""Why a delivery is held that was sealed to a key of before."""


async def given_key(call: Call) -> PublicKey | None:
    """The key in the file of --key, judged. Raises KeyRefusal, BadValue, SafeUnavailable."""
    if call.words.key is None:
        return None
    async with parts.open_safe(desk.settings(call)) as safe:
        with call.console.step("Reading the key"):
            return await lookup.key_from(safe, call.words.key, desk.now())


async def complete(tx: Store, contact: Contact, call: Call, key: PublicKey | None) -> Contact:
    """Add to ``contact`` what the options give; what is there stays. Raises AlreadyThere, KeyTaken, BadValue."""
    address = lookup.mail_address(call.words.mail) if call.words.mail else None
    matrix = lookup.matrix_id(call.words.matrix) if call.words.matrix else None
    known = {entry.address for entry in contact.addresses}
    if address is not None and address not in known:
        await tx.contacts.add_address(contact.id, address, key)
    elif key is not None:
        await tx.contacts.set_key(address or _only_address(contact), key)
        await _hold_what_waits(tx, contact)
    if matrix is not None and matrix not in contact.matrix_ids:
        await tx.contacts.add_matrix_id(contact.id, matrix)
    return await tx.contacts.get(contact.id)


async def _hold_what_waits(tx: Store, contact: Contact) -> None:
    """What waits, or may be tried again, was sealed to the key of before: the bridge seals it anew, to the new one."""
    for member in await tx.members.of_contact(contact.id):
        await tx.deliveries.hold_for(member.id, KEY_CHANGED)
        await tx.queue.forget_keys(member.id)


def _only_address(contact: Contact) -> str:
    """The address that a key without --mail is meant for."""
    if not contact.addresses:
        raise MemberNeedsAddress(contact=contact.name)
    if len(contact.addresses) > 1:
        raise BadValue(
            what="--key without --mail (there are several addresses)", example="--mail ada@example.nl --key FILE"
        )
    return contact.addresses[0].address


async def add(call: Call) -> None:
    name = lookup.person_name(call.words.name)
    if call.words.key is not None and call.words.mail is None:
        raise BadValue(what="--key without --mail", example="--mail ada@example.nl --key ada.asc")
    key = await given_key(call)
    async with desk.database(call) as database, database.transaction() as tx:
        if await tx.contacts.find(name):
            raise AlreadyThere(what=f"The contact {name}")
        contact = await tx.contacts.add(name, await _organisation(tx, call))
        contact = await complete(tx, contact, call, key)
        await tx.audit.add(desk.now(), "contact.added", actor="operator", subject=str(contact.id))
    _tell(call, contact, "Added")
    call.console.say("", f'Next: secir member add GROUP "{name}" --by room|mail')


async def _organisation(tx: Store, call: Call) -> OrganisationId | None:
    """The organisation that --organisation names; a new one only with its name. Raises BadValue."""
    if call.words.organisation is None:
        if call.words.organisation_name is not None:
            raise BadValue(what="--organisation-name without --organisation", example="--organisation nl")
        return None
    ident = lookup.organisation_ident(call.words.organisation)
    known = await tx.organisations.by_ident(ident)
    if known is not None:
        return known.id
    if call.words.organisation_name is None:
        example = f'--organisation {ident} --organisation-name "Registry of {ident}"'
        raise BadValue(what=f"The organisation {ident} is new and has no name, so the command", example=example)
    return (await tx.organisations.add(ident, " ".join(call.words.organisation_name.split()))).id


async def change(call: Call) -> None:
    if not any((call.words.mail, call.words.key, call.words.matrix)):
        raise BadValue(what="A command that changes nothing", example="secir contact set Ada --mail A --key FILE")
    key = await given_key(call)
    async with desk.database(call) as database, database.transaction() as tx:
        contact = await complete(tx, await lookup.contact(tx, call.words.contact), call, key)
        await tx.audit.add(
            desk.now(),
            "contact.changed",
            actor="operator",
            subject=str(contact.id),
            detail=key.fingerprint if key else "",
        )
    _tell(call, contact, "Changed")


async def resume(call: Call) -> None:
    address = lookup.mail_address(call.words.address)
    async with desk.database(call) as database, database.transaction() as tx:
        contact = await lookup.contact(tx, address)
        resumed = await tx.contacts.resume(address)
        if resumed:
            await tx.audit.add(desk.now(), "contact.resumed", actor="operator", subject=str(contact.id))
    if not resumed:
        call.console.say(f"{address} was not paused, so nothing changed.")
        return
    seconds = desk.settings(call).matrix.reconcile_every.total_seconds()
    call.console.say(
        f"{contact.name} gets mail at {address} again.",
        f"Mail that was held goes out within {seconds:.0f} s when the bridge runs. To look: secir queue list",
    )


async def show(call: Call) -> None:
    async with desk.database(call) as database, database.transaction() as tx:
        contact = await lookup.contact(tx, call.words.contact)
        members = await tx.members.of_contact(contact.id)
        groups = {group.id: group.name for group in await tx.groups.all()}
    if call.words.json:
        call.console.as_json({**_in_json(contact), "groups": [groups[m.group_id] for m in members]})
        return
    _tell(call, contact, "")
    call.console.facts(("groups", _in_groups(members, groups)))


async def list_all(call: Call) -> None:
    async with desk.database(call) as database, database.transaction() as tx:
        contacts = await tx.contacts.all()
    if call.words.json:
        call.console.as_json([_in_json(contact) for contact in contacts])
        return
    if not contacts:
        call.console.say("There is nobody yet.", "Next: secir contact add NAME --mail ADDRESS --key FILE")
        return
    headings = ["name", "organisation", "mail", "matrix"]
    call.console.table(headings, [_row(contact) for contact in contacts])


def _row(contact: Contact) -> list[str]:
    mail = ", ".join(entry.address for entry in contact.addresses)
    ident = contact.organisation.ident if contact.organisation else ""
    return [contact.name, ident, mail, ", ".join(contact.matrix_ids)]


def _in_groups(members: list[Member], groups: Mapping[GroupId, str]) -> str:
    return ", ".join(f"{groups[m.group_id]} (by {m.door}, {m.state})" for m in members) or "none"


def _tell(call: Call, contact: Contact, done: str) -> None:
    now: datetime = desk.now()
    if done:
        call.console.say(f"{done}: {contact.name}")
    else:
        call.console.facts(("name", contact.name))
    organisation = contact.organisation
    facts = [("works at", f"{organisation.name} ({organisation.ident})")] if organisation else []
    for entry in contact.addresses:
        facts += [("mail", lookup.address_facts(entry)), ("key", lookup.key_facts(entry.key, now))]
    facts += [("matrix", matrix) for matrix in contact.matrix_ids]
    if facts:
        call.console.facts(*facts)


def _in_json(contact: Contact) -> dict[str, Any]:
    return {
        "name": contact.name,
        "organisation": contact.organisation.ident if contact.organisation else None,
        "addresses": [
            {
                "address": entry.address,
                "key": entry.key.fingerprint if entry.key else None,
                "expires_at": entry.key.expires_at.isoformat() if entry.key and entry.key.expires_at else None,
                "paused_at": entry.paused_at.isoformat() if entry.paused_at else None,
            }
            for entry in contact.addresses
        ],
        "matrix_ids": list(contact.matrix_ids),
    }
