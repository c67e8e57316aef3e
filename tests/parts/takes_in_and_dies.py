"""A bridge that is killed between the receipt of an event and its handling: ``python -m`` this module.

It is the product's own bridge with its workers not started: it syncs until an event is stored, claims it as a worker
would, and then ends as in a crash, by SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from bot import config, parts
from bot.app import Bridge
from bot.phrases import Phrases
from bridges.arrivals import LEASE
from bridges.mail.door import SmtpMailDoor
from bridges.matrix.session import Session


async def take_in(path: Path) -> None:
    settings = config.load(path)
    async with parts.open_database(settings) as database:
        session = await Session.resume(parts.matrix_settings(settings), database)
        mail = SmtpMailDoor(
            parts.relay(settings),
            returns=parts.returns(settings),
            phrases=Phrases.load(),
            limits=parts.letter_limits(settings),
        )
        bridge = Bridge(settings, database, session, mail)
        claimed = None
        while claimed is None:
            await bridge.sync.round()
            async with database.transaction() as tx:
                claimed = await tx.events.claim(datetime.now(UTC), lease=LEASE)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(take_in(Path(sys.argv[1])))
