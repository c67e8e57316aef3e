"""Bytes to text, whatever charset they claim, and text to safe text.

Owns the one place where bytes of a mail become characters; knows nothing of MIME or headers. Nothing here raises.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_IN_TEXT: Final = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160))) | dict.fromkeys(
    (0x0D, 0x85, 0x2028, 0x2029), "\n"
)
"""Control characters go, exotic line ends become line ends."""
_BLANK: Final = re.compile(r"\s+")
_UNSEEN: Final = dict.fromkeys((0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF))
"""Bidirectional controls and marks of no width: they let one name look like another (Unicode TR 36)."""

_SUPERSETS: Final = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
}
"""What programs really send under these labels (WHATWG Encoding, 4.2)."""
_OTHER_NAMES: Final = {"iso-8859-8-i": "iso8859-8", "iso-8859-8-e": "iso8859-8", "unicode-1-1-utf-7": "utf-7"}
_NOT_CHARSETS: Final = frozenset(
    {"idna", "punycode", "unicode-escape", "unicode_escape", "raw-unicode-escape", "raw_unicode_escape", "undefined"}
)
"""Python codecs that no mail program means; ``idna`` takes quadratic time."""


def decode(data: bytes, charset: str = "") -> str:
    """``data`` in ``charset``; where that is unknown or wrong, UTF-8, and at last Windows-1252."""
    for name in (_codec(charset), "utf-8"):
        if name:
            try:
                return _whole(data.decode(name))
            except (UnicodeError, LookupError, ValueError):
                continue
    return data.decode("cp1252", "replace")


def _codec(charset: str) -> str | None:
    label = charset.strip().strip("'\"").lower()
    try:
        name = codecs.lookup(_OTHER_NAMES.get(label, label)).name
    except (LookupError, ValueError, UnicodeError):
        return None
    if name in _NOT_CHARSETS:
        return None
    return "utf-8" if name == "ascii" else _SUPERSETS.get(name, name)


def _whole(text: str) -> str:
    """Without lone surrogates, which some codecs let through and no encoder takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """For a header, a name, a subject: no control, line or bidirectional character is left; blanks are single.

    To be called *after* decoding: Python 3.11.7 makes an injected header of an encoded line break (docs/security.md).
    """
    return _BLANK.sub(" ", _CONTROL.sub(" ", _whole(text).translate(_UNSEEN))).strip()


def lines(text: str) -> str:
    """For a body: ``\\n`` between lines, no control characters but tabs, no blank lines around it."""
    text = _whole(text).replace("\r\n", "\n").translate(_IN_TEXT).rstrip()
    return re.sub(r"\A(?:[ \t\xa0]*\n)+", "", text)
