"""The queue as an operator sees it, and the moves by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import func, select

from storage.database import Database
from storage.records import AuditEntry, DeliveryState, QueueItem, QueueKind
from storage.schema import bounces, mail_bodies, sealed_bodies
from storage.store import Store
from tests.storage import given
from tests.storage.given import MINUTE, NOON
from trust.errors import ContentGone, ItemInHand, NoSuchItem
from trust.records import DeliveryId, Door, Group, MailId, Member, Post

LATER = NOON + 60 * MINUTE


async def mail(tx: Store, group: Group, raw: bytes = b"mail") -> MailId:
    added = await tx.mails.take_in(group.id, raw, NOON)
    assert added is not None
    return added


async def names(tx: Store, kind: QueueKind) -> list[str]:
    """Of all that are listed. (On PostgreSQL the numbers go on from test to test.)"""
    return [item.name for item in await tx.queue.items(gone=True) if item.kind is kind]


async def rows_of(tx: Store, table: object) -> int:
    found: int = (await tx.queue._connection.execute(select(func.count()).select_from(table))).scalar_one()  # type: ignore[arg-type]
    return found


class Town:
    """A group with a room, Ada by mail, a post, and its delivery to her."""

    def __init__(self, group: Group, ada: Member, post: Post, delivery: DeliveryId) -> None:
        self.group, self.ada, self.post, self.delivery = group, ada, post, delivery
        self.name = f"d{delivery}"

    @classmethod
    async def found(cls, tx: Store, name: str = "tld-ops") -> Town:
        group = await given.group(tx, name)
        await tx.groups.set_room(group.id, f"!{name}:hs.example", {})
        ada, post = await given.member(tx, group, f"Ada of {name}"), await given.post(tx, group)
        return cls(group, ada, post, await given.delivery(tx, post, ada.id))


# --- looking ---------------------------------------------------------------------------------------------------------


async def test_what_is_on_its_way_is_listed_oldest_first_with_all_an_operator_asks(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        to_room = await given.delivery(tx, town.post, None, due=NOON + 2 * MINUTE)
        came = await mail(tx, town.group)
        await tx.events.take_in("@bot:hs.example", "s1", [replace(given.event("$1"), room_id="!tld-ops:hs.example")])
        await tx.mails.retry(came, LATER, "gnupg-failed")
        [event] = await names(tx, QueueKind.EVENT)
        found = await tx.queue.items()
    kind, name, reference = QueueKind.DELIVERY, town.group.name, town.post.reference
    assert [
        QueueItem(f"m{came}", QueueKind.MAIL, name, "", "", "queued", 0, NOON, LATER, "gnupg-failed"),
        QueueItem(event, QueueKind.EVENT, name, "", "", "queued", 0, NOON, NOON, None),
        QueueItem(town.name, kind, name, reference, "Ada of tld-ops", "queued", 0, NOON, NOON, None),
        QueueItem(f"d{to_room}", kind, name, reference, "room", *("queued", 0, *2 * (NOON + 2 * MINUTE,), None)),
    ] == found


async def test_what_is_done_or_has_no_content_left_is_not_in_the_queue(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        await tx.deliveries.finish(town.delivery, at=NOON)
        kept, gone = await mail(tx, town.group), await mail(tx, town.group, b"other")
        await tx.mails.finish(await mail(tx, town.group, b"third"))
        await tx.mails.refuse(kept, "not-signed")
        await tx.queue.drop(f"m{gone}", at=NOON)
        await tx.events.take_in("@bot:hs.example", "s1", [given.event("$1"), given.event("$2")])
        first, second = await names(tx, QueueKind.EVENT)
        claimed = await tx.events.claim(NOON, lease=MINUTE)
        assert claimed is not None
        await tx.events.refuse(claimed.id, "event-malformed")
        assert [f"m{kept}", second] == [item.name for item in await tx.queue.items()]
        everything = await tx.queue.items(gone=True)
        assert [f"m{kept}", f"m{gone}", first, second] == [item.name for item in everything]
        assert {"refused": 1, "queued": 1} == await tx.queue.counts()
        assert {"refused": 3, "queued": 1} == await tx.queue.counts(gone=True)


async def test_the_list_can_be_narrowed_and_cut(database: Database) -> None:
    async with database.transaction() as tx:
        one, two = await Town.found(tx, "one"), await Town.found(tx, "two")
        await tx.deliveries.bury(one.delivery, "relay-refused")
        new = replace(given.event("$1"), room_id="!two:hs.example")
        await tx.events.take_in("@bot:hs.example", "s1", [new])
        [event] = await names(tx, QueueKind.EVENT)
        came = await mail(tx, two.group)
        assert [one.name] == [item.name for item in await tx.queue.items(one.group.id)]
        assert [one.name] == [item.name for item in await tx.queue.items(states=["buried", "refused"])]
        assert [f"m{came}", event] == [item.name for item in await tx.queue.items(two.group.id, limit=2)]
        assert {"queued": 3} == await tx.queue.counts(two.group.id)
        assert {"buried": 1} == await tx.queue.counts(states=["buried"])
        assert {} == await tx.queue.counts(two.group.id, states=["buried"])


async def test_a_post_shows_each_of_its_recipients_those_who_have_it_too(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        await given.delivery(tx, town.post, None)
        await tx.deliveries.finish(town.delivery, at=LATER)
        found = await tx.queue.by_reference(town.post.reference.lower())
        shown = [(item.whom, item.state, item.finished_at) for item in found]
        assert [("Ada of tld-ops", "done", LATER), ("room", "queued", None)] == shown
        assert "done" == (await tx.queue.by_name(town.name)).state


@pytest.mark.parametrize(
    "name", ["", "d", "x1", "d0", "d999999", "m0", "e0", "D1", "d-1", "d1 ", "d" + "9" * 30, "ABCDEFGH"]
)
async def test_a_name_that_nothing_has_is_refused(database: Database, name: str) -> None:
    async with database.transaction() as tx:
        await Town.found(tx)
        for ask in (
            tx.queue.by_name(name),
            tx.queue.by_reference(name),
            tx.queue.retry(name, at=NOON),
            tx.queue.drop(name, at=NOON),
        ):
            with pytest.raises(NoSuchItem):
                await ask


# --- trying again ----------------------------------------------------------------------------------------------------


async def test_a_delivery_that_waits_is_due_now(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        await tx.deliveries.claim(NOON, lease=MINUTE, target=Door.MAIL)
        await tx.deliveries.retry(town.delivery, LATER, "relay-busy")
        moved = await tx.queue.retry(town.name, at=NOON + MINUTE)
        assert ("queued", 1, NOON, NOON + MINUTE) == (moved.state, moved.attempts, moved.since, moved.next_try)
        assert await tx.deliveries.claim(NOON + MINUTE, lease=MINUTE, target=Door.MAIL) is not None


async def test_a_buried_delivery_begins_anew_and_may_be_told_of_anew(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        await tx.deliveries.claim(NOON, lease=MINUTE, target=Door.MAIL)
        await tx.deliveries.bury(town.delivery, "relay-refused")
        await tx.deliveries.told([town.delivery])
        moved = await tx.queue.retry(town.name, at=LATER)
        assert ("queued", 0, LATER, LATER, None) == (
            *(moved.state, moved.attempts, moved.since, moved.next_try),
            moved.code,
        )
        item = await tx.deliveries.claim(LATER, lease=MINUTE, target=Door.MAIL)
        assert item is not None
        assert (1, b"session key") == (item.attempts, item.session_key)
        [entry] = await tx.audit.recent(town.group.id, 9)
    detail = f"buried relay-refused {town.post.reference}"
    assert AuditEntry(LATER, "queue.retried", town.group.id, "operator", town.name, detail) == entry


async def test_what_came_back_is_held_to_be_sealed_anew(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        await tx.deliveries.finish(town.delivery, at=NOON)
        await tx.deliveries.bounce(town.delivery, "bounced")
        moved = await tx.queue.retry(town.name, at=LATER)
        assert ("held", None, None, LATER) == (moved.state, moved.code, moved.next_try, moved.since)
        assert [town.delivery] == [item.id for item in await tx.deliveries.held_for(town.ada.id)]


async def test_what_is_held_for_its_reader_stays_held_for_that_reason(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        await tx.deliveries.hold(town.delivery, "no-usable-key")
        moved = await tx.queue.retry(town.name, at=LATER)
    assert ("held", "no-usable-key") == (moved.state, moved.code)


async def test_a_delivery_whose_body_is_gone_can_not_be_tried_again(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        to_room = await given.delivery(tx, town.post, None)
        for each in (town.delivery, to_room):
            await tx.deliveries.bury(each, "relay-refused")
        await tx.queue._connection.execute(sealed_bodies.delete())
        for each in (town.delivery, to_room):
            with pytest.raises(ContentGone):
                await tx.queue.retry(f"d{each}", at=LATER)
            assert "buried" == (await tx.queue.by_name(f"d{each}")).state


async def test_a_refused_mail_is_tried_again_while_it_is_kept(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        came = await mail(tx, town.group)
        await tx.mails.claim(NOON, lease=MINUTE)
        await tx.mails.refuse(came, "not-signed")
        moved = await tx.queue.retry(f"m{came}", at=LATER)
        assert ("queued", 0, LATER, None) == (moved.state, moved.attempts, moved.next_try, moved.code)
        again = await tx.mails.claim(LATER, lease=MINUTE)
        assert again is not None
        assert (b"mail", 1) == (again.raw, again.attempts)
        await tx.mails.refuse(came, "not-signed")
        await tx.queue._connection.execute(mail_bodies.delete())
        with pytest.raises(ContentGone):
            await tx.queue.retry(f"m{came}", at=LATER)


async def test_an_event_that_waits_is_due_now_and_a_refused_one_is_gone(database: Database) -> None:
    async with database.transaction() as tx:
        await Town.found(tx)
        await tx.events.take_in("@bot:hs.example", "s1", [given.event("$1")])
        [event] = await names(tx, QueueKind.EVENT)
        claimed = await tx.events.claim(NOON, lease=MINUTE)
        assert claimed is not None
        await tx.events.wait(claimed.id, "session", "event-undecryptable", LATER)
        moved = await tx.queue.retry(event, at=NOON + MINUTE)
        assert ("waiting", NOON + MINUTE) == (moved.state, moved.next_try)
        await tx.events.refuse(claimed.id, "event-undecryptable")
        with pytest.raises(ContentGone):
            await tx.queue.retry(event, at=LATER)
        with pytest.raises(NoSuchItem):
            await tx.queue.drop(event, at=LATER)


async def test_what_is_done_is_not_there_to_be_moved(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        await tx.deliveries.finish(town.delivery, at=NOON)
        came = await mail(tx, town.group)
        await tx.mails.finish(came)
        for name in (town.name, f"m{came}"):
            for move in (tx.queue.retry, tx.queue.drop):
                with pytest.raises(NoSuchItem):
                    await move(name, at=NOON)


async def test_what_a_worker_has_in_hand_is_left_alone_until_its_lease_is_over(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        came = await mail(tx, town.group)
        await tx.events.take_in("@bot:hs.example", "s1", [given.event("$1")])
        [event] = await names(tx, QueueKind.EVENT)
        await tx.deliveries.claim(NOON, lease=2 * MINUTE, target=Door.MAIL)
        await tx.mails.claim(NOON, lease=2 * MINUTE)
        await tx.events.claim(NOON, lease=2 * MINUTE)
        for name in (town.name, f"m{came}", event):
            for move in (tx.queue.retry, tx.queue.drop):
                with pytest.raises(ItemInHand):
                    await move(name, at=NOON + MINUTE)
            await tx.queue.retry(name, at=NOON + 2 * MINUTE)


async def test_a_new_key_makes_what_stands_still_be_sealed_anew(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        queued = await given.delivery(tx, await given.post(tx, town.group), town.ada.id)
        await tx.deliveries.bury(town.delivery, "given-up")
        await tx.queue.forget_keys(town.ada.id)
        assert "held" == (await tx.queue.retry(town.name, at=LATER)).state
        item = await tx.deliveries.claim(LATER, lease=MINUTE, target=Door.MAIL)
    assert item is not None
    assert queued == item.id


# --- dropping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(DeliveryState)[:-1])
async def test_a_dropped_delivery_is_gone(database: Database, state: DeliveryState) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        if state is DeliveryState.BOUNCED:
            await tx.deliveries.finish(town.delivery, at=NOON)
            await tx.deliveries.bounce(town.delivery, "bounced")
        elif state is DeliveryState.HELD:
            await tx.deliveries.hold(town.delivery, "no-usable-key")
        elif state is DeliveryState.BURIED:
            await tx.deliveries.bury(town.delivery, "relay-refused")
        assert state == (await tx.queue.drop(town.name, at=NOON)).state
        assert [] == await tx.queue.items()
        with pytest.raises(NoSuchItem):
            await tx.queue.by_name(town.name)
        assert ["queue.dropped"] == [entry.action for entry in await tx.audit.recent(town.group.id, 9)]
        assert 0 == await rows_of(tx, bounces)


async def test_a_dropped_mail_loses_its_body_and_is_still_known(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        came = await mail(tx, town.group)
        await tx.queue.drop(f"m{came}", at=NOON)
        assert 0 == await rows_of(tx, mail_bodies)
        assert await tx.mails.take_in(town.group.id, b"mail", LATER) is None
        assert await tx.mails.claim(LATER, lease=MINUTE) is None
        shown = await tx.queue.by_name(f"m{came}")
        assert ("refused", "dropped") == (shown.state, shown.code)
        with pytest.raises(NoSuchItem):
            await tx.queue.drop(f"m{came}", at=NOON)


async def test_a_dropped_event_is_not_taken_in_again(database: Database) -> None:
    async with database.transaction() as tx:
        await Town.found(tx)
        await tx.events.take_in("@bot:hs.example", "s1", [given.event("$1")])
        [event] = await names(tx, QueueKind.EVENT)
        await tx.queue.drop(event, at=NOON)
        assert 0 == await tx.events.take_in("@bot:hs.example", "s2", [given.event("$1")])
        assert await tx.events.claim(LATER, lease=MINUTE) is None


# --- after a backup was put back -------------------------------------------------------------------------------------


async def test_after_a_restored_backup_nothing_goes_out_by_itself(database: Database) -> None:
    async with database.transaction() as tx:
        town = await Town.found(tx)
        waits_for_key = await given.delivery(tx, await given.post(tx, town.group), town.ada.id, held=True)
        came = await mail(tx, town.group)
        await tx.events.take_in("@bot:hs.example", "s1", [given.event("$1"), given.event("$2", "!other:hs.example")])
        waiting = await tx.events.claim(NOON, lease=MINUTE)
        assert waiting is not None
        await tx.events.wait(waiting.id, "session", "event-undecryptable", LATER)
        await tx.deliveries.claim(NOON, lease=MINUTE, target=Door.MAIL)
        held = await tx.queue.hold_all(NOON)
        assert {QueueKind.MAIL: 1, QueueKind.EVENT: 2, QueueKind.DELIVERY: 2} == held
        assert await tx.mails.claim(LATER, lease=MINUTE) is None
        assert await tx.events.claim(LATER, lease=MINUTE) is None
        assert await tx.deliveries.claim(LATER, lease=MINUTE, target=Door.MAIL) is None
        assert [] == await tx.deliveries.held_for(town.ada.id)
        assert {"restored"} == {item.code for item in await tx.queue.items(gone=True)}
        # By the operator's hand all goes on: with the key that is kept, or sealed anew.
        again = [await tx.queue.retry(name, at=LATER) for name in (town.name, f"d{waits_for_key}", f"m{came}")]
        assert [("queued", None), ("held", None), ("queued", None)] == [(item.state, item.code) for item in again]
        assert [waits_for_key] == [item.id for item in await tx.deliveries.held_for(town.ada.id)]


async def test_nothing_is_held_where_nothing_waits(database: Database) -> None:
    async with database.transaction() as tx:
        assert {0} == set((await tx.queue.hold_all(NOON)).values())
        assert ["0 mail, 0 event, 0 delivery"] == [entry.detail for entry in await tx.audit.recent(None, 9)]
