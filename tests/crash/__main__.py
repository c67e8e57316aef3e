"""``make crash``: is anything lost, twice or out of order when the bridge is killed by SIGKILL?

Three parts, each on SQLite and on PostgreSQL side by side, on a real homeserver, relay, GnuPG and people:

1. ``kills``: killed at random moments under steady traffic both ways, and started again at once.
2. ``sweep``: killed at every commit, mail, room event and 250, one after the other.
3. ``keys``: killed while a key is imported and while the keyring is made.

``KILLS=20`` is the number of random kills on each database, for a short run; ``SEED=7`` repeats the moments of a run;
``PARTS="kills keys"`` runs only these.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Protocol

from tests.crash import keys, kills, sweep
from tests.crash.nursery import Nursery
from tests.crash.store import PostgresStore, SqliteStore, Store
from tests.parts.databases import PostgresServer
from tests.parts.processes import PartMissing
from tests.parts.synapse import Synapse

KILLS: Final = 200
KEYS: Final = 100
ALL: Final = ("kills", "sweep", "keys")


SHOWN: Final = 20
"""Faults of one part that are named."""


class Found(Protocol):
    """What one part came to on one database; ``str`` is its line of the report."""

    @property
    def name(self) -> str: ...

    @property
    def passed(self) -> bool: ...

    @property
    def faults(self) -> Sequence[str]: ...

    @property
    def log(self) -> str: ...


Part = Callable[[Store, Random], Awaitable[Found]]


@dataclass
class Report:
    """Says what was found, and counts."""

    began: float = field(default_factory=time.monotonic)
    passed: int = 0
    failed: int = 0

    def say(self, text: str) -> None:
        print(text, flush=True)  # noqa: T201 - it is what the command is for

    def found(self, what: Found) -> None:
        self.say(str(what))
        self.passed += what.passed
        self.failed += not what.passed
        if what.passed:
            return
        for fault in what.faults[:SHOWN]:
            self.say(f"  {fault}")
        with tempfile.NamedTemporaryFile("w", prefix=f"crash-{what.name}-", suffix=".log", delete=False) as kept:
            kept.write(what.log)
        self.say(f"  The bridge's log is kept in {kept.name}")

    def broke(self, where: str, error: BaseException) -> None:
        self.say(f"{where}: {error!r}")
        self.failed += 1

    def close(self) -> int:
        """The exit code."""
        self.say(f"crash: {self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0


async def play(server: PostgresServer, directory: Path, report: Report, seed: int) -> None:
    count = int(os.environ.get("KILLS") or KILLS)
    wanted = (os.environ.get("PARTS") or " ".join(ALL)).split()
    with Synapse(directory / "synapse") as synapse:
        async with Nursery() as nursery:
            parts: dict[str, tuple[str, Part]] = {
                "kills": (
                    f"Killed at {count} random moments under steady traffic, on each database",
                    lambda store, random: kills.run(synapse, nursery, store, kills=count, random=random),
                ),
                "sweep": (
                    "Killed before and after every commit, mail, room event and 250",
                    lambda store, _: sweep.run(synapse, nursery, store),
                ),
                "keys": (
                    f"Killed while a key is imported and while the keyring is made, {min(KEYS, count)} times",
                    lambda store, random: keys.run(synapse, nursery, store, kills=min(KEYS, count), random=random),
                ),
            }
            for name in wanted:
                title, part = parts[name]
                report.say(f"{title}:")
                await side_by_side(name, part, [SqliteStore(), PostgresStore(server)], report, seed)
                report.say(f"  {time.monotonic() - report.began:.0f} s so far")


async def side_by_side(name: str, part: Part, stores: list[Store], report: Report, seed: int) -> None:
    """One part on all databases at once. What breaks off on one does not end the others."""

    async def one(store: Store) -> None:
        try:
            found = await part(store, Random(f"{seed} {name} {store.name}"))  # noqa: S311 - not a secret
        except Exception as error:  # the boundary: it is a failure of this part, and is told
            report.broke(f"{store.name}: {name} broke off", error)
        else:
            report.found(found)

    await asyncio.gather(*(one(store) for store in stores))


def main() -> int:
    logging.getLogger("nio").setLevel(logging.CRITICAL)  # the people's library talks of keys that are on their way
    report = Report()
    seed = int(os.environ.get("SEED") or secrets.randbelow(10**6))
    report.say(f"SEED={seed}")
    directory = Path(tempfile.mkdtemp(prefix="secir-"))
    try:
        with PostgresServer(durable=True) as server:
            asyncio.run(play(server, directory, report, seed))
    except PartMissing as missing:
        report.broke("not started", missing)
    except KeyboardInterrupt:
        report.say("Stopped.")
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
