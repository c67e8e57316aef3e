"""The queue by command: what an operator sees of it, and moves by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bot import config, parts
from storage.database import Database
from storage.store import Store
from tests.parts.terminal import SECRET, Terminal, at_work
from tests.storage import given
from tests.storage.given import MINUTE, NOON
from trust.records import DeliveryId, Group, Member, Post

BOT = "@secir:example.org"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return at_work(tmp_path)


class Ground:
    """The database that the commands work on."""

    def __init__(self, terminal: Terminal) -> None:
        self._url = f"sqlite:///{terminal.directory / 'data/secir.db'}"

    def __call__(self, work: Callable[[Store], Awaitable[Any]]) -> Any:
        return asyncio.run(self._do(work))

    async def _do(self, work: Callable[[Store], Awaitable[Any]]) -> Any:
        database = Database(self._url, bytes.fromhex(SECRET))
        try:
            async with database.transaction() as tx:
                return await work(tx)
        finally:
            await database.close()


@pytest.fixture
def ground(terminal: Terminal) -> Ground:
    return Ground(terminal)


class Town:
    """Group tld-ops with Ada by mail; two posts, of which the first could not be brought to her."""

    group: Group
    ada: Member
    posts: list[Post]
    deliveries: list[DeliveryId]

    @classmethod
    async def found(cls, tx: Store) -> Town:
        town = cls()
        town.group = await given.group(tx)
        town.ada = await given.member(tx, town.group, "Ada")
        town.posts = [await given.post(tx, town.group), await given.post(tx, town.group)]
        town.deliveries = [await given.delivery(tx, post, town.ada.id) for post in town.posts]
        await tx.deliveries.bury(town.deliveries[0], "relay-away")
        return town


@pytest.fixture
def town(ground: Ground) -> Town:
    found: Town = ground(Town.found)
    return found


def listed(terminal: Terminal, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(terminal.ok("queue", "list", "--json", *words))
    return found


# --- looking ---------------------------------------------------------------------------------------------------------


def test_an_empty_queue_says_so_plainly(terminal: Terminal, ground: Ground) -> None:
    assert terminal.ok("queue", "list") == "The queue is empty.\n"
    ground(given.group)
    assert terminal.ok("queue", "list", "tld-ops") == "The queue of tld-ops is empty.\n"
    assert listed(terminal) == []


def test_the_queue_is_listed_with_where_each_stands_and_why(terminal: Terminal, town: Town) -> None:
    said = terminal.ok("queue", "list")
    heading, first, second, *rest = said.splitlines()
    assert heading.split()[:6] == ["NAME", "GROUP", "WHAT", "POST", "TO", "STATE"]
    reference = town.posts[0].reference
    told = ["d1", "tld-ops", "delivery", reference, "Ada", "buried", "0", "2026-03-01", "12:00", "relay-away"]
    assert first.split() == told
    assert second.split()[-3:] == ["12:00", "2026-03-01", "12:00"]
    assert rest[:3] == [
        "",
        "1 buried, 1 queued.",
        "relay-away: The mail server that takes our mail can't be reached.",
    ]
    assert "secir queue retry NAME" in rest[3]


def test_a_reason_that_needs_more_than_its_code_is_shown_by_its_code(
    terminal: Terminal, town: Town, ground: Ground
) -> None:
    ground(lambda tx: tx.deliveries.bury(town.deliveries[0], "relay-refused"))
    said = terminal.ok("queue", "list")
    assert "relay-refused" in said
    assert "{reply}" not in said


def test_programs_get_every_item_in_json(terminal: Terminal, town: Town) -> None:
    assert listed(terminal)[0] == {
        "name": "d1",
        "kind": "delivery",
        "group": "tld-ops",
        "post": town.posts[0].reference,
        "to": "Ada",
        "state": "buried",
        "attempts": 0,
        "since": NOON.isoformat(),
        "finished_at": None,
        "next_try": None,
        "reason": "relay-away",
    }


def test_of_a_long_queue_the_first_50_are_shown_and_all_on_demand(terminal: Terminal, ground: Ground) -> None:
    async def fill(tx: Store) -> None:
        group = await given.group(tx)
        for number in range(60):
            await tx.mails.take_in(group.id, b"%d" % number, NOON + number * MINUTE)

    ground(fill)
    said = terminal.ok("queue", "list")
    assert "m50 " in said
    assert "m51 " not in said
    assert "… and 10 more. To see them: secir queue list --all" in said
    assert "60 queued." in said
    assert "m60 " in terminal.ok("queue", "list", "--all")
    assert len(listed(terminal)) == 60


def test_a_group_that_is_not_there_is_refused(terminal: Terminal) -> None:
    for words in (("list", "nobody"), ("retry", "--all", "--group", "nobody")):
        assert "secir group list" in terminal("queue", *words).err


def test_what_was_refused_and_has_no_content_is_shown_on_demand(terminal: Terminal, ground: Ground) -> None:
    async def refuse(tx: Store) -> None:
        group = await given.group(tx)
        await tx.groups.set_room(group.id, "!room:hs.example", {})
        await tx.events.take_in(BOT, "s1", [given.event("$1")])
        item = await tx.events.claim(NOON, lease=MINUTE)
        assert item is not None
        await tx.events.refuse(item.id, "event-malformed")

    ground(refuse)
    assert terminal.ok("queue", "list") == "The queue is empty.\n"
    assert "event-malformed: A message in this room can't be" in terminal.ok("queue", "list", "--refused")
    assert "event-malformed" in terminal.ok("queue", "show", "e1")
    assert "Ask its author to send it anew." in terminal("queue", "retry", "e1").err


def test_one_item_is_shown_with_its_reason(terminal: Terminal, town: Town) -> None:
    said = terminal.ok("queue", "show", "d1")
    assert "to           Ada" in said
    assert "relay-away: The mail server that takes our mail can't be reached." in said
    assert json.loads(terminal.ok("queue", "show", "d1", "--json"))["state"] == "buried"


def test_a_post_is_shown_with_each_recipient(terminal: Terminal, town: Town, ground: Ground) -> None:
    async def to_room(tx: Store) -> None:
        await tx.deliveries.finish(await given.delivery(tx, town.posts[0], None), at=NOON + MINUTE)

    ground(to_room)
    reference = town.posts[0].reference
    said = terminal.ok("queue", "show", reference.lower())
    assert "there  1 of 2" in said
    assert [line.split()[:3] for line in said.splitlines()[5:7]] == [["d1", "Ada", "buried"], ["d3", "room", "done"]]
    shown = json.loads(terminal.ok("queue", "show", reference, "--json"))
    assert (shown["post"], [each["to"] for each in shown["deliveries"]]) == (reference, ["Ada", "room"])


def test_a_reference_that_looks_like_an_items_name_is_found(terminal: Terminal, ground: Ground) -> None:
    async def post(tx: Store) -> None:
        group = await given.group(tx)
        await tx.posts.add(
            group=group.id,
            reference="D2345672",
            door=(await given.member(tx, group, "Ada")).door,
            author=None,
            message_id="x@y",
            sealed_at=NOON,
        )

    ground(post)
    for name in ("D2345672", "d2345672"):
        assert terminal.ok("queue", "show", name) == "The post D2345672 is known, and has no recipients.\n"


@pytest.mark.parametrize("name", ["d99", "d9999999", "nonsense", "\x1b[2J"])
def test_what_is_not_there_is_refused_with_the_way_to_find_it(terminal: Terminal, town: Town, name: str) -> None:
    for move in ("show", "retry", "drop"):
        said = terminal("queue", move, name)
        assert (said.code, "secir queue list" in said.err, "\x1b" in said.err) == (1, True, False)


# --- trying again ----------------------------------------------------------------------------------------------------


def test_items_are_tried_again_by_name(terminal: Terminal, town: Town) -> None:
    said = terminal.ok("queue", "retry", "d1", "d2")
    assert said.splitlines() == ["d1 is due now.", "d2 is due now.", "Next: secir run (the bridge does not run now)"]
    assert {item["state"] for item in listed(terminal)} == {"queued"}


def test_while_the_bridge_runs_nothing_more_needs_to_be_done(terminal: Terminal, town: Town) -> None:
    with parts.alone(config.load(terminal.directory / "secir.yaml", terminal.environ)):
        assert terminal.ok("queue", "retry", "d1") == "d1 is due now.\n"


def test_one_wrong_name_and_nothing_is_done(terminal: Terminal, town: Town) -> None:
    for move in ("retry", "drop"):
        assert terminal("queue", move, "d1", "d99").code == 1
    assert [item["state"] for item in listed(terminal)] == ["buried", "queued"]


def test_what_must_be_sealed_anew_or_waits_for_its_reader_is_told_so(
    terminal: Terminal, town: Town, ground: Ground
) -> None:
    async def come_back(tx: Store) -> None:
        one, two = town.deliveries
        await tx.deliveries.finish(one, at=NOON)
        await tx.deliveries.bounce(one, "bounced")
        await tx.deliveries.hold(two, "key-changed")

    ground(come_back)
    said = terminal.ok("queue", "retry", "d1", "d2")
    assert "d1 is sealed anew first, within 30 s when the bridge runs." in said
    assert "d2 is still held (key-changed). It goes out by itself once that is mended." in said


def test_an_item_that_a_worker_has_in_hand_is_left_alone(terminal: Terminal, town: Town, ground: Ground) -> None:
    async def claim(tx: Store) -> None:
        found = await tx.deliveries.claim(NOON, lease=timedelta(days=100_000), target=town.ada.door)
        assert found is not None

    ground(claim)
    for move in ("retry", "drop"):
        said = terminal("queue", move, "d2")
        assert (said.code, "at work on d2" in said.err, "secir queue show d2" in said.err) == (1, True, True)


def test_everything_that_stands_still_is_tried_again_at_once(terminal: Terminal, town: Town, ground: Ground) -> None:
    async def more(tx: Store) -> None:
        mail = await tx.mails.take_in(town.group.id, b"mail", NOON)
        assert mail is not None
        await tx.mails.refuse(mail, "not-signed")
        await tx.deliveries.finish(town.deliveries[1], at=NOON)
        await tx.deliveries.bounce(town.deliveries[1], "bounced")
        await given.delivery(tx, await given.post(tx, town.group), town.ada.id, held=True)

    ground(more)
    said = terminal.ok("queue", "retry", "--all")
    assert "2 due now" in said
    assert "1 to be sealed anew, which the bridge does first" in said
    states = {item["name"]: item["state"] for item in listed(terminal)}
    assert states == {"m1": "queued", "d1": "queued", "d2": "held", "d3": "held"}


def test_of_another_group_nothing_is_tried_again(terminal: Terminal, town: Town, ground: Ground) -> None:
    ground(lambda tx: given.group(tx, "other"))
    said = terminal.ok("queue", "retry", "--all", "--group", "other")
    assert "Nothing stands still that could be tried again." in said
    assert listed(terminal, "tld-ops")[0]["state"] == "buried"


@pytest.mark.parametrize("words", [(), ("d1", "--all"), ("d1", "--group", "tld-ops")])
def test_items_must_be_named_or_all_be_meant(terminal: Terminal, town: Town, words: tuple[str, ...]) -> None:
    said = terminal("queue", "retry", *words)
    assert (said.code, "secir queue retry d31" in said.err) == (1, True)


# --- dropping --------------------------------------------------------------------------------------------------------


def test_items_are_dropped_by_name(terminal: Terminal, town: Town, ground: Ground) -> None:
    ground(lambda tx: tx.mails.take_in(town.group.id, b"mail", NOON))
    said = terminal.ok("queue", "drop", "d1", "m1")
    assert said.splitlines() == [
        f"Dropped: d1, {town.posts[0].reference} to Ada",
        "Dropped: m1, mail to tld-ops",
        "The bridge tells nobody of it: if it matters, tell its author.",
    ]
    assert [item["name"] for item in listed(terminal)] == ["d2"]


# --- paused addresses ------------------------------------------------------------------------------------------------


def test_a_paused_address_is_shown_and_resumed(terminal: Terminal, town: Town, ground: Ground) -> None:
    ground(lambda tx: tx.contacts.pause("ada@ops.example", NOON))
    shown = "ada@ops.example (paused since 2026-03-01)"
    commands = ("contact", "show", "Ada"), ("member", "list", "tld-ops"), ("group", "show", "tld-ops")
    assert all(shown in terminal.ok(*words) for words in commands)
    assert json.loads(terminal.ok("contact", "show", "Ada", "--json"))["addresses"][0]["paused_at"] == NOON.isoformat()
    assert json.loads(terminal.ok("member", "list", "tld-ops", "--json"))[0]["paused_at"] == NOON.isoformat()
    said = terminal.ok("contact", "resume", "ADA@ops.example")
    assert "Ada gets mail at ada@ops.example again." in said
    assert "within 30 s when the bridge runs" in said
    assert not any("paused" in terminal.ok(*words) for words in commands)
    assert "was not paused" in terminal.ok("contact", "resume", "ada@ops.example")


def test_an_address_that_nobody_has_can_not_be_resumed(terminal: Terminal) -> None:
    for address in ("nobody@ops.example", "no address"):
        assert terminal("contact", "resume", address).code == 1


def test_a_new_key_is_used_for_what_is_tried_again(terminal: Terminal, town: Town, ground: Ground) -> None:
    ground(lambda tx: tx.queue.forget_keys(town.ada.id))
    assert "d1 is sealed anew first" in terminal.ok("queue", "retry", "d1")


# --- a backup that was put back --------------------------------------------------------------------------------------


def test_a_restored_backup_sends_nothing_until_the_operator_says_so(
    terminal: Terminal, town: Town, ground: Ground
) -> None:
    async def more(tx: Store) -> None:
        await tx.mails.take_in(town.group.id, b"mail", NOON)
        await tx.groups.set_room(town.group.id, "!room:hs.example", {})
        await tx.events.take_in(BOT, "s1", [replace(given.event("$1"), received_at=NOON)])
        await tx.witness.put(BOT, 5)

    ground(more)
    said = terminal.ok("db", "restored")
    assert "Deliveries that are held       1" in said
    assert "Mails that are set aside       1" in said
    assert "Messages of rooms passed over  1," in said
    assert {(item["name"], item["state"], item["reason"]) for item in listed(terminal)} == {
        ("d1", "buried", "relay-away"),
        ("d2", "held", "restored"),
        ("m1", "refused", "restored"),
    }
    assert "restored: It waited in a backup" in terminal.ok("queue", "list")

    async def positions(tx: Store) -> tuple[object, object]:
        return await tx.events.position(BOT), await tx.witness.count(BOT)

    assert ground(positions) == (None, None)
    assert "2 due now" not in terminal.ok("queue", "retry", "d2", "m1")
    assert {item["state"] for item in listed(terminal) if item["name"] != "d1"} == {"queued"}


def test_a_backup_is_not_made_safe_under_a_running_bridge(terminal: Terminal, town: Town) -> None:
    with parts.alone(config.load(terminal.directory / "secir.yaml", terminal.environ)):
        said = terminal("db", "restored")
    assert (said.code, "Stop that one first" in said.err) == (1, True)
    assert [item["state"] for item in listed(terminal)] == ["buried", "queued"]
