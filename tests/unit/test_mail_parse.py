"""What counts as an encrypted mail from a person, told by its structure alone."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from bridges.mail.parse import read_envelope
from tests.parts.mail import CORPORA, armour, encrypted_mail
from trust.errors import MailBroken, MailIsAutomatic, MailIsSmime, MailNotEncrypted, MailRefusal

CORPUS = sorted(path for path in CORPORA.glob("*/*") if path.suffix in {".eml", ".txt"} and path.is_file())

VERSION = b"Content-Type: application/pgp-encrypted\n\nVersion: 1\n"
DATA = b"Content-Type: application/octet-stream\n\n" + armour()


def mail(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(b"--b\n" + part + b"\n" for part in parts) + b"--b--\n"
    return b"From: ada@example.test\nContent-Type: " + kind + b'; boundary="b"\n\n' + body


# --- accepted --------------------------------------------------------------------------------------------------------


def test_a_mail_as_thunderbird_sends_it_gives_its_message_and_its_outside() -> None:
    envelope = read_envelope(
        encrypted_mail(headers=b"In-Reply-To: <r2@x.test>\nReferences: <r1@x.test>\n <r2@x.test>\n")
    )

    assert envelope.message == armour()
    assert envelope.subject == "..."
    assert envelope.from_addresses == ("ada@example.test",)
    assert envelope.message_id == "a1@example.test"
    assert envelope.references == ("r2@x.test", "r1@x.test")


@pytest.mark.parametrize(
    "before",
    [(), (b"Content-Type: text/plain\n\n\n",), (b"Content-Type: text/html\n\n\n",)],
    ids=["bare", "with an empty text", "with an empty page"],
)
def test_what_exchange_makes_of_pgp_mime_is_repaired(before: tuple[bytes, ...]) -> None:
    assert read_envelope(mail(b"multipart/mixed", *before, VERSION, DATA)).message == armour()


def test_parts_that_a_gateway_put_into_base64_are_read() -> None:
    import base64

    version = b"Content-Type: application/pgp-encrypted\nContent-Transfer-Encoding: base64\n\nVmVyc2lvbjogMQ0K\n"
    data = b"Content-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\n"

    raw = mail(b"multipart/encrypted", version, data + base64.encodebytes(armour()))

    assert read_envelope(raw).message == armour()


@pytest.mark.parametrize("encoding", [b"7bit", b"quoted-printable"])
def test_one_lone_inline_message_is_accepted(encoding: bytes) -> None:
    text = armour().replace(b"=abcd", b"=3Dabcd") if encoding == b"quoted-printable" else armour()
    raw = b"Content-Type: text/plain\nContent-Transfer-Encoding: " + encoding + b"\n\n\n" + text + b"\n\n"

    assert read_envelope(raw).message == armour()


def test_a_mail_without_any_content_type_may_be_an_inline_message() -> None:
    assert read_envelope(b"From: a@b.test\n\n" + armour()).message == armour()


# --- refused ---------------------------------------------------------------------------------------------------------

NOT_ENCRYPTED = {
    "clear text": b"From: a@b.test\n\nhello\n",
    "nothing": b"",
    "only signed": mail(b"multipart/signed", b"\nhello\n", b"Content-Type: application/pgp-signature\n\nx\n"),
    "three parts": mail(b"multipart/encrypted", VERSION, DATA, b"\nfooter\n"),
    "one part": mail(b"multipart/encrypted", DATA),
    "parts the wrong way round": mail(b"multipart/encrypted", DATA, VERSION),
    "another version": mail(b"multipart/encrypted", VERSION.replace(b"1", b"2"), DATA),
    "not even armour": mail(b"multipart/encrypted", VERSION, b"Content-Type: application/octet-stream\n\nhello\n"),
    "two messages": mail(b"multipart/encrypted", VERSION, DATA + armour()),
    "text before the armour": mail(b"multipart/encrypted", VERSION, DATA.replace(b"\n\n", b"\n\nhello\n", 1)),
    "a list's wrapper": mail(b"multipart/mixed", mail(b"multipart/encrypted", VERSION, DATA), b"\nfooter\n"),
    "exchange's shape with a text": mail(b"multipart/mixed", b"\n<img src='http://x.test/", VERSION, DATA),
    "exchange's shape with a tail": mail(b"multipart/mixed", b"\n\n", VERSION, DATA, b"\n'>\n"),
    "inline among other text": b"\nsee below\n" + armour(),
    "inline in a page": b"Content-Type: text/html\n\n" + armour(),
    "inline in one part of two": mail(b"multipart/mixed", b"\n" + armour(), b"\nhello\n"),
    "forwarded": b"Content-Type: message/rfc822\n\n" + encrypted_mail(),
    "a key": b"\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabcd\n-----END PGP PUBLIC KEY BLOCK-----\n",
    "signed in the clear": b"\n-----BEGIN PGP SIGNED MESSAGE-----\n\nhello\n-----BEGIN PGP SIGNATURE-----\n",
}


@pytest.mark.parametrize("raw", NOT_ENCRYPTED.values(), ids=NOT_ENCRYPTED.keys())
def test_whatever_is_not_encrypted_as_a_whole_is_refused(raw: bytes) -> None:
    with pytest.raises(MailNotEncrypted):
        read_envelope(raw)


@pytest.mark.parametrize(
    "kind",
    [
        b"application/pkcs7-mime; smime-type=enveloped-data",
        b"application/x-pkcs7-mime",
        b'multipart/signed; protocol="application/pkcs7-signature"; boundary=b',
        b'application/octet-stream; name="smime.p7m"',
    ],
)
def test_smime_is_recognised_and_refused_with_its_own_reason(kind: bytes) -> None:
    with pytest.raises(MailIsSmime):
        read_envelope(b"Content-Type: " + kind + b"\n\nx\n")


@pytest.mark.parametrize(
    "header",
    [
        b"Auto-Submitted: auto-replied",
        b"Auto-Submitted: auto-generated (by x)",
        b"Precedence: junk",
        b"List-Unsubscribe: <mailto:x@y.test>",
        b"X-Autoreply: yes",
        b"Return-Path: <>",
    ],
)
def test_automatic_mail_is_refused(header: bytes) -> None:
    with pytest.raises(MailIsAutomatic):
        read_envelope(encrypted_mail(headers=header + b"\n"))


@pytest.mark.parametrize("header", [b"Auto-Submitted: no", b"Precedence: first-class", b"Return-Path: <a@b.test>"])
def test_mail_that_only_looks_automatic_is_taken(header: bytes) -> None:
    assert read_envelope(encrypted_mail(headers=header + b"\n")).message == armour()


def _nested(depth: int) -> bytes:
    raw = b"\nhello\n"
    for level in range(depth):
        mark = str(level).encode()
        raw = b"Content-Type: multipart/mixed; boundary=b%b\n\n--b%b\n%b\n--b%b--\n" % (mark, mark, raw, mark)
    return raw


HOSTILE = {
    "3,000 levels": _nested(3000),
    "21 levels": _nested(21),
    "5,000 parts": mail(b"multipart/mixed", *[b"\nx\n"] * 5000),
    "70 KiB of headers": b"X: y\n" * 14_000 + b"\nhello\n",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_mail_beyond_the_limits_is_refused_at_once(raw: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(MailBroken):
        read_envelope(raw)

    assert time.perf_counter() - started < 1


SLOW = {
    "5,000 quote marks": b'From: "' + b'"' * 5000 + b"\nTo: x\n\nhello\n",
    "2,000 brackets": b"From: " + b"(" * 2000 + b"a@b.test\n\nhello\n",
    "10,000 addresses": b"From: " + b"a@b.test, " * 6000 + b"\n\nhello\n",
    "18 KB of parameter sections": b"Content-Type: text/plain" + b";a*0=x" * 3000 + b"\n\nhello\n",
    "60 KB of encoded words": b"Subject: " + b"=?utf-8?q?x?= " * 4000 + b"\n\nhello\n",
    "a boundary of blanks": b'Content-Type: multipart/mixed; boundary=" "\n\n' + b"-- \n" * 50_000,
    "20 MB of armour": encrypted_mail(message=armour(b"x" * 15_000_000)),
    "5 MB of newlines": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"\n" * 5_000_000,
    "5 MB of half an armour": b"\n" + b"-----BEGIN PGP MESSAGE-----\n" * 180_000,
}


@pytest.mark.parametrize("raw", SLOW.values(), ids=SLOW.keys())
def test_no_mail_takes_long_to_read(raw: bytes) -> None:
    started = time.perf_counter()
    with contextlib.suppress(MailNotEncrypted, MailBroken):
        read_envelope(raw)

    assert time.perf_counter() - started < 1.5


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_real_mail_of_the_corpora_is_read_or_refused_with_a_type(path: Path) -> None:
    for raw in (path.read_bytes(), path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")):
        try:
            envelope = read_envelope(raw)
        except MailRefusal:
            continue
        assert envelope.message.startswith(b"-----BEGIN PGP MESSAGE-----\n")


@pytest.mark.parametrize(
    "path", [path for path in CORPUS if path.name.startswith("smime-")], ids=lambda path: str(path.name)
)
def test_the_smime_mails_of_the_corpora_are_recognised(path: Path) -> None:
    with pytest.raises(MailIsSmime):
        read_envelope(path.read_bytes())
