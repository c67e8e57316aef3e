"""The strict grammar: what GnuPG's status lines must say before a single byte of a message is believed.

Pure: bytes in, a verdict or a typed refusal out. Knows no process and no file. The lines come from a pipe of their own
(docs/security.md); they are split on LF alone, since a value may hold any other octet, and a keyword counts only at the
start of a line. What is not expected is refused, whatever it means: the list of keywords is closed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from trust.errors import (
    BadSignature,
    BrokenEncryption,
    NotForThisList,
    NotSigned,
    PostRefusal,
    SafeUnavailable,
    UnknownSigner,
)
from trust.records import Fingerprint

LINE = re.compile(rb"\[GNUPG:\] ([A-Z][A-Z0-9_]*)(?: ([^\n]*))?")
FINGERPRINT = re.compile(r"[0-9A-F]{40}")
NUMBER = re.compile(r"[0-9]{1,10}")

ENCRYPTION: Final = (
    "DECRYPTION_KEY",
    "BEGIN_DECRYPTION",
    "DECRYPTION_INFO",
    "PLAINTEXT",
    "DECRYPTION_OKAY",
    "GOODMDC",
    "END_DECRYPTION",
)
"""Each once, in this order; GOODMDC may be missing where DECRYPTION_INFO names an AEAD algorithm."""

GOOD_SIGNATURE: Final = ("NEWSIG", "GOODSIG", "VALIDSIG")
STRANGE_SIGNATURE: Final = ("NEWSIG", "ERRSIG", "NO_PUBKEY")
SIGNATURE: Final = frozenset({*GOOD_SIGNATURE, *STRANGE_SIGNATURE, "BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG"})

HARMLESS: Final = frozenset(
    {
        "CARDCTRL",
        "DECRYPTION_COMPLIANCE_MODE",
        "ENC_TO",
        "GOOD_PASSPHRASE",
        "INQUIRE_MAXLEN",
        "KEYEXPIRED",
        "KEY_CONSIDERED",
        "NEED_PASSPHRASE",
        "NOTATION_DATA",
        "NOTATION_FLAGS",
        "NOTATION_NAME",
        "PLAINTEXT_LENGTH",
        "POLICY_URL",
        "PROGRESS",
        "SIG_ID",
        "TRUST_FULLY",
        "TRUST_MARGINAL",
        "TRUST_NEVER",
        "TRUST_ULTIMATE",
        "TRUST_UNDEFINED",
        "USERID_HINT",
        "VERIFICATION_COMPLIANCE_MODE",
    }
)
"""Keywords of GnuPG's doc/DETAILS that a good message may bring and that decide nothing.

KEYEXPIRED is said of any expired subkey of the signer, used or not; an expired *signing* key makes EXPKEYSIG.
"""

HASHES: Final = frozenset({"8", "9", "10"})
"""SHA-256, SHA-384, SHA-512 (RFC 9580, 9.5)."""

DOCUMENT: Final = frozenset({"00", "01"})
"""Signature types over a document (RFC 9580, 5.2.1)."""

NO_PUBLIC_KEY: Final = "9"
"""ERRSIG's reason: the signer's key is not in the ring."""

OUR_FAULT: Final = frozenset({11, 17, 62, 77, 78, 85, 86, 87, 99, 177, 183, 198, 251, *range(257, 282)})
"""libgpg-error codes of a failed private-key operation that blame the agent or the passphrase, not the message."""

SYSTEM_ERROR: Final = 0x8000
CODE_MASK: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Verdict:
    """One good signature over the whole of one message that was encrypted to the list."""

    signer: Fingerprint
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class Line:
    keyword: str
    fields: tuple[str, ...]


def judge_status(status: bytes, returncode: int, *, list_key: Fingerprint, signers: Collection[Fingerprint]) -> Verdict:
    """Who signed, and when, if the whole grammar matches.

    ``status`` holds every octet of the status pipe of one ``gpg --decrypt``, ``list_key`` is the primary fingerprint
    that must have decrypted, ``signers`` are the primary fingerprints that may have signed.

    Raises NotForThisList (no secret key), BrokenEncryption, NotSigned, BadSignature, UnknownSigner; SafeUnavailable
    where the agent and not the message is at fault. Each carries its cause as a note, for the log alone.
    """
    lines = read_lines(status)
    _check_decryption(lines, list_key)
    _check_order(lines)
    _check_exit(lines, returncode)
    valid = _one_signature(lines)
    _check_keywords(lines)
    verdict = _read_valid(valid)
    if verdict.signer not in signers:
        raise _refusal(UnknownSigner, "not-a-member")
    return verdict


def read_lines(status: bytes) -> list[Line]:
    """The lines of a status pipe. Raises BrokenEncryption for anything that is not one."""
    if status and not status.endswith(b"\n"):
        raise _refusal(BrokenEncryption, "status-cut-short")
    return [_read_line(line) for line in status.split(b"\n")[:-1]]


def keywords(status: bytes, keyword: str) -> list[tuple[str, ...]]:
    """The fields of each line of this ``keyword``; lines that can't be read are passed over (for sealing)."""
    found = (LINE.fullmatch(line) for line in status.split(b"\n"))
    return [_fields(match[2]) for match in found if match is not None and match[1] == keyword.encode("ascii")]


def reasons(error: BaseException) -> str:
    """The causes noted on a refusal, for the log: fixed words and numbers, nothing that came with a message."""
    return ",".join(getattr(error, "__notes__", ()))


