"""The spool."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from storage.database import Database
from storage.schema import mail_bodies
from storage.store import Store
from tests.storage import given
from tests.storage.given import MINUTE, NOON


async def claimed(tx: Store, minutes: int = 0) -> bytes | None:
    """The next mail at so many minutes past noon, leased for one minute."""
    item = await tx.mails.claim(NOON + minutes * MINUTE, lease=MINUTE)
    return item.raw if item else None


async def test_the_same_bytes_are_taken_in_once_per_group_for_ever(database: Database) -> None:
    async with database.transaction() as tx:
        one, two = await given.group(tx, "one"), await given.group(tx, "two")
        first = await tx.mails.take_in(one.id, b"mail", NOON)
        assert first is not None
        assert await tx.mails.take_in(two.id, b"mail", NOON) is not None
        assert await tx.mails.take_in(one.id, b"mail", NOON) is None
        await tx.mails.finish(first)
        assert await tx.mails.take_in(one.id, b"mail", NOON + timedelta(days=1000)) is None


async def test_mails_of_a_group_come_in_order_and_one_at_a_time(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        first = await tx.mails.take_in(group.id, b"first", NOON)
        await tx.mails.take_in(group.id, b"second", NOON - MINUTE)
        assert first is not None
        assert b"first" == await claimed(tx)
        assert await claimed(tx) is None
        await tx.mails.retry(first, NOON + 5 * MINUTE, "gnupg-failed")
        assert await claimed(tx, 4) is None
        assert b"first" == await claimed(tx, 5)
        await tx.mails.finish(first)
        assert b"second" == await claimed(tx, 5)


async def test_groups_do_not_wait_for_each_other(database: Database) -> None:
    async with database.transaction() as tx:
        one, two = await given.group(tx, "one"), await given.group(tx, "two")
        await tx.mails.take_in(one.id, b"one", NOON)
        await tx.mails.take_in(two.id, b"two", NOON)
        assert [b"one", b"two", None] == [await claimed(tx), await claimed(tx), await claimed(tx)]


async def test_a_lease_that_ran_out_lets_the_next_one_try(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        await tx.mails.take_in(group.id, b"mail", NOON)
        first = await tx.mails.claim(NOON, lease=MINUTE)
        assert await tx.mails.claim(NOON + MINUTE / 2, lease=MINUTE) is None
        second = await tx.mails.claim(NOON + MINUTE, lease=MINUTE)
    assert first is not None
    assert second is not None
    assert (first.id, 1, 2) == (second.id, first.attempts, second.attempts)


async def test_after_a_restart_nothing_is_leased(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        await tx.mails.take_in(group.id, b"mail", NOON)
        await claimed(tx)
        assert 1 == await tx.mails.recover(NOON)
        assert b"mail" == await claimed(tx)


async def test_a_refused_mail_is_kept_and_counted_and_a_finished_one_is_not(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        for raw, code in ((b"one", "not-signed"), (b"two", "not-signed"), (b"three", "bad-signature")):
            mail = await tx.mails.take_in(group.id, raw, NOON)
            assert mail is not None
            await tx.mails.refuse(mail, code)
        finished = await tx.mails.take_in(group.id, b"four", NOON)
        assert finished is not None
        await tx.mails.finish(finished)
        assert {"bad-signature": 1, "not-signed": 2} == await tx.mails.counts(group.id)
        assert await claimed(tx) is None
        kept = await tx.mails._connection.execute(select(mail_bodies.c.raw).order_by(mail_bodies.c.mail_id))
        assert [b"one", b"two", b"three"] == list(kept.scalars())


async def test_a_late_retry_does_not_bring_a_finished_mail_back(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        mail = await tx.mails.take_in(group.id, b"mail", NOON)
        assert mail is not None
        await tx.mails.finish(mail)
        await tx.mails.retry(mail, NOON, "gnupg-failed")
        assert await claimed(tx) is None
