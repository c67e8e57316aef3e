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
from trust.errors import NotAKey
from trust.keys import FileFacts, KeyFacts, KeyPart, judge_file, judge_key
from trust.records import Fingerprint, PublicKey

IMPORT: Final = ("--import-options", "self-sigs-only,import-minimal", "--import")
EXPORT: Final = ("--export-options", "export-minimal,no-export-attributes", "--export")
LIST: Final = ("--with-colons", "--fixed-list-mode", "--with-subkey-fingerprint", "--list-keys")

SECRET: Final = frozenset({packets.SECRET_KEY, packets.SECRET_SUBKEY})

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
    binary, file = b"", FileFacts(len(data), readable=False)
    try:
        binary, secret = _dearmour(data)
        file = FileFacts(len(data), readable=False, secret=secret)
        file = _look(binary, len(data), secret=secret)
    except packets.Malformed:
        pass
    judge_file(file)
    return binary


def _dearmour(data: bytes) -> tuple[bytes, bool]:
    """(binary, whether an armour says that it holds a secret key). Text before and after an armour is passed over."""
    if not armour.BEGIN_ANYWHERE.search(data):
        return data, False
    blocks = armour.decode_all(armour.trimmed(data))
    return b"".join(block for _, block in blocks), any(kind == armour.PRIVATE_KEY_BLOCK for kind, _ in blocks)


def _look(binary: bytes, size: int, *, secret: bool) -> FileFacts:
    tags = [packet.tag for packet in packets.packets(binary)]
    primaries = tags.count(packets.PUBLIC_KEY)
    return FileFacts(
        size,
        readable=tags[:1] == [packets.PUBLIC_KEY],
        secret=secret or not SECRET.isdisjoint(tags),
        keys=primaries,
    )


async def _learn(runner: Runner, home: Path, binary: bytes) -> KeyFacts:
    """Raises NotAKey for a version that GnuPG can't read, or a key without any valid user id."""
    try:
        wanted = Fingerprint(packets.fingerprints(binary)[0])
    except packets.Malformed as error:
        raise NotAKey from error
    await runner.run(home, IMPORT, data=binary)
    exported = await runner.run(home, (*EXPORT, full(wanted)))
    listing = await runner.run(home, (*LIST, full(wanted)))
    try:
        found = list(packets.packets(exported.output))
        if not found or packets.fingerprints(exported.output)[0] != wanted:
            raise NotAKey
    except packets.Malformed as error:
        raise NotAKey from error
    names = tuple(packet.body for packet in found if packet.tag == packets.USER_ID)
    parts = read_listing(listing.output)
    if not parts or not names:
        raise NotAKey
    return KeyFacts(wanted, exported.output, names, parts[0], tuple(parts[1:]))


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
