"""Header fields: reading hostile ones, writing safe ones.

Reading never raises and is linear in the size of its input; what comes out holds no control or line characters.
Writing gives 7-bit lines of at most 76 octets. Knows nothing of the mail around the fields.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from email.utils import getaddresses
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from bridges.mail import charsets

Field = tuple[str, str]

_NAME: Final = re.compile(rb"[!-9;-~]+\Z")
_FOLD: Final = re.compile(r"\r?\n[ \t]*")
_WORD: Final = re.compile(r"=\?([^?\s*]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?]*)\?=")
_BETWEEN_WORDS: Final = re.compile(r"(\?=)\s+(?==\?[^?\s]+\?[bBqQ]\?)")
_PARAMETER: Final = re.compile(r'[; ] ?([^\s=;"]+) ?= ?("(?:[^"\\]|\\.)*"|[^;]*)')
_SECTION: Final = re.compile(r"([^*]+)(?:\*(\d{1,3}))?(\*)?\Z")
_ADDRESS: Final = re.compile(r"[^\s<>()\[\]\\,;:\"@]{1,64}@[^\s<>()\[\]\\,;:\"@]{1,255}")
_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*\Z")
_MOST_OF_A_LIST: Final = 8192
"""Characters of an address list that are looked at: Python's parser takes 0.8 s for 10,000 addresses."""

_LONGEST_NAME: Final = len("HP-Outer: Reply-To: ")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_block(block: bytes) -> list[Field]:
    """The fields of a header block, names in lower case, values unfolded but not decoded; other lines are left out."""
    found: list[tuple[str, list[bytes]]] = []
    for line in block.replace(b"\r\n", b"\n").split(b"\n"):
        name, colon, value = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            if found:
                found[-1][1].append(line)
        elif colon and _NAME.match(name.rstrip()):
            found.append((name.rstrip().decode("ascii").lower(), [value]))
    return [(name, _raw_text(b"\n".join(pieces))) for name, pieces in found]


def _raw_text(value: bytes) -> str:
    return _FOLD.sub(" ", charsets.decode(value)).strip()


def decode(value: str) -> str:
    """The text of a field with its encoded words (RFC 2047) read, also those in the wrong places."""
    value = _BETWEEN_WORDS.sub(r"\1", value)
    out: list[str] = []
    pending, charset, end = b"", "", 0
    for word in _WORD.finditer(value):
        data = _word_bytes(word[2], word[3])
        if word.start() == end and word[1].lower() == charset:
            pending += data  # A character may be split between two words, though it should not be.
        else:
            out += [charsets.decode(pending, charset), value[end : word.start()]]
            pending, charset = data, word[1].lower()
        end = word.end()
    out += [charsets.decode(pending, charset), value[end:]]
    return charsets.one_line("".join(out))


