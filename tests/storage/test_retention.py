"""What is deleted, and what is kept although it is old."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from storage import retention
from storage.database import Database
from storage.retention import Swept
from storage.schema import mail_bodies, sealed_bodies
from storage.store import Store
from tests.parts.databases import SECRET, SqliteFiles
from tests.storage import given
from tests.storage.given import MINUTE, NOON
from trust.records import DeliveryId, Door, MailId, Member, Post

HOUR = 60 * MINUTE


async def sweep(
    tx: Store,
    *,
    delivered: datetime = NOON + HOUR,
    undelivered: datetime = NOON - 30 * 24 * HOUR,
    most: int = 100,
) -> Swept:
    return await tx.retention.sweep(
        NOON + 100 * HOUR, delivered_before=delivered, undelivered_before=undelivered, most=most
    )


async def kept(tx: Store) -> list[int]:
    """The posts whose bodies are there, once for each."""
    found = await tx.retention._connection.execute(select(sealed_bodies.c.post_id).order_by(sealed_bodies.c.id))
    return list(found.scalars())


async def town(tx: Store, *names: str, posts: int = 1) -> tuple[list[Member], list[Post]]:
    group = await given.group(tx)
    return [await given.member(tx, group, name) for name in names], [await given.post(tx, group) for _ in range(posts)]


async def sent(tx: Store, post: Post, to: Sequence[Member]) -> list[DeliveryId]:
    """One body, and a delivery of it to the room and to each of ``to``."""
    body = await tx.posts.seal(post.id, b"packet", b"group's session key")
    return [
        await tx.deliveries.add(
            post.id,
            sealed=body,
            target=Door.MAIL if member else Door.ROOM,
            member=member.id if member else None,
            session_key=b"session key",
            due=NOON,
        )
        for member in (None, *to)
    ]


# --- what everybody has ----------------------------------------------------------------------------------------------


async def test_a_body_is_deleted_once_all_have_it_and_the_grace_is_over(database: Database) -> None:
    async with database.transaction() as tx:
        [ada], [post] = await town(tx, "Ada")
        to_room, to_ada = await sent(tx, post, [ada])
        await tx.deliveries.finish(to_room, at=NOON)
        assert Swept(0, 0, 0) == await sweep(tx)
        await tx.deliveries.finish(to_ada, at=NOON + 2 * HOUR)
        assert Swept(0, 0, 0) == await sweep(tx, delivered=NOON + 2 * HOUR)
        assert Swept(1, 0, 0) == await sweep(tx, delivered=NOON + 2 * HOUR + MINUTE)
        assert [] == await kept(tx)
        assert await tx.posts.sealed(post.id) is None
        assert post == await tx.posts.by_message_ids(post.group_id, [post.message_id])
        assert ["done", "done"] == [item.state for item in await tx.queue.by_reference(post.reference)]


@pytest.mark.parametrize("end", ["queued", "held", "buried", "bounced"])
async def test_a_body_is_kept_while_one_delivery_of_its_post_is_not_done(database: Database, end: str) -> None:
    async with database.transaction() as tx:
        [ada], [post, other] = await town(tx, "Ada", posts=2)
        to_room, to_ada = await sent(tx, post, [ada])
        await tx.deliveries.finish(to_room, at=NOON)
        for delivery in await sent(tx, other, []):
            await tx.deliveries.finish(delivery, at=NOON)
        if end == "held":
            await tx.deliveries.hold(to_ada, "no-usable-key")
        elif end == "buried":
            await tx.deliveries.bury(to_ada, "relay-refused")
        elif end == "bounced":
            await tx.deliveries.finish(to_ada, at=NOON)
            await tx.deliveries.bounce(to_ada, "bounced")
        assert Swept(1, 0, 0) == await sweep(tx)
        assert [post.id] == await kept(tx)


async def test_a_post_that_nobody_gets_counts_from_its_sealing(database: Database) -> None:
    async with database.transaction() as tx:
        _, [post] = await town(tx)
        await tx.posts.seal(post.id, b"packet", b"key")
        assert 0 == (await sweep(tx, delivered=NOON)).total
        assert 1 == (await sweep(tx, delivered=NOON + MINUTE)).bodies


# --- what was sealed anew --------------------------------------------------------------------------------------------


async def test_a_body_sealed_anew_goes_with_its_delivery_and_the_first_one_last(database: Database) -> None:
    async with database.transaction() as tx:
        [ada, bob], [post] = await town(tx, "Ada", "Bob")
        to_room, to_ada, to_bob = await sent(tx, post, [ada, bob])
        await tx.deliveries.finish(to_room, at=NOON)
        for delivery in (to_ada, to_bob):
            await tx.deliveries.hold(delivery, "key-changed")
        anew = await tx.posts.seal(post.id, b"packet anew", b"group's session key")
        await tx.deliveries.release(to_ada, sealed=anew, session_key=b"session key", due=NOON)
        assert 0 == (await sweep(tx)).total
        await tx.deliveries.finish(to_ada, at=NOON + 99 * HOUR)
        # Bob's is sealed from the first one when his key comes.
        assert 1 == (await sweep(tx)).bodies
        assert (b"packet", b"group's session key") == await tx.posts.sealed(post.id)
        await tx.deliveries.drop_for(bob.id)
        assert 0 == (await sweep(tx)).total
        assert 1 == (await sweep(tx, delivered=NOON + 100 * HOUR)).bodies


async def test_a_body_of_one_that_was_buried_after_it_was_sealed_anew_is_kept(database: Database) -> None:
    async with database.transaction() as tx:
        [ada], [post] = await town(tx, "Ada")
        to_room, to_ada = await sent(tx, post, [ada])
        await tx.deliveries.finish(to_room, at=NOON)
        await tx.deliveries.hold(to_ada, "key-changed")
        anew = await tx.posts.seal(post.id, b"packet anew", b"key")
        await tx.deliveries.release(to_ada, sealed=anew, session_key=b"session key", due=NOON)
        await tx.deliveries.bury(to_ada, "relay-refused")
        assert 0 == (await sweep(tx)).total
        assert "queued" == (await tx.queue.retry(f"d{to_ada}", at=NOON)).state


# --- what was given up -----------------------------------------------------------------------------------------------


async def test_what_stood_still_for_too_long_goes_and_takes_its_body_along(database: Database) -> None:
    async with database.transaction() as tx:
        [ada, bob], [post] = await town(tx, "Ada", "Bob")
        to_room, to_ada, to_bob = await sent(tx, post, [ada, bob])
        await tx.deliveries.finish(to_room, at=NOON)
        await tx.deliveries.hold(to_ada, "no-usable-key")
        await tx.deliveries.bury(to_bob, "relay-refused")
        assert 0 == (await sweep(tx, undelivered=NOON)).total
        assert Swept(1, 2, 0) == await sweep(tx, undelivered=NOON + MINUTE)
        told = {(entry.action, entry.detail) for entry in await tx.audit.recent(post.group_id, 9)}
        assert {("delivery.expired", "1 held"), ("delivery.expired", "1 buried")} == told
        assert ["room"] == [item.whom for item in await tx.queue.by_reference(post.reference)]


async def test_what_is_still_tried_is_never_given_up_here(database: Database) -> None:
    async with database.transaction() as tx:
        _, [post] = await town(tx)
        await sent(tx, post, [])
        assert 0 == (await sweep(tx, undelivered=NOON + 100 * HOUR)).total


async def test_one_that_was_tried_again_is_kept_anew(database: Database) -> None:
    async with database.transaction() as tx:
        [ada], [post] = await town(tx, "Ada")
        _, to_ada = await sent(tx, post, [ada])
        await tx.deliveries.bury(to_ada, "relay-refused")
        await tx.queue.retry(f"d{to_ada}", at=NOON + HOUR)
        await tx.deliveries.bury(to_ada, "relay-refused")
        assert 0 == (await sweep(tx, undelivered=NOON + HOUR)).total


async def test_a_refused_mail_loses_its_body_in_the_end_and_stays_known(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        mails = [await tx.mails.take_in(group.id, raw, NOON) for raw in (b"refused", b"queued")]
        await tx.mails.refuse(MailId(mails[0] or 0), "not-signed")
        assert 0 == (await sweep(tx, undelivered=NOON)).total
        assert Swept(0, 0, 1) == await sweep(tx, undelivered=NOON + MINUTE)
        left = await tx.retention._connection.execute(select(mail_bodies.c.raw))
        assert [b"queued"] == list(left.scalars())
        assert await tx.mails.take_in(group.id, b"refused", NOON) is None
        assert {"not-signed": 1} == await tx.mails.counts(group.id)


# --- in portions -----------------------------------------------------------------------------------------------------


async def test_a_portion_has_so_many_rows_and_the_next_one_goes_on(database: Database) -> None:
    async with database.transaction() as tx:
        _, posts = await town(tx, posts=5)
        for post in posts:
            [to_room] = await sent(tx, post, [])
            await tx.deliveries.finish(to_room, at=NOON)
        assert [2, 2, 1, 0] == [(await sweep(tx, most=2)).bodies for _ in range(4)]


async def test_a_portion_has_so_many_bytes_but_at_least_one_body(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PORTION", 25)
    async with database.transaction() as tx:
        group = await given.group(tx)
        for size in (30, 10, 10, 10):
            await tx.posts.seal((await given.post(tx, group)).id, bytes(size), b"key")
        assert [1, 2, 1, 0] == [(await sweep(tx)).bodies for _ in range(4)]


async def test_neither_a_sweep_nor_the_queue_looks_at_all_that_is_done(sqlite: SqliteFiles, tmp_path: Path) -> None:
    """Mails, events, posts and deliveries stay for ever: only what is in use may be gone through."""
    database = Database(sqlite.migrated(tmp_path), SECRET)
    statements: list[str] = []
    async with database.transaction() as tx:
        connection = tx.retention._connection
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        await raw.set_trace_callback(statements.append)
        await sweep(tx)
        await tx.queue.items(limit=50)
        await tx.queue.counts()
        await raw.set_trace_callback(None)
        plans = [await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}") for statement in statements]
        scans = {row.detail for plan in plans for row in plan if row.detail.startswith("SCAN")}
    await database.close()
    in_use = {"SCAN sealed_bodies", "SCAN mail_bodies", "SCAN deliveries USING INDEX ix_deliveries_unfinished"}
    assert set() == scans - in_use, scans
