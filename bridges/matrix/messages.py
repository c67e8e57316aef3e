"""What the inside of a room event says: text, file, and what it answers or corrects.

Pure: gets a decrypted event that is known to be its sender's own, and does not trust it for that: the sender's client
may be broken or taken over. Knows no keys and no server.
Source: Matrix Client-Server API, modules "Instant Messaging", "Rich replies", "Threading", "Event replacements".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from bridges.matrix.chain import entry
from bridges.matrix.olmevents import identifier
from bridges.ports import RoomAnswer, RoomFile, RoomMessage
from trust.errors import FileUnreadable, MalformedEvent

TEXTS: Final = frozenset({"m.text", "m.notice", "m.emote"})
FILES: Final = frozenset({"m.file", "m.image", "m.audio", "m.video"})
LONGEST_TEXT: Final = 65_536
"""Characters: no event can hold more (64 KiB)."""
LONGEST_NAME: Final = 120
OPAQUE: Final = "application/octet-stream"
MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Unicode's Cc, except tab and line feed, and Cs. Format characters stay: they hold emoji together."""
FALLBACK: Final = re.compile(r"> (\* )?<@[^>\n]+>")
"""How a client of before Matrix 1.13 begins a reply: with the lines it answers."""


def understand(
    event: Mapping[str, Any], *, kind: str, content: Mapping[str, Any], event_id: str, sender: str
) -> RoomMessage | None:
    """The message in the decrypted ``content``; None if there is nothing in it for the list.

    ``event`` is the encrypted event around it: only its time, and a relation if the inside has none, are taken from
    there. Raises MalformedEvent, FileUnreadable.
    """
    if kind != "m.room.message":
        # Reactions, stickers, polls, calls, the steps of a verification.
        return None
    relation = entry(content, "m.relates_to") or entry(event, "content", "m.relates_to")
    new = entry(content, "m.new_content")
    # A correction is one only if the author's own words inside say so: the relation may be the server's invention.
    replaces = _related(relation, "m.replace") if new else None
    said = new if replaces else content
    answers = None if replaces else answered(relation)
    file = _file(said)
    text = _text(said, is_answer=answers is not None, file=file)
    if text is None:
        return None
    return RoomMessage(
        event_id=event_id,
        sender=sender,
        text=text,
        file=file,
        answers=answers,
        replaces=replaces,
    )


def answered(relation: Mapping[str, Any]) -> RoomAnswer | None:
    """Where the message belongs. In a thread, the event it answers, which may be the thread's last one by default."""
    reply = _id(entry(relation, "m.in_reply_to").get("event_id"))
    root = _related(relation, "m.thread")
    if root is not None:
        return RoomAnswer(reply or root, root)
    return RoomAnswer(reply) if reply else None


def _related(relation: Mapping[str, Any], kind: str) -> str | None:
    return _id(relation.get("event_id")) if relation.get("rel_type") == kind else None


def _id(value: object) -> str | None:
    try:
        return identifier(value)
    except ValueError:
        return None


def _text(said: Mapping[str, Any], *, is_answer: bool, file: RoomFile | None) -> str | None:
    """The text, without a reply's quotation; a file's caption, or "". None for a kind that is not understood."""
    kind, body = said.get("msgtype"), said.get("body")
    if file is not None:
        name = said.get("filename")
        # Without a file name of its own, the body is the name (Matrix 1.10).
        return plain(body) if isinstance(name, str) and isinstance(body, str) and body != name else ""
    if not isinstance(kind, str) or kind not in TEXTS:
        return None
    if not isinstance(body, str) or len(body) > LONGEST_TEXT:
        raise MalformedEvent
    text = plain(body)
    if is_answer:
        text = without_fallback(text)
    return f"* {text}" if kind == "m.emote" else text


def without_fallback(text: str) -> str:
    """``text`` without the quotation that older clients put before a reply."""
    if not FALLBACK.match(text):
        return text
    lines = text.split("\n")
    first = next((number for number, line in enumerate(lines) if not line.startswith(">")), len(lines))
    return "\n".join(lines[first:]).lstrip("\n")


def _file(said: Mapping[str, Any]) -> RoomFile | None:
    kind = said.get("msgtype")
    if not isinstance(kind, str) or kind not in FILES:
        return None
    secrets = entry(said, "file")
    if not secrets:
        # A file that lies on the server in clear: whoever put it there, it is not what this room promises.
        raise FileUnreadable
    info = entry(said, "info")
    size, named = info.get("size"), said.get("filename", said.get("body"))
    return RoomFile(
        name=safe_name(named if isinstance(named, str) else "") or "file",
        media_type=media_type(info.get("mimetype")),
        size=size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
        secrets=secrets,
    )


def media_type(value: object) -> str:
    """The media type, if it is written like one; else that of unknown bytes."""
    written = value.partition(";")[0].strip().lower() if isinstance(value, str) else ""
    return written if MEDIA_TYPE.fullmatch(written) else OPAQUE


def safe_name(name: str) -> str:
    """One path part without control characters, not hidden, not long, its ending kept; empty if nothing is left."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(c for c in unicodedata.normalize("NFC", last) if unicodedata.category(c)[0] != "C")
    shown = re.sub(r'[<>:"|?*]', "_", shown).strip(" .")
    if len(shown) <= LONGEST_NAME:
        return shown
    stem, dot, ending = shown.rpartition(".")
    if not dot or len(ending) > 16:
        return shown[:LONGEST_NAME]
    return stem[: LONGEST_NAME - len(ending) - 1].rstrip(" .") + dot + ending


def plain(text: str) -> str:
    """``text`` with line feeds only, and without control characters and halves of surrogate pairs."""
    return UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
