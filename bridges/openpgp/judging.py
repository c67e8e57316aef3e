"""Reads a key file that an operator was given, in a throw-away home, and has it judged by ``trust.keys``.

Owns the way from octets to facts: own framing first (size, how many keys, is a secret one among them), then GnuPG,
which strips all but the certificate's own newest self-signatures and says what each key is and may.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bridges.openpgp import armour, packets
from bridges.openpgp.process import Runner, full
from trust.errors import KeyWeak, NotAKey
from trust.keys import FileFacts, KeyFacts, KeyPart, judge_file, judge_key
from trust.records import Fingerprint, PublicKey

IMPORT: Final = ("--import-options", "self-sigs-only,import-minimal", "--import")
EXPORT: Final = ("--export-options", "export-minimal,no-export-attributes", "--export")
LIST: Final = ("--with-colons", "--fixed-list-mode", "--with-subkey-fingerprint", "--list-keys")

SECRET: Final = frozenset({packets.SECRET_KEY, packets.SECRET_SUBKEY})

CERTIFICATIONS: Final = frozenset(range(0x10, 0x14))
"""Signature types over a user id (RFC 9580, 5.2.1)."""

SHA1: Final = 2

READ_ANYWAY: Final = 16 * 1024 * 1024
"""Octets beyond which a file is not even taken apart to see what it is."""


async def read_key(runner: Runner, data: bytes, now: datetime) -> PublicKey:
    """The key to pin for the one certificate in ``data`` (armoured or binary). Raises KeyRefusal, SafeUnavailable."""
    binary = _unwrap(data)
    with tempfile.TemporaryDirectory(prefix="secir-") as home:
        facts = await _learn(runner, Path(home), binary)
    return judge_key(facts, now)


def _unwrap(data: bytes) -> bytes:
    """The binary certificate. Raises KeyTooBig, SecretKeyGiven, NotAKey, SeveralKeys."""
    if len(data) > READ_ANYWAY:
        judge_file(FileFacts(len(data)))
    binary, tags, whole = b"", [], True
    try:
        binary = _dearmour(data)
        for packet in packets.packets(binary):
            tags.append(packet.tag)
    except packets.Malformed:
        whole = False
    judge_file(
        FileFacts(
            len(data),
            readable=whole and tags[:1] == [packets.PUBLIC_KEY],
            secret=armour.holds(data, armour.PRIVATE_KEY_BLOCK) or not SECRET.isdisjoint(tags),
            keys=tags.count(packets.PUBLIC_KEY),
        )
    )
    return binary


def _dearmour(data: bytes) -> bytes:
    """The octets within the armours, if there are any. Text before and after them is passed over. Raises Malformed."""
    if not armour.holds(data):
        return data
    return b"".join(block for _, block in armour.decode_all(armour.trimmed(data)))


async def _learn(runner: Runner, home: Path, binary: bytes) -> KeyFacts:
    """Raises NotAKey for a version that GnuPG can't read, or a key without any valid user id; KeyWeak for SHA-1."""
    try:
        wanted = Fingerprint(packets.fingerprints(binary)[0])
    except packets.Malformed as error:
        raise NotAKey from error
    await runner.run(home, IMPORT, data=binary)
    exported = await runner.run(home, (*EXPORT, full(wanted)))
    listing = await runner.run(home, (*LIST, full(wanted)))
    try:
        found = list(packets.packets(exported.output))
        learnt = packets.fingerprints(exported.output)[0] if found else None
    except packets.Malformed as error:
        raise NotAKey from error
    if learnt != wanted:
        raise _why_nothing_was_learnt(wanted, binary)
    names = tuple(packet.body for packet in found if packet.tag == packets.USER_ID)
    parts = read_listing(listing.output)
    if not parts or not names:
        raise NotAKey
    return KeyFacts(wanted, exported.output, names, parts[0], tuple(parts[1:]))


def _why_nothing_was_learnt(wanted: Fingerprint, binary: bytes) -> KeyWeak | NotAKey:
    """GnuPG gave no user id its trust. Where each of them rests on SHA-1, the person can mend that with a new one.

    Version 4 signature: version, type, key algorithm, hash (RFC 9580, 5.2.3).
    """
    bodies = [packet.body for packet in packets.packets(binary) if packet.tag == packets.SIGNATURE]
    hashes = {body[3] for body in bodies if len(body) > 3 and body[0] == 4 and body[1] in CERTIFICATIONS}
    return KeyWeak(fingerprint=wanted, algorithm="SHA-1") if hashes == {SHA1} else NotAKey()


def read_listing(listing: bytes) -> list[KeyPart]:
    """The primary key and the subkeys of a ``--with-colons`` listing of one certificate.

    Fields as in GnuPG's doc/DETAILS: 1 record, 2 validity, 3 bits, 4 algorithm, 7 expiry, 12 capabilities, 17 curve.
    The primary key's capital letters, which sum up the whole key, are not looked at.
    """
    rows = [line.decode("utf-8", "replace").split(":") for line in listing.split(b"\n")]
    return [_part(row) for row in rows if row[0] in ("pub", "sub") and len(row) > 16]


def _part(row: list[str]) -> KeyPart:
    return KeyPart(
        algorithm=int(row[3]),
        bits=int(row[2]),
        curve=row[16],
        can_sign="s" in row[11],
        can_encrypt="e" in row[11],
        expires_at=datetime.fromtimestamp(int(row[6]), UTC) if row[6].isdecimal() else None,
        revoked=row[1] == "r",
        valid=row[1] not in ("i", "n", "d"),
    )
