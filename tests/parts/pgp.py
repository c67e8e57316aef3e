"""A mail member with OpenPGP of their own: GnuPG, a home, a key. And two other programs that read what we send.

Nothing of the product is used here: what a person makes of a message is an independent judgement of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Received:
    """What a person's GnuPG says of a message. ``signer`` is the primary fingerprint of a good signature, or None."""

    data: bytes
    signer: str | None
    status: str


@dataclass(frozen=True)
class Person:
    """Everything is synchronous and takes some 10 ms. ``close`` it: that stops the agent and removes the home."""

    name: str
    address: str
    home: Path
    fingerprint: str

    @classmethod
    def create(
        cls,
        directory: Path | None,
        name: str,
        address: str,
        *,
        algorithm: str = "ed25519",
        encryption: str | None = "cv25519",
        expires: str = "never",
        at: str | None = None,
    ) -> Person:
        """A person with a key without passphrase. ``directory`` None: below /tmp, since a socket's path must be short.

        ``algorithm`` of the primary key, which signs; ``encryption`` of the subkey, None for no such subkey;
        ``expires`` as GnuPG takes it; ``at`` is the time it is made (``20240101T000000``).
        """
        home = Path(tempfile.mkdtemp(prefix="pgp-", dir=directory or "/tmp"))
        faked = _faked(at)
        uid = f"{name} <{address}>"
        made = _gpg(home, *faked, "--passphrase", "", "--quick-generate-key", uid, algorithm, "cert,sign", expires)
        fingerprint = made.word("KEY_CREATED", 1)
        if encryption is not None:
            _gpg(home, *faked, "--passphrase", "", "--quick-add-key", fingerprint, encryption, "encr", expires)
        return cls(name, address, home, fingerprint)

    def close(self) -> None:
        subprocess.run(
            [_program("gpgconf"), "--homedir", self.home, "--kill", "gpg-agent"], check=False, capture_output=True
        )
        shutil.rmtree(self.home, ignore_errors=True)

    # --- keys

    @property
    def public_key(self) -> bytes:
        """The certificate, binary."""
        return self.gpg("--export", self.fingerprint).output

    @property
    def armoured_key(self) -> bytes:
        return self.gpg("--armor", "--export", self.fingerprint).output

    @property
    def secret_key(self) -> bytes:
        """The whole secret key, armoured: for other programs to read with."""
        return self.gpg("--passphrase", "", "--armor", "--export-secret-keys", self.fingerprint).output

    def learn(self, key: bytes) -> str:
        """Import somebody's certificate; its fingerprint."""
        return self.gpg("--import", data=key).word("IMPORT_OK", 1)

    def revoke(self) -> None:
        """Revoke the own key, by the certificate that GnuPG made with it."""
        text = (self.home / "openpgp-revocs.d" / f"{self.fingerprint}.rev").read_bytes()
        self.gpg("--import", data=text.replace(b":-----BEGIN", b"-----BEGIN"))

    def add_subkey(self, algorithm: str, usage: str, *, expires: str = "never", at: str | None = None) -> None:
        arguments = ("--quick-add-key", self.fingerprint, algorithm, usage, expires)
        self.gpg(*_faked(at), "--passphrase", "", *arguments)

    def add_certificates(self, count: int) -> list[bytes]:
        """Make ``count`` further keys in this home by one call, and export each by itself: a crowd, cheaply."""
        recipe = "%no-protection\nKey-Type: EDDSA\nKey-Curve: ed25519\nKey-Usage: sign\n"
        recipe += "Subkey-Type: ECDH\nSubkey-Curve: cv25519\nName-Email: m{0}@example.test\n%commit\n"
        self.gpg("--gen-key", data="".join(recipe.format(n) for n in range(count)).encode())
        return _certificates(self.gpg("--export").output)[-count:]

    # --- messages

    def seal(
        self,
        data: bytes,
        *recipient_keys: bytes,
        sign: bool = True,
        encrypt: bool = True,
        armour: bool = True,
        at: str | None = None,
        options: Sequence[str] = (),
    ) -> bytes:
        """``data`` signed by this person and encrypted to each of ``recipient_keys``.

        ``at`` is the time of the signature (``20240101T000000``); ``options`` are GnuPG's own.
        """
        signing = ["--local-user", self.fingerprint, "--sign"]
        encrypting = [word for key in recipient_keys for word in ("--recipient", self.learn(key))] + ["--encrypt"]
        if sign and encrypt and at is not None:
            data = self.gpg(*_faked(at), *options, *signing, data=data).output
            options, sign = ["--no-literal"], False
        arguments = [*options, *(["--armor"] if armour else [])]
        arguments += (signing if sign else []) + (encrypting if encrypt else [])
        return self.gpg(*arguments, data=data).output

    def open(self, message: bytes, *signer_keys: bytes) -> Received:
        """Decrypt and verify. Raises AssertionError if GnuPG refuses."""
        for key in signer_keys:
            self.learn(key)
        outcome = self.gpg("--decrypt", data=message)
        signers = re.findall(r"^\[GNUPG:\] VALIDSIG (?:\S+ ){9}([0-9A-F]{40})$", outcome.status, re.MULTILINE)
        good = "[GNUPG:] GOODSIG " in outcome.status and len(signers) == 1
        return Received(outcome.output, signers[0] if good else None, outcome.status)

    def gpg(self, *arguments: str, data: bytes = b"") -> Outcome:
        """Run this person's GnuPG. Raises AssertionError if it fails."""
        return _gpg(self.home, *arguments, data=data)


