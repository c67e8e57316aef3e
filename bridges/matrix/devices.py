"""Which devices get room keys and are believed: the one identity policy of the Matrix side.

Per user the master key is pinned at first use; the self-signing key must be signed by it; a device counts if and only
if that key signed the very keys that the Olm machine holds for it. Every other device is blacklisted there, so that
nothing which is merely unknown is ever treated as good. What the server does not answer for changes nothing: former
devices stay, none is added.

Owns the standing of users and what nio's store says of their devices; it is the only caller of ``learn_devices``, so
that no device's keys change without being judged in the same breath. Knows nothing of rooms, groups or sending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from nio.crypto import OlmDevice

from bridges.matrix.chain import DeviceKeys, Identity, entry, identity, signed_devices
from bridges.matrix.session import Session
from bridges.ports import Clock
from storage.database import Database
from trust.errors import EventRefusal, IdentityChanged, NoIdentity

log = structlog.get_logger()

FIRST_USE: Final = "first-use"
"""The level of a pin that nobody has confirmed: whoever was there when we first looked."""
MAX_AGE: Final = timedelta(hours=1)
"""A standing older than this is asked for again, even if no sync said that it changed."""
QUERY_TIMEOUT_MS: Final = 10_000
"""How long our server may wait for the servers of others."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What we hold of a user's devices. ``excluded`` get no key; ``problem`` excludes all of them."""

    user: str
    identity: str | None
    """The pinned master key, or None if there is none yet."""
    level: str
    """How well the pin was checked; "" without one."""
    trusted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    problem: EventRefusal | None = None


@dataclass(frozen=True, slots=True)
class _Pin:
    master: str | None
    level: str


