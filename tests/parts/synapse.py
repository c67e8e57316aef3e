"""A throw-away Synapse: SQLite, loopback, open to nobody, gone with its directory.

It lives in a Python environment of its own (its dependencies are not ours). It knows nothing about SECIR.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import yaml

from tests.parts.ports import LOOPBACK, free_port
from tests.parts.processes import PartMissing, ServerProcess

PYTHON_VARIABLE: Final = "SECIR_SYNAPSE_PYTHON"
PYTHON_OF_MAKE: Final = Path(__file__).resolve().parents[2] / ".parts/synapse/bin/python"
PLENTY: Final = {"per_second": 10_000, "burst_count": 10_000}
CLIENT_API: Final = "/_matrix/client/v3"


def synapse_python() -> Path:
    """The interpreter that has Synapse. Raises PartMissing."""
    python = Path(os.environ.get(PYTHON_VARIABLE) or PYTHON_OF_MAKE)
    if not python.exists():
        raise PartMissing(
            f"Synapse is not installed: there is no {python}. "
            f"Next: run `make parts`, or set {PYTHON_VARIABLE} to the Python of an environment with matrix-synapse."
        )
    return python


class MatrixRefused(RuntimeError):
    """The homeserver answered with an error."""

    def __init__(self, status: int, answer: dict[str, Any]) -> None:
        super().__init__(f"{status} {answer.get('errcode')}: {answer.get('error')}")
        self.status = status
        self.answer = answer

    @classmethod
    def read(cls, status: int, data: bytes) -> Self:
        """From an answer's body, which may be anything."""
        try:
            answer = json.loads(data)
        except ValueError:
            answer = {"error": data[:200].decode(errors="replace")}
        return cls(status, answer if isinstance(answer, dict) else {})


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the throw-away server. ``name`` is the local part of ``user_id``."""

    user_id: str
    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Login:
    """A bare login: a device that has uploaded no keys."""

    user_id: str
    device_id: str
    access_token: str = field(repr=False)


class Synapse:
    """One homeserver below ``directory``.

    ``default_limits`` leaves Synapse's own rate limits for messages, invites and joins (those for logins are lifted
    always, as all tests come from one address). ``settings`` are put over the configuration, key by key.

    Everything here blocks: from a running loop, only before the test's own traffic, or by ``asyncio.to_thread``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        server_name: str = "localhost",
        port: int | None = None,
        default_limits: bool = False,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.directory = directory
        self.server_name = server_name
        self.port = port or free_port()
        self.log_file = directory / "synapse.log"
        self._shared_secret = secrets.token_hex(16)
        self._default_limits = default_limits
        self._settings = dict(settings or {})
        self._names: set[str] = set()
        self._process = self._prepare()

    @property
    def url(self) -> str:
        """Base URL for clients, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> float:
        """Start and wait until it answers; returns the seconds it took. Raises PartFailed."""
        return self._process.start()

    def stop(self) -> None:
        self._process.stop()

    def restart(self) -> float:
        self.stop()
        return self.start()

    def suspend(self) -> None:
        """Connections stay open and nothing is answered."""
        self._process.suspend()

    def resume(self) -> None:
        self._process.resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- people ------------------------------------------------------------------------------------------------------

    def unused(self, name: str) -> str:
        """``name``, or ``name2``, ``name3`` …: one that was not given away here before."""
        number, candidate = 1, name
        while candidate in self._names:
            number += 1
            candidate = f"{name}{number}"
        self._names.add(candidate)
        return candidate

    def register(self, name: str, password: str | None = None, *, admin: bool = False) -> Account:
        """Make an account by the shared secret. Raises MatrixRefused (``M_USER_IN_USE``)."""
        password = password or secrets.token_urlsafe(12)
        nonce = self.call("GET", "/_synapse/admin/v1/register")["nonce"]
        parts = (nonce, name, password, "admin" if admin else "notadmin")
        mac = hmac.new(self._shared_secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()
        body = {
            "nonce": nonce,
            "username": name,
            "password": password,
            "admin": admin,
            "mac": mac,
            "inhibit_login": True,
        }
        answer = self.call("POST", "/_synapse/admin/v1/register", body)
        self._names.add(name)
        return Account(answer["user_id"], name, password)

    def new_account(self, name: str, password: str | None = None, *, admin: bool = False) -> Account:
        """Like ``register``, numbered when the name is taken: one server serves many tests."""
        return self.register(self.unused(name), password, admin=admin)

    def log_in(self, account: Account, *, device_id: str | None = None) -> Login:
        """A new device without keys, for calls by hand."""
        body: dict[str, object] = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": account.user_id},
            "password": account.password,
        }
        if device_id:
            body["device_id"] = device_id
        answer = self.call("POST", f"{CLIENT_API}/login", body)
        return Login(answer["user_id"], answer["device_id"], answer["access_token"])

    # --- by hand -----------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: object | None = None, *, token: str | None = None) -> dict[str, Any]:
        """One request by hand; the answer's JSON object. Raises MatrixRefused."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                return dict(json.load(response))
        except urllib.error.HTTPError as error:
            with error:
                raise MatrixRefused.read(error.code, error.read()) from error

    def state(self, room_id: str, *, token: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The room's state as the server has it: ``{(type, state key): content}``."""
        path = f"{CLIENT_API}/rooms/{quote(room_id, safe='')}/state"
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return {(event["type"], event["state_key"]): event["content"] for event in json.load(response)}

    def stored_events(self, room_id: str) -> list[dict[str, Any]]:
        """Every event of a room in the server's own database, oldest first: what a curious operator sees."""
        query = (
            "SELECT event_id, json FROM event_json JOIN events USING (event_id)"
            " WHERE events.room_id = ? ORDER BY stream_ordering"
        )
        with sqlite3.connect(f"file:{self._database}?mode=ro", uri=True) as database:
            return [
                {**json.loads(text), "event_id": event_id} for event_id, text in database.execute(query, (room_id,))
            ]

    # --- making it ---------------------------------------------------------------------------------------------------

    @property
    def _database(self) -> Path:
        return self.directory / "homeserver.db"

    def _prepare(self) -> ServerProcess:
        python = synapse_python()
        self.directory.mkdir(parents=True, exist_ok=True)
        seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        (self.directory / "signing.key").write_text(f"ed25519 a_test {seed}\n")
        configuration = self.directory / "homeserver.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration()))
        (self.directory / "log.yaml").write_text(yaml.safe_dump(self._log_configuration()))
        command = [str(python), "-m", "synapse.app.homeserver", "-c", str(configuration)]
        return ServerProcess(command, log=self.log_file, is_ready=self._answers)

    def _answers(self) -> bool:
        try:
            self.call("GET", "/_matrix/client/versions")
        except (OSError, MatrixRefused):
            return False
        return True

    def _configuration(self) -> dict[str, object]:
        listener = {"port": self.port, "type": "http", "bind_addresses": [LOOPBACK]}
        return {
            "server_name": self.server_name,
            "public_baseurl": f"{self.url}/",
            "pid_file": str(self.directory / "homeserver.pid"),
            "listeners": [{**listener, "resources": [{"names": ["client"], "compress": False}]}],
            "database": {"name": "sqlite3", "args": {"database": str(self._database)}},
            "log_config": str(self.directory / "log.yaml"),
            "media_store_path": str(self.directory / "media"),
            "signing_key_path": str(self.directory / "signing.key"),
            "registration_shared_secret": self._shared_secret,
            "macaroon_secret_key": secrets.token_hex(16),
            "form_secret": secrets.token_hex(16),
            "report_stats": False,
            "trusted_key_servers": [],
            "federation_domain_whitelist": [],
            "presence": {"enabled": False},
            "user_directory": {"enabled": False},
            "bcrypt_rounds": 4,
            **self._limits(),
            **self._settings,
        }

    def _limits(self) -> dict[str, object]:
        logins = {"rc_login": {"address": PLENTY, "account": PLENTY, "failed_attempts": PLENTY}}
        if self._default_limits:
            return dict(logins)
        return {
            **logins,
            "rc_message": PLENTY,
            "rc_registration": PLENTY,
            "rc_joins": {"local": PLENTY, "remote": PLENTY},
            "rc_joins_per_room": PLENTY,
            "rc_invites": {"per_room": PLENTY, "per_user": PLENTY, "per_issuer": PLENTY},
            "rc_room_creation": PLENTY,
            "rc_media_create": PLENTY,
        }

    def _log_configuration(self) -> dict[str, object]:
        return {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {
                "file": {"class": "logging.FileHandler", "formatter": "plain", "filename": str(self.log_file)}
            },
            "root": {"level": "WARNING", "handlers": ["file"]},
        }