def _read_line(line: bytes) -> Line:
    match = LINE.fullmatch(line)
    if match is None:
        raise _refusal(BrokenEncryption, "not-a-status-line")
    return Line(match[1].decode("ascii"), _fields(match[2]))


def _fields(value: bytes | None) -> tuple[str, ...]:
    """Split at the space alone; Latin-1 keeps every octet what it is."""
    return tuple((value or b"").decode("latin-1").split(" "))


def _check_decryption(lines: Sequence[Line], list_key: Fingerprint) -> None:
    """Decrypted once, by the list's key, with its integrity proven.

    At a bad or an expired signature GnuPG ends at once in batch mode, before it says a word on the integrity. A bad one
    may be damage, so it is broken encryption like all damage; an expired one was verified first (VALIDSIG).
    """
    _check_agent(lines)
    seen = tuple(line.keyword for line in lines if line.keyword in ENCRYPTION)
    names = {line.keyword for line in lines}
    if "NO_SECKEY" in names and "DECRYPTION_KEY" not in names:
        raise _refusal(NotForThisList, "no-secret-key")
    if seen != ENCRYPTION and not (_is_aead(lines) and seen == tuple(k for k in ENCRYPTION if k != "GOODMDC")):
        expired = {"EXPSIG", "VALIDSIG"} <= names
        raise _refusal(BadSignature if expired else BrokenEncryption, "decryption-incomplete")
    if _only(lines, "DECRYPTION_KEY")[1:2] != (list_key,):
        raise _refusal(BrokenEncryption, "foreign-decryption-key")


def _check_agent(lines: Sequence[Line]) -> None:
    """Our own failure must never read as the sender's: the mail would be refused for good."""
    for line in lines:
        if line.keyword == "ERROR" and line.fields[0] == "pkdecrypt_failed":
            code = int(line.fields[1]) if len(line.fields) > 1 and NUMBER.fullmatch(line.fields[1]) else 0
            if code & CODE_MASK in OUR_FAULT or code & SYSTEM_ERROR:
                raise _refusal(SafeUnavailable, f"agent-{code & CODE_MASK}")


def _is_aead(lines: Sequence[Line]) -> bool:
    """DECRYPTION_INFO: MDC method, cipher, AEAD algorithm (GnuPG 2.2 leaves it out, and says GOODMDC for AEAD too)."""
    return len(info := _only(lines, "DECRYPTION_INFO")) > 2 and info[2] != "0"


def _check_order(lines: Sequence[Line]) -> None:
    """Each signature line stands between the plain text and the end of its decryption."""
    order = [line.keyword for line in lines]
    for place, keyword in enumerate(order):
        if keyword in SIGNATURE and not order.index("PLAINTEXT") < place < order.index("DECRYPTION_OKAY"):
            raise _refusal(BrokenEncryption, "signature-outside")


def _check_exit(lines: Sequence[Line], returncode: int) -> None:
    """GnuPG's exit code is 0, unless a signature that does not count explains it."""
    explained = any(line.keyword in SIGNATURE and line.keyword not in GOOD_SIGNATURE for line in lines)
    if returncode != 0 and not explained:
        raise _refusal(BrokenEncryption, f"exit-{returncode}")


def _check_keywords(lines: Sequence[Line]) -> None:
    if unknown := {line.keyword for line in lines} - HARMLESS - SIGNATURE - set(ENCRYPTION):
        raise _refusal(BrokenEncryption, *sorted(unknown))


def _one_signature(lines: Sequence[Line]) -> tuple[str, ...]:
    """The fields of the one VALIDSIG. Bad, expired, revoked, weak and doubled signatures are one refusal."""
    seen = tuple(line.keyword for line in lines if line.keyword in SIGNATURE)
    if not seen:
        raise _refusal(NotSigned, "no-signature")
    if seen == STRANGE_SIGNATURE and _only(lines, "ERRSIG")[5:6] == (NO_PUBLIC_KEY,):
        raise _refusal(UnknownSigner, "key-not-known")
    if seen != GOOD_SIGNATURE:
        raise _refusal(BadSignature, *dict.fromkeys(seen))
    return _only(lines, "VALIDSIG")


def _read_valid(valid: tuple[str, ...]) -> Verdict:
    """VALIDSIG: key, date, time, expiry, version, -, algorithm, hash, class, *primary* key (GnuPG, doc/DETAILS)."""
    if len(valid) != 10 or not FINGERPRINT.fullmatch(valid[0]) or not FINGERPRINT.fullmatch(valid[9]):
        raise _refusal(BadSignature, "validsig-fields")
    if valid[7] not in HASHES:
        raise _refusal(BadSignature, "weak-hash")
    if valid[8] not in DOCUMENT or not NUMBER.fullmatch(valid[2]):
        raise _refusal(BadSignature, "signature-type")
    return Verdict(Fingerprint(valid[9]), datetime.fromtimestamp(int(valid[2]), UTC))


def _only(lines: Sequence[Line], keyword: str) -> tuple[str, ...]:
    """The fields of the one line of this keyword; a single empty field when there is none or more than one."""
    found = [line.fields for line in lines if line.keyword == keyword]
    return found[0] if len(found) == 1 else ("",)


def _refusal(kind: type[PostRefusal] | type[SafeUnavailable], *causes: str) -> PostRefusal | SafeUnavailable:
    refusal = kind()
    for cause in causes:
        refusal.add_note(cause)
    return refusal
