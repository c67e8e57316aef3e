"""The way out: one recipient, group or server in trouble costs nobody else anything, and nothing is forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path as Folder

import pytest

from storage.records import DeliveryItem
from tests.parts.databases import SqliteFiles
from tests.parts.path import Path, path
from trust.errors import HomeserverAway, RateLimited, RelayAway, RelayBroke, RelayBusy, RelayRefused, SecirError
from trust.records import Door, Group, Member, Role


@pytest.fixture
async def way(sqlite: SqliteFiles, tmp_path: Folder) -> AsyncIterator[Path]:
    async with path(sqlite.migrated(tmp_path)) as made:
        yield made


async def crowd(way: Path, group: Group, size: int, *, first: int) -> list[Member]:
    return [await way.member(group, f"{group.name}{n}", number=first + n) for n in range(size)]


async def states(way: Path, group: Group) -> dict[str, int]:
    async with way.database.transaction() as tx:
        return await tx.deliveries.counts(group.id)


async def claimed(way: Path, most: int) -> list[DeliveryItem]:
    """What so many workers have in hand at once."""
    items = [await way.carrier.claim_for_member() for _ in range(most)]
    return [item for item in items if item is not None]


# --- one recipient ---------------------------------------------------------------------------------------------------


async def test_a_recipient_in_trouble_gets_all_in_order_later_and_the_others_wait_for_nothing(way: Path) -> None:
    group = await way.group()
    ada = await way.member(group, "Ada", number=1)
    await way.member(group, "Bob", number=2)
    await way.member(group, "Cho", number=3)
    way.doors.fails["bob@mail.example"] = RelayBusy(reply="450 4.2.0")
    for text in ("one", "two"):
        await way.post(group, ada, text)
        await way.carry()
    assert (way.doors.mails["cho@mail.example"], way.doors.mails["bob@mail.example"]) == (["one", "two"], [])
    way.doors.fails.clear()
    way.later(minutes=2)
    await way.carry()
    assert way.doors.mails["bob@mail.example"] == ["one", "two"]


async def test_few_sick_mailboxes_never_take_all_workers(way: Path) -> None:
    group = await way.group()
    members = await crowd(way, group, 8, first=1)
    for sick in members[1:6]:
        assert sick.address
        way.doors.fails[sick.address.address] = RelayBroke(reply="")
    await way.post(group, members[0], "one")
    await way.carry()
    way.later(minutes=1)
    assert len(await claimed(way, 8)) == 2  # of eight workers two are at what failed before
    await way.post(group, members[0], "two")
    fresh = [item.attempts for item in await claimed(way, 8)]
    assert fresh == [1, 1]


# --- one group -------------------------------------------------------------------------------------------------------


async def test_a_group_never_gets_all_workers_however_much_it_has_to_send(way: Path) -> None:
    crowded, small = await way.group("crowded"), await way.group("small")
    many, few = await crowd(way, crowded, 12, first=1), await crowd(way, small, 3, first=50)
    await way.post(crowded, many[0], "to all")
    first = await claimed(way, 8)
    await way.post(small, few[0], "to two")
    second = await claimed(way, 8)
    assert Counter(item.post.group_id for item in first) == {crowded.id: 4}
    assert Counter(item.post.group_id for item in second) == {small.id: 2}


async def test_groups_take_turns_however_old_the_rows_of_one_are(way: Path) -> None:
    groups = [await way.group(name) for name in ("busy", "one", "two")]
    members = [await crowd(way, group, 2, first=10 * n + 1) for n, group in enumerate(groups)]
    for text in ("a", "b", "c"):
        await way.post(groups[0], members[0][0], text)
    way.later(minutes=1)
    for group, (author, _) in zip(groups[1:], members[1:], strict=True):
        await way.post(group, author, "new")
    await way.carry()
    assert way.doors.tries == [f"{name}1@mail.example" for name in ("busy", "one", "two", "busy", "busy")]


# --- a server that is away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("door", "name", "error"),
    [
        (Door.MAIL, "bob@mail.example", RelayAway(reply="")),
        (Door.ROOM, "room", HomeserverAway()),
        (Door.ROOM, "room", RateLimited(retry_after=0.05)),
    ],
)
async def test_while_a_server_is_away_rows_wait_without_being_tried_each(
    way: Path, door: Door, name: str, error: SecirError
) -> None:
    group = await way.group()
    ada, _ = await way.member(group, "Ada", number=1), await way.member(group, "Bob", number=2)
    way.doors.fails[name] = error
    for number in range(20):
        await way.post(group, ada, str(number))
    assert await way.carry(door) == 1
    way.doors.fails.clear()
    way.later(minutes=2)
    way.carrier._outages[door]._until = 0.0
    await way.carry(door)
    arrived = way.doors.mails[name] if door is Door.MAIL else way.doors.room
    assert arrived == [str(number) for number in range(20)]


async def test_mail_goes_out_while_the_homeserver_is_away_and_the_other_way_round(way: Path) -> None:
    group = await way.group()
    ada, _ = await way.member(group, "Ada", number=1), await way.member(group, "Bob", number=2)
    way.doors.fails["room"] = HomeserverAway()
    await way.post(group, ada, "one")
    await way.carry(Door.ROOM)
    await way.carry()
    assert (way.doors.mails["bob@mail.example"], way.doors.room) == (["one"], [])


async def test_an_outage_that_lasts_is_told_through_the_other_door_once(way: Path) -> None:
    group = await way.group()
    ada, _ = await way.member(group, "Ada", number=1), await way.member(group, "Bob", number=2)
    way.doors.fails["bob@mail.example"] = RelayAway(reply="")
    await way.post(group, ada, "one")
    outage = way.carrier._outages[Door.MAIL]
    for minutes in (0, 14, 16, 30):
        await way.carry()
        way.later(minutes=2)
        outage._until, outage._since = 0.0, asyncio.get_running_loop().time() - 60 * minutes
    await way.carry()
    await way.carry(Door.ROOM)
    assert [text.partition(":")[0] for text in way.doors.room] == ["one", "For 16 minutes no mail could be sent"]


async def test_a_relay_that_breaks_at_one_mail_still_gets_the_others(way: Path) -> None:
    group = await way.group()
    members = await crowd(way, group, 6, first=1)
    way.doors.fails["tld-ops1@mail.example"] = RelayBroke(reply="")
    await way.post(group, members[0], "one")
    await way.carry()
    assert {"queued": 2, "done": 4} == await states(way, group)


# --- what did not arrive ---------------------------------------------------------------------------------------------


async def test_author_and_admins_are_told_once_who_did_not_get_what(way: Path) -> None:
    group = await way.group()
    ada = await way.member(group, "Ada", number=1)
    await way.member(group, "Bob", number=2)
    await way.member(group, "Cho", number=3, role=Role.ADMIN)
    way.doors.fails["bob@mail.example"] = RelayRefused(reply="550 5.7.1")
    await way.post(group, ada, "one")
    await way.post(group, ada, "two")
    await way.carry()
    for _ in range(3):
        await way.undelivered.tell()
        await way.carry()
    notices = [mail for mail in way.doors.mails["ada@mail.example"] if "Bob (refused by the mail server)" in mail]
    assert len(notices) == 1
    assert notices[0].count("not brought to") == 2
    assert notices == [mail for mail in way.doors.mails["cho@mail.example"] if "Bob" in mail]


async def test_what_nobody_could_bring_for_days_is_given_up_behind_it_too_and_told(way: Path) -> None:
    group = await way.group()
    ada, _ = await way.member(group, "Ada", number=1), await way.member(group, "Bob", number=2)
    way.doors.fails["bob@mail.example"] = RelayAway(reply="")
    for text in ("one", "two", "three"):
        await way.post(group, ada, text)
    await way.carry()
    way.later(days=5, minutes=1)
    assert await way.undelivered.give_up() == 3 + 3  # the room's copies, too
    await way.undelivered.tell()
    way.doors.fails.clear()
    way.carrier._outages[Door.MAIL]._until = 0.0
    await way.carry()
    [notice] = way.doors.mails["ada@mail.example"]
    assert notice.count("could not be reached") == 6


async def test_after_a_start_what_waited_gets_its_tries_before_it_is_given_up(way: Path) -> None:
    group = await way.group()
    ada, _ = await way.member(group, "Ada", number=1), await way.member(group, "Bob", number=2)
    await way.post(group, ada, "one")
    way.later(days=6)
    way.undelivered._since = way.clock.now()
    assert await way.undelivered.give_up() == 0
    await way.carry()
    assert way.doors.mails["bob@mail.example"] == ["one"]


async def test_notices_of_the_bridge_that_do_not_arrive_cause_no_notices(way: Path) -> None:
    group = await way.group()
    ada = await way.member(group, "Ada", number=1, role=Role.ADMIN)
    await way.member(group, "Bob", number=2)
    way.doors.fails |= {name: RelayRefused(reply="550 5.7.1") for name in ("ada@mail.example", "bob@mail.example")}
    await way.post(group, ada, "one")
    for _ in range(5):
        await way.carry()
        await way.undelivered.tell()
        way.later(days=1)
    assert Counter(way.doors.tries) == {"bob@mail.example": 1, "ada@mail.example": 1}


# --- a paused address ------------------------------------------------------------------------------------------------


async def test_an_address_that_is_dead_is_paused_and_its_member_is_told_at_another_one(way: Path) -> None:
    group = await way.group()
    ada = await way.member(group, "Ada", number=1)
    await way.member(group, "Bob", number=2, more="bob@home.example")
    way.doors.fails["bob@mail.example"] = RelayRefused(reply="550 5.1.1")
    for text in ("one", "two", "three", "four"):
        await way.post(group, ada, text)
        await way.carry()
    assert way.doors.tries.count("bob@mail.example") == 3
    assert ["bob@mail.example gets nothing for now" in mail for mail in way.doors.mails["bob@home.example"]] == [True]
    assert (await states(way, group))["held"] == 1


async def test_what_was_held_for_a_paused_address_goes_out_once_it_is_resumed(way: Path) -> None:
    group = await way.group()
    ada, _ = await way.member(group, "Ada", number=1), await way.member(group, "Bob", number=2)
    async with way.database.transaction() as tx:
        await tx.contacts.pause("bob@mail.example", way.clock.now())
    for text in ("one", "two"):
        await way.post(group, ada, text)
    assert await way.carrier.release_held() == 0
    async with way.database.transaction() as tx:
        await tx.contacts.resume("bob@mail.example")
    assert await way.carrier.release_held() == 2
    await way.carry()
    assert way.doors.mails["bob@mail.example"] == ["one", "two"]


async def test_a_mail_in_hand_while_its_address_is_paused_is_held_too(way: Path) -> None:
    group = await way.group()
    ada, _ = await way.member(group, "Ada", number=1), await way.member(group, "Bob", number=2)
    await way.post(group, ada, "one")
    async with way.database.transaction() as tx:
        await tx.contacts.pause("bob@mail.example", way.clock.now())
    await way.carry()
    assert (await states(way, group))["held"] == 1
