"""``secir queue``: what is on its way, what stands still and why, and the operator's moves. Never what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from bot import parts
from bot.cli import desk, lookup
from bot.cli.command import Call
from bot.phrases import Phrases
from storage.database import Database
from storage.queue import NAME
from storage.records import DeliveryState, EventState, MailState, QueueItem, QueueKind
from storage.store import Store
from trust.errors import BadValue, ContentGone, ItemInHand, NoSuchItem, Restored
from trust.records import Group

FIRST: Final = 50
"""Items that are listed without --all."""
STANDS_STILL: Final = frozenset({DeliveryState.BURIED, DeliveryState.BOUNCED, MailState.REFUSED, DeliveryState.HELD})
"""States in which an item may wait for the operator."""
REFERENCE: Final = 8
"""Characters of a post's reference."""
PORTION: Final = 100
"""Items that one transaction moves, so that a running bridge does not wait for it."""


# --- looking ---------------------------------------------------------------------------------------------------------


async def list_all(call: Call) -> None:
    gone = call.words.refused
    async with desk.database(call) as database, database.transaction() as tx:
        group = await _group(tx, call.words.group)
        limit = None if call.words.all or call.words.json else FIRST
        items = await tx.queue.items(group.id if group else None, limit=limit, gone=gone)
        counts = await tx.queue.counts(group.id if group else None, gone=gone)
    if call.words.json:
        call.console.as_json([_in_json(item) for item in items])
    elif not items:
        call.console.say(f"The queue of {group.name} is empty." if group else "The queue is empty.")
    else:
        _tell_list(call, items, counts)


async def _group(tx: Store, name: str | None) -> Group | None:
    return await lookup.group(tx, name) if name else None


def _tell_list(call: Call, items: Sequence[QueueItem], counts: dict[str, int]) -> None:
    headings = ["name", "group", "what", "post", "to", "state", "tries", "since (utc)", "next try", "reason"]
    call.console.table(headings, [_row(item) for item in items])
    if more := sum(counts.values()) - len(items):
        call.console.say(f"… and {more} more. To see them: secir queue list --all")
    call.console.say("", f"{_counted(counts)}.", *_legend(items))
    if any(item.state in STANDS_STILL for item in items):
        call.console.say("Next: secir queue show NAME, secir queue retry NAME, or secir queue drop NAME")


def _row(item: QueueItem) -> list[str]:
    where = [item.name, item.group, item.kind, item.reference, item.whom, item.state, str(item.attempts)]
    return [*where, _shown(item.since), _shown(item.next_try), item.code or ""]


def _legend(items: Sequence[QueueItem]) -> Iterator[str]:
    """What the codes mean, each once."""
    phrases = Phrases.load()
    for code in sorted({item.code for item in items if item.code}):
        if meaning := phrases.reason(code):
            yield f"{code}: {meaning}"


async def show(call: Call) -> None:
    name = call.words.name
    async with desk.database(call) as database, database.transaction() as tx:
        item = await _item(tx, name)
        recipients = [] if item else await tx.queue.by_reference(name)
    if item and call.words.json:
        call.console.as_json(_in_json(item))
    elif item:
        _tell_item(call, item)
    elif call.words.json:
        call.console.as_json({"post": name.upper(), "deliveries": [_in_json(each) for each in recipients]})
    else:
        _tell_post(call, name.upper(), recipients)


async def _item(tx: Store, name: str) -> QueueItem | None:
    """The item; None for what may be the reference of a post. A few of those look like an item's name."""
    if not NAME.fullmatch(name):
        return None
    try:
        return await tx.queue.by_name(name)
    except NoSuchItem:
        if len(name) == REFERENCE:
            return None
        raise


def _tell_item(call: Call, item: QueueItem) -> None:
    meaning = Phrases.load().reason(item.code) if item.code else ""
    facts = [
        ("name", item.name),
        ("what", item.kind.value),
        ("group", item.group or "none any more"),
        ("post", item.reference),
        ("to", item.whom),
        ("state", item.state),
        ("tries", str(item.attempts)),
        ("since (utc)", _shown(item.since)),
        ("done (utc)", _shown(item.finished_at)),
        ("next try (utc)", _shown(item.next_try)),
        ("reason", f"{item.code}: {meaning}" if meaning else item.code or ""),
    ]
    call.console.facts(*((name, value) for name, value in facts if value))


