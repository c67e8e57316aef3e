"""The connections of a database: urgent work first, then in order, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from storage.turns import Turns


async def a_turn(turns: Turns, name: str, seen: list[str], *, urgent: bool = False) -> None:
    async with turns.mine(urgent=urgent):
        seen.append(name)
        await asyncio.sleep(0)


async def test_urgent_ones_go_first_and_the_others_in_their_order() -> None:
    turns, seen = Turns(5, places=1), list[str]()
    async with turns.mine(urgent=False):
        tasks = [asyncio.create_task(a_turn(turns, name, seen, urgent=name.isupper())) for name in "abCdE"]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert seen == ["C", "E", "a", "b", "d"]


async def test_who_waits_too_long_gives_up_and_the_next_one_is_not_forgotten() -> None:
    turns, seen = Turns(0.05, places=1), list[str]()
    async with turns.mine(urgent=False):
        with pytest.raises(TimeoutError):
            await a_turn(turns, "late", seen)
        task = asyncio.create_task(a_turn(turns, "next", seen))
        await asyncio.sleep(0)
    await task
    assert seen == ["next"]


async def test_a_turn_that_comes_to_one_who_just_left_goes_to_the_next() -> None:
    turns, seen = Turns(5, places=1), list[str]()
    async with turns.mine(urgent=False):
        left, stays = [asyncio.create_task(a_turn(turns, name, seen)) for name in ("left", "stays")]
        await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left, stays], timeout=1)
    assert seen == ["stays"]
    await asyncio.wait_for(a_turn(turns, "later", seen), 1)
