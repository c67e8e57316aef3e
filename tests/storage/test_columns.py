"""What strangers write must be storable, and times must come back as they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given as examples
from hypothesis import strategies
from sqlalchemy.exc import StatementError

from storage.columns import LONGEST, storable
from storage.database import Database
from tests.storage import given


@examples(strategies.text())
def test_clean_text_is_stored_as_it_is(text: str) -> None:
    if "\x00" not in text and len(text.encode()) <= LONGEST:
        assert text == storable(text)


@examples(strategies.text(strategies.characters(codec=None, categories=None), max_size=2 * LONGEST))
def test_any_text_becomes_storable_once_and_for_all(text: str) -> None:
    found = storable(text)
    assert "\x00" not in found
    assert len(found.encode()) <= LONGEST
    assert found == storable(found)


def test_long_texts_that_differ_at_the_end_stay_different() -> None:
    assert storable("x" * 5000 + "a") != storable("x" * 5000 + "b")


@pytest.mark.parametrize("name", ["plain", "nul\x00", "half a pair \ud83d", "ünïcode 🦆", "long " * 2000])
async def test_ids_from_outside_are_found_again_whatever_they_hold(database: Database, name: str) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        post = await given.post(tx, group, event_id=name, author_message_id=name)
        assert post == await tx.posts.by_event(group.id, name)
        assert post == await tx.posts.by_message_ids(group.id, [name])
        assert 1 == await tx.events.take_in("bot", "s1", [given.event(name)])
        assert 0 == await tx.events.take_in("bot", "s2", [given.event(name)])


async def test_an_event_comes_back_as_the_json_it_was(database: Database) -> None:
    content = {"nul": "\x00", "pair": "\ud83d", "deep": [{"a": None, "b": 1.5, "c": True}], "duck": "🦆"}
    new = given.event("$1")
    async with database.transaction() as tx:
        await tx.events.take_in("bot", "s1", [type(new)(new.room_id, "$1", new.sender, content, given.NOON)])
        item = await tx.events.claim(given.NOON, lease=given.MINUTE)
    assert item is not None
    assert content == item.event


async def test_times_come_back_aware_and_in_utc(database: Database) -> None:
    in_tokyo = datetime(2026, 3, 1, 21, 0, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    async with database.transaction() as tx:
        group = await given.group(tx)
        await tx.mails.take_in(group.id, b"mail", in_tokyo)
        await tx.audit.add(in_tokyo, "looked")
        mail = await tx.mails.claim(in_tokyo, lease=given.MINUTE)
        entry = (await tx.audit.recent(None, 1))[0]
        again = await tx.groups.get(group.id)
    assert mail is not None
    for found in (mail.received_at, entry.at):
        assert in_tokyo == found
        assert found.tzinfo is UTC or found.utcoffset() == timedelta(0)
    assert group.key == again.key
    assert again.key.expires_at is not None
    assert timedelta(0) == again.key.expires_at.utcoffset()


async def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="without a zone"):
        async with database.transaction() as tx:
            await tx.audit.add(datetime(2026, 3, 1), "looked")  # noqa: DTZ001 - that is the point
