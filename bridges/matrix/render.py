"""How a post looks in the room: who wrote it first, then what it is about, then the text.

Pure functions from a ``RoomPost`` to event contents. Nothing that came by mail becomes markup, a mention or a command:
text is escaped, ``m.mentions`` is empty, and a line of ours always stands first. Knows nothing of encryption.
Source: Matrix Client-Server API, modules "Instant Messaging", "Rich replies", "Threading", "User and room mentions".
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Any, Final

from bridges.matrix.messages import plain, safe_name
from bridges.ports import RoomAnswer, RoomPost
from trust.records import Attachment

PART_SIZE: Final = 40_000
"""Bytes of text in one event, as it is written in JSON (where one letter may take twelve): encrypted, in base64 and
with all that is around it, that stays below the 64 KiB of an event."""
FORMATTED_SIZE: Final = 12_000
"""Bytes of text up to which a formatted copy goes along; together they stay below 24 kB, escapes and all."""
MOST_PARTS: Final = 3
"""A longer text goes as a file, after its beginning."""
PREVIEW_SIZE: Final = 2_000
LONGEST_LINE: Final = 250
"""Characters of an author's name or a subject."""
HTML_FORMAT: Final = "org.matrix.custom.html"
COMMAND_MARK: Final = "!"
PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""Those that a client may decode to show them; all others, SVG first of all, are files to be saved."""


@dataclass(frozen=True, slots=True)
class FileToSend:
    """A file that must be encrypted and uploaded before its event can be made by ``file_event``."""

    attachment: Attachment
    relation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shown:
    """A post as it will appear: first the texts, then the files."""

    texts: tuple[Mapping[str, Any], ...] = field(repr=False)
    files: tuple[FileToSend, ...] = field(repr=False)


def render(post: RoomPost) -> Shown:
    """The events that show ``post``. At least one text, which is the one to be answered."""
    heading = Heading.of(post)
    text = plain(post.content.text).strip("\n")
    parts = split(text, PART_SIZE - size(heading.plain), most=MOST_PARTS)
    files = [Attachment(_name(file), file.media_type, file.data) for file in post.content.attachments]
    if not parts:
        files.insert(0, Attachment("message.txt", "text/plain", text.encode()))
        parts = [text[: _cut(text, PREVIEW_SIZE)].rstrip() + "\n[…]"]
    kind = "m.text" if post.author else "m.notice"
    texts = [
        text_event(heading.numbered(number, len(parts)), part, kind, _relation(post.answers, first=number == 1))
        for number, part in enumerate(parts, start=1)
    ]
    follow = _relation(post.answers, first=False)
    return Shown(tuple(texts), tuple(FileToSend(file, follow) for file in files))


@dataclass(frozen=True, slots=True)
class Heading:
    """The first line: the author in bold, the subject. Empty for a notice of the bot."""

    author: str
    subject: str
    number: str = ""

    @classmethod
    def of(cls, post: RoomPost) -> Heading:
        # The bot's own notices have a subject for the mail only: in the room their text says it all.
        return cls(one_line(post.author), one_line(post.content.subject) if post.author else "")

    def numbered(self, number: int, of: int) -> Heading:
        return self if of == 1 else Heading(self.author, self.subject, f"({number}/{of})")

    @property
    def plain(self) -> str:
        return " · ".join(part for part in (self.author, self.subject, self.number) if part)

    @property
    def html(self) -> str:
        parts = [f"<strong>{html.escape(self.author)}</strong>" if self.author else ""]
        parts += [html.escape(self.subject), self.number]
        return " · ".join(part for part in parts if part)


def text_event(heading: Heading, text: str, kind: str, relation: Mapping[str, Any]) -> dict[str, Any]:
    """One text message. The formatted copy says the same, and is left out where it would make the event too big."""
    text = quiet(text)
    body = not_a_command("\n\n".join(part for part in (quiet(heading.plain), text) if part))
    content: dict[str, Any] = {"msgtype": kind, "body": body, "m.mentions": {}}
    formatted = "<br><br>".join(part for part in (quiet(heading.html), lines_to_html(text)) if part)
    if heading.author and size(body) + size(formatted) <= 2 * FORMATTED_SIZE:
        content |= {"format": HTML_FORMAT, "formatted_body": formatted}
    return content | _relates(relation)


def file_event(file: FileToSend, secrets: Mapping[str, Any]) -> dict[str, Any]:
    """The message for an uploaded file; ``secrets`` is its "EncryptedFile" object, the URL in it."""
    attachment = file.attachment
    content = {
        "msgtype": kind_of_file(attachment.media_type),
        "body": attachment.name,
        "filename": attachment.name,
        "file": dict(secrets),
        "info": {"mimetype": attachment.media_type, "size": len(attachment.data)},
        "m.mentions": {},
    }
    return content | _relates(file.relation)


def kind_of_file(media_type: str) -> str:
    """The ``msgtype`` for a file."""
    if media_type in PICTURES:
        return "m.image"
    main = media_type.partition("/")[0]
    return f"m.{main}" if main in {"audio", "video"} else "m.file"


def _relation(answers: RoomAnswer | None, *, first: bool) -> dict[str, Any]:
    """In a thread every event belongs to it; outside, only the first one is the answer."""
    if answers is None:
        return {}
    reply = {"m.in_reply_to": {"event_id": answers.event_id}}
    if answers.thread_root is None:
        return reply if first else {}
    # Not falling back: it truly answers that event; what follows is in the thread and answers nothing.
    return {"rel_type": "m.thread", "event_id": answers.thread_root, "is_falling_back": not first, **reply}


def _relates(relation: Mapping[str, Any]) -> dict[str, Any]:
    return {"m.relates_to": dict(relation)} if relation else {}


# --- text ------------------------------------------------------------------------------------------------------------


def size(text: str) -> int:
    """Bytes that ``text`` takes in the encrypted event's JSON, which is ASCII."""
    return len(json.dumps(text)) - 2


def split(text: str, limit: int, *, most: int) -> list[str]:
    """``text`` in parts of at most ``limit`` bytes of JSON, cut between lines or words if there are any.

    Empty if that would make more than ``most``: then nobody wants to read it in a room.
    """
    parts: list[str] = []
    while len(parts) < most:
        # A character takes a byte at least, so what is beyond need not be looked at.
        if size(text[: limit + 1]) <= limit:
            return [*parts, text]
        cut = _cut(text, limit)
        parts.append(text[:cut].rstrip())
        text = text[cut:].lstrip("\n")
    return []


def _cut(text: str, limit: int) -> int:
    """Where to cut: after as many characters as fit, then back to a line's or word's end in the last half of them."""
    sizes = accumulate(size(character) for character in text[: limit + 1])
    fits = sum(1 for _ in takewhile(lambda used: used <= limit, sizes))
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, fits // 2, fits)
        if at > 0:
            return at + len(mark)
    return fits


def one_line(text: str) -> str:
    """``text`` as one line, not long, that shows what it holds: without marks that hide or turn letters around."""
    kept = (" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join("".join(kept).split())
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


def quiet(text: str) -> str:
    """``text`` without "@room", which would ring everybody: a joiner that is not seen stands between."""
    return re.sub(r"@(?=room\b)", "@\u2060", text, flags=re.IGNORECASE)


def not_a_command(body: str) -> str:
    """``body``, which never begins with the command mark, whatever the author's name or the text is."""
    return f"· {body}" if body.lstrip().startswith(COMMAND_MARK) else body


def lines_to_html(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _name(file: Attachment) -> str:
    return safe_name(file.name) or "file"
