"""What is on its way, for the operator's eyes and hands: mails, events and deliveries under names that people can type.

Owns the names (``m12`` a mail, ``e7`` an event, ``d31`` a delivery) and the moves by hand. Never reads a content.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, delete, exists, func, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage import leases
from storage.audit import Audit
from storage.records import DeliveryState, EventState, MailState, QueueItem, QueueKind
from storage.schema import contacts, deliveries, events, groups, mail_bodies, mails, members, posts, sealed_bodies
from trust.errors import ContentGone, ItemInHand, NoSuchItem, Restored
from trust.records import Door, GroupId, MemberId

NAME: Final = re.compile(r"([med])([0-9]{1,18})")
DROPPED: Final = "dropped"
"""The code of what an operator took out of the queue."""
_TABLES: Final = {QueueKind.MAIL: mails, QueueKind.EVENT: events, QueueKind.DELIVERY: deliveries}
_STATES: Final = {QueueKind.MAIL: MailState, QueueKind.EVENT: EventState, QueueKind.DELIVERY: DeliveryState}


class Queue:
    """In the queue is what is not done and may still be moved: what was refused, too, while its content is kept."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._audit = Audit(connection)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def items(
        self,
        group: GroupId | None = None,
        *,
        states: Collection[str] = (),
        limit: int | None = None,
        gone: bool = False,
    ) -> list[QueueItem]:
        """The oldest ``limit``, oldest first: of one group, in some states. ``gone``: what has no content left, too."""
        found: list[QueueItem] = []
        for kind in QueueKind:
            statement = _ITEMS[kind].where(*_open(kind, gone=gone), *_narrowed(kind, group, states))
            rows = await self._connection.execute(statement.order_by(*_age(kind)).limit(limit))
            found += [_item(kind, row) for row in rows]
        return sorted(found, key=lambda item: item.since)[:limit]

    async def counts(
        self, group: GroupId | None = None, *, states: Collection[str] = (), gone: bool = False
    ) -> dict[str, int]:
        """How many items ``items`` would give without a limit, by state."""
        counted: dict[str, int] = {}
        for kind, table in _TABLES.items():
            statement = select(table.c.state, func.count()).select_from(table)
            if kind is QueueKind.EVENT:
                statement = statement.outerjoin(groups, groups.c.room_id == events.c.room_id)
            where = *_open(kind, gone=gone), *_narrowed(kind, group, states)
            for state, number in await self._connection.execute(statement.where(*where).group_by(table.c.state)):
                counted[state.value] = counted.get(state.value, 0) + number
        return counted

    async def by_name(self, name: str) -> QueueItem:
        """Wherever it stands, done ones too. Raises NoSuchItem."""
        kind, row_id = _parsed(name)
        row = (await self._connection.execute(_ITEMS[kind].where(_TABLES[kind].c.id == row_id))).one_or_none()
        if row is None:
            raise NoSuchItem(item=name)
        return _item(kind, row)

    async def by_reference(self, reference: str) -> list[QueueItem]:
        """All deliveries of a post, done ones too, in the order they were added. Raises NoSuchItem."""
        found = await self._connection.execute(select(posts.c.id).where(posts.c.reference == reference.upper()))
        if (post := found.scalar_one_or_none()) is None:
            raise NoSuchItem(item=reference)
        statement = _ITEMS[QueueKind.DELIVERY].where(deliveries.c.post_id == post).order_by(deliveries.c.id)
        return [_item(QueueKind.DELIVERY, row) for row in await self._connection.execute(statement)]

    # --- moving ------------------------------------------------------------------------------------------------------

    async def retry(self, name: str, *, at: datetime, actor: str = "operator") -> QueueItem:
        """Due now, and as if it had never been tried; how it stands then.

        A delivery that has no session key any more is held, so that the carrier seals it anew. Raises NoSuchItem,
        ItemInHand, ContentGone.
        """
        item, group = await self._taken(name, at)
        kind, row_id = _parsed(name)
        if item.state in (MailState.QUEUED, EventState.WAITING):
            await self._set(kind, row_id, due_at=at, leased_until=None)
        elif kind is QueueKind.DELIVERY:
            await self._set(kind, row_id, **await self._afresh(row_id, item, at))
        elif kind is QueueKind.MAIL and await self._is_kept(row_id):
            await self._set(kind, row_id, state=MailState.QUEUED, due_at=at, attempts=0, code=None)
        else:
            raise ContentGone(item=name)
        await self._audit.add(at, "queue.retried", group=group, actor=actor, subject=name, detail=_was(item))
        return await self.by_name(name)

    async def drop(self, name: str, *, at: datetime, actor: str = "operator") -> QueueItem:
        """Out of the queue, and its content deleted; how it stood. Raises NoSuchItem, ItemInHand."""
        item, group = await self._taken(name, at)
        kind, row_id = _parsed(name)
        if kind is QueueKind.DELIVERY:
            await self._connection.execute(delete(deliveries).where(deliveries.c.id == row_id))
        elif kind is QueueKind.MAIL:
            if item.state == MailState.REFUSED and not await self._is_kept(row_id):
                raise NoSuchItem(item=name)
            await self._connection.execute(delete(mail_bodies).where(mail_bodies.c.mail_id == row_id))
            await leases.settle(self._connection, mails, row_id, MailState.REFUSED, DROPPED)
        elif item.state == EventState.REFUSED:
            raise NoSuchItem(item=name)
        else:
            await leases.settle(self._connection, events, row_id, EventState.REFUSED, DROPPED, event=None)
        await self._audit.add(at, "queue.dropped", group=group, actor=actor, subject=name, detail=_was(item))
        return item

    async def forget_keys(self, member: MemberId) -> None:
        """The key of ``member`` changed: what an operator may send later must not be sealed to the one of before."""
        idle = deliveries.c.member_id == member, deliveries.c.state.in_((DeliveryState.HELD, DeliveryState.BURIED))
        await self._connection.execute(update(deliveries).where(*idle).values(session_key=None))

    async def hold_all(self, at: datetime) -> dict[QueueKind, int]:
        """A backup was put back: what waited in it may have been delivered since, so nothing goes out by itself.

        No bridge may run. Deliveries are held and mails kept as refused, for the operator to retry; events are
        refused. Returns how many of each.
        """
        code = Restored.code
        idle = {"due_at": None, "leased_until": None, "code": code}
        queued_or_held = deliveries.c.state.in_((DeliveryState.QUEUED, DeliveryState.HELD))
        held = update(deliveries).where(queued_or_held).values(state=DeliveryState.HELD, **idle)
        mail = update(mails).where(mails.c.state == MailState.QUEUED).values(state=MailState.REFUSED, **idle)
        event = update(events).where(events.c.due_at.is_not(None))
        event = event.values(state=EventState.REFUSED, event=None, **idle)
        statements = {QueueKind.MAIL: mail, QueueKind.EVENT: event, QueueKind.DELIVERY: held}
        counted = {kind: (await self._connection.execute(each)).rowcount for kind, each in statements.items()}
        detail = ", ".join(f"{number} {kind.value}" for kind, number in counted.items())
        await self._audit.add(at, "backup.restored", actor="operator", detail=detail)
        return counted

    async def _taken(self, name: str, at: datetime) -> tuple[QueueItem, GroupId | None]:
        """The item and its group, locked. Raises NoSuchItem, ItemInHand."""
        kind, row_id = _parsed(name)
        table = _TABLES[kind]
        statement = _ITEMS[kind].add_columns(table.c.leased_until, groups.c.id.label("group_id"))
        locked = statement.where(table.c.id == row_id).with_for_update(of=table)
        row = (await self._connection.execute(locked)).one_or_none()
        if row is None or row.state in (MailState.DONE, EventState.DONE, DeliveryState.DONE):
            raise NoSuchItem(item=name)
        if row.leased_until is not None and row.leased_until > at:
            raise ItemInHand(item=name)
        return _item(kind, row), row.group_id

    async def _afresh(self, row_id: int, item: QueueItem, at: datetime) -> dict[str, Any]:
        """What makes a delivery that stands still go again. Raises ContentGone."""
        row = (await self._connection.execute(select(deliveries).where(deliveries.c.id == row_id))).one()
        again = {"attempts": 0, "created_at": at, "told": False, "leased_until": None}
        if row.session_key is not None and row.sealed_id is not None:
            return {**again, "state": DeliveryState.QUEUED, "due_at": at, "code": None}
        copy = await self._connection.execute(select(exists().where(sealed_bodies.c.post_id == row.post_id)))
        if row.target is not Door.MAIL or not copy.scalar_one():
            raise ContentGone(item=item.name)
        # One that is held for its member's sake still is: only the reasons that an operator overrules go.
        code = item.code if item.state == DeliveryState.HELD and item.code != Restored.code else None
        return {**again, "state": DeliveryState.HELD, "due_at": None, "code": code, "session_key": None}

    async def _is_kept(self, mail: int) -> bool:
        """Locked, so that it stays."""
        body = select(mail_bodies.c.mail_id).where(mail_bodies.c.mail_id == mail).with_for_update()
        return (await self._connection.execute(body)).one_or_none() is not None

    async def _set(self, kind: QueueKind, row_id: int, **values: object) -> None:
        table = _TABLES[kind]
        await self._connection.execute(update(table).where(table.c.id == row_id).values(values))


