"""Trust groups and who is in them."""

from __future__ import annotations

import pytest

from storage.database import Database
from storage.store import Store
from tests.storage import given
from trust.errors import AlreadyThere, MemberNeedsAddress, MemberNeedsMatrixId, NoSuchGroup, NoSuchMember
from trust.records import Contact, Door, Group, GroupId, MailAddress, Member, MemberId, MemberState, Role


async def test_a_group_is_found_by_each_of_its_names(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx, "TLD-Ops")
        await tx.groups.set_room(group.id, "!room:hs.example", {"m.room.encryption": {"algorithm": "megolm"}})
        group = await tx.groups.get(group.id)
        for found in (
            await tx.groups.by_name("tld-ops"),
            await tx.groups.by_address("TLD-OPS@lists.example"),
            await tx.groups.by_room("!room:hs.example"),
        ):
            assert group == found
        assert await tx.groups.by_name("another") is None
        assert [group] == await tx.groups.all()
    assert "tld-ops@lists.example" == group.address
    assert {"m.room.encryption": {"algorithm": "megolm"}} == group.room_pin


async def test_the_names_of_a_group_are_its_own(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx, "tld-ops")
        with pytest.raises(AlreadyThere) as same_name:
            await given.group(tx, "TLD-OPS")
        with pytest.raises(AlreadyThere) as same_address:
            await tx.groups.add(
                name="another",
                address="TLD-ops@lists.example",
                description="",
                key=given.key(),
                federate=False,
                room_token="another",
            )
        assert [group] == await tx.groups.all()
    assert {"what": "TLD-OPS"} == same_name.value.params
    assert {"what": "tld-ops@lists.example"} == same_address.value.params


async def test_a_room_is_one_groups_room(database: Database) -> None:
    async with database.transaction() as tx:
        one, two = await given.group(tx, "one"), await given.group(tx, "two")
        await tx.groups.set_room(one.id, "!room:hs.example", {})
        await tx.groups.set_room(one.id, "!room:hs.example", {"m.room.name": {}})
        with pytest.raises(AlreadyThere):
            await tx.groups.set_room(two.id, "!room:hs.example", {})


async def test_a_stopped_group_says_why_until_it_goes_on(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        await tx.groups.stop(group.id, "room-drifted")
        assert "room-drifted" == (await tx.groups.get(group.id)).stopped
        await tx.groups.resume(group.id)
        assert (await tx.groups.get(group.id)).stopped is None


async def test_missing_groups_and_members_are_named(database: Database) -> None:
    async with database.transaction() as tx:
        with pytest.raises(NoSuchGroup):
            await tx.groups.get(GroupId(1))
        with pytest.raises(NoSuchMember):
            await tx.members.get(MemberId(1))


async def test_a_member_comes_with_name_address_and_key(database: Database) -> None:
    pinned = given.key()
    async with database.transaction() as tx:
        group = await given.group(tx)
        grace = await given.member(tx, group, "Grace", pinned=pinned)
        ada = await given.member(tx, group, "Ada", door=Door.ROOM)
        assert [grace, ada] == await tx.members.of(group.id)
        assert [grace] == await tx.members.of_contact(grace.contact_id)
    wanted = Member(
        id=grace.id,
        group_id=group.id,
        contact_id=grace.contact_id,
        name="Grace",
        door=Door.MAIL,
        role=Role.MEMBER,
        state=MemberState.ACTIVE,
        address=MailAddress("grace@ops.example", pinned),
    )
    assert wanted == grace
    assert "@ada:hs.example" == ada.matrix_id


async def test_a_member_is_found_by_key_address_and_matrix_id_in_its_group_only(database: Database) -> None:
    pinned = given.key()
    async with database.transaction() as tx:
        group, other = await given.group(tx, "one"), await given.group(tx, "two")
        ada = await given.member(tx, group, "Ada", door=Door.ROOM, pinned=pinned)
        assert ada == await tx.members.by_fingerprint(group.id, pinned.fingerprint)
        assert ada == await tx.members.by_address(group.id, "ADA@ops.example")
        assert ada == await tx.members.by_matrix_id(group.id, "@ada:hs.example")
        assert await tx.members.by_fingerprint(other.id, pinned.fingerprint) is None
        assert await tx.members.by_address(other.id, "ada@ops.example") is None
        assert await tx.members.by_matrix_id(other.id, "@ada:hs.example") is None


async def test_a_key_of_another_address_of_the_contact_is_not_the_members(database: Database) -> None:
    elsewhere = given.key()
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada = await given.member(tx, group, "Ada")
        await tx.contacts.add_address(ada.contact_id, "ada@home.example", elsewhere)
        assert await tx.members.by_fingerprint(group.id, elsewhere.fingerprint) is None


async def test_a_state_changes_and_stays(database: Database) -> None:
    async with database.transaction() as tx:
        ada = await given.member(tx, await given.group(tx), "Ada")
        await tx.members.set_state(ada.id, MemberState.BLOCKED)
        found = await tx.members.get(ada.id)
    assert MemberState.BLOCKED == found.state


async def add(
    tx: Store, group: Group, person: Contact, door: Door, address: str | None, matrix_id: str | None
) -> Member:
    return await tx.members.add(
        group=group.id,
        contact=person.id,
        door=door,
        role=Role.MEMBER,
        state=MemberState.ACTIVE,
        address=address,
        matrix_id=matrix_id,
    )


async def test_one_that_left_is_not_found_and_may_come_back_by_another_door(database: Database) -> None:
    pinned = given.key()
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada = await given.member(tx, group, "Ada", pinned=pinned)
        await tx.members.set_state(ada.id, MemberState.LEFT)
        assert [] == await tx.members.of(group.id)
        assert await tx.members.by_fingerprint(group.id, pinned.fingerprint) is None
        assert MemberState.LEFT is (await tx.members.get(ada.id)).state
        person = await tx.contacts.get(ada.contact_id)
        back = await add(tx, group, person, Door.ROOM, None, "@ada:hs.example")
    assert (ada.id, Door.ROOM, None, MemberState.ACTIVE) == (back.id, back.door, back.address, back.state)


async def test_a_contact_is_in_a_group_once(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada = await given.member(tx, group, "Ada")
        person = await tx.contacts.get(ada.contact_id)
        with pytest.raises(AlreadyThere) as refusal:
            await add(tx, group, person, Door.ROOM, None, "@ada:hs.example")
        assert ada == await tx.members.get(ada.id)
    assert {"what": "Ada"} == refusal.value.params


async def test_a_member_needs_what_its_door_needs_and_of_its_own(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, _ = await given.contact(tx, "Ada"), await given.contact(tx, "Grace")
        for address in (None, "grace@ops.example", "nobody@ops.example"):
            with pytest.raises(MemberNeedsAddress):
                await add(tx, group, ada, Door.MAIL, address, None)
        for matrix_id in (None, "@grace:hs.example"):
            with pytest.raises(MemberNeedsMatrixId):
                await add(tx, group, ada, Door.ROOM, None, matrix_id)
        assert [] == await tx.members.of(group.id)
