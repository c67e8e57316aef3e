"""The secrets that the operator gives us, from files or from the environment.

Owns where each one comes from and how its file must be kept. Knows nothing of what they open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bot.config_file import KeyPath
from bot.config_mistakes import Mistake

OTHERS_MAY_READ_OR_GROUP_MAY_WRITE = 0o027
MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Credentials:
    secret_key: bytes = field(default=b"", repr=False)
    """32 bytes: what everything at rest is sealed with."""
    database_password: str | None = field(default=None, repr=False)
    matrix_password: str | None = field(default=None, repr=False)
    smtp_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one secret may come from. The environment wins."""

    variable: str
    key: KeyPath


SECRET_KEY: Final = Source("SECIR_SECRET_KEY", ("secret_key_file",))
DATABASE: Final = Source("SECIR_DATABASE_PASSWORD", ("database", "password_file"))
MATRIX: Final = Source("SECIR_MATRIX_PASSWORD", ("matrix", "password_file"))
SMTP: Final = Source("SECIR_SMTP_PASSWORD", ("mail", "relay", "password_file"))
RELAY_USER: Final = ("mail", "relay", "username")

Given = Callable[[KeyPath], str | None]
"""The text that the configuration gives for a key."""


class _Unfit(Exception):
    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix


def read_credentials(given: Given, folder: Path, environ: Mapping[str, str]) -> tuple[Credentials, list[Mistake]]:
    """All secrets that are there, and what is wrong with the others. Paths are relative to ``folder``."""
    mistakes: list[Mistake] = []

    def find(source: Source) -> str | None:
        try:
            return environ.get(source.variable) or _from_file(given(source.key), folder)
        except _Unfit as error:
            mistakes.append(Mistake(source.key, error.what, error.fix))
            return None

    secret = find(SECRET_KEY)
    if secret is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", secret):
        fix = "Copy the line of the key that `secir init` wrote. A new key opens nothing that is already stored"
        mistakes.append(Mistake(SECRET_KEY.key, "does not give a secret key (64 hexadecimal digits)", fix))
        secret = None
    smtp = find(SMTP)
    if given(RELAY_USER) and smtp is None and not any(mistake.key == SMTP.key for mistake in mistakes):
        fix = f"Give password_file, or set {SMTP.variable}"
        mistakes.append(Mistake(RELAY_USER, "is given without a password", fix))
    found = Credentials(bytes.fromhex(secret or ""), find(DATABASE), find(MATRIX), smtp)
    return found, mistakes


def _from_file(name: str | None, folder: Path) -> str | None:
    if name is None:
        return None
    path = folder / name
    try:
        mode = path.stat().st_mode
        raw = path.read_bytes()
    except OSError as error:
        fix = "Write the secret to that file (its first line), or name another file"
        raise _Unfit(f"names the file {path}, which can't be read ({error.strerror})", fix) from error
    if mode & OTHERS_MAY_READ_OR_GROUP_MAY_WRITE:
        raise _Unfit(f"names the file {path}, which other users may read", f"Run: chmod 600 {path}")
    try:
        text = raw[:MAX_BYTES].decode("utf-8").strip("\r\n")
    except UnicodeDecodeError as error:
        raise _Unfit(f"names the file {path}, which is not text", "Write the secret as one line of UTF-8") from error
    if not text or "\n" in text:
        raise _Unfit(f"names the file {path}, which does not hold exactly one line", "Write the secret as one line")
    return text
