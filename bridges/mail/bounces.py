"""Telling mail that came back from all other mail, and what it says of the address.

Reads delivery reports (RFC 3464), and the texts of programs that write none. Pure, and bounded like ``mime``: only the
head of what a machine wrote is looked at, never the copy of our own mail below it. Knows nothing of deliveries.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bridges.mail import charsets, fields, mime
from bridges.mail.mime import Part
from trust import bounces
from trust.bounces import BounceKind

MAX_TEXT: Final = 16 * 1024
"""Octets of a report or a text that are looked at: they stand before the copy of the mail."""
MAX_RECIPIENTS: Final = 20
"""Addresses, and parts of a report, that are looked at."""

_REPORTS: Final = frozenset({"message/delivery-status", "message/global-delivery-status"})
_OTHER_REPORTS: Final = frozenset(
    {"message/disposition-notification", "message/global-disposition-notification", "message/feedback-report"}
)
"""Somebody read a mail (RFC 8098), somebody complained of one (RFC 5965): it did arrive."""


@dataclass(frozen=True, slots=True)
class Bounce:
    """A mail came back, or is late."""

    kind: BounceKind
    recipients: tuple[str, ...] = field(default=(), repr=False)
    """Whom it did not reach, in lower case, where that is told; usually the one it was sent to."""
    status: str = ""
    """As in RFC 3463 (``5.1.1``), where it is told."""


def read_bounce(raw: bytes, *, from_nobody: bool = False) -> Bounce | None:
    """None for everything that is no bounce: people's mail, auto-replies, read receipts, good news, broken mail.

    ``from_nobody``: it came from the null sender. Raises nothing.
    """
    try:
        root = mime.read(raw.lstrip())  # some mailboxes put blank lines before the first field
    except (mime.Unreadable, RecursionError):
        return None
    kinds = {part.media_type for part in root.children}
    if kinds & _OTHER_REPORTS or root.parameters.get("report-type", "delivery-status").lower() != "delivery-status":
        return None
    by_machine = from_nobody or _by_machine(root)
    report = next((part for part in root.children if part.media_type in _REPORTS), None)
    if report and (by_machine or root.media_type == "multipart/report"):
        told = _told(report)
        if told:
            return _of_report(told, _words(root))
    return _of_text(root) if by_machine else None


# --- reports ---------------------------------------------------------------------------------------------------------

_GROUPS: Final = re.compile(rb"\r?\n(?:[ \t]{0,100}\r?\n)+")
_STATUS: Final = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")


@dataclass(frozen=True, slots=True)
class _Told:
    """What a report tells of one recipient."""

    action: str
    status: str
    recipients: tuple[str, ...]
    reason: str

    @property
    def failed(self) -> bool:
        return self.action == "failed" or (not self.action and self.status.startswith("5"))

    @property
    def delayed(self) -> bool:
        return self.action == "delayed" or (not self.action and self.status.startswith("4"))


def _told(report: Part) -> list[_Told]:
    """The groups of fields that concern a recipient (RFC 3464, 2.3); blank lines may be more than one."""
    body = replace(report, body=report.body[:MAX_TEXT]).decoded()
    groups = [dict(reversed(fields.read_block(group))) for group in _GROUPS.split(body)[: 2 * MAX_RECIPIENTS]]
    return [_of_one(group) for group in groups if {"action", "final-recipient", "status"} & group.keys()]


def _of_one(group: dict[str, str]) -> _Told:
    action = re.match(r"[a-z]*", group.get("action", "").strip().lower())
    status = _STATUS.search(group.get("status", ""))
    named = [group.get("final-recipient", ""), group.get("original-recipient", "")]
    return _Told(
        action=action[0] if action else "",
        status=status[1] if status else "",
        recipients=_addresses(value.partition(";")[2] for value in named),
        reason=group.get("diagnostic-code", "")[:MAX_TEXT],
    )


def _of_report(told: Sequence[_Told], words: str) -> Bounce | None:
    """The worst that it tells. A mail that was handed on, expanded or delivered is no bounce."""
    failed = [_failed(each.status, each.reason or words, each.recipients) for each in told if each.failed]
    if failed:
        return min(failed, key=lambda bounce: bounce.kind is not BounceKind.HARD)
    late = [each for each in told if each.delayed]
    return Bounce(BounceKind.DELAYED, late[0].recipients, late[0].status) if late else None


# --- texts -----------------------------------------------------------------------------------------------------------

_MACHINES: Final = re.compile(r"(?:mail(?:er)?-?daemon|postmaster|mdaemon|bounces?)(?:[+-][^@]*)?@")
_DELIVERY_SYSTEM: Final = re.compile(r"mail delivery (?:sub)?system|mailer-daemon", re.IGNORECASE)
_RETURNED: Final = re.compile(
    r"(?:un|not |n't )able to (?:be )?deliver|failed to deliver"
    r"|(?:could|can|was|were|has|have)(?: ?not|n't)(?: yet)?(?: been| be)? deliver"
    r"|undeliver(?:ed|able)|non-?deliver|failure notice|returned mail|mail system error"
    r"|delivery (?:has )?(?:status notification|failure|failed|delayed)|mail delivery software|mail returned"
    r"|delivery (?:of|to) [^.]{0,200}? (?:failed|aborted|delayed)|not reach the following|permanent fatal errors"
    r"|unzustellbar|konnte nicht zugestellt|nicht zugestellt werden|non remis|n'a pas pu [^.]{0,20}remis"
    r"|no se (?:pudo|ha podido) entregar|impossibile recapitare|qmail-send program",
    re.IGNORECASE,
)
_LATE: Final = re.compile(
    r"warning message only|has been delayed|\(delay(?:ed)?\)|delayed mail|message delayed|still being (?:re)?tried"
    r"|will be retried|not yet been delivered|will (?:keep|continue) (?:on )?(?:trying|to try)",
    re.IGNORECASE,
)
_FOR_GOOD: Final = re.compile(
    r"permanent(?:ly)? (?:failure|error|fatal)|failed permanently|giv(?:en|ing) up|\(failure\)|has failed",
    re.IGNORECASE,
)
_COPY: Final = re.compile(
    r"^[ \t>]{0,8}(?:-{2,}[ \t]*(?:below this line|enclosed|original message|message header|the header|this is a copy"
    r"|returned message|unsent message|forwarded message|your message)|the first \d{1,4} lines of your"
    r"|(?:received|return-path|dkim-signature|message-id): )",
    re.IGNORECASE | re.MULTILINE,
)
"""Where the copy of the mail begins: what stands there is ours."""
_TAG: Final = re.compile(r"<[/!a-zA-Z][^<>@]{0,2000}>")
_ADDRESS: Final = r"[^\s<>()\[\]\\,;:\"@]{1,64}@[^\s<>()\[\]\\,;:\"'@]{1,255}"
_NAMED: Final = re.compile(
    rf"^[ \t*>-]{{0,40}}[\"'<(]{{0,2}}({_ADDRESS})[\"'>)]{{0,2}}(?=[ \t]*(?:[:(<]|\r?$))", re.MULTILINE
)
_QUOTED: Final = re.compile(rf"[\"'<]({_ADDRESS})[\"'>]")


def _by_machine(root: Part) -> bool:
    """Whether it bears a sign that a mail server wrote it."""
    senders = fields.addresses(root.all("from"))
    return (
        root.first("return-path") == "<>"
        or bool(root.first("x-failed-recipients"))
        or any(_MACHINES.match(sender) for sender in senders)
        or bool(_DELIVERY_SYSTEM.search(root.first("from")[:MAX_TEXT]))
    )


def _words(root: Part) -> str:
    """The first text, as far as it goes before the copy of the mail."""
    texts = [part for part in root.walk() if part.media_type in {"text/plain", "text/html"}]
    first = min(texts, key=lambda part: part.media_type != "text/plain", default=None)
    if first is None:
        return ""
    text = replace(first, body=first.body[:MAX_TEXT]).text()
    if first.media_type == "text/html":
        text = html.unescape(_TAG.sub("\n", text))
    copy = _COPY.search(text)
    return text[: copy.start()] if copy else text


def _of_text(root: Part) -> Bounce | None:
    subject, words = fields.decode(root.first("subject")[:1000]), _words(root)
    said = f"{subject}\n{words}"
    if not _RETURNED.search(said):
        return None
    recipients = _recipients(root, words)
    if _LATE.search(said) and not _FOR_GOOD.search(said):
        return Bounce(BounceKind.DELAYED, recipients)
    return _failed("", said, recipients)


def _recipients(root: Part, words: str) -> tuple[str, ...]:
    """Whom it did not reach: by a header, else at the start of a line, else in quotes; not the one it is written to."""
    reader = set(fields.addresses(root.all("to")))
    headers = ("x-failed-recipients", "final-recipient", "original-recipient")
    ways = ((value.rpartition(";")[2] for name in headers for value in root.all(name)), *_in_text(words))
    found = (tuple(address for address in _addresses(way) if address not in reader) for way in ways)
    return next((each for each in found if each), ())


def _in_text(words: str) -> tuple[list[str], list[str]]:
    return [found[1] for found in _NAMED.finditer(words)], [found[1] for found in _QUOTED.finditer(words)]


def _addresses(values: Iterable[str]) -> tuple[str, ...]:
    found = [address for value in values for address in re.findall(_ADDRESS, value)]
    clean = (charsets.one_line(address).strip("'").lower() for address in found[:MAX_RECIPIENTS])
    return tuple(dict.fromkeys(clean))


# --- how bad it is ---------------------------------------------------------------------------------------------------

_CODE: Final = re.compile(r"(?:#|\b[45]\d\d[ -]#?)([45]\.\d{1,3}\.\d{1,3})(?![\d.])")
"""An enhanced status code where servers write it: ``550 5.1.1``, ``(#5.1.1)``."""
_EXACT: Final = re.compile(r"5\.[1-4]\.[1-9]")
"""Says what is wrong. ``5.0.0`` does not, and under 5.7 many servers say that they know nobody of this name."""
_FOR_NOW: Final = re.compile(
    r"quota|mailbox[^.\n]{0,20} full|full mailbox|enough (?:storage )?space|insufficient|storage allocation|exceeded"
    r"|try (?:it |your message )?(?:again )?later|temporar|temp_failure|timed? ?out"
    r"|connection (?:was )?(?:dropped|refused|lost)"
    r"|greylist|too many|rate limit|throttl|blocked|black ?list|dnsbl|spam|reputation|policy|virus|too (?:large|big)"
    r"|loops? back|mail loop",
    re.IGNORECASE,
)
_DEAD: Final = re.compile(
    r"(?:user|recipient|address|account|mailbox|alias)(?: name| is|'s)? (?:unknown|not found|inactive|disabled|closed"
    r"|unavailable|no longer|does(?: not|n't) exist|(?:is )?not (?:known|valid|listed|unique))"
    r"|(?:unknown|invalid|non-?existent|no such|no valid) (?:\w{1,40} )?"
    r"(?:user|recipient|address|account|mailbox|person|alias)"
    r"|(?:does|do)(?: not|n't) (?:exist|have an? [\w.]{1,60} account)"
    r"|not a (?:valid|known) (?:recipient|user|address|mailbox)"
    r"|no mailbox|not unique|not listed in|unrouteable|(?:host|domain name|domain) not found|recipnotfound"
    r"|(?:has been|was|is) (?:disabled|deactivated|discontinued)"
    r"|no longer (?:valid|active|in use|exists?|works?|employed)"
    r"|address couldn't be found|not our customer|nicht gefunden|existiert nicht|n'existe pas",
    re.IGNORECASE,
)


def _failed(status: str, words: str, recipients: tuple[str, ...]) -> Bounce:
    """A bounce for good. A status that says nothing exact gives way to one that does, and then to well-known words."""
    codes = [found[1] for found in _CODE.finditer(words)]
    if not _EXACT.match(status) and not status.startswith("4"):
        status = next((code for code in codes if _EXACT.match(code)), status or next(iter(codes), ""))
    return Bounce(_kind(status, words), recipients, status)


def _kind(status: str, words: str) -> BounceKind:
    """Of what is known too little it is soft: nine such mails in a week still pause the address, one mishap does not.

    Words for a passing trouble go first: "mailbox unavailable: over quota".
    """
    if status.startswith("4") or _EXACT.match(status):
        return bounces.kind(status)
    if _FOR_NOW.search(words):
        return BounceKind.SOFT
    if _DEAD.search(words):
        return BounceKind.HARD
    return bounces.kind(status)
