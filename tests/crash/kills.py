"""Part one: killed at random moments under steady traffic, and started again at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.crash.bridge import ForkedBridge
from tests.crash.ledger import Verdict
from tests.crash.nursery import Nursery
from tests.crash.scene import Scene
from tests.crash.store import Store
from tests.crash.traffic import Traffic
from tests.parts.processes import PartFailed
from tests.parts.synapse import Synapse

MEMBERS: Final = 5
SHORTEST: Final = 0.02
"""Seconds that a life lasts at least."""
LIFE: Final = 3.0
"""The longest life at work, in units of what the bridge needs from its start until a first post is everywhere."""
LONGEST: Final = (1.5, 4.0)
"""Seconds, at least and at most, of the longest life."""
AT_START: Final = 0.4
"""Seconds after it was launched, at most, when it is killed at its start."""
STARTS: Final = 0.2
"""The share of kills that meet it at its start."""
DRAIN: Final = 120.0
REPEATED: Final = 0.2
"""Mails that may come twice, for each kill: those between the relay's 250 and our commit (RFC 1047)."""
FEW: Final = 3
"""So many may come twice however few kills there are."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one database came to."""

    name: str
    kills: int
    verdict: Verdict
    faults: tuple[str, ...]
    allowed: float
    """How many mails may have come twice."""
    log: str = field(repr=False)
    """What the bridge logged, for who looks into a failure."""

    @property
    def passed(self) -> bool:
        return not self.faults and self.verdict.holds(twice_by_mail=self.allowed)

    def __str__(self) -> str:
        found = self.verdict
        return (
            f"{self.name}: posts {found.posts}, kills {self.kills}, missing {found.missing}, "
            f"twice in the room {found.twice_in_room}, "
            f"twice by mail {found.twice_by_mail} ({found.twice_by_mail / max(1, self.kills):.2f} a kill), "
            f"wrong order {found.wrong_order}"
        )


async def run(synapse: Synapse, nursery: Nursery, store: Store, *, kills: int, random: Random) -> Outcome:
    async with AsyncExitStack() as closing:
        scene = await Scene.build(closing, synapse, nursery, store, members=MEMBERS)
        traffic = Traffic(scene, Random(random.random()))  # noqa: S311 - not a secret
        longest = await _longest_life(scene, traffic)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(traffic.run())
            for _ in range(kills):
                await _live_and_die(scene.bridge, random, longest)
            await scene.bridge.start()
            traffic.finish()
            await asyncio.wait_for(writing, DRAIN)
        allowed = max(FEW, REPEATED * kills)
        return await conclude(scene, kills=kills, allowed=allowed)


async def _longest_life(scene: Scene, traffic: Traffic) -> float:
    """By a trial, so that a slow machine does not kill it before it did anything."""
    await scene.bridge.stop()
    await scene.bridge.start()
    began = time.monotonic()
    await traffic.mail(scene.members[0])
    if not await scene.drained(DRAIN):
        raise PartFailed("The bridge delivers nothing:\n" + scene.bridge.log[-2000:])
    shortest, longest = LONGEST
    return min(longest, max(shortest, LIFE * (time.monotonic() - began)))


async def _live_and_die(bridge: ForkedBridge, random: Random, longest: float) -> None:
    """A bridge that does not run is started, and killed at a moment of its start or of its work."""
    at_start = not bridge.lives and random.random() < STARTS
    if not bridge.lives:
        await bridge.launch()
    if not at_start and not await bridge.listening():
        raise PartFailed("The bridge ended at its start:\n" + bridge.log[-2000:])
    await asyncio.sleep(random.uniform(SHORTEST, AT_START if at_start else longest))
    await bridge.kill()


async def conclude(scene: Scene, *, kills: int, allowed: float) -> Outcome:
    """Let it finish, stop it in peace, and count."""
    drained = await scene.drained(DRAIN)
    code = await scene.bridge.stop()
    faults = [] if drained else [f"not finished after {DRAIN:.0f} s: {scene.store.unfinished()} rows"]
    faults += [] if code == 0 else [f"ended with {code}"]
    faults += await asyncio.to_thread(scene.store.faults)
    copies = await scene.copies()
    faults += scene.ledger.wrong(copies)
    return Outcome(scene.name, kills, scene.ledger.judge(copies), tuple(faults), allowed, scene.bridge.log)
