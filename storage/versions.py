"""Which version of the schema a database has, and how it gets the newest: Alembic, run by the program itself.

The revisions lie in ``storage/migrations`` and travel in the wheel; no ``alembic.ini`` is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

FOLDER: Final = Path(__file__).parent / "migrations"


def newest() -> str:
    """The revision this program is written for."""
    head = _scripts().get_current_head()
    if head is None:
        raise LookupError("the package holds no migrations")
    return head


def is_known(revision: str) -> bool:
    return any(script.revision == revision for script in _scripts().walk_revisions())


def found(connection: Connection) -> str | None:
    """The revision of this database; None if it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection) -> None:
    """Run what is missing, in the transaction of ``connection``."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    # "%" would be taken for interpolation by the parser behind Config.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
