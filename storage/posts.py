"""Posts as they are remembered: ids on both sides, how they hang together, and their sealed bodies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, false, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.columns import insert_into, storable
from storage.schema import post_events, posts, sealed_bodies
from trust.errors import AlreadyPosted, AlreadyThere
from trust.records import Door, GroupId, MemberId, Post, PostId, SealedId

LONGEST_CHAIN: Final = 50
"""Posts of a thread that are named in References: a header has its limits."""
MOST_REFERENCES: Final = 100
"""Of a mail's references, nearest first: a stranger may write any number."""


class Posts:
    """What crossed the bridge."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        *,
        group: GroupId,
        reference: str,
        door: Door,
        author: MemberId | None,
        message_id: str,
        sealed_at: datetime,
        author_message_id: str | None = None,
        event_id: str | None = None,
        thread_root: str | None = None,
        parent: PostId | None = None,
        signature_id: str | None = None,
        note: str = "",
    ) -> Post:
        """Raises AlreadyPosted if the signature or the event is known in the group, AlreadyThere for the other ids."""
        statement = insert_into(self._connection, posts).values(
            group_id=group,
            reference=reference,
            door=door,
            author_id=author,
            message_id=message_id,
            sealed_at=sealed_at,
            author_message_id=author_message_id,
            event_id=event_id,
            thread_root=thread_root,
            parent_id=parent,
            signature_id=signature_id,
            note=note,
        )
        added = await self._connection.execute(statement.on_conflict_do_nothing().returning(posts))
        if (row := added.one_or_none()) is not None:
            return _post(row)
        if await self._is_known(group, event_id, signature_id):
            raise AlreadyPosted
        raise AlreadyThere(what=reference)

    async def _is_known(self, group: GroupId, event_id: str | None, signature_id: str | None) -> bool:
        ids = ((posts.c.event_id, event_id), (posts.c.signature_id, signature_id))
        # Only the ids that were given: a comparison with None would be IS NULL, and find any post without one.
        same = or_(false(), *(column == value for column, value in ids if value is not None))
        found = await self._connection.execute(select(posts.c.id).where(posts.c.group_id == group, same).limit(1))
        return found.first() is not None

    async def seal(self, post: PostId, packet: bytes, group_session_key: bytes) -> SealedId:
        """Keep a sealed body. A post has a second one when it was sealed anew for a member whose key changed."""
        added = await self._connection.execute(
            insert(sealed_bodies)
            .values(post_id=post, packet=packet, group_session_key=group_session_key)
            .returning(sealed_bodies.c.id)
        )
        return SealedId(added.scalar_one())

    async def sealed(self, post: PostId) -> tuple[bytes, bytes] | None:
        """The first packet and the group's session key to it; None once it was deleted."""
        statement = select(sealed_bodies.c.packet, sealed_bodies.c.group_session_key)
        found = await self._connection.execute(
            statement.where(sealed_bodies.c.post_id == post).order_by(sealed_bodies.c.id).limit(1)
        )
        row = found.one_or_none()
        return None if row is None else (row.packet, row.group_session_key)

    async def get(self, post: PostId) -> Post:
        """A post by an id that storage gave."""
        return _post((await self._connection.execute(select(posts).where(posts.c.id == post))).one())

    async def by_message_ids(self, group: GroupId, ids: Sequence[str]) -> Post | None:
        """The post that the first known one of ``ids`` names, be it ours or the author's own. Ours goes first."""
        wanted = [storable(message_id) for message_id in ids[:MOST_REFERENCES]]
        named = or_(posts.c.message_id.in_(wanted), posts.c.author_message_id.in_(wanted))
        statement = select(posts).where(posts.c.group_id == group, named).order_by(posts.c.id)
        found = [_post(row) for row in await self._connection.execute(statement)]
        ours = {post.message_id: post for post in found}
        # Of several posts whose authors chose one id, the first has it: nobody takes over another's thread.
        theirs = {post.author_message_id: post for post in reversed(found)}
        return next((post for name in wanted if (post := ours.get(name) or theirs.get(name))), None)

    async def by_event(self, group: GroupId, event_id: str) -> Post | None:
        """The post that an event of the room brought or shows."""
        shown = select(post_events.c.post_id).where(post_events.c.group_id == group, post_events.c.event_id == event_id)
        statement = select(posts).where(
            posts.c.group_id == group, or_(posts.c.event_id == event_id, posts.c.id.in_(shown))
        )
        row = (await self._connection.execute(statement.order_by(posts.c.id).limit(1))).one_or_none()
        return None if row is None else _post(row)

    async def room_events(self, post: PostId) -> list[str]:
        """The events that stand for it in the room, first the one to answer."""
        brought = await self._connection.execute(select(posts.c.event_id).where(posts.c.id == post))
        shown = await self._connection.execute(
            select(post_events.c.event_id).where(post_events.c.post_id == post).order_by(post_events.c.place)
        )
        return [event_id for event_id in (*brought.scalars(), *shown.scalars()) if event_id is not None]

    async def chain(self, post: PostId) -> list[Post]:
        """The post after those it answers, oldest first: at most 50."""
        up = select(posts.c.id, posts.c.parent_id, _DEPTH_ONE).where(posts.c.id == post).cte("up", recursive=True)
        parent = select(posts.c.id, posts.c.parent_id, up.c.depth + 1).join(up, posts.c.id == up.c.parent_id)
        up = up.union_all(parent.where(up.c.depth < LONGEST_CHAIN))
        rows = await self._connection.execute(select(posts).join(up, up.c.id == posts.c.id).order_by(up.c.depth.desc()))
        return [_post(row) for row in rows]

    async def shown(self, post: PostId, event_ids: Sequence[str]) -> None:
        """Its events in the room, in their order. Telling it twice changes nothing."""
        group = (await self.get(post)).group_id
        for place, event_id in enumerate(event_ids):
            statement = insert_into(self._connection, post_events)
            values = {"group_id": group, "event_id": event_id, "post_id": post, "place": place}
            await self._connection.execute(statement.values(values).on_conflict_do_nothing())


_DEPTH_ONE: Final = literal(1).label("depth")


def _post(row: Row[Any]) -> Post:
    return Post(
        id=row.id,
        group_id=row.group_id,
        reference=row.reference,
        door=row.door,
        author_id=row.author_id,
        message_id=row.message_id,
        sealed_at=row.sealed_at,
        author_message_id=row.author_message_id,
        event_id=row.event_id,
        thread_root=row.thread_root,
        parent_id=row.parent_id,
        note=row.note,
    )
