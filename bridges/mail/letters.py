"""The inside of an opened mail: subject, text, files, and what its author protected.

Gets bytes that a good signature covers, and does not trust them for that: a member's program may be broken or taken
over. Knows nothing of keys.
"""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Final

from bridges.mail import charsets, fields, mime, readable, threads
from bridges.mail.mime import Part
from bridges.ports import Envelope, Letter
from trust.errors import AttachmentTooBig, ContentUnreadable, TooManyAttachments
from trust.records import Attachment, Content

LONGEST_NAME: Final = 120
"""Characters of a file's name."""
LONGEST_SUBJECT: Final = 250

_MIME_FIELDS: Final = frozenset({"content-type", "content-transfer-encoding", "mime-version"})
_UNSAFE: Final = re.compile(r'[<>:"|?*\x00-\x1f]')
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
_SILENT: Final = frozenset({"application/pgp-signature", "application/pgp-encrypted"})
"""Parts of a cryptographic layer: nothing for a person."""
_LEGACY_HTML: Final = re.compile(
    r'<div[^>]*class\s*=\s*"[^"]*header-protection-legacy-display[^"]*"[^>]*>.*?</div>', re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class LetterLimits:
    """What a post may bring along."""

    attachments: int = 10
    attachment_mb: int = 10
    text_octets: int = 1024 * 1024
    """Of one text part, as on the wire. Nobody reads more in a message: a longer one is handed on as a file."""


@dataclass(slots=True)
class _Reading:
    """What is found while the tree is walked."""

    limits: LetterLimits
    protected: bool
    hidden: bool
    """``hp="cipher"``: parts may hold a legacy display of the headers (RFC 9788, 2.1.2)."""
    texts: list[str] = field(default_factory=list)
    files: list[Part] = field(default_factory=list)


def read_letter(entity: bytes, envelope: Envelope, limits: LetterLimits) -> Letter:
    """Text, files, and headers: the protected ones where the root of the entity says that there are any, else the
    envelope's (RFC 9788, 4.2; draft-autocrypt-lamps-protected-headers, 4).

    Raises ContentUnreadable, TooManyAttachments, AttachmentTooBig.
    """
    try:
        root, unwrapped = _root(entity)
    except mime.Unreadable as error:
        raise ContentUnreadable from error
    hp = root.parameters.get("hp", "").lower()
    protected = unwrapped or hp in {"cipher", "clear"} or root.parameters.get("protected-headers", "").lower() == "v1"
    content = read_content(root, limits, protected=protected, hidden=hp == "cipher")
    if not protected:
        return _letter(content, envelope.subject, envelope, ())
    # Where hp= stands, what is missing inside does not exist: nothing is merged in from outside (RFC 9788, 4.2).
    complete = unwrapped or hp in {"cipher", "clear"}
    inner = Envelope(
        message=b"",
        subject=_inside(fields.decode(root.first("subject")), envelope.subject, complete),
        from_addresses=fields.addresses(root.all("from")) or envelope.from_addresses,
        message_id=next(iter(threads.read_ids(root.first("message-id"))), None) or envelope.message_id,
        references=threads.answered(root.all("in-reply-to"), root.all("references")) or envelope.references,
    )
    return _letter(content, inner.subject, inner, _bound_to(root))


def _inside(inner: str, outer: str, complete: bool) -> str:
    return inner if complete else inner or outer


def _letter(content: Content, subject: str, envelope: Envelope, bound_to: tuple[str, ...]) -> Letter:
    subject = subject if len(subject) <= LONGEST_SUBJECT else subject[: LONGEST_SUBJECT - 1] + "…"
    return Letter(
        content=Content(subject, content.text, content.attachments),
        from_addresses=envelope.from_addresses,
        message_id=envelope.message_id,
        references=envelope.references,
        bound_to=bound_to,
    )


def _root(entity: bytes) -> tuple[Part, bool]:
    """The part to read, and whether it came out of the wrapper of RFC 8551, 3.1 (``forwarded=no``)."""
    headers, _ = mime.head_of(entity[: mime.MAX_HEADERS])
    if not _MIME_FIELDS & {name for name, _ in headers}:
        return Part((), entity, "text/plain", {}), False  # the text of an inline message has no MIME headers
    root = mime.read(entity)
    if root.media_type == "message/rfc822" and root.parameters.get("forwarded", "").lower() == "no":
        return mime.read(root.decoded()), True
    return root, False


def _bound_to(root: Part) -> tuple[str, ...]:
    """Addresses in To and Cc, and the identifiers of List-Id (RFC 2919, ``name.domain``), lower-cased."""
    lists = [found for value in root.all("list-id") for found in re.findall(r"<([^<>\s]{1,255})>", value)]
    return (*fields.addresses([*root.all("to"), *root.all("cc")]), *(each.lower() for each in lists))


# --- content ---------------------------------------------------------------------------------------------------------


def read_content(root: Part, limits: LetterLimits, *, protected: bool = False, hidden: bool = False) -> Content:
    reading = _Reading(limits, protected, hidden)
    _walk(root, reading, at_root=True)
    if len(reading.files) > limits.attachments:
        raise TooManyAttachments(limit=limits.attachments)
    files = tuple(_attachment(part, number, limits) for number, part in enumerate(reading.files, 1))
    return Content("", charsets.lines("\n\n".join(text for text in reading.texts if text)), files)


def _walk(part: Part, reading: _Reading, *, at_root: bool = False) -> None:
    if _is_legacy_display(part, reading, at_root=at_root) or part.media_type in _SILENT:
        return
    if part.media_type == "multipart/alternative" and part.children:
        _choose(part, reading)
    elif part.children:
        for child in part.children:
            _walk(child, reading)
    elif _is_text(part, reading, at_root=at_root):
        reading.texts.append(_text(part, reading))
    elif part.media_type.startswith("multipart/"):
        reading.texts.append(charsets.lines(part.text()))  # no delimiter in it: a person may still read something
    else:
        reading.files.append(part)


def _choose(alternative: Part, reading: _Reading) -> None:
    """Plain text if there is any, else the last form that has text; what is no text in the others is kept as files."""
    forms = [_walked(child, reading) for child in alternative.children]
    written = [
        (child.media_type == "text/plain", form.texts)
        for child, form in zip(alternative.children, forms, strict=True)
        if any(text.strip() for text in form.texts)
    ]
    if written:
        reading.texts += next((texts for plain, texts in written if plain), written[-1][1])
    reading.files += [part for form in forms for part in form.files]


def _walked(part: Part, reading: _Reading) -> _Reading:
    fresh = _Reading(reading.limits, reading.protected, reading.hidden)
    _walk(part, fresh)
    return fresh


def _is_text(part: Part, reading: _Reading, *, at_root: bool) -> bool:
    """A text that is there to be read, not a text file."""
    if part.media_type not in {"text/plain", "text/html"} or part.disposition == "attachment":
        return False
    if len(part.body) > reading.limits.text_octets:
        return False
    if part.media_type == "text/html" and not readable.can_be_text(part.decoded()):
        return False
    return at_root or not part.filename or (part.disposition == "" and not reading.texts and not reading.files)


def _is_legacy_display(part: Part, reading: _Reading, *, at_root: bool) -> bool:
    """A copy of the protected headers for old programs (draft-autocrypt-lamps-protected-headers, 5.2)."""
    copied = part.parameters.get("protected-headers", "").lower() == "v1"
    return reading.protected and not at_root and copied and part.media_type in {"text/plain", "text/rfc822-headers"}


def _text(part: Part, reading: _Reading) -> str:
    text = part.text()
    legacy = reading.hidden and part.parameters.get("hp-legacy-display") == "1"
    if part.media_type == "text/html":
        return readable.from_html(_LEGACY_HTML.sub("", text, count=1) if legacy else text)
    if legacy:  # everything up to the first blank line (RFC 9788, 4.5.3)
        text = re.sub(r"\A.*?\r?\n[ \t]*\r?\n", "", text, count=1, flags=re.DOTALL)
    if part.parameters.get("format", "").lower() == "flowed":
        text = readable.unflow(text, delete_space=part.parameters.get("delsp", "").lower() == "yes")
    return charsets.lines(text)


# --- files -----------------------------------------------------------------------------------------------------------


def _attachment(part: Part, number: int, limits: LetterLimits) -> Attachment:
    data = part.decoded()
    if len(data) > limits.attachment_mb * 1024 * 1024:
        raise AttachmentTooBig(limit_mb=limits.attachment_mb)
    media_type = part.media_type if _MEDIA_TYPE.fullmatch(part.media_type) else "application/octet-stream"
    return Attachment(safe_name(part.filename) or _made_up(media_type, number), media_type, data)


def safe_name(name: str) -> str:
    """One path component that can be shown and saved anywhere, its ending kept; empty if nothing is left."""
    name = unicodedata.normalize("NFC", charsets.one_line(name))
    name = _UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).strip(" .")
    if len(name) <= LONGEST_NAME:
        return name
    stem, dot, ending = name.rpartition(".")
    if not dot or len(ending) > 16:
        return name[:LONGEST_NAME]
    return stem[: LONGEST_NAME - len(ending) - 1].rstrip(" .") + dot + ending


def _made_up(media_type: str, number: int) -> str:
    endings = {"message/rfc822": ".eml", "text/rfc822-headers": ".txt", "text/calendar": ".ics"}
    return f"attachment-{number}" + (endings.get(media_type) or mimetypes.guess_extension(media_type) or ".bin")
