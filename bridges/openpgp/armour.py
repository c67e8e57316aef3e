"""ASCII armour (RFC 9580, section 6), read strictly and written with its CRC-24.

Knows nothing of packets. The CRC line is kept on output although RFC 9580 makes it optional: GnuPG 2.2.40 reports a
broken MDC for each armoured message without one whose length is a multiple of three. On input it is read over, as
section 6.1 demands; damage is found by the integrity protection within.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from bridges.openpgp.packets import Malformed

MESSAGE: Final = "MESSAGE"
PUBLIC_KEY_BLOCK: Final = "PUBLIC KEY BLOCK"
PRIVATE_KEY_BLOCK: Final = "PRIVATE KEY BLOCK"

CRC24_INIT: Final = 0xB704CE
CRC24_POLYNOMIAL: Final = 0x1864CFB
LINE_LENGTH: Final = 64
MAX_HEADERS: Final = 20
MAX_LINES: Final = 1_000_000
"""60 MB of armour; a mail of nothing but line ends must not become a list of them."""

BEGIN = re.compile(rb"-----BEGIN PGP ([A-Z ]{1,40})-----[ \t]*")
BEGIN_ANYWHERE = re.compile(rb"^-----BEGIN PGP ([A-Z ]{1,40})-----", re.MULTILINE)
END_ANYWHERE = re.compile(rb"^-----END PGP [A-Z ]{1,40}-----", re.MULTILINE)
HEADER = re.compile(rb"[\x21-\x39\x3b-\x7e]{1,60}: ?.{0,998}")
CHECKSUM = re.compile(rb"=[A-Za-z0-9+/]{4}")


def encode(data: bytes, kind: str = MESSAGE) -> bytes:
    """Armour ``data``. Lines of 64 characters end in CRLF, ready to be a MIME part; no armour headers."""
    text = base64.b64encode(data)
    lines = [b"-----BEGIN PGP %s-----" % kind.encode(), b""]
    lines += [text[i : i + LINE_LENGTH] for i in range(0, len(text), LINE_LENGTH)]
    lines += [b"=" + base64.b64encode(crc24(data).to_bytes(3, "big")), b"-----END PGP %s-----" % kind.encode(), b""]
    return b"\r\n".join(lines)


def is_armoured(data: bytes) -> bool:
    """Binary OpenPGP begins with an octet over 0x7F, armour with white space or a dash."""
    return data.lstrip()[:1] == b"-"


def decode(data: bytes) -> tuple[str, bytes]:
    """(kind, binary) of text that is one armour and nothing else but white space. Raises Malformed."""
    blocks = decode_all(data)
    if len(blocks) != 1:
        raise Malformed("not one armour")
    return blocks[0]


def decode_all(data: bytes) -> list[tuple[str, bytes]]:
    """(kind, binary) of each armour in ``data``, between which there is only white space. Raises Malformed."""
    if data.count(b"\n") > MAX_LINES:
        raise Malformed("too many lines")
    blocks: list[tuple[str, bytes]] = []
    lines = [line.rstrip(b" \t\r") for line in data.split(b"\n")]
    position = 0
    while position < len(lines):
        if not lines[position]:
            position += 1
            continue
        begin = BEGIN.fullmatch(lines[position])
        if begin is None:
            raise Malformed("text outside the armour")
        end = _find(lines, b"-----END PGP %s-----" % begin[1], position + 1)
        blocks.append((begin[1].decode("ascii"), _decode_body(lines[position + 1 : end])))
        position = end + 1
    return blocks


def holds(data: bytes, kind: str = "") -> bool:
    """Is there the beginning of an armour (of this kind) anywhere in ``data``, at the start of a line?"""
    return any(match[1].startswith(kind.encode()) for match in BEGIN_ANYWHERE.finditer(data))


def trimmed(data: bytes) -> bytes:
    """``data`` from the first armour's beginning to the last one's end: for key files, never for messages."""
    begin = BEGIN_ANYWHERE.search(data)
    ends = [match.end() for match in END_ANYWHERE.finditer(data)]
    return data[begin.start() : ends[-1]] if begin and ends else data


def crc24(data: bytes) -> int:
    """CRC-24 (RFC 9580, 6.1.1), by folding one large integer: a loop over bytes takes a second for 10 MB.

    A polynomial H·x^n + L equals H·(x^n mod P) + L modulo P, and x^n mod P has 24 bits: each fold halves the number
    with a dozen shifts of large integers.
    """
    value = (int.from_bytes(data, "big") << 24) ^ (CRC24_INIT << 8 * len(data))
    while (bits := value.bit_length()) > 64:
        half = bits // 2
        high, low = value >> half, value & (1 << half) - 1
        value = low ^ _multiply(high, _power_of_x(half))
    return _remainder(value)


def _decode_body(lines: list[bytes]) -> bytes:
    """Armour headers, an empty line, base64, perhaps a checksum (RFC 9580, 6.2)."""
    start = _find(lines, b"", 0)
    if start > MAX_HEADERS or not all(HEADER.fullmatch(line) for line in lines[:start]):
        raise Malformed("armour header")
    body = lines[start + 1 :]
    while body and not body[-1]:
        body.pop()
    if body and CHECKSUM.fullmatch(body[-1]):
        body.pop()
    try:
        return base64.b64decode(b"".join(body), validate=True)
    except binascii.Error as error:
        raise Malformed("base64") from error


def _find(lines: list[bytes], line: bytes, start: int) -> int:
    try:
        return lines.index(line, start)
    except ValueError as error:
        raise Malformed("armour cut short") from error


def _multiply(large: int, small: int) -> int:
    """Product of polynomials over GF(2): one shift of ``large`` for each bit set in ``small``."""
    product = 0
    while small:
        lowest = small & -small
        product ^= large * lowest
        small ^= lowest
    return product


def _power_of_x(exponent: int) -> int:
    """x^exponent modulo the polynomial, by squaring."""
    power = 1
    for bit in bin(exponent)[2:]:
        power = _remainder(_multiply(power, power) << int(bit))
    return power


def _remainder(value: int) -> int:
    while (bits := value.bit_length()) > 24:
        value ^= CRC24_POLYNOMIAL << bits - 25
    return value
