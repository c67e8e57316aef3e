"""What we write: the MIME entity that is sealed, and the mail around the sealed message.

Everything is put together by hand, once, and those bytes are what is signed: no generator folds them again. 7 bit,
CRLF, lines of at most 76 octets. Knows nothing of keys, members' addresses or the wire.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Final

from bridges.mail import charsets, fields, letters, mime, threads
from bridges.mail.fields import Field
from bridges.ports import Copy, Heading, Phrasebook
from trust.errors import ContentUnreadable
from trust.records import Attachment, Content, Group

PREFACE_FIELD: Final = "Secir-Preface"
"""Inside the seal: how many lines before the text are not the author's."""
LOOP_FIELD: Final = "X-Loop"

_OURS: Final = letters.LetterLimits(attachments=mime.MAX_PARTS, attachment_mb=1024, text_octets=2**30)
"""An entity of ours was judged when it was made: limits that are stricter now must not make it unreadable."""
_PREAMBLE: Final = "This is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)"
_TEXT_TYPE: Final = 'text/plain; charset="utf-8"'
_WRITABLE_TYPE: Final = re.compile(
    r"(?!message/|multipart/)[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}"
)


# --- inside the seal -------------------------------------------------------------------------------------------------


def write_entity(heading: Heading, content: Content, phrases: Phrasebook) -> bytes:
    """The entity to be sealed, its headers protected: ``hp="cipher"`` with HP-Outer (RFC 9788) for new programs,
    ``protected-headers="v1"`` for Thunderbird, which reads only that; List-* inside as well, for Delta Chat.
    """
    preface = _preface(heading, phrases)
    text = "\n".join([*preface, charsets.lines(content.text)])
    head = [*_inner_fields(heading, content, phrases), (PREFACE_FIELD, str(len(preface)))]
    mark = ';\r\n protected-headers="v1"; hp="cipher"'
    if not content.attachments:
        return fields.block([*head, *_text_fields(mark)]) + _quoted(text)
    boundary = _boundary()
    kind = f'multipart/mixed;\r\n boundary="{boundary}"{mark}'
    parts = [fields.block(_text_fields("")) + _quoted(text), *(_file(each) for each in content.attachments)]
    return fields.block([*head, ("Content-Type", kind)]) + _joined(parts, boundary)


def _preface(heading: Heading, phrases: Phrasebook) -> tuple[str, ...]:
    """Thunderbird and Mailvelope show no From of the inside: the first line names the author."""
    if heading.author is None:
        return ()
    name, note = charsets.one_line(heading.author.name), charsets.one_line(heading.note)
    line = phrases.say("mail-author-noted", name=name, note=note) if note else phrases.say("mail-author", name=name)
    return (charsets.one_line(line), "")


def _inner_fields(heading: Heading, content: Content, phrases: Phrasebook) -> list[Field]:
    group, author = heading.group, heading.author
    sender = phrases.say("mail-from", name=author.name, group=group.name) if author else group.name
    outer = _outer_fields(
        group, phrases, heading.message_id, heading.date, heading.references, automatic=heading.author is None
    )
    replaced = {
        "From": fields.mailbox(sender, group.address),
        "Subject": fields.text(content.subject[: letters.LONGEST_SUBJECT]),
    }
    inner = [(name, replaced.get(name, value)) for name, value in outer]
    # Which fields stand outside, and how (RFC 9788, 2.2); a reader may tell from it what was confidential.
    return [*inner, *(("HP-Outer", f"{name}: {value}") for name, value in outer)]


def _outer_fields(
    group: Group, phrases: Phrasebook, message_id: str, date: datetime, references: Sequence[str], *, automatic: bool
) -> list[Field]:
    """What the wire may see: list, time, thread. No member's name or address (docs/security.md, T-MAIL-06)."""
    chain = threads.chain(references)
    name, domain = group.address.split("@", 1)
    found: list[Field] = [
        ("From", fields.mailbox(group.name, group.address)),
        ("To", fields.mailbox(group.name, group.address)),
        ("Reply-To", fields.mailbox(group.name, group.address)),
        ("Subject", fields.text(phrases.say("mail-subject", group=group.name))),
        ("Date", format_datetime(date)),
        ("Message-ID", f"<{message_id}>"),
    ]
    if chain:
        found += [("In-Reply-To", threads.written(chain[-1:])), ("References", threads.written(chain))]
    found += [
        ("List-Id", f"<{name}.{domain}>"),
        ("List-Post", f"<mailto:{group.address}>"),
        ("Precedence", "list"),
        ("X-Auto-Response-Suppress", "OOF, AutoReply"),
        (LOOP_FIELD, group.address),
    ]
    return [*found, ("Auto-Submitted", "auto-generated")] if automatic else found