def _word_bytes(encoding: str, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(raw.replace(b" ", b"_"), header=True)
    return from_base64(raw)


def from_base64(raw: bytes) -> bytes:
    """Base64 as it comes: with blanks and lines in it, without its padding, cut short."""
    clean = re.sub(rb"[^A-Za-z0-9+/]", b"", raw)
    clean = clean[: len(clean) - 1] if len(clean) % 4 == 1 else clean
    return binascii.a2b_base64(clean + b"=" * (-len(clean) % 4))


def parameters(value: str) -> tuple[str, Mapping[str, str]]:
    """The main value in lower case, and the parameters (RFC 2045, 2231; encoded words in them are read, too).

    A semicolon that was forgotten between them is added.
    """
    value = re.sub(r"\s+", " ", value).strip()
    main = re.split("[; ]", value, maxsplit=1)[0]
    plain: dict[str, str] = {}
    sections: dict[str, list[tuple[int, bool, str]]] = {}
    for match in _PARAMETER.finditer(value, len(main)):
        name, text = match[1].lower(), _unquote(match[2].strip())
        section = _SECTION.match(name) if "*" in name else None
        if section:
            sections.setdefault(section[1], []).append((int(section[2] or 0), bool(section[3]), text))
        else:
            plain.setdefault(name, decode(text))
    # Programs that give both forms mean the plain one for all readers (Kopano; so does Delta Chat).
    joined = {name: _join(pieces) for name, pieces in sections.items()}
    return charsets.one_line(main).lower(), joined | plain


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _join(sections: Sequence[tuple[int, bool, str]]) -> str:
    """One value out of its sections (RFC 2231, 3 and 4); what lacks charset and language is read as it stands."""
    ordered = sorted(sections)
    charset = ""
    number, extended, text = ordered[0]
    if extended and text.count("'") >= 2:
        charset, _, text = text.split("'", 2)
        ordered[0] = (number, True, text)
    data = b"".join(
        unquote_to_bytes(text) if extended else text.encode("utf-8", "replace") for _, extended, text in ordered
    )
    return decode(charsets.decode(data, charset))


def addresses(values: Iterable[str]) -> tuple[str, ...]:
    """The bare addresses in these fields, lower-cased, no doubles, in order. Display names are never looked at."""
    text = [value[:_MOST_OF_A_LIST] for value in values]
    try:
        found = [address for _, address in getaddresses(text)]
    except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
        found = []
    whole = [address for address in found if _ADDRESS.fullmatch(address)]
    whole = whole or [match for value in text for match in _ADDRESS.findall(value)]
    return tuple(dict.fromkeys(charsets.one_line(address).lower() for address in whole))


# --- writing ---------------------------------------------------------------------------------------------------------


def text(value: str) -> str:
    """An unstructured value; encoded words where it is not plain ASCII or too long (RFC 2047, 2)."""
    value = charsets.one_line(value)
    if value.isascii() and len(value) <= 76 - _LONGEST_NAME and "=?" not in value:
        return value
    return _words(value)


def mailbox(name: str, address: str) -> str:
    """``"name" <address>`` (RFC 5322, 3.4)."""
    name = charsets.one_line(name)
    if _PLAIN.match(name) and len(name) <= 50 and "=?" not in name:
        return f'"{name}" <{address}>' if len(name) + len(address) <= 50 else f'"{name}"\r\n <{address}>'
    return f"{_words(name)}\r\n <{address}>"


def _words(value: str) -> str:
    """Encoded words that fit on a line behind a field's name, none of which cuts a character in two."""
    pieces, piece = [], b""
    for character in value:
        data = character.encode("utf-8", "replace")
        if len(piece) + len(data) > 30:
            pieces.append(piece)
            piece = b""
        piece += data
    pieces.append(piece)
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(piece).decode('ascii')}?=" for piece in pieces)


def parameter(name: str, value: str) -> str:
    """``; name="value"`` on a line of its own, in RFC 2231 sections where the value needs it."""
    value = charsets.one_line(value)
    if _PLAIN.match(value) and len(value) < 60 and "=?" not in value:
        return f';\r\n {name}="{value}"'
    encoded = re.findall(r"(?:%..|[^%]){1,17}", "utf-8''" + quote(value, safe=""))
    if len(encoded) == 1:
        return f";\r\n {name}*={encoded[0]}"
    return "".join(f";\r\n {name}*{number}*={piece}" for number, piece in enumerate(encoded))


def block(fields: Iterable[Field]) -> bytes:
    """The header block with its blank line. The last gate: a value that would begin another field is refused.

    Raises ValueError, which no input can cause: every value was cleaned before.
    """
    out = []
    for name, value in fields:
        if re.search(r"[\r\n]", value.replace("\r\n ", "")) or not value.isascii():
            raise ValueError(f"{name} would inject a header field")
        out.append(f"{name}: {value}".rstrip() + "\r\n")
    return ("".join(out) + "\r\n").encode("ascii")
