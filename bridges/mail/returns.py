"""The addresses to which what can't be delivered comes back: one for each delivery (VERP), and not to be guessed.

``GROUP-bounce+DELIVERY-MAC@domain``. The MAC binds the delivery to its post, so that nobody can make a member's address
look dead who did not have that member's mail in hand. Knows nothing of what comes back.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from trust.records import DeliveryId, Group

LONGEST_LOCAL_PART: Final = 64
"""Octets (RFC 5321, 4.5.3.1.1)."""
_MAC_LENGTH: Final = 16
"""Base32 characters, 80 bits: each guess costs a recipient refused in the dialogue."""
_NAME: Final = r"[^@\s]+"
_WRITTEN: Final = re.compile(
    rf"(?P<name>{_NAME})-bounce\+(?P<delivery>[1-9][0-9]{{0,17}})-(?P<mac>[a-z2-7]{{{_MAC_LENGTH}}})@(?P<domain>{_NAME})"
)


@dataclass(frozen=True, slots=True)
class Returned:
    """What a return address says; whether it is one of ours only ``is_genuine`` tells."""

    group_address: str
    delivery: DeliveryId
    mac: str = field(repr=False)


class ReturnPaths:
    """Writes and reads return addresses, with a key of their own."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def address(self, group: Group, delivery: DeliveryId, reference: str) -> str:
        """The envelope sender of a delivery of the post ``reference``.

        A list whose name leaves no room for it gets the list's own address: bounces are refused there, and not counted.
        """
        name, _, domain = group.address.partition("@")
        local_part = f"{name}-bounce+{delivery}-{self._mac(delivery, reference)}"
        return f"{local_part}@{domain}" if len(local_part) <= LONGEST_LOCAL_PART else group.address

    def read(self, address: str) -> Returned | None:
        """None for an address that is not of this form. Upper or lower case does not matter."""
        written = _WRITTEN.fullmatch(address.lower())
        if written is None:
            return None
        group = f"{written['name']}@{written['domain']}"
        return Returned(group, DeliveryId(int(written["delivery"])), written["mac"])

    def is_genuine(self, returned: Returned, reference: str) -> bool:
        """Whether we wrote it for this delivery of the post ``reference``."""
        return hmac.compare_digest(returned.mac.encode(), self._mac(returned.delivery, reference).encode())

    def _mac(self, delivery: DeliveryId, reference: str) -> str:
        digest = hmac.digest(self._key, f"{delivery}/{reference}".encode(), "sha256")
        return base64.b32encode(digest).decode("ascii").lower()[:_MAC_LENGTH]
