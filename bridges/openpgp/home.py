"""One GnuPG home per list: made once and whole, then only read. It holds the list's own key and nothing else.

Members' keys are in rings beside it (``keyring``), which are a cache of the database. Owns the list key's making, the
agent's life and the check of GnuPG's version. The passphrase is 256 random bits from outside, so the agent's key
stretching is set to its least: it costs 0.1 s a call otherwise and adds nothing to such a passphrase.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import gnupg
import structlog

from bridges.openpgp import packets
from bridges.openpgp.process import Runner, environment
from bridges.openpgp.status import keywords
from trust.errors import BadValue, ListKeyMissing, SafeUnavailable
from trust.records import Fingerprint, PublicKey

log = structlog.get_logger()

OLDEST: Final = (2, 2, 8)
"""The first release that an embedded file name can't deceive (CVE-2018-12020)."""

SOCKET_BYTES: Final = 107
"""``sun_path`` less its closing NUL (unix(7))."""

LONGEST_SOCKET: Final = "S.gpg-agent.browser"
UNFINISHED: Final = ".new-"

AGENT_CONF: Final = """\
# Written by SECIR. The passphrase comes with each call; nothing is kept.
default-cache-ttl 0
max-cache-ttl 0
s2k-count 65536
disable-scdaemon
no-allow-external-cache
"""


@dataclass(frozen=True, slots=True)
class Home:
    """A list's home, opened: its secret key is there and its agent runs."""

    path: Path
    key: PublicKey
    passphrase: str = field(repr=False)


def place(root: Path, address: str) -> Path:
    """The home of the list with this address. A digest, so that no address can name a path; short, for the sockets."""
    return root / hashlib.sha256(address.encode()).hexdigest()[:16]


async def create(runner: Runner, root: Path, *, name: str, address: str, passphrase: str) -> PublicKey:
    """Make the list's key (ed25519 and cv25519, no expiry), or give back the one that is there.

    All or nothing: it grows in a directory of its own that takes its place at the end, so a kill leaves no half home.
    Raises BadValue for a name that no user id may hold or a directory whose path is too long, SafeUnavailable.
    """
    final = place(root, address)
    _check_socket(root / f"{UNFINISHED}12345678")
    for what, value in (("name", name), ("address", address)):
        if not _is_plain(value):
            raise BadValue(what=what, example="tld-ops")
    if final.is_dir():
        return await asyncio.to_thread(_public_key, final, runner.program)
    growing = await asyncio.to_thread(_begin, root)
    try:
        await start_agent(growing)
        key = await _generate(runner, growing, name, address, passphrase)
        await stop_agent(growing)
        os.rename(growing, final)
    except OSError as error:
        raise SafeUnavailable from error
    finally:
        await stop_agent(growing)
        shutil.rmtree(growing, ignore_errors=True)
    log.info("list-key.created", fingerprint=key.fingerprint)
    return key


async def start_agent(home: Path) -> None:
    """Start the agent before the first call, so that it does not inherit a call's limits. Raises SafeUnavailable."""
    _check_socket(home)
    if await _gpgconf(home, "--launch") != 0:
        log.warning("agent.not-started")
        raise SafeUnavailable


async def stop_agent(home: Path) -> None:
    await _gpgconf(home, "--kill")


def secret_keys(listing: bytes) -> set[str]:
    """Primary fingerprints of the secret keys in a ``--with-colons`` listing; a stub without its secret part is none.

    Fields as in GnuPG's doc/DETAILS: 1 record type, 10 fingerprint, 15 ``#`` for a stub.
    """
    found: set[str] = set()
    usable = False
    for line in listing.split(b"\n"):
        fields = line.split(b":")
        if fields[0] == b"sec":
            usable = len(fields) > 14 and fields[14] in (b"+", b"")
        elif fields[0] == b"ssb":
            usable = False
        elif fields[0] == b"fpr" and usable and len(fields) > 9:
            found.add(fields[9].decode("ascii", "replace"))
    return found


