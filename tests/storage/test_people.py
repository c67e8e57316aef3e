"""Organisations, contacts and the keys pinned for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.database import Database
from tests.storage import given
from trust.errors import AlreadyThere, KeyTaken, NoSuchContact
from trust.records import Contact, ContactId, Fingerprint, MailAddress, Organisation


async def test_an_organisation_is_found_by_its_ident_in_any_case(database: Database) -> None:
    async with database.transaction() as tx:
        added = await tx.organisations.add("NL", "SIDN")
        assert Organisation(added.id, "nl", "SIDN") == added
        assert added == await tx.organisations.by_ident("nL")
        assert await tx.organisations.by_ident("de") is None
        assert [added] == await tx.organisations.all()
        with pytest.raises(AlreadyThere):
            await tx.organisations.add("nl", "Another")


async def test_a_contact_comes_with_everything_that_hangs_on_it(database: Database) -> None:
    pinned = given.key()
    async with database.transaction() as tx:
        organisation = await tx.organisations.add("nl", "SIDN")
        ada = await tx.contacts.add("Ada", organisation.id)
        await tx.contacts.add("Grace")
        await tx.contacts.add_address(ada.id, "Ada@Ops.example", pinned)
        await tx.contacts.add_address(ada.id, "ada@home.example")
        await tx.contacts.add_matrix_id(ada.id, "@ada:hs.example")
        everybody = await tx.contacts.all()
    wanted = Contact(
        id=ada.id,
        name="Ada",
        organisation=organisation,
        addresses=(MailAddress("ada@home.example"), MailAddress("ada@ops.example", pinned)),
        matrix_ids=("@ada:hs.example",),
    )
    assert wanted == everybody[0]
    assert ["Ada", "Grace"] == [contact.name for contact in everybody]
    assert Contact(everybody[1].id, "Grace") == everybody[1]


@pytest.mark.parametrize("text", ["Zoë", "ZOË", "Zoe\u0308", "ZOË@OPS.example", "@zoë:hs.example", "@Zoë:hs.example"])
async def test_a_contact_is_found_by_name_address_or_matrix_id(database: Database, text: str) -> None:
    async with database.transaction() as tx:
        zoe = await given.contact(tx, "Zoë")
        await given.contact(tx, "Ada")
        assert [zoe] == await tx.contacts.find(text)


async def test_a_search_finds_all_of_one_name_and_nothing_by_half_a_name(database: Database) -> None:
    async with database.transaction() as tx:
        namesakes = [await tx.contacts.add("Ada"), await tx.contacts.add("ada")]
        assert namesakes == await tx.contacts.find("ADA")
        assert [] == await tx.contacts.find("Ad")
        assert [] == await tx.contacts.find("%")


async def test_addresses_and_matrix_ids_belong_to_one_contact(database: Database) -> None:
    async with database.transaction() as tx:
        ada, grace = await given.contact(tx, "Ada"), await given.contact(tx, "Grace")
        for contact in (ada, grace):
            with pytest.raises(AlreadyThere):
                await tx.contacts.add_address(contact.id, "ADA@ops.example")
            with pytest.raises(AlreadyThere):
                await tx.contacts.add_matrix_id(contact.id, "@ada:hs.example")
        assert ada == await tx.contacts.get(ada.id)


async def test_a_missing_contact_is_named(database: Database) -> None:
    async with database.transaction() as tx:
        with pytest.raises(NoSuchContact):
            await tx.contacts.get(ContactId(1))
        with pytest.raises(NoSuchContact):
            await tx.contacts.set_key("nobody@ops.example", given.key())


async def test_a_key_belongs_to_one_contact_whatever_its_addresses(database: Database) -> None:
    shared = given.key()
    async with database.transaction() as tx:
        ada, grace = await given.contact(tx, "Ada", shared), await given.contact(tx, "Grace")
        await tx.contacts.add_address(ada.id, "ada@home.example", shared)
        with pytest.raises(KeyTaken) as refusal:
            await tx.contacts.set_key("grace@ops.example", shared)
        with pytest.raises(KeyTaken):
            await tx.contacts.add_address(grace.id, "grace@home.example", shared)
        owner = await tx.contacts.by_fingerprint(shared.fingerprint)
        assert await tx.contacts.get(ada.id) == owner
    assert {"fingerprint": shared.fingerprint, "contact": "Ada"} == refusal.value.params


async def test_a_renewed_key_takes_the_place_of_its_older_form(database: Database) -> None:
    old = given.key()
    renewed = replace(old, data=b"the same key, longer valid", expires_at=None)
    async with database.transaction() as tx:
        ada = await given.contact(tx, "Ada", old)
        await tx.contacts.set_key("ada@ops.example", renewed)
        assert (MailAddress("ada@ops.example", renewed),) == (await tx.contacts.get(ada.id)).addresses


async def test_a_key_that_no_address_uses_any_more_is_forgotten(database: Database) -> None:
    old, new = given.key(), given.key()
    async with database.transaction() as tx:
        ada, grace = await given.contact(tx, "Ada", old), await given.contact(tx, "Grace")
        await tx.contacts.set_key("Ada@ops.example", new)
        assert await tx.contacts.by_fingerprint(old.fingerprint) is None
        await tx.contacts.set_key("grace@ops.example", old)
        await tx.contacts.set_key("ada@ops.example", None)
        assert await tx.contacts.by_fingerprint(new.fingerprint) is None
        assert await tx.contacts.get(grace.id) == await tx.contacts.by_fingerprint(old.fingerprint)
        assert (MailAddress("ada@ops.example"),) == (await tx.contacts.get(ada.id)).addresses


async def test_nobody_has_an_unknown_key(database: Database) -> None:
    async with database.transaction() as tx:
        await given.contact(tx, "Ada")
        assert await tx.contacts.by_fingerprint(Fingerprint("F" * 40)) is None
