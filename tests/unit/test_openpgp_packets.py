"""OpenPGP framing and armour: taken apart strictly, put together in new format."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.openpgp import armour, packets
from bridges.openpgp.packets import Malformed, Packet, split
from trust.errors import BrokenEncryption

KEY_ID = "0123456789ABCDEF"
PKESK = Packet(1, b"\x03" + bytes.fromhex(KEY_ID) + b"\x12" + b"k" * 60)
DATA = Packet(18, b"\x01" + b"d" * 700)
SKESK = Packet(3, b"\x04\x09\x03\x08saltsalt\x60")
LITERAL = Packet(11, b"b\x00\x00\x00\x00\x00hello")


def old_format(packet: Packet) -> bytes:
    """With a two-octet length (RFC 9580, 4.2.2)."""
    return bytes((0x80 | packet.tag << 2 | 1,)) + len(packet.body).to_bytes(2, "big") + packet.body


def in_chunks(packet: Packet, power: int = 9) -> bytes:
    """With partial body lengths of 2^power octets (RFC 9580, 4.2.1.4)."""
    size, body, framed = 1 << power, packet.body, bytes((0xC0 | packet.tag,))
    while len(body) > size:
        framed += bytes((224 + power,)) + body[:size]
        body = body[size:]
    return framed + packets._length(len(body)) + body


def refused(message: bytes) -> bool:
    try:
        split(message)
    except BrokenEncryption:
        return True
    return False


# --- framing


def test_a_message_is_taken_apart_into_session_keys_and_one_data_packet() -> None:
    parts = split(PKESK.framed() + PKESK.framed() + DATA.framed())
    assert [KEY_ID, KEY_ID] == [key.key_id for key in parts.session_keys]
    assert (DATA.framed(), 18) == (parts.packet, parts.tag)


def test_old_headers_and_partial_lengths_become_new_headers_with_one_length() -> None:
    parts = split(old_format(PKESK) + in_chunks(DATA))
    assert (PKESK.framed(), DATA.framed()) == (parts.session_keys[0].framed, parts.packet)
    assert {0xC1, 0xD2} == {parts.session_keys[0].framed[0], parts.packet[0]}


@pytest.mark.parametrize("size", [0, 1, 191, 192, 8383, 8384, 70_000])
def test_each_form_of_length_is_read_as_it_is_written(size: int) -> None:
    assert [Packet(18, b"x" * size)] == list(packets.packets(Packet(18, b"x" * size).framed()))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        PKESK.framed(),
        DATA.framed(),
        SKESK.framed() + DATA.framed(),
        PKESK.framed() + SKESK.framed() + DATA.framed(),
        PKESK.framed() + DATA.framed() + LITERAL.framed(),
        PKESK.framed() + DATA.framed() + DATA.framed(),
        PKESK.framed() + DATA.framed() + b"\n",
        DATA.framed() + PKESK.framed(),
        LITERAL.framed() + PKESK.framed() + DATA.framed(),
        PKESK.framed() + LITERAL.framed(),
        PKESK.framed() + Packet(9, DATA.body).framed(),
        Packet(10, b"PGP").framed() + PKESK.framed() + DATA.framed(),
        PKESK.framed() + DATA.framed()[:-1],
        bytes((0x80 | 1 << 2 | 3,)) + PKESK.body,
        in_chunks(Packet(1, PKESK.body + b"k" * 600)) + DATA.framed(),
        PKESK.framed() + in_chunks(DATA, 8),
    ],
    ids=[
        "nothing",
        "no data",
        "no session key",
        "password",
        "password beside key",
        "clear after",
        "two data packets",
        "newline after",
        "wrong order",
        "clear before",
        "not encrypted",
        "no integrity protection",
        "marker",
        "cut short",
        "indeterminate length",
        "partial session key",
        "first chunk too small",
    ],
)
def test_any_other_order_of_packets_is_refused(message: bytes) -> None:
    assert refused(message)


def test_256_session_keys_pass_and_one_more_is_refused() -> None:
    assert 256 == len(split(PKESK.framed() * 256 + DATA.framed()).session_keys)
    assert refused(PKESK.framed() * 257 + DATA.framed())


def test_more_than_a_mebibyte_of_session_keys_is_refused() -> None:
    assert refused(Packet(1, PKESK.body + b"x" * 1024 * 1024).framed() + DATA.framed())


def test_a_session_key_of_an_unknown_version_names_nobody() -> None:
    assert split(Packet(1, b"\x06" + PKESK.body[1:]).framed() + DATA.framed()).session_keys[0].key_id is None


@given(st.lists(st.tuples(st.integers(1, 63), st.binary(max_size=300))))
def test_packets_are_read_back_as_they_were_framed(contents: list[tuple[int, bytes]]) -> None:
    made = [Packet(tag, body) for tag, body in contents]
    assert made == list(packets.packets(b"".join(packet.framed() for packet in made)))


@given(st.binary(max_size=300))
def test_octets_at_random_are_refused_and_never_crash(octets: bytes) -> None:
    for message in (octets, PKESK.framed() + octets, b"\xd2" + octets):
        try:
            split(message)
        except BrokenEncryption:
            continue


def test_a_fingerprint_is_the_digest_of_the_framed_key() -> None:
    key = b"\x04\x60\x00\x00\x00\x16" + b"k" * 40
    expected = hashlib.sha1(b"\x99\x00\x2e" + key, usedforsecurity=False).hexdigest().upper()
    certificate = Packet(6, key).framed() + Packet(13, b"Anna").framed() + Packet(14, key + b"2").framed()
    assert expected == packets.fingerprints(certificate)[0]
    assert expected[24:] == packets.key_id(expected)


@pytest.mark.parametrize("version", [3, 5, 6])
def test_a_key_of_another_version_has_no_fingerprint_here(version: int) -> None:
    with pytest.raises(Malformed):
        packets.fingerprint(bytes((version,)) + b"key")


# --- armour


def slow_crc24(data: bytes) -> int:
    """RFC 9580, 6.1.1, word for word."""
    crc = 0xB704CE
    for octet in data:
        crc ^= octet << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF


def test_the_checksum_of_the_nine_digits_is_the_published_one() -> None:
    assert 0x21CF02 == armour.crc24(b"123456789")


@given(st.binary(max_size=600))
def test_the_fast_checksum_is_the_one_of_the_standard(data: bytes) -> None:
    assert slow_crc24(data) == armour.crc24(data)


@given(st.binary(max_size=300))
def test_armour_is_read_back_as_it_was_written(data: bytes) -> None:
    assert ("MESSAGE", data) == armour.decode(armour.encode(data))


def test_armour_begins_at_the_first_octet_and_bears_its_checksum() -> None:
    lines = armour.encode(b"x" * 99).split(b"\r\n")
    checksum = b"=" + base64.b64encode(slow_crc24(b"x" * 99).to_bytes(3, "big"))
    assert [b"-----BEGIN PGP MESSAGE-----", b"", checksum, b"-----END PGP MESSAGE-----", b""] == lines[:2] + lines[-3:]
    assert [64, 64, 4] == [len(line) for line in lines[2:-3]]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"\r\n", b"\n"),
        lambda text: b"\r\n \r\n" + text + b"\r\n\r\n",
        lambda text: text.replace(b"-----\r\n\r\n", b"-----\r\nVersion: X 1.0\r\nComment: a: b\r\n\r\n", 1),
        lambda text: text.replace(b"-----\r\n\r\n", b"----- \t\r\n \t\r\n", 1),
        lambda text: b"\r\n".join(line for line in text.split(b"\r\n") if not line.startswith(b"=")),
        lambda text: b"\r\n".join(b"=AAAA" if line.startswith(b"=") else line for line in text.split(b"\r\n")),
    ],
    ids=["LF", "blank lines around", "headers", "blanks at line ends", "no checksum", "wrong checksum"],
)
def test_armour_as_other_programs_write_it_is_read(change: object) -> None:
    assert callable(change)
    assert ("MESSAGE", b"hello") == armour.decode(change(armour.encode(b"hello")))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"Hello,\r\n" + text,
        lambda text: text + b"footer\r\n",
        lambda text: text + text,
        lambda text: text.replace(b"-----END PGP MESSAGE-----", b""),
        lambda text: text.replace(b"-----END PGP MESSAGE-----", b"-----END PGP SIGNATURE-----"),
        lambda text: text.replace(b"aGVsbG8=", b"aGVs!bG8="),
        lambda text: text.replace(b"-----\r\n\r\n", b"-----\r\n", 1),
        lambda text: b"\n" * 1_000_001 + text,
    ],
    ids=["text before", "text after", "two", "no end", "other end", "not base64", "no empty line", "too many lines"],
)
def test_armour_that_is_not_alone_or_not_whole_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(Malformed):
        armour.decode(change(armour.encode(b"hello")))
