"""What came back is counted once per delivery, and by address."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from storage.database import Database
from storage.records import SentItem
from storage.store import Store
from tests.storage import given
from tests.storage.given import MINUTE, NOON
from trust.bounces import WITHIN, BounceKind
from trust.records import DeliveryId, Door

ADA, BOB = "ada@ops.example", "bob@ops.example"
HARD, SOFT, DELAYED = BounceKind.HARD, BounceKind.SOFT, BounceKind.DELAYED
WEEK_AGO = NOON - WITHIN


async def add(tx: Store, delivery: int, kind: BounceKind = HARD, address: str = ADA, minutes: int = 0) -> bool:
    at = NOON + minutes * MINUTE
    return await tx.bounces.add(DeliveryId(delivery), address, at=at, kind=kind, status="5.1.1")


async def test_a_delivery_counts_once_and_addresses_count_apart(database: Database) -> None:
    async with database.transaction() as tx:
        assert [True, False, True, True] == [
            await add(tx, 1),
            await add(tx, 1, SOFT),
            await add(tx, 2, SOFT),
            await add(tx, 3, address=BOB),
        ]
        assert {HARD: 1, SOFT: 1, DELAYED: 0} == await tx.bounces.counts(ADA, WEEK_AGO)
        assert {HARD: 1, SOFT: 0, DELAYED: 0} == await tx.bounces.counts("Bob@OPS.example", WEEK_AGO)


async def test_that_it_is_late_may_be_told_before_that_it_failed_and_not_after(database: Database) -> None:
    async with database.transaction() as tx:
        assert [True, False, True, False] == [
            await add(tx, 1, DELAYED),
            await add(tx, 1, DELAYED),
            await add(tx, 1, SOFT),
            await add(tx, 1, DELAYED),
        ]
        assert {HARD: 0, SOFT: 1, DELAYED: 0} == await tx.bounces.counts(ADA, WEEK_AGO)


async def test_what_is_too_long_ago_does_not_count(database: Database) -> None:
    async with database.transaction() as tx:
        await add(tx, 1)
        await add(tx, 2, minutes=10)
        assert 2 == (await tx.bounces.counts(ADA, WEEK_AGO))[HARD]
        assert 1 == (await tx.bounces.counts(ADA, NOON))[HARD]
        assert 0 == (await tx.bounces.counts(ADA, NOON + timedelta(days=1)))[HARD]


async def test_a_resumed_address_begins_anew_and_old_bounces_of_it_stay_known(database: Database) -> None:
    async with database.transaction() as tx:
        await given.contact(tx, "Ada")
        await add(tx, 1)
        await add(tx, 2, address=BOB)
        assert [True, False] == [await tx.contacts.pause(ADA, NOON), await tx.contacts.pause(ADA, NOON)]
        assert [True, False] == [await tx.contacts.resume("Ada@ops.example"), await tx.contacts.resume(ADA)]
        assert 0 == (await tx.bounces.counts(ADA, WEEK_AGO))[HARD]
        assert 1 == (await tx.bounces.counts(BOB, WEEK_AGO))[HARD]
        assert not await add(tx, 1)


async def test_a_delivery_tells_whose_it_is_and_where_it_went(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, post, other = (
            await given.member(tx, group, "Ada"),
            await given.post(tx, group),
            await given.post(tx, group),
        )
        to_ada, to_room = await given.delivery(tx, post, ada.id), await given.delivery(tx, post, None)
        elsewhere = await tx.deliveries.add(
            other.id,
            sealed=await tx.posts.seal(other.id, b"packet", b"group's session key"),
            target=Door.MAIL,
            member=ada.id,
            session_key=b"session key",
            due=NOON,
            elsewhere="ada@home.example",
        )
        expected = SentItem(post.reference, group.address, ada.id, ADA, in_hand=False)
        assert expected == await tx.bounces.sent(to_ada)
        there = await tx.bounces.sent(elsewhere)
        assert there is not None
        assert "ada@home.example" == there.address
        assert [None, None] == [await tx.bounces.sent(to_room), await tx.bounces.sent(DeliveryId(10**17))]
        await tx.deliveries.claim(NOON, lease=MINUTE, target=Door.MAIL)
        in_hand = await tx.bounces.sent(to_ada)
        assert in_hand is not None
        assert in_hand.in_hand


async def test_of_ten_bounces_at_once_the_last_one_sees_them_all(database: Database) -> None:
    async with database.transaction() as tx:
        await given.contact(tx, "Ada")

    async def count(delivery: int) -> int:
        async with database.transaction() as tx:
            await add(tx, delivery)
            await asyncio.sleep(0.01)
            return (await tx.bounces.counts(ADA, WEEK_AGO))[HARD]

    assert list(range(1, 11)) == sorted(await asyncio.gather(*(count(number) for number in range(1, 11))))


async def test_the_same_bounce_by_ten_connections_counts_once(database: Database) -> None:
    async def once() -> bool:
        async with database.transaction() as tx:
            return await add(tx, 1)

    assert [False] * 9 + [True] == sorted(await asyncio.gather(*(once() for _ in range(10))))
