"""The kinds of values a configuration holds: how they are written, and what makes them right.

Owns spans of time, names and the rule that nothing crosses a network unprotected. Knows no key.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta

UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1), "s": timedelta(seconds=1)}
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*")
MATRIX_ID = re.compile(r"@[a-z0-9._=/+-]+:[A-Za-z0-9.\[\]:-]+")


def duration(value: object) -> object:
    """``30s``, ``5m``, ``12h``, ``7d`` as a timedelta."""
    if isinstance(value, timedelta):
        return value
    found = re.fullmatch(r"(\d{1,6})([smhd])", value) if isinstance(value, str) else None
    if not found:
        raise ValueError("must be a number and a unit: s, m, h or d")
    return int(found[1]) * UNITS[found[2]]


def in_units(span: timedelta) -> str:
    """A timedelta as it is written in the file: ``timedelta(minutes=5)`` is ``5m``."""
    unit = next((unit for unit, size in UNITS.items() if span % size == timedelta(0) and span >= size), "s")
    return f"{span // UNITS[unit]}{unit}"


def is_this_machine(host: str) -> bool:
    """Whether ``host`` is a loopback address or ``localhost``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def needs_protection(what: str, host: str, protected: bool, allowed: bool) -> None:
    """Raises ValueError unless ``host`` is this machine, or the way there is protected, or the operator allowed it."""
    if not protected and not allowed and not is_this_machine(host):
        raise ValueError(
            f"{what} without TLS. Set up TLS, or write allow_unencrypted: true if the way there is protected otherwise"
        )
