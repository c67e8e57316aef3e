"""When mail that comes back means that an address does not work any more."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Final

WITHIN: Final = timedelta(days=7)
"""How far back bounces count."""
SOFT_FOR_HARD: Final = 3
"""So many soft bounces weigh as much as a hard one: a mailbox may be full for a day."""
_DEAD: Final = re.compile(r"5\.(1\.[0-6]|1\.10|2\.1|4\.4|4\.1)\Z|5\.0\.0\Z")
"""RFC 3463: bad mailbox or system address, moved, null MX (RFC 7505), mailbox disabled, no route; ``5.0.0`` says
no more than "for good". Not among them: policy (5.7.x), size and full mailboxes, which say nothing of the address."""


class BounceKind(StrEnum):
    """What came back. ``delayed`` says only that it takes long."""

    HARD = "hard"
    SOFT = "soft"
    DELAYED = "delayed"


def kind(status: str) -> BounceKind:
    """Of a delivery that failed for good with this status (RFC 3463): hard if the address itself is bad."""
    return BounceKind.HARD if _DEAD.match(status) else BounceKind.SOFT


def too_many(hard: int, soft: int, limit: int) -> bool:
    """Whether an address with so many bounces within ``WITHIN`` gets nothing more. ``limit`` counts hard ones."""
    return hard + soft / SOFT_FOR_HARD >= limit
