"""Part two: killed at every commit, every mail, every room event and every 250, one after the other.

One mail and one message in the room for each kill; the next kill is at the next passing of the same kind of point,
until the work is done before there is one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.crash.kills import Outcome, conclude
from tests.crash.nursery import Nursery
from tests.crash.scene import Scene
from tests.crash.store import Store
from tests.crash.traffic import Traffic
from tests.parts.dies_at import KINDS
from tests.parts.processes import PartFailed
from tests.parts.synapse import Synapse

READERS: Final = 2
MOST: Final = 40
"""Passings of one kind of point in one round; there are fewer."""
ROUND: Final = 60.0
"""Seconds for one round's posts to be everywhere, the kill and the restart included."""
QUIET: Final = 0.3
"""Seconds to live on after all is recorded; then the point is not reached any more."""
TWICE: Final = 2
"""Copies of one mail at most: each meets one kill."""


@dataclass(slots=True)
class Sweep:
    """What one database came to. ``reached`` counts the kills at each kind of point."""

    outcome: Outcome
    reached: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        mails_once_more = self.outcome.verdict.most_copies <= TWICE
        return self.outcome.passed and mails_once_more and all(self.reached[kind] for kind in KINDS)

    @property
    def name(self) -> str:
        return self.outcome.name

    @property
    def faults(self) -> tuple[str, ...]:
        return self.outcome.faults

    @property
    def log(self) -> str:
        return self.outcome.log

    def __str__(self) -> str:
        return f"{self.outcome}; kills at " + ", ".join(f"{kind} {self.reached[kind]}" for kind in KINDS)


async def run(synapse: Synapse, nursery: Nursery, store: Store, *, most: int = MOST) -> Sweep:
    async with AsyncExitStack() as closing:
        scene = await Scene.build(closing, synapse, nursery, store, members=READERS)
        await scene.bridge.kill()
        traffic, reached = Traffic(scene, Random(0)), Counter[str]()  # noqa: S311 - not a secret
        for kind in KINDS:
            while reached[kind] < most and await _dies(scene, traffic, f"{kind}:{reached[kind] + 1}"):
                reached[kind] += 1
        await scene.bridge.start()
        copies_in_flight = (READERS + 1) * reached.total()
        outcome = await conclude(scene, kills=reached.total(), allowed=copies_in_flight)
        return Sweep(outcome, reached)


async def _dies(scene: Scene, traffic: Traffic, point: str) -> bool:
    """One round: whether the bridge came to ``point``. All is delivered afterwards, and no bridge runs."""
    bridge = scene.bridge
    posts = scene.ledger.posts + 2
    await bridge.launch(dies_at=point)
    async with asyncio.timeout(ROUND), asyncio.TaskGroup() as tasks:
        tasks.create_task(traffic.mail(scene.members[0]))
        tasks.create_task(traffic.say())
        died = await _died_at_work(scene, posts=posts)
        if died:
            await bridge.start()
    if died and not await scene.drained(ROUND):
        raise PartFailed(f"After the kill at {point} {scene.missing} copies did not arrive:\n{bridge.log[-3000:]}")
    await bridge.kill()
    return died


async def _died_at_work(scene: Scene, *, posts: int) -> bool:
    """Wait until it is killed, or has done everything. Raises PartFailed if it ends in another way."""
    bridge = scene.bridge
    while bridge.lives:
        done = scene.ledger.posts == posts and await scene.drained(0.1)
        if done and not await bridge.ended(QUIET):
            return False
        await asyncio.sleep(0.02)
    if not bridge.was_killed:
        raise PartFailed(f"The bridge ended by itself:\n{bridge.log[-3000:]}")
    return True
