"""Points at which a bridge kills itself: before or after the Nth commit, mail, room event or 250.

The product is patched from outside, in the process that is to die; nothing of it knows. The environment says where:
``SECIR_DIES_AT=mail-after:3`` is the third mail that the relay has answered with 250, and nothing was recorded yet.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import text

from bridges.mail import incoming
from bridges.mail.outgoing import Relay
from bridges.matrix.outgoing import Outgoing
from storage.database import Database
from storage.store import Store

VARIABLE: Final = "SECIR_DIES_AT"
WRITTEN: Final = {
    "sqlite": "SELECT total_changes()",
    "postgresql": "SELECT coalesce(pg_current_xact_id_if_assigned()::text, '0')",
}
"""Differs at the end of a transaction that wrote something from what it was at its beginning."""


class Point:
    """Counts its passings, and the ``number``-th is the last thing that this process does."""

    def __init__(self, number: int) -> None:
        self._left = number

    def pass_by(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def arm_from_environment() -> None:
    """Patch the product if the environment says so."""
    if wanted := os.environ.get(VARIABLE):
        kind, _, number = wanted.partition(":")
        KINDS[kind](Point(int(number)))


def _commit(point: Point, *, before: bool) -> None:
    """Of transactions that wrote: most only look whether there is work, and leave nothing behind."""
    original = Database.transaction

    @asynccontextmanager
    async def transaction(self: Database, *, urgent: bool = False) -> AsyncIterator[Store]:
        async with original(self, urgent=urgent) as tx:
            connection = tx.posts._connection
            statement = text(WRITTEN[connection.dialect.name])
            found = (await connection.execute(statement)).scalar_one()
            yield tx
            wrote = (await connection.execute(statement)).scalar_one() != found
            if wrote and before:
                point.pass_by()
        if wrote and not before:
            point.pass_by()

    Database.transaction = transaction  # type: ignore[method-assign]


def _around(
    owner: Any, name: str, point: Point, *, before: bool, counts: Callable[..., bool] = lambda *_: True
) -> None:
    """Before ``owner.name`` does anything, or when it has done it, in the calls for which ``counts`` is true."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        is_one = counts(*arguments)
        if is_one and before:
            point.pass_by()
        result = await original(*arguments, **named)
        if is_one and not before:
            point.pass_by()
        return result

    setattr(owner, name, wrapped)


def _is_acceptance(_: object, status: str | bytes) -> bool:
    """The reply to the final dot of a mail that was taken in."""
    return "queued as" in (status if isinstance(status, str) else status.decode())


def _mail(point: Point, *, before: bool) -> None:
    _around(Relay, "_transact", point, before=before)


def _event(point: Point, *, before: bool) -> None:
    _around(Outgoing, "_put", point, before=before)


def _answer(point: Point, *, before: bool) -> None:
    _around(incoming._SmtpConnection, "push", point, before=before, counts=_is_acceptance)


KINDS: Final[dict[str, Callable[[Point], None]]] = {
    f"{name}-{when}": functools.partial(patch, before=when == "before")
    for name, patch in (("commit", _commit), ("mail", _mail), ("event", _event), ("answer", _answer))
    for when in ("before", "after")
}
"""What can be counted: ``commit`` of the database, ``mail`` to the relay, ``event`` to the room, ``answer`` 250."""
