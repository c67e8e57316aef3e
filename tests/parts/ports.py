"""Free ports on loopback."""

from __future__ import annotations

import random
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
BELOW_EPHEMERAL: Final = (20_000, 32_000)
"""Under Linux's ephemeral range (32768 up): no outgoing connection takes a port between asking and listening."""

_given: set[int] = set()


def free_port() -> int:
    """A TCP port nobody listens on now, and that this process has not given away before."""
    for _ in range(1000):
        port = random.randint(*BELOW_EPHEMERAL)  # noqa: S311 - not a secret
        if port not in _given and not _in_use(port):
            _given.add(port)
            return port
    raise RuntimeError(f"No free port on {LOOPBACK} between {BELOW_EPHEMERAL[0]} and {BELOW_EPHEMERAL[1]}.")


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def is_listening(port: int) -> bool:
    """Whether something accepts connections on ``port`` now."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