def _text_fields(mark: str) -> list[Field]:
    return [("Content-Type", _TEXT_TYPE + mark), ("Content-Transfer-Encoding", "quoted-printable")]


def _quoted(text: str) -> bytes:
    """Quoted-printable: no trailing blanks, no line that begins with "From " (RFC 2045, 6.7)."""
    lines = (_quoted_line(line) for line in text.split("\n"))
    return b"".join(line + b"\r\n" for line in lines)


def _quoted_line(line: str) -> bytes:
    data = binascii.b2a_qp(line.encode("utf-8"), istext=True).replace(b"\r\n", b"\n")
    # A blank after a soft break is fine, a line that some mailbox would change is not.
    data = re.sub(rb"(?m)^From ", b"=46rom=\n ", data)
    data = re.sub(rb"(?m)^\.$", b"=2E", data)
    return data.replace(b"\n", b"\r\n")


def _file(attachment: Attachment) -> bytes:
    """Base64, whatever it is: a file arrives as it was (message/* may not be base64, so it goes as bytes)."""
    kind = attachment.media_type.lower()
    kind = kind if _WRITABLE_TYPE.fullmatch(kind) else "application/octet-stream"
    head = [
        ("Content-Type", kind),
        ("Content-Disposition", "attachment" + fields.parameter("filename", attachment.name)),
        ("Content-Transfer-Encoding", "base64"),
    ]
    return fields.block(head) + base64.encodebytes(attachment.data).replace(b"\n", b"\r\n")


def _boundary() -> str:
    """``=_`` occurs in neither base64 nor quoted-printable (RFC 2045, 6.7)."""
    return f"=_{secrets.token_hex(16)}"


def _joined(parts: Sequence[bytes], boundary: str) -> bytes:
    mark = b"--" + boundary.encode("ascii")
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


def read_entity(entity: bytes) -> Content:
    """The content of an entity of ours, without the lines put before the text. Raises ContentUnreadable."""
    try:
        root = mime.read(entity)
    except mime.Unreadable as error:
        raise ContentUnreadable from error
    preface = root.first(PREFACE_FIELD.lower())
    content = letters.read_content(root, _OURS)
    lines = content.text.split("\n")[int(preface) if preface.isdecimal() else 0 :]
    subject = fields.decode(root.first("subject"))
    return Content(subject, charsets.lines("\n".join(lines)), content.attachments)


# --- outside ---------------------------------------------------------------------------------------------------------


def wrap(copy: Copy, phrases: Phrasebook) -> bytes:
    """The mail of one member, ready for the wire: RFC 3156 as Thunderbird, Mailvelope and chatmail expect it."""
    boundary = _boundary()
    post = copy.post
    head = _outer_fields(
        copy.group, phrases, post.message_id, post.sealed_at, copy.references, automatic=post.author_id is None
    )
    kind = f'multipart/encrypted; protocol="application/pgp-encrypted";\r\n boundary="{boundary}"'
    version = fields.block(
        [
            ("Content-Type", "application/pgp-encrypted"),
            ("Content-Description", "PGP/MIME version identification"),
        ]
    )
    sealed = fields.block(
        [
            ("Content-Type", 'application/octet-stream; name="encrypted.asc"'),
            ("Content-Description", "OpenPGP encrypted message"),
            ("Content-Disposition", 'inline; filename="encrypted.asc"'),
        ]
    )
    armour = copy.message.replace(b"\r\n", b"\n").strip(b"\n").replace(b"\n", b"\r\n") + b"\r\n"
    parts = [version + b"Version: 1\r\n", sealed + armour]
    whole = [*head, ("MIME-Version", "1.0"), ("Content-Type", kind)]
    return fields.block(whole) + f"{_PREAMBLE}\r\n".encode("ascii") + _joined(parts, boundary)
