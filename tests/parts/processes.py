"""A server in a process of its own: started, waited for, stopped by its id."""

from __future__ import annotations

import atexit
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

START_TIMEOUT: Final = 60.0
STOP_TIMEOUT: Final = 10.0
TAIL_LINES: Final = 15


class PartFailed(RuntimeError):
    """A part did not come up; the text holds the end of its output and what to do."""


class PartMissing(RuntimeError):
    """A program or a right that a part needs is not there; the text says how to get it."""


class ServerProcess:
    """One server process. Its output goes to ``log``; ``is_ready`` tells when it serves."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        is_ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._command = list(command)
        self._log = log
        self._is_ready = is_ready
        self._environment = environment
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self._command[0]} is not running.")
        return self._process.pid

    def start(self, timeout: float = START_TIMEOUT) -> float:
        """Start and wait until it serves; returns the seconds it took. Raises PartFailed."""
        began = time.monotonic()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
            )
        atexit.register(self.kill)
        while not self._is_ready():
            if self._process.poll() is not None:
                raise PartFailed(f"{self._command[0]} ended with {self._process.returncode}:\n{self.tail()}")
            if time.monotonic() - began > timeout:
                self.kill()
                raise PartFailed(f"{self._command[0]} was not ready after {timeout:.0f} s:\n{self.tail()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> int | None:
        """SIGTERM (or its own signal), and SIGKILL if it takes too long. Its exit code; None if it did not run."""
        if self._process is None or self._process.poll() is not None:
            self._forget()
            return None
        self._process.send_signal(signal.SIGCONT)  # a suspended process can't end in peace
        self._process.send_signal(self._stop_signal)
        try:
            code = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._forget()
        return code

    def kill(self) -> None:
        """SIGKILL: what a crash leaves."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def suspend(self) -> None:
        """It keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _forget(self) -> None:
        self._process = None
        atexit.unregister(self.kill)
