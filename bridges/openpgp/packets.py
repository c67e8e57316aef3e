"""OpenPGP framing: packets, the parts of an encrypted message, the identity of a certificate's keys.

Owns RFC 9580 sections 4.2 (packet headers) and 5.1 (session-key packets) as far as a list needs them; the armour is in
``armour``. Knows no cryptography: what a packet holds is GnuPG's business. Pure functions with hard limits.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from trust.errors import BrokenEncryption

PUBLIC_KEY_SESSION_KEY: Final = 1
SIGNATURE: Final = 2
SECRET_KEY: Final = 5
PUBLIC_KEY: Final = 6
SECRET_SUBKEY: Final = 7
USER_ID: Final = 13
PUBLIC_SUBKEY: Final = 14
SEIPD: Final = 18
AEAD: Final = 20

ENCRYPTED_DATA: Final = frozenset({SEIPD, AEAD})
MAY_BE_PARTIAL: Final = frozenset({8, 9, 11, SEIPD, AEAD})
"""Partial body lengths are for data packets only (RFC 9580, 4.2.1.4)."""

MAX_SESSION_KEYS: Final = 256
BYTES_PER_SESSION_KEY: Final = 4096
"""On average; so 256 of them are 1 MiB at most. One for RSA-4096 takes 524."""

MIN_FIRST_PARTIAL: Final = 512

HIDDEN: Final = "0" * 16
"""The key id of a session-key packet that does not say whom it is for."""


class Malformed(ValueError):
    """The bytes are no sequence of OpenPGP packets. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class Packet:
    tag: int
    body: bytes = field(repr=False)

    def framed(self) -> bytes:
        """This packet with a new-format header and one definite length, as chatmail relays demand."""
        return bytes((0xC0 | self.tag,)) + _length(len(self.body)) + self.body


@dataclass(frozen=True, slots=True)
class SessionKey:
    """One PKESK. ``key_id``: 16 hexadecimal digits of the key that opens it, ``HIDDEN``, or None if not version 3."""

    key_id: str | None
    framed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Parts:
    """An encrypted message, taken apart. Each part is framed anew; ``tag`` is that of the data packet."""

    session_keys: tuple[SessionKey, ...]
    packet: bytes = field(repr=False)
    tag: int


def split(message: bytes, most: int = MAX_SESSION_KEYS) -> Parts:
    """Take a binary encrypted message apart (the outer half of the strict grammar, docs/security.md).

    1 to ``most`` PKESK packets of 4 KiB each on average, then exactly one integrity-protected data packet, then
    nothing. A password packet (SKESK), a marker, padding or clear packet has no place here. Raises BrokenEncryption.
    """
    try:
        *before, data = _at_most(packets(message), most + 1)
    except ValueError as error:
        raise BrokenEncryption from error
    size = sum(len(packet.body) for packet in before)
    only_session_keys = all(packet.tag == PUBLIC_KEY_SESSION_KEY for packet in before)
    if not before or not only_session_keys or size > most * BYTES_PER_SESSION_KEY or data.tag not in ENCRYPTED_DATA:
        raise BrokenEncryption
    session_keys = tuple(SessionKey(_key_id(packet.body), packet.framed()) for packet in before)
    return Parts(session_keys, data.framed(), data.tag)


def packets(data: bytes) -> Iterator[Packet]:
    """The packets of ``data``, old and new format (RFC 9580, 4.2). Raises Malformed."""
    position = 0
    while position < len(data):
        first = data[position]
        if not first & 0x80:
            raise Malformed("no packet header")
        if first & 0x40:
            packet, position = _new_format(data, position + 1, first & 0x3F)
        else:
            packet, position = _old_format(data, position + 1, first >> 2 & 0x0F, first & 0x03)
        if packet.tag == 0:
            raise Malformed("reserved packet")
        yield packet


@functools.lru_cache(maxsize=8192)
def fingerprints(certificate: bytes) -> tuple[str, ...]:
    """The fingerprint of each key of a v4 certificate, the primary key's first. Raises Malformed.

    Only framing is read; that a subkey is rightly bound is GnuPG's to say.
    """
    found = [p for p in packets(certificate) if p.tag in (PUBLIC_KEY, PUBLIC_SUBKEY)]
    if [p.tag for p in found[:1]] != [PUBLIC_KEY] or sum(p.tag == PUBLIC_KEY for p in found) != 1:
        raise Malformed("not one certificate")
    return tuple(fingerprint(p.body) for p in found)


def key_id(fingerprint: str) -> str:
    """The last 64 bits of a v4 fingerprint (RFC 9580, 5.5.4.2)."""
    return fingerprint[-16:]


def fingerprint(key: bytes) -> str:
    """The v4 fingerprint of a key packet's body, upper case (RFC 9580, 5.5.4.2). Raises Malformed if not version 4."""
    if not key or key[0] != 4 or len(key) > 0xFFFF:
        raise Malformed("not a v4 key")
    digest = hashlib.sha1(b"\x99" + len(key).to_bytes(2, "big") + key, usedforsecurity=False)
    return digest.hexdigest().upper()


def _at_most(found: Iterator[Packet], limit: int) -> list[Packet]:
    """All of ``found``; Malformed as soon as there are more than ``limit``."""
    taken = list(itertools.islice(found, limit + 1))
    if len(taken) > limit:
        raise Malformed("too many packets")
    return taken


def _key_id(session_key: bytes) -> str | None:
    """Version 3 only (RFC 9580, 5.1.1): a later version names a key that GnuPG 2.2 can't have."""
    if len(session_key) < 10 or session_key[0] != 3:
        return None
    return session_key[1:9].hex().upper()


def _new_format(data: bytes, position: int, tag: int) -> tuple[Packet, int]:
    chunks: list[bytes] = []
    partial = True
    while partial:
        size, position, partial = _new_length(data, position)
        if partial and (tag not in MAY_BE_PARTIAL or (not chunks and size < MIN_FIRST_PARTIAL)):
            raise Malformed("partial length")
        chunk, position = _take(data, position, size)
        chunks.append(chunk)
    return Packet(tag, b"".join(chunks)), position


def _new_length(data: bytes, position: int) -> tuple[int, int, bool]:
    """(length, next position, whether more chunks follow): RFC 9580, 4.2.1."""
    head, after = _take(data, position, 1)
    first = head[0]
    if first < 192:
        return first, after, False
    if first < 224:
        second, after = _take(data, after, 1)
        return ((first - 192) << 8) + second[0] + 192, after, False
    if first < 255:
        return 1 << (first & 0x1F), after, True
    octets, after = _take(data, after, 4)
    return int.from_bytes(octets, "big"), after, False


def _old_format(data: bytes, position: int, tag: int, kind: int) -> tuple[Packet, int]:
    if kind == 3:
        raise Malformed("indeterminate length")
    octets, position = _take(data, position, 1 << kind)
    body, position = _take(data, position, int.from_bytes(octets, "big"))
    return Packet(tag, body), position


def _take(data: bytes, position: int, size: int) -> tuple[bytes, int]:
    end = position + size
    if end > len(data):
        raise Malformed("cut short")
    return data[position:end], end


def _length(size: int) -> bytes:
    if size < 192:
        return bytes((size,))
    if size < 8384:
        return bytes((((size - 192) >> 8) + 192, (size - 192) & 0xFF))
    return b"\xff" + size.to_bytes(4, "big")
