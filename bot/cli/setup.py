"""``secir init`` and ``secir db``: a new bridge's files, the database's schema, and a backup that was put back."""

from __future__ import annotations

import os
import secrets
import shlex
from pathlib import Path
from typing import Final

from bot import config, config_text, parts
from bot.cli import desk
from bot.cli.command import Call
from bot.config import Config
from bot.config_file import KeyPath
from bot.credentials import SECRET_KEY
from storage.database import Database
from storage.records import QueueKind
from trust.errors import AlreadyThere, BadValue, SecretUnreadable

KEYS: Final[dict[str, KeyPath]] = {
    "--homeserver": ("matrix", "homeserver"),
    "--user": ("matrix", "user_id"),
    "--domain": ("mail", "domain"),
    "--data-dir": ("data_dir",),
    "--database": ("database", "url"),
    "--relay-host": ("mail", "relay", "host"),
    "--relay-port": ("mail", "relay", "port"),
    "--relay-tls": ("mail", "relay", "tls"),
}
"""Which key each option writes."""
QUESTIONS: Final = {
    "--homeserver": "Address of the homeserver, such as https://matrix.example.org",
    "--user": "Matrix id of the bot's own account, such as @secir:example.org",
    "--domain": "Domain of the list addresses, such as lists.example.org",
}
ANY_KEY: Final = "0" * 64
"""In place of the secret key while the answers are checked: nothing is made before they are right."""


async def init(call: Call) -> None:
    path = call.config_path()
    if path.exists():
        _refuse_options(call, path)
        call.console.say(f"Kept     {path}")
    else:
        _write_config(call, path)
        call.console.say(f"Written  {path}")
    _make_secret_key(call, path)
    settings = config.load(path, call.environ)
    _make_folder(settings.data_dir)
    with call.console.step("Setting up the database"):
        await _upgraded(settings)
    call.console.say(f"Ready    {settings.data_dir} (folder for all that the bridge keeps)")
    call.console.say("", *_next_steps(call, path))


def _refuse_options(call: Call, path: Path) -> None:
    """Options that would be ignored must not look as if they had been heard."""
    if any(getattr(call.words, _attribute(option)) is not None for option in KEYS):
        raise AlreadyThere(what=f"The configuration {path}")


def _attribute(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _write_config(call: Call, path: Path) -> None:
    """Checked under another name before it gets its own. Raises ConfigurationWrong, BadValue."""
    text = config_text.as_yaml({key: value for option in KEYS for key, value in _answer(call, option)})
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        draft.write_text(text, "utf-8")
        config.load(draft, {**call.environ, SECRET_KEY.variable: ANY_KEY})
        draft.rename(path)
    except OSError as error:
        raise BadValue(what=f"The place of the configuration ({path})", example="--config secir.yaml") from error
    finally:
        draft.unlink(missing_ok=True)


def _answer(call: Call, option: str) -> list[tuple[KeyPath, object]]:
    given: str | None = getattr(call.words, _attribute(option))
    if given is None and option in QUESTIONS:
        given = call.console.ask(option, QUESTIONS[option])
    if given is None:
        return []
    number = option == "--relay-port" and given.isdecimal()
    return [(KEYS[option], int(given) if number else given)]


def _make_secret_key(call: Call, path: Path) -> None:
    """A new one only where nothing was sealed with another. Raises SecretUnreadable, BadValue."""
    if call.environ.get(SECRET_KEY.variable):
        return
    peek = config.load(path, {**call.environ, SECRET_KEY.variable: ANY_KEY})
    if peek.secret_key_file.exists():
        call.console.say(f"Kept     {peek.secret_key_file}")
        return
    if parts.sqlite_file(peek).exists() or parts.gnupg_directory(peek).exists():
        raise SecretUnreadable(name=str(peek.data_dir))
    try:
        peek.secret_key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(peek.secret_key_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise BadValue(
            what=f"secret_key_file ({peek.secret_key_file})", example="secret_key_file: secret.key"
        ) from error
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    call.console.say(f"Written  {peek.secret_key_file}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise BadValue(what=f"data_dir ({folder})", example="data_dir: /var/lib/secir") from error


def _next_steps(call: Call, path: Path) -> list[str]:
    named = "" if call.words.config is None else f" --config {shlex.quote(str(path))}"
    return [
        "Next:",
        "  1. Copy the secret key to a safe place, apart from your backups: without it nothing can be opened.",
        f"  2. secir{named} identity create    makes the bot's Matrix identity (the account must be there)",
        f"  3. secir{named} group create NAME --address NAME@DOMAIN",
        f"  4. secir{named} check              says what is still to be mended",
        f"  5. secir{named} run",
    ]


async def upgrade(call: Call) -> None:
    settings = desk.settings(call)
    with call.console.step("Upgrading the database"):
        await _upgraded(settings)
    call.console.say("The database is of this program's version.")


async def restored(call: Call) -> None:
    """All in one transaction, and without the homeserver, which may be away. Raises AnotherInstance."""
    settings = desk.settings(call)
    account = settings.matrix.user_id
    with parts.alone(settings):
        async with desk.database(call) as database:
            await database.hold()
            async with database.transaction() as tx:
                held = await tx.queue.hold_all(desk.now())
                # Both forgotten: the sync begins from now, and the witness takes the homeserver's count.
                await tx.events.forget_position(account)
                await tx.witness.forget(account)
    mails, events, deliveries = held[QueueKind.MAIL], held[QueueKind.EVENT], held[QueueKind.DELIVERY]
    call.console.say(
        "The backup is safe to start: nothing of what waited in it is sent by itself.",
        f"Deliveries that are held       {deliveries}",
        f"Mails that are set aside       {mails}",
        f"Messages of rooms passed over  {events}, and all that was written there since the backup",
        "",
        "Next:",
        "  secir queue list              what was held; each may have been delivered after the backup was made",
        "  secir queue retry NAME        sends it now; --all sends everything",
        "  secir queue drop NAME         forgets it",
        "  secir run",
    )


async def _upgraded(settings: Config) -> None:
    database: Database = parts.database(settings)
    try:
        await database.upgrade()
    finally:
        await database.close()