def _tell_post(call: Call, reference: str, recipients: Sequence[QueueItem]) -> None:
    if not recipients:
        call.console.say(f"The post {reference} is known, and has no recipients.")
        return
    there = sum(item.state == DeliveryState.DONE for item in recipients)
    call.console.facts(("post", reference), ("group", recipients[0].group), ("there", f"{there} of {len(recipients)}"))
    call.console.say("")
    headings = ["name", "to", "state", "tries", "since (utc)", "done (utc)", "next try", "reason"]
    call.console.table(headings, [_recipient(item) for item in recipients])
    call.console.say(*_legend(recipients))


def _recipient(item: QueueItem) -> list[str]:
    times = [_shown(item.since), _shown(item.finished_at), _shown(item.next_try)]
    return [item.name, item.whom, item.state, str(item.attempts), *times, item.code or ""]


# --- moving ----------------------------------------------------------------------------------------------------------


async def retry(call: Call) -> None:
    if bool(call.words.names) == call.words.all or (call.words.group and not call.words.all):
        raise BadValue(what="The command (which items?)", example="secir queue retry d31, or: secir queue retry --all")
    async with desk.database(call) as database:
        if call.words.all:
            await _retry_all(call, database)
        else:
            async with database.transaction() as tx:
                moved = [await tx.queue.retry(name, at=desk.now()) for name in call.words.names]
            call.console.say(*(_now(call, item) for item in moved))
    if not parts.is_running(desk.settings(call)):
        call.console.say("Next: secir run (the bridge does not run now)")


async def _retry_all(call: Call, database: Database) -> None:
    async with database.transaction() as tx:
        group = await _group(tx, call.words.group)
        items = await tx.queue.items(group.id if group else None, states=STANDS_STILL)
    # What is held for its reader's sake goes out by itself once that can be; a retry would change nothing.
    names = [item.name for item in items if item.state != DeliveryState.HELD or item.code == Restored.code]
    outcomes: Counter[str] = Counter()
    with call.console.step("Queueing"):
        for start in range(0, len(names), PORTION):
            async with database.transaction() as tx:
                outcomes.update([await _outcome(tx, name) for name in names[start : start + PORTION]])
    if not names:
        call.console.say("Nothing stands still that could be tried again.")
    call.console.say(*(f"{number} {outcome}" for outcome, number in outcomes.items()))


async def _outcome(tx: Store, name: str) -> str:
    """What became of one of many; a worker, or another operator, may have been faster."""
    try:
        item = await tx.queue.retry(name, at=desk.now())
    except ContentGone:
        return "can't be tried again: the content is not kept any more"
    except (ItemInHand, NoSuchItem):
        return "left alone: the bridge is at work on them"
    return "to be sealed anew, which the bridge does first" if item.state == DeliveryState.HELD else "due now"


def _now(call: Call, item: QueueItem) -> str:
    """How an item stands after it was tried again by hand, and what comes next."""
    if item.state == EventState.WAITING:
        return f"{item.name} is looked at again now; it goes on if its room key has come."
    if item.state != DeliveryState.HELD:
        return f"{item.name} is due now."
    if item.code is None:
        return f"{item.name} is sealed anew first, within {_pause(call)} when the bridge runs."
    meaning = Phrases.load().reason(item.code)
    return f"{item.name} is still held ({item.code}). {meaning}".strip() + " It goes out by itself once that is mended."


def _pause(call: Call) -> str:
    return f"{desk.settings(call).matrix.reconcile_every.total_seconds():.0f} s"


async def drop(call: Call) -> None:
    async with desk.database(call) as database, database.transaction() as tx:
        dropped = [await tx.queue.drop(name, at=desk.now()) for name in call.words.names]
    call.console.say(*(f"Dropped: {_described(item)}" for item in dropped))
    call.console.say("The bridge tells nobody of it: if it matters, tell its author.")


def _described(item: QueueItem) -> str:
    if item.kind is QueueKind.DELIVERY:
        return f"{item.name}, {item.reference} to {item.whom}"
    return f"{item.name}, {item.kind} to {item.group or 'no group'}"


# --- words -----------------------------------------------------------------------------------------------------------


def _shown(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else ""


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))


def _in_json(item: QueueItem) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.kind,
        "group": item.group,
        "post": item.reference or None,
        "to": item.whom or None,
        "state": item.state,
        "attempts": item.attempts,
        "since": item.since.isoformat(),
        "finished_at": item.finished_at.isoformat() if item.finished_at else None,
        "next_try": item.next_try.isoformat() if item.next_try else None,
        "reason": item.code,
    }
