"""``secir group``: trust groups, each one room, one list and one list key."""

from __future__ import annotations

import secrets
from typing import Any

from bot import parts
from bot.cli import desk, lookup
from bot.cli.command import Call
from bot.cli.members import as_row, in_json
from bridges.openpgp import armour
from storage.store import Store
from trust.errors import AlreadyThere, BadValue
from trust.records import Group, Member, PublicKey


async def create(call: Call) -> None:
    settings = desk.settings(call)
    name, address = lookup.group_name(call.words.name), lookup.mail_address(call.words.address)
    if address.rpartition("@")[2] != settings.mail.domain:
        raise BadValue(
            what=f"The address {address} (it is not in mail.domain)", example=f"{name}@{settings.mail.domain}"
        )
    description = " ".join(call.words.description.split())
    async with desk.database(call) as database:
        async with database.transaction() as tx:
            await _refuse_known(tx, name, address)
        async with parts.open_safe(settings) as safe:
            with call.console.step("Making the list's key"):
                key = await safe.create_list_key(name=name, address=address)
        async with database.transaction() as tx:
            group = await tx.groups.add(
                name=name,
                address=address,
                description=description,
                key=key,
                federate=not call.words.no_federation,
                room_token=secrets.token_hex(16),
            )
            await tx.audit.add(desk.now(), "group.created", group=group.id, actor="operator", subject=name)
    call.console.say(f"Group {name} is open.", f"List      {address}", f"List key  {lookup.spaced(key.fingerprint)}")
    call.console.say("", "Next:", f'  secir member add {name} "Ada Janssen" --by mail')
    call.console.say(f"  secir group show {name} --key    the list's public key, which every member by mail needs")


async def _refuse_known(tx: Store, name: str, address: str) -> None:
    """Before a key is made that nobody would use."""
    if await tx.groups.by_name(name):
        raise AlreadyThere(what=f"The group {name}")
    if await tx.groups.by_address(address):
        raise AlreadyThere(what=f"A group with the address {address}")


async def list_all(call: Call) -> None:
    async with desk.database(call) as database, database.transaction() as tx:
        groups = [(group, await tx.members.of(group.id)) for group in await tx.groups.all()]
    if call.words.json:
        call.console.as_json([_in_json(group, members) for group, members in groups])
        return
    if not groups:
        call.console.say("There is no group yet.", "Next: secir group create NAME --address ADDRESS")
        return
    rows = [[group.name, group.address, str(len(members)), _state(group)] for group, members in groups]
    call.console.table(["name", "address", "members", "state"], rows)


async def show(call: Call) -> None:
    async with desk.database(call) as database, database.transaction() as tx:
        group = await lookup.group(tx, call.words.name)
        members = await tx.members.of(group.id)
        deliveries, refused = await tx.deliveries.counts(group.id), await tx.mails.counts(group.id)
    if call.words.key:
        call.console.say(_armoured(group.key).rstrip("\n"))
    elif call.words.json:
        call.console.as_json({**_in_json(group, members), "deliveries": deliveries, "refused_mails": refused})
    else:
        _show(call, group, members, deliveries, refused)


def _show(call: Call, group: Group, members: list[Member], deliveries: dict[str, int], refused: dict[str, int]) -> None:
    call.console.facts(
        ("name", group.name),
        ("address", group.address),
        ("description", group.description or "none"),
        ("room", group.room_id or "none yet"),
        ("federation", "on" if group.federate else "off"),
        ("state", _state(group)),
        ("list key", lookup.spaced(group.key.fingerprint)),
        ("deliveries", _counted(deliveries)),
        ("refused mails", _counted(refused)),
    )
    call.console.say("")
    if members:
        now = desk.now()
        call.console.table(["member", "by", "role", "state", "reached at", "key"], [as_row(m, now) for m in members])
    else:
        call.console.say(f"No members yet. Next: secir member add {group.name} CONTACT --by room|mail")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "none"


def _state(group: Group) -> str:
    if group.stopped:
        return f"stopped ({group.stopped})"
    return "open" if group.room_id else "room not made yet"


def _in_json(group: Group, members: list[Member]) -> dict[str, Any]:
    return {
        "name": group.name,
        "address": group.address,
        "description": group.description,
        "room_id": group.room_id,
        "federate": group.federate,
        "stopped": group.stopped,
        "list_key": group.key.fingerprint,
        "members": [in_json(member) for member in members],
    }


def _armoured(key: PublicKey) -> str:
    """RFC 9580, 6.2, as mail programs import it."""
    return armour.encode(key.data, armour.PUBLIC_KEY_BLOCK).decode("ascii").replace("\r\n", "\n")