# --- how the items are read ------------------------------------------------------------------------------------------


def _columns(kind: QueueKind, since: ColumnElement[Any], *others: ColumnElement[Any]) -> Select[Any]:
    table = _TABLES[kind]
    shown = table.c.id, table.c.state, table.c.attempts, table.c.due_at, table.c.code
    return select(*shown, since.label("since"), groups.c.name.label("group_name"), *others)


_ITEMS: Final = {
    QueueKind.MAIL: _columns(QueueKind.MAIL, mails.c.received_at).join_from(mails, groups),
    QueueKind.EVENT: _columns(QueueKind.EVENT, events.c.received_at).outerjoin_from(
        events, groups, groups.c.room_id == events.c.room_id
    ),
    QueueKind.DELIVERY: _columns(
        QueueKind.DELIVERY,
        deliveries.c.created_at,
        deliveries.c.finished_at,
        posts.c.reference,
        contacts.c.name.label("reader"),
    )
    .join_from(deliveries, groups, groups.c.id == deliveries.c.group_id)
    .join(posts, posts.c.id == deliveries.c.post_id)
    .outerjoin(members, members.c.id == deliveries.c.member_id)
    .outerjoin(contacts, contacts.c.id == members.c.contact_id),
}
_UNFINISHED: Final = text("deliveries.state <> 'done'")
"""Written out, not bound: the partial index of what is not done is for these very words."""