class Devices:
    """The standing of users, asked for when it may have changed. Safe to be used by several tasks."""

    def __init__(self, session: Session, database: Database, clock: Clock) -> None:
        self._session = session
        self._database = database
        self._clock = clock
        self._standings: dict[str, Standing] = {}
        self._vouched: dict[str, dict[str, DeviceKeys]] = {}
        self._asked_at: dict[str, datetime] = {}
        self._lock = asyncio.Lock()

    def changed(self, users: Iterable[str]) -> None:
        """By a sync's ``device_lists`` the devices of ``users`` changed: ask before the next use."""
        for user in users:
            self._asked_at.pop(user, None)

    async def refresh(self, users: Sequence[str], *, force: bool = False) -> Mapping[str, Standing]:
        """The standing of each of ``users``, asked for where it may be out of date, or ``force``.

        Raises HomeserverFault.
        """
        async with self._lock:
            await self._notice_accepted(users)
            asked = sorted({user for user in users if force or self._is_stale(user)})
            if asked:
                await self._ask(asked)
            return {user: self._standings[user] for user in users}

    def recipients(self, users: Iterable[str]) -> list[OlmDevice]:
        """The devices of ``users`` that may get a room key now, our own one excepted. No network: ``refresh`` first."""
        return [device for user in users for device in self._active(user) if self.vouches_for(device)]

    def vouches_for(self, device: OlmDevice) -> bool:
        """Whether ``device``, with the keys it has this moment, may get a room key. To be asked after every await."""
        keys = self._vouched.get(device.user_id, {}).get(device.id)
        return keys == DeviceKeys(device.ed25519, device.curve25519)

    def _is_stale(self, user: str) -> bool:
        asked_at = self._asked_at.get(user)
        return asked_at is None or self._clock.now() - asked_at > MAX_AGE

    async def _notice_accepted(self, users: Sequence[str]) -> None:
        """An identity that the operator accepted meanwhile counts at once, though no sync tells of it."""
        blocked = [user for user in users if user in self._standings and self._standings[user].problem is not None]
        if not blocked:
            return
        async with self._database.transaction() as tx:
            pins = {user: await tx.identities.pinned(user) for user in blocked}
        self.changed(user for user in blocked if pins[user] != self._standings[user].identity)

    async def _ask(self, users: Sequence[str]) -> None:
        now = self._clock.now()
        # Set before asking: a change that is announced while we wait takes the mark away again.
        self._asked_at.update(dict.fromkeys(users, now))
        try:
            answer = await self._query(users)
            pins = await self._pins(users, answer, now)
            self._learn(users, answer, pins)
        except BaseException:  # the store of the keys may fail too: whoever was not judged is asked for again
            self.changed(users)
            raise

    def _learn(self, users: Sequence[str], answer: Mapping[str, Any], pins: Mapping[str, _Pin]) -> None:
        heard = [user for user in users if isinstance(entry(answer, "device_keys").get(user), Mapping)]
        self._session.olm.learn_devices(_only(answer, heard))
        for user in users:
            if user in heard:
                self._judge(user, answer, pins[user])
            else:
                self._keep_former(user, pins[user])

    async def _query(self, users: Sequence[str]) -> Mapping[str, Any]:
        body = {"device_keys": {user: [] for user in users}, "timeout": QUERY_TIMEOUT_MS}
        return entry(await self._session.api.request("POST", "keys", "query", body=body))

    async def _pins(self, users: Sequence[str], answer: Mapping[str, Any], now: datetime) -> dict[str, _Pin]:
        """The pinned master keys; what is seen for the first time is pinned, and committed before it is used."""
        pins: dict[str, _Pin] = {}
        async with self._database.transaction() as tx:
            for user in users:
                shown = identity(answer, user)
                if shown is not None and await tx.identities.pinned(user) is None:
                    await tx.identities.pin(user, shown.master, FIRST_USE, now)
                    log.info("identity.pinned", user=user, level=FIRST_USE)
                pins[user] = _Pin(await tx.identities.pinned(user), await tx.identities.level(user) or "")
        return pins

    def _judge(self, user: str, answer: Mapping[str, Any], pin: _Pin) -> None:
        shown = identity(answer, user)
        problem = judge_identity(user, shown, pin.master)
        vouched = signed_devices(answer, shown) if shown and problem is None else {}
        trusted: list[str] = []
        with self._session.olm._stored():
            for device in self._active(user):
                good = vouched.get(device.id) == DeviceKeys(device.ed25519, device.curve25519)
                self._mark(device, good=good)
                if good:
                    trusted.append(device.id)
        listed = set(entry(answer, "device_keys", user)) | {device.id for device in self._active(user)}
        if user == self._session.user_id:
            listed.discard(self._session.device_id)
        excluded = tuple(sorted(listed.difference(trusted)))
        self._vouched[user] = {device_id: vouched[device_id] for device_id in trusted}
        self._standings[user] = Standing(user, pin.master, pin.level, tuple(sorted(trusted)), excluded, problem)

    def _keep_former(self, user: str, pin: _Pin) -> None:
        """The user's server did not answer: what was trusted stays so, nothing is added, and it is asked again."""
        self.changed([user])
        log.info("devices.unanswered", user=user)
        if user in self._standings:
            return
        good = [device for device in self._active(user) if pin.master and self._session.olm.is_device_verified(device)]
        self._vouched[user] = {device.id: DeviceKeys(device.ed25519, device.curve25519) for device in good}
        self._standings[user] = Standing(user, pin.master, pin.level, tuple(sorted(self._vouched[user])))

    def _mark(self, device: OlmDevice, *, good: bool) -> None:
        olm = self._session.olm
        if good and not olm.is_device_verified(device):
            olm.verify_device(device)
            log.info("device.trusted", user=device.user_id, device=device.id)
        elif not good and not olm.is_device_blacklisted(device):
            olm.blacklist_device(device)
            log.warning("device.excluded", user=device.user_id, device=device.id)

    def _active(self, user: str) -> list[OlmDevice]:
        own = (self._session.user_id, self._session.device_id)
        devices = self._session.olm.device_store.active_user_devices(user)
        return [device for device in devices if (device.user_id, device.id) != own]


def judge_identity(user: str, shown: Identity | None, pin: str | None) -> EventRefusal | None:
    """What is wrong with the identity that the server shows for ``user``, measured by the pin; None if nothing is."""
    if shown is None:
        return NoIdentity(user=user)
    if shown.master != pin:
        return IdentityChanged(user=user)
    return None


def _only(answer: Mapping[str, Any], users: Iterable[str]) -> dict[str, Any]:
    """The device keys that were asked for: a server may add others, which nobody would judge."""
    return {"device_keys": {user: entry(answer, "device_keys", user) for user in users}}
