"""nio's Olm machine, made fit for hostile input and for crashes.

Owns the Olm and Megolm sessions and what nio's store remembers of other devices; nothing that strangers send makes it
raise anything but an EventRefusal. It never answers requests for keys, never takes a forwarded key, and never applies
anything to a room: what it decrypts is a value. Knows nothing of HTTP, of rooms' members, nor of whom to trust
(``devices`` decides that and tells nio's store).
Source: Matrix Client-Server API, module "End-to-end encryption".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import vodozemac
from nio.crypto import InboundGroupSession, OlmDevice
from nio.crypto import Session as Channel
from nio.exceptions import EncryptionError

from bridges.matrix.canonical import decode_base64, is_signed
from bridges.matrix.chain import DeviceKeys, device_keys, entry
from bridges.matrix.olmevents import (
    MegolmEnvelope,
    OlmEnvelope,
    Withheld,
    json_object,
    megolm_envelope,
    olm_envelope,
    olm_payload,
    public_key,
    room_key,
    withheld,
)
from bridges.matrix.ownkeys import OwnKeys
from trust.errors import ForgedState, MalformedEvent, Undecryptable

log = structlog.get_logger()

HOSTILE: Final = (ValueError, TypeError, RecursionError, EncryptionError)
"""What nio and vodozemac raise when strangers send nonsense; all of vodozemac's errors are ValueErrors."""


@dataclass(frozen=True, slots=True)
class Received:
    """What a to-device event brought: the Megolm session whose key is new, or word that a key is kept from us."""

    room_key_session: str | None = None
    withheld: Withheld | None = None


@dataclass(frozen=True, slots=True)
class Decrypted:
    """The inside of a room event. Only ``verified`` ones may be acted upon: before that, ``sender`` is a claim."""

    type: str
    content: Mapping[str, Any] = field(repr=False)
    sender: str
    device_id: str
    """The sender's device that made the Megolm session; "" if none that we know of did."""
    session_id: str
    index: int
    """The message's number within the session: used twice, it is a replay."""
    verified: bool


NOTHING: Final = Received()


