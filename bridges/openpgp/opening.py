"""Opens: a message to the list becomes clear text and the fingerprint of who signed it, or a typed refusal.

The outer packets are checked and reduced to what concerns the list's key before GnuPG sees them; what it says is judged
by the strict grammar of ``status``. Not one byte leaves unless both are satisfied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Final

import structlog

from bridges.openpgp import armour, packets
from bridges.openpgp.home import Home
from bridges.openpgp.process import Outcome, Runner
from bridges.openpgp.status import Verdict, judge_status, reasons
from bridges.ports import Opened
from trust.errors import BrokenEncryption, NotForThisList, PostRefusal, SafeFault, SafeUnavailable
from trust.records import Fingerprint

log = structlog.get_logger()

MAX_HIDDEN: Final = 16
"""Session-key packets without a name that are tried, each by one call."""


async def open_message(
    runner: Runner, home: Home, message: bytes, signers: Collection[Fingerprint], ring: Sequence[str]
) -> Opened:
    """Decrypt and verify ``message`` (armoured or binary). ``ring``: arguments that make the signers' keys known.

    Raises NotForThisList, BrokenEncryption, NotSigned, BadSignature, UnknownSigner, SafeUnavailable.
    """
    try:
        return await _open(runner, home, message, signers, ring)
    except (PostRefusal, SafeFault) as error:
        log.info("message.refused", code=error.code, cause=reasons(error))
        raise


async def _open(
    runner: Runner, home: Home, message: bytes, signers: Collection[Fingerprint], ring: Sequence[str]
) -> Opened:
    parts = packets.split(_binary(message))
    own = {packets.key_id(f) for f in packets.fingerprints(home.key.data)}
    named = b"".join(key.framed for key in parts.session_keys if key.key_id in own)
    if named:
        try:
            return await _decrypt(runner, home, named + parts.packet, signers, ring)
        except NotForThisList as error:
            raise SafeUnavailable from error
    for key in [key for key in parts.session_keys if key.key_id == packets.HIDDEN][:MAX_HIDDEN]:
        try:
            return await _decrypt(runner, home, key.framed + parts.packet, signers, ring)
        except NotForThisList:
            continue
    raise NotForThisList


async def _decrypt(
    runner: Runner, home: Home, message: bytes, signers: Collection[Fingerprint], ring: Sequence[str]
) -> Opened:
    """A refusal is final for who wrote it, so it is not believed the first time: GnuPG and its agent fail now and then
    (seen once in some thousand openings under load, with a message that was fine a moment later).
    """
    arguments = *ring, "--decrypt"
    outcome = await runner.run(home.path, arguments, data=message, passphrase=home.passphrase)
    try:
        verdict = _judge(outcome, home, signers)
    except NotForThisList:
        raise
    except PostRefusal as first:
        if outcome.overflow:
            raise
        outcome = await runner.run(home.path, arguments, data=message, passphrase=home.passphrase)
        verdict = _judge(outcome, home, signers)
        log.warning("message.opened_at_second_try", code=first.code, cause=reasons(first))
    return Opened(outcome.output, verdict.signer, signature_id(verdict, outcome.output), verdict.signed_at)


def _judge(outcome: Outcome, home: Home, signers: Collection[Fingerprint]) -> Verdict:
    if outcome.overflow:
        error = BrokenEncryption()
        error.add_note("too-much-output")
        raise error
    return judge_status(outcome.status, outcome.returncode, list_key=home.key.fingerprint, signers=signers)


def signature_id(verdict: Verdict, data: bytes) -> str:
    """Names one act of signing: who, when, what. 64 hexadecimal digits.

    GnuPG's own SIG_ID is a digest of the signature's numbers, and those of ECDSA and DSA can be changed by anyone
    without breaking the signature: a replay would look new. Carriage returns are left out because the literal packet's
    format octet, which nobody signs, decides whether GnuPG drops them.
    """
    head = f"{verdict.signer} {int(verdict.signed_at.timestamp())} ".encode("ascii")
    return hashlib.sha256(head + data.replace(b"\r", b"")).hexdigest()


def _binary(message: bytes) -> bytes:
    """The binary message. Raises BrokenEncryption for armour of another kind, or with text around it."""
    if not armour.is_armoured(message):
        return message
    try:
        kind, data = armour.decode(message)
    except packets.Malformed as error:
        raise BrokenEncryption from error
    if kind != armour.MESSAGE:
        raise BrokenEncryption
    return data
