"""What a command that works on the bridge's data needs: the configuration, the database, the time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from bot import config, parts
from bot.cli.command import Call
from bot.clock import SystemClock
from bot.config import Config

if TYPE_CHECKING:
    from storage.database import Database


def settings(call: Call) -> Config:
    """Raises ConfigurationWrong."""
    return config.load(call.config_path(), call.environ)


@asynccontextmanager
async def database(call: Call) -> AsyncIterator[Database]:
    """Raises ConfigurationWrong, SchemaOutdated, SchemaTooNew, StoreAway."""
    async with parts.open_database(settings(call)) as opened:
        yield opened


def now() -> datetime:
    return SystemClock().now()
