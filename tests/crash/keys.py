"""Part three: killed while a key is imported, and while the keyring is made out of the database.

After each kill a fresh process must find the database sound, each contact whole or absent, and make a keyring that
holds the database's keys and no others.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.crash.bridge import ForkedBridge
from tests.crash.nursery import Child, Nursery
from tests.crash.store import Store
from tests.parts.pgp import Person
from tests.parts.ports import free_port
from tests.parts.processes import PartFailed
from tests.parts.synapse import Synapse
from tests.parts.town import GROUP, LIST

RINGS: Final = "tests.crash.rings:main"
SPARE: Final = 1.5
"""Keys for each kill: some processes are done before their moment comes."""
SOONER, LATER = 0.8, 1.05
"""How the longest life changes when a process was done, and when it was killed: so that some four of five are killed,
and at all moments."""
CHANGES: Final = 0.3
"""The share of imports that give a contact another key."""
PEOPLE: Final = (
    "SELECT c.name, a.fingerprint, k.fingerprint FROM contacts c LEFT JOIN addresses a ON a.contact_id = c.id"
)
PEOPLE_AND_KEYS: Final = f"{PEOPLE} LEFT JOIN keys k ON k.fingerprint = a.fingerprint"


@dataclass(frozen=True, slots=True)
class Key:
    file: Path
    fingerprint: str


@dataclass(slots=True)
class Tally:
    """What one database came to: ``good`` of ``checks`` found everything as it should be."""

    name: str
    imports: int = 0
    rings: int = 0
    checks: int = 0
    good: int = 0
    faults: list[str] = field(default_factory=list)
    log: str = field(default="", repr=False)
    """What was said when the keyring was not made."""

    @property
    def passed(self) -> bool:
        return self.checks > 0 and self.good == self.checks

    def __str__(self) -> str:
        return (
            f"{self.name}: killed in the import of a key {self.imports}, in the making of the keyring {self.rings}, "
            f"keyring equals database {self.good} of {self.checks}"
        )


class Import:
    """One operator who adds people and changes their keys, and is interrupted."""

    def __init__(self, bridge: ForkedBridge, store: Store, keys: Sequence[Key], random: Random) -> None:
        self._bridge = bridge
        self._store = store
        self._unused = list(keys)
        self._random = random
        self._pinned: dict[str, str] = {}
        self._longest = {"import": 1.0, "ring": 1.0}
        self.tally = Tally(store.name)

    async def measure(self) -> None:
        """How long each takes when nobody interrupts it."""
        for _ in range(2):
            began = time.monotonic()
            await self._import(kill=False)
            self._longest["import"] = time.monotonic() - began
            began = time.monotonic()
            await self._check()
            self._longest["ring"] = time.monotonic() - began

    async def round(self) -> None:
        """An import that is killed, a keyring that is killed, and a look at what is there."""
        self.tally.imports += await self._import(kill=True)
        output = self._bridge.directory / "killed-ring.out"
        self.tally.rings += await self._interrupt(await self._bridge.run(RINGS, output=output), "ring")
        self.tally.checks += 1
        faults = await self._check()
        self.tally.good += not faults
        self.tally.faults += faults

    async def _interrupt(self, child: Child, kind: str) -> bool:
        """Kill it at a random moment of its life. Whether it was alive still."""
        await asyncio.sleep(self._random.uniform(0.0, self._longest[kind]))
        killed = await child.kill() < 0
        self._longest[kind] *= LATER if killed else SOONER
        return killed

    async def _import(self, *, kill: bool) -> bool:
        key = self._unused.pop()
        changes = bool(self._pinned) and self._random.random() < CHANGES
        name = self._random.choice(sorted(self._pinned)) if changes else f"Person {len(self._pinned) + 1}"
        words = ["set", name] if changes else ["add", name, "--mail", f"p{len(self._pinned) + 1}@example.test"]
        output = self._bridge.directory / "import.out"
        child = await self._bridge.begin("contact", *words, "--key", str(key.file), output=output, errors=output)
        killed = await self._interrupt(child, "import") if kill else False
        code = await child.ended
        if not killed and code != 0:
            raise PartFailed(f"secir contact {words[0]} ended with {code}:\n{output.read_text()[-2000:]}")
        while not self._store.left_alone():  # noqa: ASYNC110 - it asks the database's server
            await asyncio.sleep(0.01)
        # A killed one may have been done: anything there but the old key or the new one is a fault of the next check.
        there = dict(row.split("|")[:2] for row in self._store.ask(PEOPLE_AND_KEYS))
        if not killed or there.get(name) == key.fingerprint:
            self._pinned[name] = key.fingerprint
        else:
            self._unused.append(key)
        return killed

    async def _check(self) -> list[str]:
        """What a fresh process finds wrong."""
        faults = await asyncio.to_thread(self._store.faults)
        rows = [row.split("|") for row in self._store.ask(PEOPLE_AND_KEYS)]
        whole = sorted([name, pinned, pinned] for name, pinned in self._pinned.items())
        faults += [] if sorted(rows) == whole else [f"contacts are {sorted(rows)}"]
        there = sorted(self._store.ask("SELECT fingerprint FROM keys"))
        faults += [] if there == sorted(self._pinned.values()) else ["a key without an owner"]
        output = self._bridge.directory / "ring.out"
        output.unlink(missing_ok=True)
        code = await (await self._bridge.run(RINGS, output=output)).ended
        if code != 0:
            self.tally.log = output.read_text()
            return [*faults, "the keyring was not made"]
        found = json.loads(output.read_text().splitlines()[-1])
        faults += [] if found["ring"] == there else [f"the keyring holds {found['ring']}, the database {there}"]
        return faults + ([] if len(found["files"]) == 1 else [f"beside the keyring lies {found['files']}"])


async def run(synapse: Synapse, nursery: Nursery, store: Store, *, kills: int, random: Random) -> Tally:
    """So many imports killed, and about as many makings of the keyring."""
    async with AsyncExitStack() as closing:
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="keys-", dir="/tmp")))
        account = await asyncio.to_thread(synapse.new_account, "secir")
        bridge = ForkedBridge(
            directory,
            nursery,
            homeserver=synapse.url,
            account=account,
            relay_port=free_port(),
            settings=store.settings,
        )
        await closing.enter_async_context(bridge)
        await bridge.set_up()
        store.open(bridge)
        await bridge.cli("group", "create", GROUP, "--address", LIST)
        operator = Import(bridge, store, await asyncio.to_thread(_keys, directory, int(kills * SPARE) + 5), random)
        await operator.measure()
        while operator.tally.imports < kills:
            await operator.round()
        return operator.tally


def _keys(directory: Path, count: int) -> list[Key]:
    """Fresh keys of as many people, each in a file."""
    crowd = Person.create(None, "Crowd", "crowd@example.test")
    try:
        made = []
        for number, certificate in enumerate(crowd.add_certificates(count)):
            file = directory / f"{number}.pgp"
            file.write_bytes(certificate)
            shown = crowd.gpg("--with-colons", "--show-keys", data=certificate).output.decode()
            found = re.search(r"^fpr:+([0-9A-F]{40}):", shown, re.MULTILINE)
            assert found is not None
            made.append(Key(file, found[1]))
    finally:
        crowd.close()
    return made
