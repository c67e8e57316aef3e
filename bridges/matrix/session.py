"""The bot's login: one device, its access token, its Olm machine and the store of its keys.

Owns the login (kept sealed in the database), the files of the key store and their permissions, and the publishing of
our own device's keys. Knows nothing of rooms, of other people, or of the sync.
Source: Matrix Client-Server API, "Login" and module "End-to-end encryption", "Uploading keys".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from nio.store import SqliteStore
from peewee import PeeweeException  # type: ignore[import-untyped]

from bridges.matrix.api import Api
from bridges.matrix.olm import HardenedOlm
from storage.database import Database
from trust.errors import (
    ConfigurationWrong,
    DeviceKeysDiffer,
    HomeserverAway,
    HomeserverRefused,
    IdentityMissing,
    SecretUnreadable,
)

log = structlog.get_logger()

LOGIN: Final = "matrix/login"
"""The name of the secret that holds user id, device id and access token, as JSON."""
STORE_SECRET: Final = "matrix/olm-store"  # noqa: S105 - a name for the operator, not a secret
PICKLE_KEY_DIGITS: Final = 64
COLLISIONS: Final = 20
"""How often one-time keys that the server has already are skipped before we give up: 50 keys each time."""


@dataclass(frozen=True, slots=True)
class MatrixSettings:
    """Where and as whom to log in. ``pickle_key`` seals the key store: 64 hexadecimal digits, never a default."""

    homeserver: str
    user_id: str
    store_dir: Path
    pickle_key: str = field(repr=False)
    device_name: str = "SECIR"


@dataclass(frozen=True, slots=True)
class _Login:
    user_id: str
    device_id: str
    access_token: str = field(repr=False)

    def pack(self) -> bytes:
        fields = {"user_id": self.user_id, "device_id": self.device_id, "access_token": self.access_token}
        return json.dumps(fields).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> _Login:
        """Raises SecretUnreadable."""
        try:
            written = json.loads(packed)
            return cls(written["user_id"], written["device_id"], written["access_token"])
        except (ValueError, KeyError, TypeError) as error:
            raise SecretUnreadable(name=LOGIN) from error


class Session:
    """A device that is logged in and can encrypt. Make it by ``log_in`` or ``resume``."""

    def __init__(self, api: Api, olm: HardenedOlm) -> None:
        self.api = api
        self.olm = olm
        self.user_id = api.user_id
        self.device_id = api.device_id

    @classmethod
    async def log_in(cls, settings: MatrixSettings, database: Database, password: str) -> Session:
        """Log in as a new device and keep the login. An older device of ours stays logged in on the server.

        Raises ConfigurationWrong (no pickle key), HomeserverRefused (M_FORBIDDEN: wrong password), HomeserverFault.
        """
        _require_pickle_key(settings)
        api = Api(settings.homeserver)
        try:
            login = await _ask_for_login(api, settings, password)
        finally:
            await api.close()
        # Before the keys are made: a login without a key store is noticed at the next start, the reverse is not.
        async with database.transaction() as tx:
            await tx.secrets.put(LOGIN, login.pack())
        log.info("matrix.logged_in", user=login.user_id, device=login.device_id)
        return cls._open(settings, login, new=True)

    @classmethod
    async def resume(cls, settings: MatrixSettings, database: Database) -> Session:
        """Go on as the device that logged in before. No request is made.

        Raises IdentityMissing if there is no login, DeviceKeysDiffer if its key store is gone, SecretUnreadable if the
        store is damaged or was sealed with another key, ConfigurationWrong.
        """
        _require_pickle_key(settings)
        async with database.transaction() as tx:
            packed = await tx.secrets.get(LOGIN)
        if packed is None:
            raise IdentityMissing
        return cls._open(settings, _Login.unpack(packed), new=False)

    @classmethod
    def _open(cls, settings: MatrixSettings, login: _Login, *, new: bool) -> Session:
        olm = open_store(settings, login.user_id, login.device_id, new=new)
        api = Api(
            settings.homeserver,
            user_id=login.user_id,
            device_id=login.device_id,
            access_token=login.access_token,
        )
        return cls(api, olm)

    async def publish_keys(self) -> None:
        """At every start: see to it that the server shows our device's keys, and has one-time keys to give away.

        Raises DeviceKeysDiffer if it shows other keys than ours: they must never be overwritten, and nobody would
        believe ours any more. Raises HomeserverFault.
        """
        answer = await self.api.request("POST", "keys", "query", body={"device_keys": {self.user_id: []}})
        shown = _at(answer, "device_keys", self.user_id, self.device_id, "keys")
        if shown and not self._are_ours(shown):
            raise DeviceKeysDiffer
        if not shown and self.olm.account.shared:
            # A logout makes a server forget the keys, and a later login with the same device does not bring them back.
            log.warning("matrix.own_keys_missing", device=self.device_id)
            self.olm.publish_again()
        await self.upload_keys()

    async def upload_keys(self) -> None:
        """Upload what the server lacks of our keys, as far as is known; nothing if it lacks nothing.

        Raises HomeserverFault.
        """
        for _ in range(COLLISIONS):
            content = self.olm.keys_to_upload()
            if content is None:
                return
            try:
                answer = await self.api.request("POST", "keys", "upload", body=content)
            except HomeserverRefused as error:
                if error.params.get("status") != 400 or "one_time_keys" not in content:
                    raise
                # The server has another key of this name: ours are older than they think (a restored backup).
                log.exception("matrix.one_time_keys_collide", device=self.device_id)
                self.olm.skip_unpublished()
                continue
            self.olm.uploaded(answer if isinstance(answer, Mapping) else {})
            log.info("matrix.keys_uploaded", device=self.device_id, kinds=sorted(content))
            return
        raise HomeserverRefused(errcode="M_INVALID_PARAM", status=400)

    async def close(self) -> None:
        """Close connections and files. The device stays logged in."""
        await self.api.close()
        self.olm.close()

    def _are_ours(self, shown: Mapping[str, Any]) -> bool:
        ours = self.olm.account.identity_keys
        return all(shown.get(f"{kind}:{self.device_id}") == ours[kind] for kind in ("ed25519", "curve25519"))


async def _ask_for_login(api: Api, settings: MatrixSettings, password: str) -> _Login:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": settings.user_id},
        "password": password,
        "initial_device_display_name": settings.device_name,
    }
    answer = await api.request("POST", "login", body=body)
    try:
        login = _Login(answer["user_id"], answer["device_id"], answer["access_token"])
    except (KeyError, TypeError) as error:
        raise HomeserverAway from error
    if not all(isinstance(value, str) and value for value in (login.user_id, login.device_id, login.access_token)):
        raise HomeserverAway
    return login


def open_store(settings: MatrixSettings, user_id: str, device_id: str, *, new: bool) -> HardenedOlm:
    """The Olm machine on its store: one SQLite file, readable to us alone.

    Raises DeviceKeysDiffer (the file of a known device is gone), SecretUnreadable (damaged, or another pickle key).
    """
    settings.store_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.store_dir.chmod(0o700)
    path = settings.store_dir / _store_name(user_id, device_id)
    if not new and not path.exists():
        # nio would make new keys in silence, and peers would take us for an impostor.
        raise DeviceKeysDiffer
    # Made before SQLite opens it, so that it is never readable to others; its journal takes over the permissions.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    try:
        store = SqliteStore(user_id, device_id, str(settings.store_dir), settings.pickle_key, path.name)
        if not new and store.database.execute_sql("PRAGMA integrity_check").fetchone() != ("ok",):
            raise SecretUnreadable(name=STORE_SECRET)
        if not new and store.load_account() is None:
            raise DeviceKeysDiffer
        return HardenedOlm(user_id, device_id, store)
    except (PeeweeException, ValueError) as error:  # ValueError: vodozemac's, for a pickle that does not open
        raise SecretUnreadable(name=STORE_SECRET) from error


def _store_name(user_id: str, device_id: str) -> str:
    """A name of our own: both ids come from the server, and may hold what a path must not."""
    digest = hashlib.sha256(f"{user_id}\0{device_id}".encode()).hexdigest()
    return f"olm-{digest[:32]}.db"


def _require_pickle_key(settings: MatrixSettings) -> None:
    digits = set("0123456789abcdefABCDEF")
    if len(settings.pickle_key) != PICKLE_KEY_DIGITS or not digits.issuperset(settings.pickle_key):
        raise ConfigurationWrong(mistakes="the key for the Matrix key store must be 64 hexadecimal digits")


def _at(answer: Any, *path: str) -> Mapping[str, Any]:
    for part in path:
        answer = answer.get(part) if isinstance(answer, Mapping) else None
    return answer if isinstance(answer, Mapping) else {}
