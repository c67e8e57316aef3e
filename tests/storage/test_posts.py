"""Posts and how they hang together."""

from __future__ import annotations

import pytest

from storage.database import Database
from tests.storage import given
from trust.errors import AlreadyPosted, AlreadyThere
from trust.records import Door


async def test_a_post_comes_back_as_it_was_added(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        ada = await given.member(tx, group, "Ada")
        parent = await given.post(tx, group)
        added = await tx.posts.add(
            group=group.id,
            reference="ABCD2345",
            door=Door.ROOM,
            author=ada.id,
            message_id="ABCD2345.1@lists.example",
            sealed_at=given.NOON,
            author_message_id="mine@ops.example",
            event_id="$event",
            thread_root="$root",
            parent=parent.id,
            signature_id="signature",
            note="from the room",
        )
        assert added == await tx.posts.get(added.id)
    assert (ada.id, parent.id, "$root", given.NOON) == (
        added.author_id,
        added.parent_id,
        added.thread_root,
        added.sealed_at,
    )


async def test_a_signature_or_event_is_posted_once_per_group(database: Database) -> None:
    async with database.transaction() as tx:
        one, two = await given.group(tx, "one"), await given.group(tx, "two")
        first = await given.post(tx, one, signature_id="signature", event_id="$1")
        with pytest.raises(AlreadyPosted):
            await given.post(tx, one, signature_id="signature", event_id="$2")
        with pytest.raises(AlreadyPosted):
            await given.post(tx, one, signature_id="another", event_id="$1")
        await given.post(tx, two, signature_id="signature")
        await given.post(tx, one)
        await given.post(tx, one)
        assert first == await tx.posts.get(first.id)


async def test_our_own_ids_are_given_once(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        post = await given.post(tx, group)
        with pytest.raises(AlreadyThere):
            await tx.posts.add(
                group=group.id,
                reference=post.reference,
                door=Door.ROOM,
                author=None,
                message_id="new@lists.example",
                sealed_at=given.NOON,
            )


async def test_the_first_sealed_body_is_the_one_to_open_again(database: Database) -> None:
    async with database.transaction() as tx:
        post = await given.post(tx, await given.group(tx))
        assert await tx.posts.sealed(post.id) is None
        one = await tx.posts.seal(post.id, b"packet", b"session key")
        two = await tx.posts.seal(post.id, b"sealed anew", b"another key")
        assert one != two
        assert (b"packet", b"session key") == await tx.posts.sealed(post.id)


async def test_the_first_known_message_id_decides(database: Database) -> None:
    async with database.transaction() as tx:
        group, other = await given.group(tx, "one"), await given.group(tx, "two")
        one = await given.post(tx, group, author_message_id="one@ops.example")
        two = await given.post(tx, group)
        found = await tx.posts.by_message_ids(group.id, ["unknown@x", "one@ops.example", two.message_id])
        assert one == found
        assert two == await tx.posts.by_message_ids(group.id, [two.message_id, one.message_id])
        assert await tx.posts.by_message_ids(other.id, [one.message_id]) is None
        assert await tx.posts.by_message_ids(group.id, []) is None
        assert await tx.posts.by_message_ids(group.id, ["unknown@x"] * 100_000) is None


async def test_an_author_cannot_take_over_an_id_that_is_in_use(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        one = await given.post(tx, group, author_message_id="chosen@ops.example")
        await given.post(tx, group, author_message_id="chosen@ops.example")
        await given.post(tx, group, author_message_id=one.message_id)
        assert one == await tx.posts.by_message_ids(group.id, ["chosen@ops.example"])
        assert one == await tx.posts.by_message_ids(group.id, [one.message_id])


async def test_a_post_is_found_by_the_event_that_brought_or_shows_it(database: Database) -> None:
    async with database.transaction() as tx:
        group, other = await given.group(tx, "one"), await given.group(tx, "two")
        brought = await given.post(tx, group, event_id="$brought")
        shown = await given.post(tx, group)
        assert [] == await tx.posts.room_events(shown.id)
        await tx.posts.shown(shown.id, ["$text", "$file"])
        await tx.posts.shown(shown.id, ["$text", "$file"])
        assert brought == await tx.posts.by_event(group.id, "$brought")
        assert shown == await tx.posts.by_event(group.id, "$file")
        assert await tx.posts.by_event(group.id, "$unknown") is None
        assert await tx.posts.by_event(other.id, "$file") is None
        assert ["$brought"] == await tx.posts.room_events(brought.id)
        assert ["$text", "$file"] == await tx.posts.room_events(shown.id)


async def test_a_chain_is_oldest_first_and_ends_in_the_post(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        root = await given.post(tx, group)
        answer = await given.post(tx, group, parent=root)
        await given.post(tx, group, parent=root)
        again = await given.post(tx, group, parent=answer)
        assert [root] == await tx.posts.chain(root.id)
        assert [root, answer, again] == await tx.posts.chain(again.id)


async def test_a_long_chain_keeps_the_nearest(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        thread = [await given.post(tx, group)]
        for _ in range(59):
            thread.append(await given.post(tx, group, parent=thread[-1]))
        assert thread[-50:] == await tx.posts.chain(thread[-1].id)