@dataclass(frozen=True)
class Outcome:
    output: bytes
    status: str

    def word(self, keyword: str, place: int) -> str:
        """A word of the first status line of this keyword; the one after the keyword is 0."""
        (line,) = re.findall(rf"^\[GNUPG:\] {keyword} (.*)$", self.status, re.MULTILINE)[:1]
        return str(line).split()[place]


class Crowd(contextlib.AbstractContextManager["Crowd"]):
    """Makes people, and closes them all at the end."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        self.directory = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="safe-", dir="/tmp")))
        """An empty directory with a short path, for the homes of lists."""

    def person(self, name: str = "Anna", address: str | None = None, **options: str | None) -> Person:
        """As ``Person.create``, below /tmp; the address follows from the name."""
        made = Person.create(None, name, address or f"{name.lower()}@example.test", **options)  # type: ignore[arg-type]
        self._closing.callback(made.close)
        return made

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def list_packets(message: bytes) -> list[str]:
    """The outer packets of a message as GnuPG sees them (``:pubkey enc packet:`` ...), with no key at hand."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as home:
        done = _run(Path(home), "--list-packets", data=message)
    return re.findall(r"^:[a-z ]+packet:", done.output.decode(errors="replace"), re.MULTILINE)


def read_by_sq(message: bytes, secret_key: bytes, signer_key: bytes) -> bytes:
    """Sequoia decrypts, and demands a good signature by ``signer_key``. Raises AssertionError if there is none."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as folder:
        files = _files(Path(folder), secret=secret_key, signer=signer_key, message=message)
        keys = ["--recipient-key", files["secret"], "--signer-cert", files["signer"]]
        done = subprocess.run([_program("sq"), "decrypt", *keys, files["message"]], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"1 good signature" in done.stderr, done.stderr.decode(errors="replace")
    return done.stdout


def read_by_rnp(message: bytes, secret_key: bytes, signer_key: bytes) -> bytes:
    """RNP decrypts, and reports a good signature by ``signer_key``. Raises AssertionError if there is none."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as folder:
        files = _files(Path(folder), secret=secret_key, signer=signer_key, message=message)
        home = ["--homedir", folder]
        for key in (files["secret"], files["signer"]):
            subprocess.run([_program("rnpkeys"), *home, "--import", key], capture_output=True, check=True)
        clear = Path(folder) / "clear"
        command = [_program("rnp"), *home, "--password", "", "--output", str(clear), "-d", files["message"]]
        done = subprocess.run(command, capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, said
        assert "Good signature made" in said, said
        assert "Signature(s) verified successfully" in said, said
        return clear.read_bytes()


def _certificates(exported: bytes) -> list[bytes]:
    """Cut before each primary key. GnuPG writes old-format headers: bits 2-5 are the tag."""
    found: list[bytes] = []
    position = 0
    while position < len(exported):
        tag, octets = exported[position] >> 2 & 15, 1 << (exported[position] & 3)
        body = position + 1 + octets
        end = body + int.from_bytes(exported[position + 1 : body], "big")
        if tag == 6:
            found.append(b"")
        found[-1] += exported[position:end]
        position = end
    return found


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed (Debian: apt-get install gnupg sq rnp)"
    return found


def write_by_sq(data: bytes, secret_key: bytes, recipient_key: bytes) -> bytes:
    """Sequoia signs by ``secret_key`` and encrypts to ``recipient_key``; armoured."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as folder:
        files = _files(Path(folder), secret=secret_key, recipient=recipient_key, clear=data)
        keys = ["--recipient-cert", files["recipient"], "--signer-key", files["secret"]]
        done = subprocess.run([_program("sq"), "encrypt", *keys, files["clear"]], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def write_by_rnp(data: bytes, secret_key: bytes, recipient_key: bytes, *options: str) -> bytes:
    """RNP signs by ``secret_key``, encrypts to ``recipient_key``; binary. ``options`` are its own (``--aead=OCB``)."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as folder:
        files = _files(Path(folder), secret=secret_key, recipient=recipient_key, clear=data)
        home = ["--homedir", folder]
        for key in (files["secret"], files["recipient"]):
            subprocess.run([_program("rnpkeys"), *home, "--import", key], capture_output=True, check=True)
        sealed = Path(folder) / "sealed"
        command = [_program("rnp"), *home, *options, "--password", "", "--output", str(sealed), "-s", "-e"]
        command += ["-u", _address(secret_key), "-r", _address(recipient_key), files["clear"]]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return sealed.read_bytes()


def _address(key: bytes) -> str:
    """The mail address in a certificate's first user id."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as home:
        shown = _run(Path(home), "--with-colons", "--show-keys", data=key).output.decode(errors="replace")
    found = re.search(r"^uid:(?:[^:]*:){8}[^:]*<([^>:]+)>", shown, re.MULTILINE)
    assert found is not None, shown
    return found[1]


def _files(folder: Path, **contents: bytes) -> dict[str, str]:
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: str(folder / name) for name in contents}


def _faked(at: str | None) -> list[str]:
    """The ``!`` makes the time stand still."""
    return [] if at is None else ["--faked-system-time", f"{at}!"]


def _gpg(home: Path, *arguments: str, data: bytes = b"") -> Outcome:
    done = _run(home, *arguments, data=data)
    assert done.returncode == 0, (arguments, done.status, done.errors)
    return Outcome(done.output, done.status)


@dataclass(frozen=True)
class Done:
    returncode: int
    output: bytes
    status: str
    errors: str


def _run(home: Path, *arguments: str, data: bytes) -> Done:
    options = ["--batch", "--no-tty", "--yes", "--quiet", "--no-options", "--trust-model", "always"]
    options += ["--pinentry-mode", "loopback", "--allow-weak-digest-algos"]
    read, write = os.pipe()
    with os.fdopen(read, "rb") as status:
        command = [_program("gpg"), "--homedir", str(home), *options, "--status-fd", str(write), *arguments]
        try:
            done = subprocess.run(command, input=data, capture_output=True, check=False, pass_fds=[write])
        finally:
            os.close(write)
        said = status.read().decode(errors="replace")
    return Done(done.returncode, done.stdout, said, done.stderr.decode(errors="replace"))
