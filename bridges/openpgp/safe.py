"""The safe that the path between the doors is given: ``ports.Safe`` by GnuPG, and what setting up a list needs.

Owns which home serves which group, and each home's life. Decides nothing: what counts is in ``status``, ``sealing`` and
``trust.keys``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bridges.openpgp import armour, home, judging, opening, sealing
from bridges.openpgp.home import Home
from bridges.openpgp.keyring import Keyring
from bridges.openpgp.process import Limits, Runner
from bridges.ports import Opened, Sealed
from trust.errors import ListKeyMissing, PostRefusal, SafeUnavailable
from trust.records import Group, PublicKey


@dataclass(frozen=True, slots=True)
class Probe:
    """What a trial of a list's key showed."""

    version: str
    signs: bool
    decrypts: bool


@dataclass(frozen=True, slots=True)
class _List:
    home: Home
    ring: Keyring


class GnuPGSafe:
    """Seals and opens for every group. ``close`` it in the end: that stops the agents.

    ``directory`` holds one GnuPG home per list; ``passphrase`` gives the passphrase of the list with this address:
    ASCII, one line, derived from the operator's secret key.
    """

    def __init__(
        self,
        directory: Path,
        passphrase: Callable[[str], str],
        limits: Limits | None = None,
        *,
        program: str = "gpg",
    ) -> None:
        self._directory = directory
        self._passphrase = passphrase
        self._runner = Runner(limits or Limits(), program)
        self._lists: dict[str, _List] = {}
        self._opening = asyncio.Lock()

    async def open(self, group: Group, message: bytes, signers: Sequence[PublicKey]) -> Opened:
        """As ``ports.Safe.open``. A signature by the list's own key is never a member's."""
        one = await self._list(group)
        members = [key for key in signers if key.fingerprint != group.key.fingerprint]
        async with one.ring.holding(members) as ring:
            known = {key.fingerprint for key in members}
            return await opening.open_message(self._runner, one.home, message, known, ring)

    async def reopen(self, group: Group, packet: bytes, session_key: bytes) -> bytes:
        """As ``ports.Safe.reopen``: decrypted, and verified as signed by the list's key.

        We sealed it ourselves and it was whole, so what fails is GnuPG until it has failed often.
        """
        one = await self._list(group)
        own = {group.key.fingerprint}
        try:
            return (await opening.open_message(self._runner, one.home, session_key + packet, own, ())).data
        except PostRefusal as error:
            raise SafeUnavailable from error

    async def seal(self, group: Group, entity: bytes, recipients: Sequence[PublicKey]) -> Sealed:
        """As ``ports.Safe.seal``."""
        one = await self._list(group)
        return await sealing.seal(self._runner, one.home, one.ring, entity, recipients)

    def armour(self, session_key: bytes, packet: bytes) -> bytes:
        """As ``ports.Safe.armour``: ASCII, lines of 64 characters that end in CRLF."""
        return armour.encode(session_key + packet)

    async def read_key(self, data: bytes, now: datetime) -> PublicKey:
        """The key to pin for the certificate in a file somebody gave. Raises KeyRefusal, SafeUnavailable."""
        return await judging.read_key(self._runner, data, now)

    async def create_list_key(self, *, name: str, address: str) -> PublicKey:
        """Make the key of a new list, user id "name <address>", or give back the one that is there already.

        Raises BadValue, SafeUnavailable.
        """
        await self.version()
        passphrase = self._passphrase(address)
        return await home.create(self._runner, self._directory, name=name, address=address, passphrase=passphrase)

    async def version(self) -> str:
        """GnuPG's version. Raises SafeUnavailable if it can't run or is older than 2.2.8."""
        outcome = await self._runner.run(self._directory, ("--version",))
        return home.check_version(outcome.output)

    async def probe(self, group: Group) -> Probe:
        """Seal and reopen a random text with the list's key. Raises ListKeyMissing; SafeUnavailable without GnuPG."""
        version = await self.version()
        await self._list(group)
        token = secrets.token_hex(16).encode("ascii")
        try:
            sealed = await self.seal(group, token, ())
        except SafeUnavailable:
            return Probe(version, signs=False, decrypts=False)
        try:
            back = await self.reopen(group, sealed.packet, sealed.session_keys[group.key.fingerprint])
        except SafeUnavailable:
            return Probe(version, signs=True, decrypts=False)
        return Probe(version, signs=True, decrypts=back == token)

    async def close(self) -> None:
        """Stop the agents. The safe may be used again after that."""
        lists, self._lists = self._lists, {}
        for one in lists.values():
            await home.stop_agent(one.home.path)

    async def _list(self, group: Group) -> _List:
        """The group's home, looked at once: the agent started, the secret key found. Raises ListKeyMissing."""
        async with self._opening:
            known = self._lists.get(group.address)
            if known is None or known.home.key.fingerprint != group.key.fingerprint:
                known = await self._enter(group)
                self._lists[group.address] = known
            return known

    async def _enter(self, group: Group) -> _List:
        path = home.place(self._directory, group.address)
        if not path.is_dir():
            raise ListKeyMissing(group=group.name)
        await home.start_agent(path)
        listing = await self._runner.run(path, ("--with-colons", "--list-secret-keys"))
        if group.key.fingerprint not in home.secret_keys(listing.output):
            raise ListKeyMissing(group=group.name)
        entered = Home(path, group.key, self._passphrase(group.address))
        return _List(entered, Keyring(self._runner, path, group.key))
