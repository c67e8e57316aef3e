"""Seals: one GnuPG call signs by the list's key and encrypts to it and to all recipients; the packets are dealt out.

Owns the rule who gets which session-key packet. A packet is handed out only if its key id belongs, beyond doubt, to a
certificate that was asked for; one unusable recipient fails GnuPG's whole call, so it is left out and named by absence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from bridges.openpgp import packets
from bridges.openpgp.home import Home
from bridges.openpgp.keyring import Keyring
from bridges.openpgp.process import Runner, full
from bridges.openpgp.status import keywords
from bridges.ports import Sealed
from trust import keys
from trust.errors import SafeUnavailable
from trust.records import Fingerprint, PublicKey

log = structlog.get_logger()

OPTIONS: Final = (
    "--compress-algo",
    "none",
    "--digest-algo",
    "SHA512",
    "--cipher-algo",
    "AES256",
    "--no-throw-keyids",
    "--no-encrypt-to",
)

ROOM: Final = 1024 * 1024
ROOM_EACH: Final = 1024
"""Octets that the sealed message may be larger than what is in it: framing, and one packet per recipient."""


async def seal(runner: Runner, home: Home, ring: Keyring, entity: bytes, recipients: Sequence[PublicKey]) -> Sealed:
    """One packet for all; ``session_keys`` lacks each recipient that could not be sealed to. Raises SafeUnavailable."""
    wanted = _sealable(home.key, recipients)
    async with ring.holding(wanted) as arguments:
        message = await _encrypt(runner, home, entity, wanted, arguments)
    parts = packets.split(message, most=len(wanted) + 1)
    if parts.tag != packets.SEIPD:
        log.error("seal.wrong-packet", tag=parts.tag)
        raise SafeUnavailable
    return Sealed(parts.packet, deal(parts.session_keys, [home.key, *wanted]))


def deal(session_keys: Sequence[packets.SessionKey], certificates: Sequence[PublicKey]) -> dict[Fingerprint, bytes]:
    """Each certificate's own session-key packet, the first of ``certificates`` (the list's) always.

    Raises SafeUnavailable for a packet that opens to a key nobody asked for, and if the list has none.
    """
    owners = _owners(certificates)
    dealt: dict[Fingerprint, bytes] = {}
    for session_key in session_keys:
        holders = owners.get(session_key.key_id or "")
        if not holders:
            log.error("seal.foreign-session-key")
            raise SafeUnavailable
        dealt.update(dict.fromkeys(holders, session_key.framed))
    if certificates[0].fingerprint not in dealt:
        raise SafeUnavailable
    return dealt


async def _encrypt(
    runner: Runner, home: Home, entity: bytes, wanted: Sequence[PublicKey], ring: Sequence[str]
) -> bytes:
    """The message, to as many of ``wanted`` as GnuPG takes. It names one that it refuses per call, before it works."""
    names = {key.fingerprint for key in wanted}
    cap = len(entity) + ROOM + len(names) * ROOM_EACH
    while True:
        arguments = (*ring, *OPTIONS, *_keys(home, names), "--sign", "--encrypt")
        outcome = await runner.run(home.path, arguments, data=entity, passphrase=home.passphrase, cap=cap)
        if outcome.returncode == 0 and not outcome.overflow and _is_complete(outcome.status, home.key.fingerprint):
            return outcome.output
        refused = {Fingerprint(fields[1]) for fields in keywords(outcome.status, "INV_RECP") if len(fields) > 1}
        if not refused & names:
            complete = _is_complete(outcome.status, home.key.fingerprint)
            state = "complete" if complete else "incomplete"
            log.error("seal.failed", code=outcome.returncode, state=state, errors=_failures(outcome.status))
            raise SafeUnavailable
        log.warning("seal.recipient-refused", fingerprints=sorted(refused & names))
        names -= refused


def _keys(home: Home, names: set[Fingerprint]) -> list[str]:
    arguments = ["--local-user", full(home.key.fingerprint), "--recipient", full(home.key.fingerprint)]
    for name in sorted(names):
        arguments += ["--recipient", full(name)]
    return arguments


def _is_complete(status: bytes, list_key: Fingerprint) -> bool:
    """One signature, by the list's key, with SHA-512; encryption ended. SIG_CREATED: type, algorithm, hash, …, key."""
    created = keywords(status, "SIG_CREATED")
    signed = len(created) == 1 and len(created[0]) == 6 and created[0][2] == "10" and created[0][5] == list_key
    return signed and len(keywords(status, "END_ENCRYPTION")) == 1


def _failures(status: bytes) -> list[str]:
    """libgpg-error codes, for the log."""
    return [fields[1] for fields in keywords(status, "FAILURE") if len(fields) > 1 and fields[1].isdecimal()]


def _sealable(list_key: PublicKey, recipients: Sequence[PublicKey]) -> list[PublicKey]:
    """Those that may be asked for: each once, not expired by the clock that GnuPG uses too, no doubtful key id."""
    now = datetime.now(UTC)
    once = {key.fingerprint: key for key in recipients if key.fingerprint != list_key.fingerprint}
    fresh = [key for key in once.values() if keys.usable(key, now) and _parts(key)]
    doubtful = _doubtful([list_key, *fresh])
    for key in fresh:
        if doubtful & set(map(packets.key_id, _parts(key))):
            log.warning("seal.ambiguous-key", fingerprint=key.fingerprint)
    return [key for key in fresh if not doubtful & set(map(packets.key_id, _parts(key)))]


def _doubtful(certificates: Sequence[PublicKey]) -> set[str]:
    """Key ids (64 bits) that two *different* keys share: whose session key that is can't be told."""
    bearers: defaultdict[str, set[str]] = defaultdict(set)
    for part in {part for certificate in certificates for part in _parts(certificate)}:
        bearers[packets.key_id(part)].add(part)
    return {key_id for key_id, parts in bearers.items() if len(parts) > 1}


def _owners(certificates: Sequence[PublicKey]) -> Mapping[str, list[Fingerprint]]:
    """Key id to the certificates that hold this key; a subkey may rightly be in two."""
    owners: defaultdict[str, list[Fingerprint]] = defaultdict(list)
    for certificate in certificates:
        for part in _parts(certificate):
            owners[packets.key_id(part)].append(certificate.fingerprint)
    return owners


def _parts(certificate: PublicKey) -> tuple[str, ...]:
    try:
        return packets.fingerprints(certificate.data)
    except packets.Malformed:
        return ()
