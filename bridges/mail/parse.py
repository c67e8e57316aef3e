"""The outside of a mail: is it a person's mail, and is it OpenPGP as a whole?

Decides by structure alone, without any key. A list acts on what it decrypts, so it is the perfect oracle: only a
message whose *root* is encrypted is accepted, ciphertext among other parts never is (docs/security.md, T-ENC-01).
"""

from __future__ import annotations

import re
from typing import Final

from bridges.mail import fields, mime, threads
from bridges.mail.mime import Part
from bridges.ports import Envelope
from trust.errors import MailBroken, MailIsAutomatic, MailIsSmime, MailNotEncrypted

MAX_HOPS: Final = 30
"""Received fields; more of them mean a loop."""

_BEGIN: Final = b"-----BEGIN PGP MESSAGE-----"
_END: Final = b"-----END PGP MESSAGE-----"
_VERSION: Final = re.compile(rb"^Version:[ \t]*1[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
_SMIME: Final = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_SMIME_SIGNATURE: Final = frozenset({"application/pkcs7-signature", "application/x-pkcs7-signature"})
_CONTROL_PART: Final = "application/pgp-encrypted"
_DATA_PART: Final = "application/octet-stream"


def read_envelope(raw: bytes) -> Envelope:
    """What the outside tells, and the OpenPGP message (RFC 3156, the shape Exchange makes of it, or one inline text).

    Raises MailIsAutomatic, MailIsSmime, MailNotEncrypted, MailBroken.
    """
    try:
        if is_automatic(raw):
            raise MailIsAutomatic
        root = mime.read(raw)
    except mime.Unreadable as error:
        raise MailBroken from error
    return Envelope(
        message=_message(root),
        subject=fields.decode(root.first("subject")),
        from_addresses=fields.addresses(root.all("from")),
        message_id=next(iter(threads.read_ids(root.first("message-id"))), None),
        references=threads.answered(root.all("in-reply-to"), root.all("references")),
    )


# --- automatic mail (RFC 3834, 2; docs/security.md, T-MAIL-02) -------------------------------------------------------


def is_automatic(raw: bytes) -> bool:
    """Whether it bears a sign that a program wrote it, by itself or for a list. Raises MailBroken."""
    try:
        headers, _ = mime.head_of(raw)
    except mime.Unreadable as error:
        raise MailBroken from error
    by_name: dict[str, list[str]] = {}
    for name, value in headers:
        by_name.setdefault(name, []).append(fields.parameters(value)[0])
    return any(sign(by_name) for sign in AUTOMATIC)


def _says_so(headers: dict[str, list[str]]) -> bool:
    return any(value != "no" for value in headers.get("auto-submitted", ()))


def _of_a_list(headers: dict[str, list[str]]) -> bool:
    return bool({"list-id", "list-post", "list-unsubscribe"} & headers.keys())


def _in_bulk(headers: dict[str, list[str]]) -> bool:
    return bool({"bulk", "junk", "list", "auto_reply"} & set(headers.get("precedence", ())))


def _by_a_responder(headers: dict[str, list[str]]) -> bool:
    return bool({"x-loop", "x-autoreply", "x-autorespond", "x-failed-recipients"} & headers.keys())


def _bounced(headers: dict[str, list[str]]) -> bool:
    return "<>" in headers.get("return-path", ()) or "multipart/report" in headers.get("content-type", ())


def _going_round(headers: dict[str, list[str]]) -> bool:
    return len(headers.get("received", ())) > MAX_HOPS


AUTOMATIC: Final = (_says_so, _of_a_list, _in_bulk, _by_a_responder, _bounced, _going_round)


# --- the OpenPGP message ---------------------------------------------------------------------------------------------


def _message(root: Part) -> bytes:
    if _is_smime(root):
        raise MailIsSmime
    if root.media_type == "multipart/encrypted":
        return _of_parts(root.children)
    if root.media_type == "multipart/mixed" and _mangled_by_exchange(root.children):
        return _of_parts(root.children[-2:])
    if root.media_type == "text/plain":
        return _inline(root.decoded())
    raise MailNotEncrypted


def _is_smime(root: Part) -> bool:
    protocol = root.parameters.get("protocol", "").lower()
    return (
        root.media_type in _SMIME
        or (root.media_type == "multipart/signed" and protocol in _SMIME_SIGNATURE)
        or (root.media_type == _DATA_PART and root.filename.lower().endswith((".p7m", ".p7s")))
    )


def _mangled_by_exchange(parts: tuple[Part, ...]) -> bool:
    """An empty text, then the two parts of RFC 3156 in their order (OPENPGP.md: what Exchange does to PGP/MIME)."""
    before, control = parts[:-2], parts[-2:-1]
    empty = all(part.media_type.startswith("text/") and not part.decoded().strip() for part in before)
    return len(before) <= 1 and empty and bool(control) and control[0].media_type == _CONTROL_PART


def _of_parts(parts: tuple[Part, ...]) -> bytes:
    """The second of exactly two parts (RFC 3156, 4)."""
    if len(parts) != 2:
        raise MailNotEncrypted
    control, data = parts
    if control.media_type != _CONTROL_PART or not _VERSION.search(control.decoded()):
        raise MailNotEncrypted
    if data.media_type != _DATA_PART:
        raise MailNotEncrypted
    return _inline(data.decoded())


def _inline(text: bytes) -> bytes:
    """The one armoured message that is all there is in ``text``."""
    message = text.replace(b"\r\n", b"\n").strip()
    first, _, rest = message.partition(b"\n")
    alone = message.count(b"-----BEGIN PGP ") == 1 and message.count(b"-----END PGP ") == 1
    if first.rstrip() != _BEGIN or not rest.endswith(b"\n" + _END) or not alone:
        raise MailNotEncrypted
    return message + b"\n"
