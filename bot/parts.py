"""The real parts, made as the configuration says: the same for the command line and for the running bridge.

Owns where things lie below ``data_dir`` and what is derived from the secret key. Starts nothing. The libraries behind
a part are loaded when it is made, so that a command that needs one part does not wait for all.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit, urlunsplit

from bot.config import Config
from trust.errors import AnotherInstance, BadValue

if TYPE_CHECKING:
    from bridges.mail.incoming import ListenerSettings
    from bridges.mail.letters import LetterLimits
    from bridges.mail.outgoing import Relay
    from bridges.mail.returns import ReturnPaths
    from bridges.matrix.session import MatrixSettings
    from bridges.openpgp.safe import GnuPGSafe
    from storage.database import Database

PICKLE_KEY: Final = "secir/matrix-pickle"
LIST_KEY: Final = "secir/list-key/"
RETURNS_KEY: Final = "secir/returns"
MEGABYTE: Final = 1024 * 1024


def derive(secret: bytes, info: str) -> bytes:
    """32 bytes for one purpose, by HKDF-SHA256 without salt (RFC 5869); one block is all that 32 bytes need."""
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), secret, "sha256")
    return hmac.digest(extracted, info.encode() + b"\x01", "sha256")


# --- places ----------------------------------------------------------------------------------------------------------


def sqlite_file(config: Config) -> Path:
    return config.data_dir / "secir.db"


def gnupg_directory(config: Config) -> Path:
    return config.data_dir / "gnupg"


def matrix_directory(config: Config) -> Path:
    return config.data_dir / "matrix"


def heartbeat_file(config: Config) -> Path:
    """Touched by the running bridge again and again; its age tells whether the bridge lives."""
    return config.data_dir / "heartbeat"


@contextmanager
def alone(config: Config) -> Iterator[None]:
    """Hold data_dir for this process: two with one Matrix account would ruin each other. Raises AnotherInstance."""
    path = config.data_dir / "lock"
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise BadValue(what=f"The folder {config.data_dir}", example="secir init") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise AnotherInstance(path=str(config.data_dir)) from error
    finally:
        os.close(handle)


def is_running(config: Config) -> bool:
    """Whether a bridge works on data_dir now."""
    try:
        with alone(config):
            return False
    except AnotherInstance:
        return True


# --- parts -----------------------------------------------------------------------------------------------------------


def database_url(config: Config) -> str:
    """The URL with the password in it: never to be shown."""
    if config.database.url is None:
        return f"sqlite:///{sqlite_file(config).absolute()}"
    parts, password = urlsplit(config.database.url), config.credentials.database_password
    if password is None:
        return config.database.url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def database(config: Config) -> Database:
    """Not opened yet."""
    from storage.database import Database

    return Database(database_url(config), config.credentials.secret_key)


@asynccontextmanager
async def open_database(config: Config) -> AsyncIterator[Database]:
    """Opened, and closed in the end. Raises SchemaOutdated, SchemaTooNew, StoreAway."""
    opened = database(config)
    try:
        await opened.open()
        yield opened
    finally:
        await opened.close()


def safe(config: Config) -> GnuPGSafe:
    from bridges.openpgp.safe import GnuPGSafe

    secret = config.credentials.secret_key
    return GnuPGSafe(gnupg_directory(config), lambda address: derive(secret, LIST_KEY + address).hex())


@asynccontextmanager
async def open_safe(config: Config) -> AsyncIterator[GnuPGSafe]:
    """Its agents are stopped in the end, unless a running bridge needs them."""
    opened = safe(config)
    try:
        yield opened
    finally:
        if not is_running(config):
            await opened.close()


def matrix_settings(config: Config) -> MatrixSettings:
    from bridges.matrix.session import MatrixSettings

    return MatrixSettings(
        homeserver=config.matrix.homeserver,
        user_id=config.matrix.user_id,
        store_dir=matrix_directory(config),
        pickle_key=derive(config.credentials.secret_key, PICKLE_KEY).hex(),
        device_name=config.matrix.device_name,
    )


def relay(config: Config) -> Relay:
    from bridges.mail.outgoing import Relay, RelaySettings

    given = config.mail.relay
    return Relay(
        RelaySettings(
            host=given.host,
            port=given.port,
            tls=given.tls,
            hostname=config.mail.hostname or config.mail.domain,
            username=given.username,
            password=config.credentials.smtp_password,
            timeout=given.timeout.total_seconds(),
            connections=given.connections,
            authorities=str(given.authorities_file) if given.authorities_file else None,
        )
    )


def returns(config: Config) -> ReturnPaths:
    from bridges.mail.returns import ReturnPaths

    return ReturnPaths(derive(config.credentials.secret_key, RETURNS_KEY))


def room_check(config: Config) -> Callable[[], bool]:
    """Whether the disk of data_dir has room for mail. One that can't be asked has none."""

    def has_room() -> bool:
        try:
            return shutil.disk_usage(config.data_dir).free >= config.limits.min_free_mb * MEGABYTE
        except OSError:
            return False

    return has_room


def letter_limits(config: Config) -> LetterLimits:
    from bridges.mail.letters import LetterLimits

    return LetterLimits(attachments=config.limits.max_attachments, attachment_mb=config.limits.max_attachment_mb)


def listener_settings(config: Config) -> list[ListenerSettings]:
    """Raises BadValue if a certificate and its key do not fit."""
    from bridges.mail.incoming import ListenerSettings

    return [
        ListenerSettings(
            protocol=given.protocol,
            host=given.host,
            port=given.port,
            hostname=config.mail.hostname or config.mail.domain,
            max_mb=config.mail.max_message_mb,
            tls=_tls(given.tls_certificate_file, given.tls_key_file),
            allow_unencrypted=given.allow_unencrypted,
        )
        for given in config.mail.listeners
    ]


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        what = f"The pair of tls_certificate_file and tls_key_file ({certificate})"
        raise BadValue(what=what, example="tls_certificate_file: tls/fullchain.pem") from error
    return context
