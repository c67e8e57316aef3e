"""Mending of Olm channels that no longer open what the other side sends ("wedged").

nio notes such a device at most once an hour, and only one that the device list knows. We open a new channel to it and
send an empty message, which makes its owner's client use the new one. Knows nothing of rooms: the key that was lost
comes with the next message that is written there.
Source: Matrix Client-Server API, module "End-to-end encryption", "Recovering from undecryptable messages" (m.dummy).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final

import structlog
from nio.crypto import OlmDevice

from bridges.matrix.chain import entry
from bridges.matrix.keyshare import CLAIM_TIMEOUT_MS, ONE_TIME_KEY, signed_one_time_key
from bridges.matrix.session import Session

log = structlog.get_logger()

MOST_AT_ONCE: Final = 20


async def unwedge(session: Session) -> None:
    """Mend the channels to the devices that nio noted, some at a time. A device that offers no key is given up on.

    Raises HomeserverFault; the devices stay noted then.
    """
    devices: Sequence[OlmDevice] = session.olm.wedged_devices[:MOST_AT_ONCE]
    if not devices:
        return
    offered = await _claim(session, devices)
    messages: dict[str, dict[str, Any]] = {}
    for device in devices:
        key = signed_one_time_key(device, entry(offered, device.user_id, device.id))
        if (dummy := _dummy(session, device, key)) is not None:
            messages.setdefault(device.user_id, {})[device.id] = dummy
    if messages:
        body = {"messages": messages}
        await session.api.request("PUT", "sendToDevice", "m.room.encrypted", secrets.token_hex(16), body=body)
    session.olm.wedged_devices = [device for device in session.olm.wedged_devices if device not in devices]
    log.info("channels.mended", devices=sum(map(len, messages.values())), given_up=len(devices) - len(messages))


async def _claim(session: Session, devices: Sequence[OlmDevice]) -> Any:
    claims: dict[str, dict[str, str]] = {}
    for device in devices:
        claims.setdefault(device.user_id, {})[device.id] = ONE_TIME_KEY
    body = {"one_time_keys": claims, "timeout": CLAIM_TIMEOUT_MS}
    answer = await session.api.request("POST", "keys", "claim", body=body)
    return entry(answer if isinstance(answer, dict) else {}, "one_time_keys")


def _dummy(session: Session, device: OlmDevice, key: str | None) -> dict[str, Any] | None:
    if key is None:
        return None
    try:
        channel = session.olm.create_session(key, device.curve25519)
    except ValueError:  # all of vodozemac's errors: a key that is no key
        return None
    encrypted: dict[str, Any] = session.olm._olm_encrypt(channel, device, "m.dummy", {})
    return encrypted
