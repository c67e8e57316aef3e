"""A bridge that starts by a fork, so that it can be killed and started hundreds of times."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tests.crash.nursery import Child, Nursery
from tests.parts.bridge import Bridge, Refused
from tests.parts.dies_at import VARIABLE
from tests.parts.processes import PartFailed

START_TIMEOUT: Final = 60.0
STOP_TIMEOUT: Final = 20.0
LOOK_EVERY: Final = 0.01
"""Seconds between two looks whether it listens."""


class ForkedBridge(Bridge):
    """As any bridge; its processes come out of ``nursery``."""

    def __init__(self, directory: Path, nursery: Nursery, **given: Any) -> None:
        super().__init__(directory, **given)
        self._nursery = nursery
        self._child: Child | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """As the operator's shell has it. What a killed process leaves of its temporary files goes with us."""
        return {**self._environment, "TMPDIR": str(self.directory / "tmp")}

    @property
    def lives(self) -> bool:
        return self._child is not None and self._child.lives

    @property
    def was_killed(self) -> bool:
        return self._child is not None and self._child.ended.done() and self._child.ended.result() == -signal.SIGKILL

    async def cli(self, *words: str) -> str:
        output, errors = (self.directory / f"{uuid.uuid4().hex}.{kind}" for kind in ("out", "err"))
        child = await self.begin(*words, output=output, errors=errors)
        code = await child.ended
        answer, said = output.read_text(), errors.read_text()
        output.unlink()
        errors.unlink()
        if code:
            raise Refused(code, said or answer)
        return answer

    async def begin(self, *words: str, output: Path, errors: Path) -> Child:
        """A command that is under way."""
        (self.directory / "tmp").mkdir(exist_ok=True)
        whole = ["--config", str(self.config_file), *words]
        return await self._nursery.fork(whole, environment=self.environment, output=output, errors=errors)

    async def run(self, program: str, *, output: Path) -> Child:
        """A helper of ours, under way on this bridge's data."""
        return await self._nursery.fork(
            [str(self.config_file)], environment=self.environment, output=output, program=program
        )

    async def launch(self, *, dies_at: str = "") -> None:
        """``secir run``, and do not wait until it listens. ``dies_at`` as in ``tests.parts.dies_at``."""
        (self.directory / "tmp").mkdir(exist_ok=True)
        environment = {**self.environment, **({VARIABLE: dies_at} if dies_at else {})}
        words = ["--config", str(self.config_file), "run"]
        self._child = await self._nursery.fork(words, environment=environment, output=self.log_file)

    async def start(self) -> None:
        await self.launch()
        if not await self.listening():
            raise PartFailed("The bridge ended at its start:\n" + "\n".join(self.log.splitlines()[-15:]))

    async def listening(self) -> bool:
        """Wait until it listens. False if it ended before that."""
        async with asyncio.timeout(START_TIMEOUT):
            while self.lives and not self._listens():  # noqa: ASYNC110 - it asks another process
                await asyncio.sleep(LOOK_EVERY)
        return self.lives

    async def ended(self, timeout: float) -> bool:
        """Whether it ends by itself within so many seconds."""
        assert self._child is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._child.ended)
        return not self._child.lives

    async def stop(self) -> int | None:
        if self._child is None or not self._child.lives:
            return None
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                return await self._child.kill(signal.SIGTERM)
        except TimeoutError:
            return await self._child.kill()

    async def kill(self) -> None:
        if self._child is not None:
            await self._child.kill()
