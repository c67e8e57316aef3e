"""A small disk of its own, that a test may fill to the last octet."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.parts.processes import PartMissing

KILOBYTE: Final = 1024
PIECE: Final = 4 * KILOBYTE


class SmallDisk:
    """A file system of a few megabytes below ``path``; ``fill`` takes what is left of it, ``free`` gives it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    @property
    def kilobytes_free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize // KILOBYTE

    def fill(self, *, leave_kb: int = 0) -> None:
        """Write until only so much is left."""
        with self._filler.open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            while self.kilobytes_free * KILOBYTE >= leave_kb * KILOBYTE + PIECE:
                filler.write(bytes(PIECE))

    def free(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """Mounted below /tmp, where GnuPG's sockets have short paths. Raises PartMissing if it may not be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="disk-", dir="/tmp"))
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "small-disk", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        _run("umount", "--lazy", str(folder))  # an agent of GnuPG may be about to leave it
        folder.rmdir()


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PartMissing(f"There is no {command[0]}. Next: apt-get install mount") from error
    if done.returncode:
        raise PartMissing(
            f"A small disk could not be mounted ({done.stderr.strip()}). "
            "Next: run this as root; in a container, with the right to mount (--cap-add SYS_ADMIN)."
        )
