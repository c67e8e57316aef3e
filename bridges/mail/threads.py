"""Message-IDs: reading those that others made, broken ones too, and writing chains of them (RFC 5322, 3.6.4).

Here a Message-ID is always written without its angle brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MOST: Final = 50
"""Message-IDs that are kept of one chain."""
LONGEST: Final = 250
_LOOKED_AT: Final = 32768

_BRACKETED: Final = re.compile(r"<([^<>]{1,998})>")
_USABLE: Final = re.compile(r"[!-;=?-~]+\Z")


def read_ids(value: str) -> tuple[str, ...]:
    """The Message-IDs of one field, in order, no doubles.

    Some programs fold inside an id, put comments beside it, or leave the brackets away.
    """
    value = value[:_LOOKED_AT]
    found = _BRACKETED.findall(value) or [word for word in re.split(r"[\s,;]+", value) if "@" in word]
    ids = (re.sub(r"\s+", "", each) for each in found)
    return tuple(dict.fromkeys(each for each in ids if len(each) <= LONGEST and _USABLE.match(each)))


def answered(in_reply_to: Iterable[str], references: Iterable[str]) -> tuple[str, ...]:
    """What a mail answers, nearest first: In-Reply-To, then References from last to first; no doubles, at most 50."""
    direct = [each for value in in_reply_to for each in read_ids(value)]
    chain = [each for value in references for each in read_ids(value)]
    return tuple(dict.fromkeys([*direct, *reversed(chain)]))[:MOST]


def chain(references: Iterable[str]) -> tuple[str, ...]:
    """A References chain, oldest first, that is safe to write: the first (root) and the last ones stay."""
    known = tuple(dict.fromkeys(each for each in references if len(each) <= LONGEST and _USABLE.match(each)))
    return known if len(known) <= MOST else (known[0], *known[1 - MOST :])


def written(ids: Iterable[str]) -> str:
    """The value of a References or In-Reply-To field: one id to a line."""
    return "\r\n ".join(f"<{each}>" for each in ids)