def check_version(banner: bytes) -> str:
    """The version in the first line of ``gpg --version``. Raises SafeUnavailable if it is older than 2.2.8."""
    match = re.match(rb"gpg \(GnuPG[^)]*\) (\d+)\.(\d+)\.(\d+)", banner)
    if match is None or tuple(map(int, match.groups())) < OLDEST:
        log.error("gnupg.too-old", oldest=".".join(map(str, OLDEST)))
        raise SafeUnavailable
    return ".".join(part.decode() for part in match.groups())


def _begin(root: Path) -> Path:
    """An empty directory with the agent's settings, mode 0700, as ``root`` is if it is made here."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    growing = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=root))
    (growing / "gpg-agent.conf").write_text(AGENT_CONF, encoding="ascii")
    return growing


async def _generate(runner: Runner, home: Path, name: str, address: str, passphrase: str) -> PublicKey:
    """One batch call makes primary key and subkey.

    The passphrase comes by its pipe: were it in the recipe, GnuPG would leave it with the agent between the two keys,
    and an agent that keeps nothing has forgotten it whenever a second ends just then.
    """
    recipe = await asyncio.to_thread(_recipe, home, runner.program, name, address)
    outcome = await runner.run(home, ("--full-generate-key",), data=recipe.encode(), passphrase=passphrase)
    if outcome.returncode != 0 or len(keywords(outcome.status, "KEY_CREATED")) != 1:
        log.error("list-key.not-created", code=outcome.returncode)
        raise SafeUnavailable
    shutil.rmtree(home / "openpgp-revocs.d", ignore_errors=True)
    return await asyncio.to_thread(_public_key, home, runner.program)


def _recipe(home: Path, program: str, name: str, address: str) -> str:
    made = _gnupg(home, program).gen_key_input(
        key_type="EDDSA",
        key_curve="ed25519",
        key_usage="sign,cert",
        subkey_type="ECDH",
        subkey_curve="cv25519",
        subkey_usage="encrypt",
        name_real=name,
        name_email=address,
        expire_date=0,
        preferences="AES256 AES192 AES SHA512 SHA384 SHA256 ZLIB ZIP Uncompressed",
    )
    return str(made)


def _public_key(home: Path, program: str) -> PublicKey:
    """The one certificate of this home. Raises ListKeyMissing."""
    data = _gnupg(home, program).export_keys([], armor=False, minimal=True)
    if not isinstance(data, bytes):
        raise SafeUnavailable
    try:
        primaries = [p.body for p in packets.packets(data) if p.tag == packets.PUBLIC_KEY]
        if len(primaries) != 1:
            raise ListKeyMissing(group=home.name)
        return PublicKey(Fingerprint(packets.fingerprint(primaries[0])), data)
    except packets.Malformed as error:
        raise ListKeyMissing(group=home.name) from error


def _gnupg(home: Path, program: str) -> gnupg.GPG:
    """python-gnupg, to write a recipe and to export; it never judges a signature (docs/security.md)."""
    options = ["--no-options", "--no-auto-check-trustdb", "--disable-dirmngr", "--pinentry-mode", "loopback"]
    try:
        gpg = gnupg.GPG(gpgbinary=program, gnupghome=str(home), options=options, env=environment())
    except (OSError, ValueError) as error:
        raise SafeUnavailable from error
    gpg.encoding = "utf-8"
    return gpg


async def _gpgconf(home: Path, action: str) -> int:
    nowhere = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            "gpgconf", "--homedir", str(home), action, "gpg-agent",
            stdin=nowhere, stdout=nowhere, stderr=nowhere, env=environment(),
        )  # fmt: skip
    except OSError as error:
        raise SafeUnavailable from error
    return await process.wait()


def _check_socket(home: Path) -> None:
    if len(os.fsencode(home / LONGEST_SOCKET)) > SOCKET_BYTES:
        raise BadValue(what="GnuPG directory (its path is too long for a socket)", example="/var/lib/secir/gnupg")


def _is_plain(value: str) -> bool:
    """No line end, which would be a line of the batch recipe, and nothing that delimits a user id."""
    bad = any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in value)
    return bool(value.strip()) and not bad and not set(value) & set("<>()") and len(value.encode()) <= 200
