"""Who holds a room's key: our own sharing of outbound Megolm sessions, on top of nio's Olm machine.

Owns, per room, which devices have the present session, and when a new one must be made: after 100 messages or seven
days (nio's session knows both), or when a device that has it may have it no longer. Knows nothing of rooms' members
(it is told who may read) nor of what is sent.

Not safe to be called twice at once for one room: ``outgoing`` holds the room's lock. It may be cancelled at any point:
a session whose sharing did not come to its end is dropped, never used.
Source: Matrix Client-Server API, module "End-to-end encryption", sections "Megolm", "Reporting that decryption keys
are withheld" and "One-time and fallback keys".
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import structlog
from nio.crypto import OlmDevice, OutboundGroupSession

from bridges.matrix.canonical import is_signed
from bridges.matrix.chain import entry
from bridges.matrix.devices import Devices, Standing
from bridges.matrix.session import Session
from bridges.ports import Phrasebook
from trust.errors import (
    EventRefusal,
    HomeserverAway,
    HomeserverFault,
    HomeserverRefused,
    KeyNotShared,
    UnverifiedDevice,
)

log = structlog.get_logger()

MEGOLM: Final = "m.megolm.v1.aes-sha2"
ONE_TIME_KEY: Final = "signed_curve25519"
DEVICES_PER_REQUEST: Final = 20
CLAIM_TIMEOUT_MS: Final = 10_000
"""How long our server may wait for the servers of others."""
UNVERIFIED: Final = "m.unverified"

Pair: TypeAlias = tuple[str, str]
"""A device, named by its user and its device id."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The outcome of one sharing."""

    session_id: str
    new: tuple[Pair, ...]
    """Those that got the key just now."""
    without_session: tuple[Pair, ...]
    """Trusted, but no secure channel could be opened to them: tried again at the next sharing."""
    refusals: tuple[EventRefusal, ...]
    """Why devices were excluded: one UnverifiedDevice each, or one NoIdentity or IdentityChanged for all of a user."""


@dataclass(slots=True)
class _Holders:
    """Who was told what of one outbound session."""

    session: OutboundGroupSession
    reached: dict[Pair, str] = field(default_factory=dict)
    """Device to the curve25519 key that the room key was encrypted for."""
    withheld: set[Pair] = field(default_factory=set)


