"""A wall around a process: connections to loopback and unix sockets only, and no names looked up."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class OutsideWorld(RuntimeError):
    """Something wanted to leave the machine. Not an ``OSError``, so that nobody takes it for a network fault."""


@contextmanager
def loopback_only() -> Iterator[None]:
    """Within, whoever connects or looks up anything but loopback gets OutsideWorld."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", _guarded_lookup(socket.getaddrinfo))
        yield


def _guarded(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            raise OutsideWorld(f"A test tried to connect to {address[0]}: only loopback is open.")
        return connect(self, address)

    return guarded


def _guarded_lookup(lookup: Any) -> Any:
    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and not _is_here(name):
            raise OutsideWorld(f"A test tried to look up {name}: only loopback is open.")
        return lookup(host, *args, **kwargs)

    return guarded


def _is_here(host: str) -> bool:
    if host in ("localhost", "", "::", "0.0.0.0"):  # noqa: S104 - compared, not bound
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