def _open(kind: QueueKind, *, gone: bool) -> list[Any]:
    """The condition for being in the queue."""
    if kind is QueueKind.DELIVERY:
        return [_UNFINISHED]
    if gone:
        table = _TABLES[kind]
        return [table.c.state != literal("done", table.c.state.type)]
    return (
        [events.c.due_at.is_not(None)] if kind is QueueKind.EVENT else [mails.c.id.in_(select(mail_bodies.c.mail_id))]
    )


def _narrowed(kind: QueueKind, group: GroupId | None, states: Collection[str]) -> list[ColumnElement[bool]]:
    table = _TABLES[kind]
    column = groups.c.id if kind is QueueKind.EVENT else table.c.group_id
    among = [word for word in _STATES[kind] if word in states]
    return [column == group] * (group is not None) + [table.c.state.in_(among)] * bool(states)


def _age(kind: QueueKind) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    table = _TABLES[kind]
    return table.c.created_at if kind is QueueKind.DELIVERY else table.c.received_at, table.c.id


def _item(kind: QueueKind, row: Row[Any]) -> QueueItem:
    is_delivery = kind is QueueKind.DELIVERY
    return QueueItem(
        name=f"{kind.value[0]}{row.id}",
        kind=kind,
        group=row.group_name or "",
        reference=row.reference if is_delivery else "",
        whom=(row.reader or Door.ROOM.value) if is_delivery else "",
        state=row.state.value,
        attempts=row.attempts,
        since=row.since,
        next_try=row.due_at,
        code=row.code,
        finished_at=row.finished_at if is_delivery else None,
    )


def _parsed(name: str) -> tuple[QueueKind, int]:
    found = NAME.fullmatch(name)
    if found is None:
        raise NoSuchItem(item=name)
    return next(kind for kind in QueueKind if kind.value[0] == found[1]), int(found[2])


def _was(item: QueueItem) -> str:
    """How it stood, for the record."""
    return " ".join(word for word in (item.state, item.code, item.reference) if word)
