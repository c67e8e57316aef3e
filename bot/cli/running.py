"""``secir run`` and ``secir health``: the bridge itself, and the sign that it lives."""

from __future__ import annotations

import time
from typing import Final

from bot import log, parts
from bot.cli import desk
from bot.cli.command import FAULT, Call

HEARTBEAT_LIMIT: Final = 90.0
"""Seconds after which a heartbeat file counts as old: three beats of the running bridge."""


async def run(call: Call) -> None:
    settings = desk.settings(call)
    log.set_up(level=settings.log.level, form=settings.log.format)
    # Imported only here: no other command should wait for every library of the bridge.
    from bot.app import run as run_bridge  # noqa: PLC0415

    await run_bridge(settings)


async def health(call: Call) -> int:
    heartbeat = parts.heartbeat_file(desk.settings(call))
    try:
        age = time.time() - heartbeat.stat().st_mtime
    except OSError:
        call.console.say("The bridge does not run: there is no heartbeat.")
        return FAULT
    if age > HEARTBEAT_LIMIT:
        call.console.say(f"The bridge does not live: its last heartbeat was {age:.0f} s ago.")
        return FAULT
    call.console.say("The bridge lives.")
    return 0
