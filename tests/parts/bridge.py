"""The product itself, as an operator runs it: the ``secir`` command in processes of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.parts.ports import LOOPBACK, free_port
from tests.parts.processes import ServerProcess
from tests.parts.synapse import Account

PASSWORD_VARIABLE: Final = "SECIR_MATRIX_PASSWORD"
PROGRAM: Final = (sys.executable, "-m", "bot")


class Refused(RuntimeError):
    """``secir`` ended with another code than 0; the text is what it said."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code
        self.said = said


class Bridge:
    """One bridge below ``directory``, which takes mail at ``mail_port``. Everything is done by commands.

    ``settings`` are put over the configuration, section by section.
    """

    def __init__(
        self,
        directory: Path,
        *,
        homeserver: str,
        account: Account,
        relay_port: int,
        domain: str = "lists.example",
        protocol: str = "smtp",
        mail_port: int | None = None,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.config_file = directory / "secir.yaml"
        self.log_file = directory / "secir.log"
        self.mail_port = mail_port or free_port()
        self._protocol = protocol
        self.recovery_key = ""
        self._homeserver = homeserver
        self._account = account
        self._relay_port = relay_port
        self._domain = domain
        self._settings = dict(settings or {})
        self._environment = {**os.environ, PASSWORD_VARIABLE: account.password, **(environment or {})}
        self._process = ServerProcess(
            [*PROGRAM, "--config", str(self.config_file), "run"],
            log=self.log_file,
            is_ready=self._listens,
            environment=self._environment,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def set_up(self) -> None:
        """What an operator does once: ``init``, then ``identity create``."""
        await self.cli(
            "init",
            *("--homeserver", self._homeserver, "--user", self._account.user_id, "--domain", self._domain),
            *("--data-dir", "data", "--relay-port", str(self._relay_port)),
        )
        self._adjust()
        if "database" in self._settings:
            await self.cli("db", "upgrade")
        self.recovery_key = (await self.cli("identity", "create")).strip()

    def _adjust(self) -> None:
        """A free port, and no long waits."""
        written = yaml.safe_load(self.config_file.read_text())
        written["mail"]["listeners"] = [{"protocol": self._protocol, "host": LOOPBACK, "port": self.mail_port}]
        written["matrix"]["reconcile_every"] = "1s"
        for section, values in self._settings.items():
            written[section] = {**(written.get(section) or {}), **values} if isinstance(values, Mapping) else values
        self.config_file.write_text(yaml.safe_dump(written))

    async def cli(self, *words: str) -> str:
        """Run ``secir WORDS``; what it answers. Raises Refused."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            "--config",
            str(self.config_file),
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        answer, said = await process.communicate()
        if process.returncode:
            raise Refused(process.returncode, said.decode() or answer.decode())
        return answer.decode()

    async def start(self) -> None:
        """``secir run``, until it listens."""
        await asyncio.to_thread(self._process.start)

    async def stop(self) -> int | None:
        """SIGTERM, and wait. Its exit code; None if it did not run."""
        return await asyncio.to_thread(self._process.stop)

    async def kill(self) -> None:
        """SIGKILL: what a crash leaves."""
        await asyncio.to_thread(self._process.kill)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, self.mail_port)) == 0

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._stop_agents()

    async def _stop_agents(self) -> None:
        """A bridge that was killed leaves GnuPG's agents behind."""
        for home in (self.directory / "data" / "gnupg").glob("*/"):
            process = await asyncio.create_subprocess_exec("gpgconf", "--homedir", str(home), "--kill", "gpg-agent")
            await process.wait()
