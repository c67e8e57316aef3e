"""Part one: killed at random moments under steady traffic, and started again at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Final

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
LONGEST: Final = (2.0, 4.0)
"""Seconds, at least and at most, of the longest life at work."""
LONGER, SHORTER = 1.1, 0.97
"""How the longest life changes after one in which nothing arrived anywhere, and after one in which something did: about
three of four lives do some work, on a quick machine and on a slow one."""
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
        killer = Killer(scene, random)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(traffic.run())
            for _ in range(kills):
                await killer.once()
            await scene.bridge.start()
            traffic.finish()
            await asyncio.wait_for(writing, DRAIN)
        allowed = max(FEW, REPEATED * kills)
        return await conclude(scene, kills=kills, allowed=allowed)


class Killer:
    """Starts the bridge and kills it, at moments of its start and of its work."""

    def __init__(self, scene: Scene, random: Random) -> None:
        self._scene = scene
        self._random = random
        self._longest = LONGEST[0]

    async def once(self) -> None:
        """One life; the first has begun already."""
        bridge, arrived = self._scene.bridge, self._scene.arrived
        if not bridge.lives:
            await bridge.launch()
            if self._random.random() < STARTS:
                await asyncio.sleep(self._random.uniform(SHORTEST, AT_START))
                await bridge.kill()
                return
        if not await bridge.listening():
            raise PartFailed("The bridge ended at its start:\n" + bridge.log[-2000:])
        await asyncio.sleep(self._random.uniform(SHORTEST, self._longest))
        await bridge.kill()
        self._longest *= SHORTER if self._scene.arrived > arrived else LONGER
        self._longest = min(max(self._longest, LONGEST[0]), LONGEST[1])


async def conclude(scene: Scene, *, kills: int, allowed: float) -> Outcome:
    """Let it finish, stop it in peace, and count."""
    drained = await scene.drained(DRAIN)
    code = await scene.bridge.stop()
    faults = [] if drained else [f"not finished after {DRAIN:.0f} s: {scene.store.unfinished()} rows"]
    faults += [] if code == 0 else [f"ended with {code}"]
    faults += await asyncio.to_thread(scene.store.faults)
    copies = await scene.copies()
    faults += scene.ledger.wrong(copies)
    verdict = scene.ledger.judge(copies)
    if verdict.twice_by_mail > allowed:
        faults.append(f"{verdict.twice_by_mail} mails came twice, and at most {allowed:.0f} may")
    return Outcome(scene.name, kills, verdict, tuple(faults), allowed, scene.bridge.log)