class KeyShare:
    """Shares room keys with the devices that ``devices`` trusts, and tells the others why not."""

    def __init__(self, session: Session, devices: Devices, phrases: Phrasebook) -> None:
        self._session = session
        self._devices = devices
        self._phrases = phrases
        self._holders: dict[str, _Holders] = {}

    async def share(self, room_id: str, users: Sequence[str]) -> Shared:
        """See to it that every trusted device of ``users``, and no other, has the key of the room's outbound session.

        When it returns, ``olm.group_encrypt`` may be called once, before anything else is awaited. Raises KeyNotShared
        if the key could not be handed over (nothing may be sent then), HomeserverFault.
        """
        standings = await self._devices.refresh(users)
        wanted = {(device.user_id, device.id): device for device in self._devices.recipients(users)}
        unreachable = await self._open_channels(wanted)
        holders = self._holders_for(room_id, wanted)
        missing = [wanted[pair] for pair in sorted(wanted) if pair not in holders.reached.keys() | unreachable]
        with self._all_or_nothing(room_id):
            await self._hand_over(room_id, holders, missing)
            holders.session.mark_as_shared()
        await self._withhold(room_id, holders, standings.values())
        return Shared(
            session_id=holders.session.id,
            new=tuple((device.user_id, device.id) for device in missing),
            without_session=tuple(sorted(unreachable)),
            refusals=tuple(_refusals(standings.values())),
        )

    def drop(self, room_id: str) -> None:
        """Forget the room's outbound session: the next message begins a new one."""
        self._holders.pop(room_id, None)
        self._session.olm.outbound_group_sessions.pop(room_id, None)

    # --- which session ---------------------------------------------------------------------------------------------

    def _holders_for(self, room_id: str, wanted: Mapping[Pair, OlmDevice]) -> _Holders:
        """The present session's holders; those of a new session if it is spent, lost, or known to one too many."""
        olm, holders = self._session.olm, self._holders.get(room_id)
        if holders is not None and olm.outbound_group_sessions.get(room_id) is holders.session:
            entitled = {pair: device.curve25519 for pair, device in wanted.items()}
            if not holders.session.expired and holders.reached.items() <= entitled.items():
                return holders
        self.drop(room_id)
        with olm._stored():
            olm.create_outbound_group_session(room_id)
        self._holders[room_id] = _Holders(olm.outbound_group_sessions[room_id])
        log.info("room-key.new", room=room_id)
        return self._holders[room_id]

    @contextmanager
    def _all_or_nothing(self, room_id: str) -> Iterator[None]:
        """Whatever ends the sharing early, cancellation included, the session is never taken for a shared one."""
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                self.drop(room_id)

    # --- secure channels (Olm) -------------------------------------------------------------------------------------

    async def _open_channels(self, wanted: Mapping[Pair, OlmDevice]) -> set[Pair]:
        """Claim one-time keys for the devices without an Olm session; the pairs for which there still is none."""
        store = self._session.olm.session_store
        lacking = [device for device in wanted.values() if not store.get(device.curve25519)]
        if lacking:
            await self._claim(lacking)
        return {(device.user_id, device.id) for device in lacking if not store.get(device.curve25519)}

    async def _claim(self, lacking: Sequence[OlmDevice]) -> None:
        claims: dict[str, dict[str, str]] = {}
        for device in lacking:
            claims.setdefault(device.user_id, {})[device.id] = ONE_TIME_KEY
        body = {"one_time_keys": claims, "timeout": CLAIM_TIMEOUT_MS}
        try:
            answer = await self._session.api.request("POST", "keys", "claim", body=body)
        except HomeserverRefused as error:
            log.warning("one-time-keys.refused", errcode=error.params.get("errcode"), devices=len(lacking))
            return
        for device in lacking:
            self._open_channel(device, entry(answer, "one_time_keys", device.user_id, device.id))

    def _open_channel(self, device: OlmDevice, offered: Mapping[str, Any]) -> None:
        olm = self._session.olm
        key = signed_one_time_key(device, offered)
        if key is None:
            log.warning("one-time-key.missing", user=device.user_id, device=device.id)
            return
        try:
            with olm._stored():
                olm.create_session(key, device.curve25519)
        except ValueError:  # all of vodozemac's errors: a key that is no key, or an insecure exchange
            log.warning("one-time-key.malformed", user=device.user_id, device=device.id)

    # --- handing over ----------------------------------------------------------------------------------------------

    async def _hand_over(self, room_id: str, holders: _Holders, devices: Sequence[OlmDevice]) -> None:
        content = {
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": holders.session.id,
            "session_key": holders.session.session_key,
        }
        for start in range(0, len(devices), DEVICES_PER_REQUEST):
            chunk = devices[start : start + DEVICES_PER_REQUEST]
            if not all(self._devices.vouches_for(device) for device in chunk):
                raise KeyNotShared(count=len(devices) - start)  # changed while we waited: to be judged anew
            reached = {(device.user_id, device.id): device.curve25519 for device in chunk}
            try:
                await self._to_devices("m.room.encrypted", [(d, self._encrypt_for(d, content)) for d in chunk])
            except (HomeserverAway, HomeserverRefused) as error:
                log.warning("room-key.not-shared", room=room_id, devices=len(chunk))
                raise KeyNotShared(count=len(devices) - start) from error
            holders.reached.update(reached)
        if devices:
            log.info("room-key.shared", room=room_id, devices=len(devices))

    def _encrypt_for(self, device: OlmDevice, content: Mapping[str, str]) -> dict[str, Any]:
        olm = self._session.olm
        channel = olm.session_store.get(device.curve25519)
        with olm._stored():  # a channel that went on without being saved would never be read again
            encrypted: dict[str, Any] = olm._olm_encrypt(channel, device, "m.room_key", dict(content))
        return encrypted

    async def _withhold(self, room_id: str, holders: _Holders, standings: Iterable[Standing]) -> None:
        """Tell the excluded devices why they can't read: once per session. A failure here stops no message."""
        notes: list[tuple[Pair, dict[str, Any]]] = []
        for standing in standings:
            reason = self._phrases.say("withheld-identity" if standing.problem else "withheld-unverified")
            for device_id in standing.excluded:
                if (standing.user, device_id) not in holders.withheld:
                    notes.append(((standing.user, device_id), self._withheld(room_id, holders, reason)))
        for start in range(0, len(notes), DEVICES_PER_REQUEST):
            chunk = notes[start : start + DEVICES_PER_REQUEST]
            try:
                await self._to_pairs("m.room_key.withheld", chunk)
            except HomeserverFault:
                log.warning("room-key.withheld-not-sent", room=room_id, devices=len(chunk))
                return
            holders.withheld.update(pair for pair, _ in chunk)

    def _withheld(self, room_id: str, holders: _Holders, reason: str) -> dict[str, Any]:
        return {
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": holders.session.id,
            "sender_key": self._session.olm.account.identity_keys["curve25519"],
            "code": UNVERIFIED,
            "reason": reason,
        }

    async def _to_devices(self, kind: str, contents: Sequence[tuple[OlmDevice, dict[str, Any]]]) -> None:
        await self._to_pairs(kind, [((device.user_id, device.id), content) for device, content in contents])

    async def _to_pairs(self, kind: str, contents: Sequence[tuple[Pair, dict[str, Any]]]) -> None:
        messages: dict[str, dict[str, Any]] = {}
        for (user, device_id), content in contents:
            messages.setdefault(user, {})[device_id] = content
        body = {"messages": messages}
        await self._session.api.request("PUT", "sendToDevice", kind, secrets.token_hex(16), body=body)


def signed_one_time_key(device: OlmDevice, offered: Mapping[str, Any]) -> str | None:
    """The one-time or fallback key in a claim's answer for ``device``, if the device itself signed it."""
    for key_id, signed in offered.items():
        if not key_id.startswith(f"{ONE_TIME_KEY}:") or not isinstance(signed, Mapping):
            continue
        key = signed.get("key")
        good = is_signed(signed, user=device.user_id, key_id=device.id, public_key=device.ed25519)
        if good and isinstance(key, str):
            return key
    return None


def _refusals(standings: Iterable[Standing]) -> Iterator[EventRefusal]:
    for standing in standings:
        if standing.problem is not None:
            yield standing.problem
        else:
            yield from (UnverifiedDevice(user=standing.user, device=device_id) for device_id in standing.excluded)
