"""A process that makes the keyring of a list from all keys of the database, and says what is in it.

Started by ``keys``, which kills it. It goes the product's way to the ring and looks at it by GnuPG itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bot import config, parts

PRIMARY: Final = re.compile(r"^pub:.*\nfpr:+([0-9A-F]{40}):", re.MULTILINE)


def main(words: Sequence[str]) -> int:
    """``words``: the path of the configuration. One line of JSON: the ring's primary keys, and what lies beside it."""
    print(json.dumps(asyncio.run(_make(Path(words[0])))))  # noqa: T201 - it is what the process is for
    return 0


async def _make(path: Path) -> dict[str, list[str]]:
    settings = config.load(path)
    async with parts.open_database(settings) as database, parts.open_safe(settings) as safe:
        async with database.transaction() as tx:
            (group,) = await tx.groups.all()
            keys = [entry.key for contact in await tx.contacts.all() for entry in contact.addresses if entry.key]
        ring = (await safe._list(group)).ring
        async with ring.holding(keys) as arguments:
            beside = [each.name for each in ring._directory.iterdir()] if keys else []
            return {"ring": _listed(arguments), "files": beside}


def _listed(arguments: Sequence[str]) -> list[str]:
    """The fingerprints of the primary keys that these arguments let GnuPG find."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        command = ["gpg", "--homedir", home, "--batch", "--no-default-keyring", *arguments]
        done = subprocess.run([*command, "--with-colons", "--list-keys"], capture_output=True, text=True, check=True)
    return sorted(PRIMARY.findall(done.stdout)) if arguments else []
