"""MIME as raw slices: a tree of parts cut out of the bytes under limits that hold before anything is parsed.

No generator and no feed parser: a slice keeps its bytes, takes linear time, and raises nothing but ``Unreadable``.
What is inside a ``message/rfc822`` stays a leaf. Knows nothing of encryption or of what a person should see.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from bridges.mail import charsets, fields

MAX_HEADERS: Final = 64 * 1024
"""Octets of one header block."""
MAX_ALL_HEADERS: Final = 512 * 1024
"""Octets of all header blocks of a mail together."""
MAX_PARTS: Final = 200
MAX_DEPTH: Final = 20

_BLANK_LINE: Final = re.compile(rb"(?:\A|\r?\n)\r?\n")
_REST_OF_LINE: Final = re.compile(rb"[ \t]{0,100}(?:\r?\n|\Z)")
_FIRST_FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:")


class Unreadable(Exception):
    """Beyond the limits of this module."""


@dataclass(frozen=True, slots=True)
class Part:
    """One node of the tree. ``children`` is empty for everything but a ``multipart`` with at least one delimiter."""

    headers: tuple[fields.Field, ...] = field(repr=False)
    body: bytes = field(repr=False)
    """As on the wire, not decoded."""
    media_type: str
    parameters: Mapping[str, str] = field(repr=False)
    children: tuple[Part, ...] = field(default=(), repr=False)

    def all(self, name: str) -> tuple[str, ...]:
        """The values of every field of this name, unfolded, not decoded."""
        return tuple(value for each, value in self.headers if each == name)

    def first(self, name: str) -> str:
        """The value of the first field of this name, or an empty string."""
        return next(iter(self.all(name)), "")

    @property
    def disposition(self) -> str:
        return fields.parameters(self.first("content-disposition"))[0]

    @property
    def filename(self) -> str:
        """As the sender wrote it, decoded: not a safe name. Empty if there is none."""
        given = fields.parameters(self.first("content-disposition"))[1].get("filename", "")
        return given or self.parameters.get("name", "")

    def decoded(self) -> bytes:
        """The content without its transfer encoding; what is damaged is read as far as it goes."""
        encoding = fields.parameters(self.first("content-transfer-encoding"))[0]
        if encoding == "base64":
            return fields.from_base64(self.body)
        if encoding == "quoted-printable":
            return binascii.a2b_qp(self.body)
        return self.body

    def text(self) -> str:
        """The content as characters, lines and blanks as they came."""
        return charsets.decode(self.decoded(), self.parameters.get("charset", ""))

    def walk(self) -> Iterator[Part]:
        """This part and all below it, in the order of the mail."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(slots=True)
class _Budget:
    parts: int = MAX_PARTS
    header_octets: int = MAX_ALL_HEADERS

    def spend(self, headers: bytes) -> None:
        self.parts -= 1
        self.header_octets -= len(headers)
        if self.parts < 0 or self.header_octets < 0 or len(headers) > MAX_HEADERS:
            raise Unreadable


def read(entity: bytes) -> Part:
    """The tree of a mail or a MIME entity. Raises Unreadable beyond the limits above, and for nothing else."""
    return _read(entity, _Budget(), depth=0, default="text/plain")


def head_of(entity: bytes) -> tuple[tuple[fields.Field, ...], bytes]:
    """The header fields, and the bytes behind the blank line. Raises Unreadable for more than 64 KiB of headers."""
    headers, body = _cut(entity)
    if len(headers) > MAX_HEADERS:
        raise Unreadable
    return tuple(fields.read_block(headers)), body


def _cut(entity: bytes) -> tuple[bytes, bytes]:
    if entity.startswith((b"From ", b">From ")):  # the mark that an mbox file puts before a mail
        entity = entity.partition(b"\n")[2]
    blank = _BLANK_LINE.search(entity)
    if blank and (blank.start() == 0 or _FIRST_FIELD.match(entity)):
        return entity[: blank.start()], entity[blank.end() :]
    if _FIRST_FIELD.match(entity):
        return entity, b""
    return b"", entity


def _read(entity: bytes, budget: _Budget, *, depth: int, default: str) -> Part:
    if depth > MAX_DEPTH:
        raise Unreadable
    block, body = _cut(entity)
    budget.spend(block)
    headers = tuple(fields.read_block(block))
    declared = next((value for name, value in headers if name == "content-type"), default)
    media_type, parameters = fields.parameters(declared)
    media_type = media_type if "/" in media_type else default
    children: tuple[Part, ...] = ()
    if media_type.startswith("multipart/"):
        below = "message/rfc822" if media_type == "multipart/digest" else "text/plain"
        children = tuple(
            _read(piece, budget, depth=depth + 1, default=below)
            for piece in _pieces(body, parameters.get("boundary", ""))
        )
    return Part(headers, body, media_type, parameters, children)


def _pieces(body: bytes, boundary: str) -> list[bytes]:
    """What stands between the delimiters (RFC 2046, 5.1.1), the last one also if its end is missing."""
    if not boundary:
        return []
    pieces: list[bytes] = []
    start: int | None = None
    for before, after, last in _delimiters(body, b"--" + boundary.encode("utf-8", "replace")):
        if start is not None:
            pieces.append(body[start:before])
        start = None if last else after
        if last:
            break
        if len(pieces) > MAX_PARTS:
            raise Unreadable
    if start is not None:
        pieces.append(body[start:])
    return pieces


def _delimiters(body: bytes, mark: bytes) -> Iterator[tuple[int, int, bool]]:
    """Each line that is ``mark``: where the text before it ends, where the text after it begins, if it is the last.

    By ``find``, which is an order of magnitude faster than a regular expression on the lines of a large mail.
    """
    at = body.find(mark)
    while at >= 0:
        end = at + len(mark)
        last = body.startswith(b"--", end)
        tail = _REST_OF_LINE.match(body, end + 2 * last)
        if tail and (at == 0 or body[at - 1] == 0x0A):
            before = at - 2 if body[max(at - 2, 0) : at] == b"\r\n" else max(at - 1, 0)
            yield before, tail.end(), last
        at = body.find(mark, end)
