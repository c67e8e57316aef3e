"""Matrix events and the sync position."""

from __future__ import annotations

import pytest

from storage.database import Database
from storage.records import EventItem, NewEvent
from storage.store import Store
from tests.storage.given import MINUTE, NOON, event


async def claim(tx: Store, minutes: int = 0) -> EventItem | None:
    return await tx.events.claim(NOON + minutes * MINUTE, lease=MINUTE)


async def claimed(tx: Store, minutes: int = 0) -> str | None:
    """The next event at so many minutes past noon, leased for one minute."""
    item = await claim(tx, minutes)
    return item.event_id if item else None


async def test_events_and_the_position_are_kept_together_or_not_at_all(database: Database) -> None:
    async def fail(tx: Store) -> None:
        await tx.events.take_in("@bot:hs", "s2", [event("$2")])
        raise KeyError("killed")

    async with database.transaction() as tx:
        assert await tx.events.position("@bot:hs") is None
        assert 1 == await tx.events.take_in("@bot:hs", "s1", [event("$1")])
    with pytest.raises(KeyError):
        async with database.transaction() as tx:
            await fail(tx)
    async with database.transaction() as tx:
        assert "s1" == await tx.events.position("@bot:hs")
        assert "$1" == await claimed(tx)
        assert await claimed(tx) is None


async def test_accounts_have_positions_of_their_own_and_long_ones_stay_whole(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.events.take_in("one", "s" * 5000, [])
        await tx.events.take_in("two", "t1", [])
        assert "s" * 5000 == await tx.events.position("one")


async def test_an_event_that_comes_again_is_ignored_even_when_done(database: Database) -> None:
    async with database.transaction() as tx:
        assert 2 == await tx.events.take_in("bot", "s1", [event("$1"), event("$2"), event("$1")])
        item = await claim(tx)
        assert item is not None
        await tx.events.finish(item.id)
        assert 1 == await tx.events.take_in("bot", "s2", [event("$1"), event("$2"), event("$3")])
        assert ["$2", None] == [await claimed(tx), await claimed(tx)]


async def test_events_of_a_room_come_in_order_and_rooms_do_not_wait(database: Database) -> None:
    async with database.transaction() as tx:
        new = [event("$1", "!a:hs"), event("$2", "!a:hs"), event("$3", "!b:hs")]
        await tx.events.take_in("bot", "s1", new)
        first, other_room = await claim(tx), await claim(tx)
        assert first is not None
        assert other_room is not None
        assert "$3" == other_room.event_id
        assert await claimed(tx) is None
        await tx.events.finish(other_room.id)
        await tx.events.retry(first.id, NOON + 3 * MINUTE, "store-away")
        assert [None, "$1"] == [await claimed(tx, 2), await claimed(tx, 3)]
        await tx.events.refuse(first.id, "event-replayed")
        assert "$2" == await claimed(tx, 3)


async def waiting(tx: Store, until: int) -> EventItem:
    """The first of two events; its room key is missing."""
    await tx.events.take_in("bot", "s1", [event("$1"), event("$2")])
    item = await claim(tx)
    assert item is not None
    assert not item.waiting
    await tx.events.wait(item.id, "session", "event-undecryptable", NOON + until * MINUTE)
    return item


async def test_an_undecryptable_event_does_not_hold_up_later_ones(database: Database) -> None:
    async with database.transaction() as tx:
        await waiting(tx, until=5)
        assert ["$2", None] == [await claimed(tx), await claimed(tx)]


async def test_a_waiting_event_is_due_again_at_its_time(database: Database) -> None:
    async with database.transaction() as tx:
        first = await waiting(tx, until=5)
        second = await claim(tx)
        assert second is not None
        await tx.events.finish(second.id)
        assert await claim(tx, 4) is None
        again = await claim(tx, 5)
        assert again is not None
        assert (first.id, True, 2) == (again.id, again.waiting, again.attempts)


async def test_a_waiting_event_wakes_when_its_key_comes(database: Database) -> None:
    async with database.transaction() as tx:
        await waiting(tx, until=60)
        second = await claim(tx)
        assert second is not None
        await tx.events.finish(second.id)
        assert 0 == await tx.events.wake("another session")
        assert await claimed(tx, 1) is None
        assert 1 == await tx.events.wake("session")
        assert "$1" == await claimed(tx, 1)


async def test_a_finished_event_does_not_wait_or_wake(database: Database) -> None:
    async with database.transaction() as tx:
        first = await waiting(tx, until=5)
        await tx.events.finish(first.id)
        await tx.events.wait(first.id, "session", "event-undecryptable", NOON)
        assert 0 == await tx.events.wake("session")


async def test_an_index_of_a_session_belongs_to_one_event(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.events.remember_index("session", 0, "$1")
        assert await tx.events.remember_index("session", 0, "$1")
        assert not await tx.events.remember_index("session", 0, "$2")
        assert await tx.events.remember_index("session", 1, "$2")
        assert await tx.events.remember_index("other", 0, "$2")
        assert await tx.events.remember_index("session", 2**32, "$3")


async def test_after_a_restart_no_event_is_leased(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.events.take_in("bot", "s1", [event("$1")])
        await claimed(tx)
        assert 1 == await tx.events.recover(NOON)
        assert "$1" == await claimed(tx)


async def test_a_claimed_event_is_as_it_was_received(database: Database) -> None:
    new = NewEvent("!a:hs", "$1", "@ada:hs", {"type": "m.room.encrypted"}, NOON)
    async with database.transaction() as tx:
        await tx.events.take_in("bot", "s1", [new])
        found = await claim(tx)
    assert found is not None
    assert EventItem(found.id, "!a:hs", "$1", "@ada:hs", {"type": "m.room.encrypted"}, NOON, 1, False) == found
