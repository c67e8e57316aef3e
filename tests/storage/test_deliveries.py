"""The outbox: order per destination, leases, and what becomes of a delivery."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from storage.database import Database
from storage.records import DeliveryItem, HeldItem, OverdueItem, UndeliveredItem
from storage.store import Store
from tests.parts.databases import SECRET, SqliteFiles
from tests.storage import given
from tests.storage.given import MINUTE, NOON
from trust.records import DeliveryId, Door


async def claim(tx: Store, minutes: int = 0, target: Door = Door.MAIL) -> DeliveryItem | None:
    return await tx.deliveries.claim(NOON + minutes * MINUTE, lease=MINUTE, target=target)


async def claimed(tx: Store, minutes: int = 0, target: Door = Door.MAIL) -> DeliveryId | None:
    """The next delivery at so many minutes past noon, leased for one minute."""
    item = await claim(tx, minutes, target)
    return item.id if item else None


async def test_a_claimed_delivery_has_all_it_takes_to_send_it(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, post = await given.member(tx, group, "Ada"), await given.post(tx, group)
        delivery = await given.delivery(tx, post, ada.id)
        found = await claim(tx)
    assert DeliveryItem(delivery, post, ada.id, Door.MAIL, b"packet", b"session key", 1, NOON) == found


async def test_each_destination_keeps_its_order_and_waits_for_no_other(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, bob = await given.member(tx, group, "Ada"), await given.member(tx, group, "Bob")
        one, two = await given.post(tx, group), await given.post(tx, group)
        to_ada = [await given.delivery(tx, one, ada.id), await given.delivery(tx, two, ada.id)]
        # Bob's second one was due first: the order they were added in counts.
        to_bob = [await given.delivery(tx, one, bob.id), await given.delivery(tx, two, bob.id, due=NOON - MINUTE)]
        assert {to_ada[0], to_bob[0]} == {await claimed(tx), await claimed(tx)}
        assert await claimed(tx) is None
        await tx.deliveries.retry(to_ada[0], NOON + 5 * MINUTE, "relay-busy")
        await tx.deliveries.finish(to_bob[0], at=NOON)
        assert [to_bob[1], None] == [await claimed(tx), await claimed(tx)]
        await tx.deliveries.finish(to_bob[1], at=NOON)
        assert [None, to_ada[0], None] == [await claimed(tx, 4), await claimed(tx, 5), await claimed(tx, 5)]
        await tx.deliveries.finish(to_ada[0], at=NOON)
        assert to_ada[1] == await claimed(tx, 5)


async def test_rooms_and_mail_are_claimed_apart_and_groups_do_not_wait(database: Database) -> None:
    async with database.transaction() as tx:
        one, two = await given.group(tx, "one"), await given.group(tx, "two")
        ada = await given.member(tx, one, "Ada")
        post_one, post_two = await given.post(tx, one), await given.post(tx, two)
        rooms = [await given.delivery(tx, post_one, None), await given.delivery(tx, post_two, None)]
        mail = await given.delivery(tx, post_one, ada.id)
        assert [mail, None] == [await claimed(tx), await claimed(tx)]
        assert [*rooms, None] == [await claimed(tx, 0, Door.ROOM) for _ in range(3)]


async def test_a_lease_that_ran_out_is_claimed_again_before_what_follows(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        first = await given.delivery(tx, await given.post(tx, group), None)
        await given.delivery(tx, await given.post(tx, group), None)
        assert first == await claimed(tx, 0, Door.ROOM)
        again = await claim(tx, 1, Door.ROOM)
        assert again is not None
        assert (first, 2) == (again.id, again.attempts)


async def test_after_a_restart_the_leases_are_forgotten(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        first = await given.delivery(tx, await given.post(tx, group), None)
        await claimed(tx, 0, Door.ROOM)
        assert 1 == await tx.deliveries.recover(NOON)
        assert 0 == await tx.deliveries.recover(NOON)
        assert first == await claimed(tx, 0, Door.ROOM)


async def test_held_and_buried_ones_hold_nothing_up(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada = await given.member(tx, group, "Ada")
        posts = [await given.post(tx, group) for _ in range(4)]
        without_key = await given.delivery(tx, posts[0], ada.id, held=True)
        buried, held = await given.delivery(tx, posts[1], ada.id), await given.delivery(tx, posts[2], ada.id)
        last = await given.delivery(tx, posts[3], ada.id)
        await tx.deliveries.bury(buried, "relay-refused")
        await tx.deliveries.hold(held, "no-usable-key")
        assert [last, None] == [await claimed(tx), await claimed(tx)]
        assert {"buried": 1, "held": 2, "queued": 1} == await tx.deliveries.counts(group.id)
        assert [
            HeldItem(without_key, posts[0], ada.id, None, NOON),
            HeldItem(held, posts[2], ada.id, "no-usable-key", NOON),
        ] == await tx.deliveries.held_for(ada.id)


async def test_a_held_one_goes_its_way_once_it_is_sealed_anew(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, post = await given.member(tx, group, "Ada"), await given.post(tx, group)
        delivery = await given.delivery(tx, post, ada.id, held=True)
        body = await tx.posts.seal(post.id, b"sealed anew", b"group's")
        await tx.deliveries.release(delivery, sealed=body, session_key=b"hers", due=NOON)
        item = await claim(tx)
        assert item is not None
        assert (b"sealed anew", b"hers") == (item.packet, item.session_key)
        assert [] == await tx.deliveries.held_for(ada.id)
        await tx.deliveries.finish(delivery, at=NOON)
        await tx.deliveries.release(delivery, sealed=body, session_key=b"hers", due=NOON)
        assert {"done": 1} == await tx.deliveries.counts(group.id)


async def test_a_removed_member_gets_nothing_more_and_what_came_through_is_remembered(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, bob = await given.member(tx, group, "Ada"), await given.member(tx, group, "Bob")
        posts = [await given.post(tx, group) for _ in range(4)]
        done, held, leased, buried = [await given.delivery(tx, post, ada.id) for post in posts]
        bobs = await given.delivery(tx, posts[0], bob.id)
        await tx.deliveries.finish(done, at=NOON)
        await tx.deliveries.hold(held, "no-usable-key")
        await tx.deliveries.bury(buried, "relay-refused")
        assert {leased, bobs} == {await claimed(tx), await claimed(tx)}
        assert 3 == await tx.deliveries.drop_for(ada.id)
        await tx.deliveries.finish(leased, at=NOON)
        assert {"done": 1, "queued": 1} == await tx.deliveries.counts(group.id)


async def test_two_processes_never_claim_the_same(database: Database, other_process: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        for name in "abcdefgh":
            member = await given.member(tx, group, name)
            await given.delivery(tx, await given.post(tx, group), member.id)

    async def drain(process: Database) -> list[DeliveryId]:
        mine: list[DeliveryId] = []
        while True:
            async with process.transaction() as tx:
                found = await claimed(tx)
                await asyncio.sleep(0.005)
            if found is None:
                return mine
            mine.append(found)

    one, two = await asyncio.gather(drain(database), drain(other_process))
    assert 8 == len(one) + len(two) == len({*one, *two})


async def test_a_claim_passes_over_what_another_is_claiming(postgres_pair: tuple[Database, Database]) -> None:
    here, there = postgres_pair
    async with here.transaction() as tx:
        group = await given.group(tx)
        ada, bob = await given.member(tx, group, "Ada"), await given.member(tx, group, "Bob")
        one, two = await given.post(tx, group), await given.post(tx, group)
        to_ada, to_bob = await given.delivery(tx, one, ada.id), await given.delivery(tx, one, bob.id)
        await given.delivery(tx, two, ada.id)
    async with here.transaction() as mine, asyncio.timeout(5):
        assert to_ada == await claimed(mine)
        # My claim is not committed: it is neither waited for, nor is Ada's second one free.
        async with there.transaction() as theirs:
            assert [to_bob, None] == [await claimed(theirs), await claimed(theirs)]


async def test_claims_use_their_indexes(sqlite: SqliteFiles, tmp_path: Path) -> None:
    """However much was delivered before: a claim looks at what is due only."""
    database = Database(sqlite.migrated(tmp_path), SECRET)
    statements: list[str] = []
    async with database.transaction() as tx:
        connection = tx.deliveries._connection
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        await raw.set_trace_callback(statements.append)
        await claimed(tx)
        await tx.mails.claim(NOON, lease=MINUTE)
        await tx.events.claim(NOON, lease=MINUTE)
        await raw.set_trace_callback(None)
        for statement in statements:
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
            steps = [row.detail for row in plan]
            assert [] == [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step], steps
    await database.close()
    assert 3 == len(statements)


# --- claims that choose, clocks, what did not arrive -----------------------------------------------------------------


async def test_a_claim_passes_over_groups_and_over_what_was_tried_before(database: Database) -> None:
    async with database.transaction() as tx:
        one, two = await given.group(tx, "one"), await given.group(tx, "two")
        ada, bob = await given.member(tx, one, "Ada"), await given.member(tx, two, "Bob")
        to_ada = await given.delivery(tx, await given.post(tx, one), ada.id)
        to_bob = await given.delivery(tx, await given.post(tx, two), bob.id)
        await claimed(tx)
        await tx.deliveries.retry(to_ada, NOON, "relay-busy")

        async def choose(**how: Any) -> DeliveryId | None:
            item = await tx.deliveries.claim(NOON, lease=MINUTE, target=Door.MAIL, **how)
            return item.id if item else None

        assert None is await choose(besides=[one.id, two.id])
        assert None is await choose(besides=[two.id], fresh=True)
        assert [to_bob, to_ada] == [await choose(fresh=True), await choose(besides=[two.id])]


async def test_leases_are_taken_back_but_on_what_is_in_hand(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, bob = await given.member(tx, group, "Ada"), await given.member(tx, group, "Bob")
        post = await given.post(tx, group)
        mine, lost = await given.delivery(tx, post, ada.id), await given.delivery(tx, post, bob.id)
        assert {mine, lost} == {await claimed(tx), await claimed(tx)}
        assert 1 == await tx.deliveries.recover(NOON, [mine])
        assert [lost, None] == [await claimed(tx), await claimed(tx)]


async def test_what_a_clock_ahead_of_time_put_off_is_due_when_the_clock_is_right(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, bob = await given.member(tx, group, "Ada"), await given.member(tx, group, "Bob")
        post = await given.post(tx, group)
        to_ada, to_bob = await given.delivery(tx, post, ada.id), await given.delivery(tx, post, bob.id)
        await tx.deliveries.retry(to_ada, NOON + timedelta(days=365), "relay-busy")
        await tx.deliveries.retry(to_bob, NOON + timedelta(hours=1), "relay-busy")
        assert 1 == await tx.deliveries.heal(NOON)
        assert [to_ada, None] == [await claimed(tx), await claimed(tx)]


async def test_only_what_waits_too_long_and_is_in_nobodys_hand_is_overdue(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, bob, cho = [await given.member(tx, group, name) for name in ("Ada", "Bob", "Cho")]
        post = await given.post(tx, group)
        in_hand = await given.delivery(tx, post, ada.id, due=NOON - MINUTE)
        waits = await given.delivery(tx, post, bob.id)
        await given.delivery(tx, post, cho.id, held=True)
        assert in_hand == await claimed(tx)
        assert [OverdueItem(waits, group.id, None)] == await tx.deliveries.overdue(NOON + MINUTE, 10)
        assert [] == await tx.deliveries.overdue(NOON, 10)


async def test_what_came_back_or_was_buried_is_undelivered_until_it_is_told(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada, bob = await given.member(tx, group, "Ada"), await given.member(tx, group, "Bob")
        post = await given.post(tx, group, author=ada.id)
        notice = await given.post(tx, group)
        back, buried = await given.delivery(tx, post, bob.id), await given.delivery(tx, post, None)
        of_ours = await given.delivery(tx, notice, bob.id)
        assert not await tx.deliveries.bounce(back, "bounced")  # it was not handed over yet
        await tx.deliveries.finish(back, at=NOON)
        assert await tx.deliveries.bounce(back, "bounced")
        await tx.deliveries.bury(buried, "homeserver-away")
        await tx.deliveries.bury(of_ours, "relay-refused")
        assert [
            UndeliveredItem(back, post.reference, ada.id, NOON, "Bob", "bounced"),
            UndeliveredItem(buried, post.reference, ada.id, NOON, None, "homeserver-away"),
        ] == await tx.deliveries.undelivered(group.id)
        await tx.deliveries.told([back, buried])
        assert [] == await tx.deliveries.undelivered(group.id)