class HardenedOlm(OwnKeys):
    """One device's encryption. Not for use by several threads."""

    # --- the devices of others ---------------------------------------------------------------------------------------

    def learn_devices(self, answer: Mapping[str, Any]) -> None:
        """Take over the device keys of a ``/keys/query`` answer.

        A device whose keys are malformed or not signed by itself is left out; one that is no longer listed counts as
        deleted until it is listed again. A listed device never changes its ed25519 key: that would be another device.
        """
        changed: defaultdict[str, dict[str, OlmDevice]] = defaultdict(dict)
        for user, listed in entry(answer, "device_keys").items():
            if isinstance(listed, Mapping):
                changed[user].update(self._learn_user(user, listed))
        with self._stored():
            self.store.save_device_keys(changed)

    def _learn_user(self, user: str, listed: Mapping[str, Any]) -> dict[str, OlmDevice]:
        changed: dict[str, OlmDevice] = {}
        sound = {device_id: keys for device_id, shown in listed.items() if (keys := sound_keys(shown, user, device_id))}
        for device_id, keys in sound.items():
            if (user, device_id) != (self.user_id, self.device_id) and self._learn_device(user, device_id, keys):
                changed[device_id] = self.device_store[user][device_id]
        for device in list(self.device_store.active_user_devices(user)):
            if device.id not in sound:
                device.deleted = True
                changed[device.id] = device
        return changed

    def _learn_device(self, user: str, device_id: str, keys: DeviceKeys) -> bool:
        """Whether anything is new."""
        known: OlmDevice | None = self.device_store[user].get(device_id)
        both = {"ed25519": keys.ed25519, "curve25519": keys.curve25519}
        if known is None:
            self.device_store.add(OlmDevice(user, device_id, both))
            return True
        if not known.deleted and known.ed25519 != keys.ed25519:
            log.warning("device.keys_changed", user=user, device=device_id)
            return False
        if not known.deleted and known.curve25519 == keys.curve25519:
            return False
        if known.keys != both:
            # Trust was in the former keys.
            self.unverify_device(known)
        known.keys.update(both)
        known.deleted = False
        return True

    # --- to-device events --------------------------------------------------------------------------------------------

    def receive(self, event: Mapping[str, Any]) -> Received:
        """Take in one to-device event of a sync. Never raises for what is in it; raises StoreAway.

        What it brought is on disk when this returns.
        """
        with self._stored():
            try:
                return self._receive(event)
            except HOSTILE as error:
                # Inside the transaction: a channel that was opened by a good message stays open.
                log.warning("to-device.refused", reason=type(error).__name__)
                return NOTHING

    def _receive(self, event: Mapping[str, Any]) -> Received:
        match event.get("type"):
            case "m.room.encrypted":
                return Received(room_key_session=self._open_envelope(event))
            case "m.room_key.withheld" | "org.matrix.room_key.withheld":
                told = withheld(event)
                log.warning(
                    "room-key.withheld-from-us",
                    user=told.user,
                    room=told.room_id,
                    session=told.session_id,
                    code=told.code,
                )
                return Received(withheld=told)
            case _:
                # A key in clear, a forwarded key, a request for keys, a verification to the device: not for this bot.
                return NOTHING

    def _open_envelope(self, event: Mapping[str, Any]) -> str | None:
        ours = self.account.identity_keys
        envelope = olm_envelope(event, ours["curve25519"])
        payload = olm_payload(
            self._open_olm(envelope),
            sender=envelope.sender,
            recipient=self.user_id,
            recipient_ed25519=ours["ed25519"],
        )
        if payload.type != "m.room_key":
            return None
        key = room_key(payload.content)
        session = InboundGroupSession(key.session_key, payload.ed25519, envelope.sender_key, key.room_id)
        if session.id != key.session_id:
            raise ValueError("the key is of another session")
        return str(session.id) if self._keep_room_key(session) else None

    def _open_olm(self, envelope: OlmEnvelope) -> str:
        message = olm_message(envelope)
        try:
            known: str | None = self._try_decrypt(envelope.sender, envelope.sender_key, message)
            if known is not None:
                return known
            if envelope.is_prekey:
                return self._open_channel(envelope.sender_key, message)
        except HOSTILE:
            self._mark_device_for_unwedging(envelope.sender, envelope.sender_key)
            raise
        self._mark_device_for_unwedging(envelope.sender, envelope.sender_key)
        raise ValueError("no channel opens it")

    def _open_channel(self, sender_key: str, message: vodozemac.PreKeyMessage) -> str:
        opened, plaintext = self.account.create_inbound_session(sender_key, message)
        channel = Channel(opened)
        # The one-time key is used up now, and only now: saved earlier, the same message would open again after a crash.
        self.save_account()
        self.session_store.add(sender_key, channel)
        self.save_session(sender_key, channel)
        return str(plaintext.decode())

    def _keep_room_key(self, session: InboundGroupSession) -> bool:
        """Whether the key tells us more than we knew."""
        holders = self._sessions(session.room_id, session.id)
        known = next((held for held in holders if held.sender_key == session.sender_key), None)
        if known is not None and known.first_known_index <= session.first_known_index:
            return False
        self.inbound_group_store.add(session)
        # nio's table has one row per session id. A second device that says "this session is mine" must not displace
        # the first one there; in memory both are kept, and which of them is believed is decided at decryption.
        if known is not None or not holders:
            self.save_inbound_group_session(session)
        return True

    # --- events of a room --------------------------------------------------------------------------------------------

    def decrypt(self, room_id: str, event: Mapping[str, Any]) -> Decrypted:
        """The inside of an ``m.room.encrypted`` event of ``room_id``.

        Nothing outside the ciphertext is believed but the sender and the session's name, and those only if
        ``verified``. Raises Undecryptable (the key is missing), MalformedEvent, ForgedState.
        """
        try:
            envelope = megolm_envelope(event)
        except ValueError as error:
            raise MalformedEvent from error
        session, device = self._session_for(room_id, envelope)
        plaintext, index = open_megolm(session, envelope.ciphertext)
        try:
            payload = json_object(plaintext)
        except ValueError as error:
            raise MalformedEvent from error
        if "state_key" in payload:
            raise ForgedState
        kind, content = payload.get("type"), payload.get("content")
        if payload.get("room_id") != room_id or not isinstance(kind, str) or not isinstance(content, dict):
            raise MalformedEvent
        return Decrypted(
            type=kind,
            content=content,
            sender=envelope.sender,
            device_id=device.id if device else "",
            session_id=envelope.session_id,
            index=index,
            verified=self._is_genuine(session, device),
        )

    def _session_for(self, room_id: str, envelope: MegolmEnvelope) -> tuple[InboundGroupSession, OlmDevice | None]:
        """The session, and the sender's device that made it, if there is one that we know of."""
        holders = self._sessions(room_id, envelope.session_id)
        if not holders:
            raise Undecryptable(session_id=envelope.session_id)
        devices = list(self.device_store.active_user_devices(envelope.sender))
        for session in holders:
            for device in devices:
                if device.curve25519 == session.sender_key and device.ed25519 == session.ed25519:
                    return session, device
        return holders[0], None

    def _is_genuine(self, session: InboundGroupSession, device: OlmDevice | None) -> bool:
        return device is not None and not session.forwarding_chain and bool(self.is_device_verified(device))

    def _sessions(self, room_id: str, session_id: str) -> list[InboundGroupSession]:
        """Who sent us a session of this name: normally one device."""
        return [held[session_id] for held in self.inbound_group_store[room_id].values() if session_id in held]


def sound_keys(shown: object, user: str, device_id: str) -> DeviceKeys | None:
    """The keys of a device object that the device itself signed; None if anything is wrong with it."""
    keys = device_keys(shown, user, device_id)
    if keys is None or not is_signed(shown, user=user, key_id=device_id, public_key=keys.ed25519):
        return None
    try:
        public_key(keys.ed25519)
        vodozemac.Curve25519PublicKey.from_base64(public_key(keys.curve25519))
    except ValueError:
        return None
    return keys


def olm_message(envelope: OlmEnvelope) -> Any:
    """The message as vodozemac wants it. Raises ValueError."""
    if envelope.is_prekey:
        return vodozemac.PreKeyMessage.from_base64(envelope.ciphertext)
    return vodozemac.AnyOlmMessage.normal(decode_base64(envelope.ciphertext))


def open_megolm(session: InboundGroupSession, ciphertext: str) -> tuple[str, int]:
    """Plaintext and index. Raises Undecryptable if the key begins later than the message, MalformedEvent."""
    try:
        message = vodozemac.MegolmMessage.from_base64(ciphertext)
        if message.message_index() < session.first_known_index:
            raise Undecryptable(session_id=session.id)
        plaintext, index = session.decrypt(ciphertext)
    except ValueError as error:
        raise MalformedEvent from error
    return str(plaintext), int(index)
