"""Members' public keys as GnuPG reads them: a ring beside the list's home, a cache of the database.

A ring is a file that is never changed: it is made aside and renamed into place, so a kill at any moment destroys
nothing (a kill during an import into a home's own ring can). It grows by a copy; a key that changed makes a new one.
Measured (GnuPG 2.2.40, 2 cores, sealing to 25 / 300 recipients): a keybox like this 17 / 144 ms, keys imported into the
home itself 18 / 143 ms, a plain file of certificates 56 / 950 ms, because only a keybox remembers that a key's own
signatures were checked. Making one for 300 members takes 1.0 s, one more member 5 ms.

A certificate can hold another member's *primary* key as a subkey of its own: GnuPG, asked for that key by its full
fingerprint, may then find the wrong certificate. Such a certificate gets into no ring.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from bridges.openpgp import packets
from bridges.openpgp.process import Runner
from trust.records import Fingerprint, PublicKey

log = structlog.get_logger()

DIRECTORY: Final = "rings"
BATCH: Final = 200
"""Keys for one import: each key rewrites the ring, so an import must stay well within a call's time limit."""

SPARE: Final = 500
"""A ring may hold so many keys that nobody asked for (members who left) before it is made anew."""

IMPORT: Final = ("--import-options", "self-sigs-only,import-minimal", "--import")


@dataclass(slots=True)
class Ring:
    """One file and what it holds. ``readers`` counts the calls that use it: a file in use is not removed."""

    path: Path
    keys: Mapping[Fingerprint, bytes] = field(repr=False)
    readers: int = 0


class Keyring:
    """The rings of one list. Only one process serves a list, so what is found on disk at the start is rubbish."""

    def __init__(self, runner: Runner, home: Path, own: PublicKey) -> None:
        self._runner = runner
        self._directory = home / DIRECTORY
        self._own = own
        self._writing = asyncio.Lock()
        self._ring: Ring | None = None

    @contextlib.asynccontextmanager
    async def holding(self, keys: Sequence[PublicKey]) -> AsyncIterator[tuple[str, ...]]:
        """Arguments that let GnuPG find ``keys`` (and perhaps others), beside the home's own ring.

        Raises SafeUnavailable.
        """
        if not keys:
            yield ()
            return
        async with self._writing:
            ring = await self._ring_for({key.fingerprint: key.data for key in keys})
            ring.readers += 1
        try:
            yield ("--keyring", f"gnupg-kbx:{ring.path}")
        finally:
            ring.readers -= 1
            self._tidy(ring)

    async def _ring_for(self, asked: Mapping[Fingerprint, bytes]) -> Ring:
        """The ring at hand if it holds all that is asked for; else it grows, or is made anew."""
        old = self._ring
        if old is None:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
        held = old.keys if old is not None and old.path.exists() else {}
        outcasts = impersonators({**held, **asked, self._own.fingerprint: self._own.data})
        wanted = {f: data for f, data in asked.items() if f not in outcasts}
        missing = {f: data for f, data in wanted.items() if held.get(f) != data}
        if old is not None and held and not missing and held.keys().isdisjoint(outcasts):
            return old
        grows = held.keys().isdisjoint(missing.keys() | outcasts) and len(held) <= len(wanted) + SPARE
        new = await self._make(missing, old) if held and grows else await self._make(wanted, None)
        self._ring = new
        if old is not None:
            self._tidy(old)
        return new

    async def _make(self, keys: Mapping[Fingerprint, bytes], base: Ring | None) -> Ring:
        """A new ring out of ``base`` and ``keys``, each a minimal certificate that was judged before."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._directory) as aside:
            growing = Path(aside) / "ring.kbx"
            if base is not None:
                await asyncio.to_thread(shutil.copyfile, base.path, growing)
            certificates = list(keys.values())
            for start in range(0, len(certificates), BATCH):
                await self._import(Path(aside), growing, certificates[start : start + BATCH])
            held = {**(base.keys if base else {}), **keys}
            ring = Ring(self._directory / f"{Path(aside).name}.kbx", held)
            growing.rename(ring.path)
        log.info("ring.made", keys=len(ring.keys), added=len(keys))
        return ring

    async def _import(self, home: Path, ring: Path, certificates: Sequence[bytes]) -> None:
        """A certificate that GnuPG will not take is simply not there: sealing then says so by name."""
        arguments = ("--no-default-keyring", "--keyring", f"gnupg-kbx:{ring}", "--quiet", *IMPORT)
        await self._runner.run(home, arguments, data=b"".join(certificates))

    def _tidy(self, ring: Ring) -> None:
        if ring is not self._ring and not ring.readers:
            ring.path.unlink(missing_ok=True)


def impersonators(certificates: Mapping[Fingerprint, bytes]) -> set[Fingerprint]:
    """Those that hold another's primary key as a subkey, or are no certificate of their fingerprint at all."""
    found: set[Fingerprint] = set()
    for fingerprint, data in certificates.items():
        try:
            primary, *subkeys = packets.fingerprints(data)
        except packets.Malformed:
            primary, subkeys = "", []
        if primary != fingerprint or not certificates.keys().isdisjoint(map(Fingerprint, subkeys)):
            log.warning("key.left-out", fingerprint=fingerprint)
            found.add(fingerprint)
    return found
