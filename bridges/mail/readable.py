"""From what mail programs send to text that a person can read: HTML, flowed lines.

Nothing is fetched, nothing is rendered. Knows nothing of MIME.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

import nh3

from bridges.mail import charsets

MAX_HTML: Final = 1024 * 1024
"""Octets of HTML that are turned into text."""
MAX_NESTING: Final = 500
"""Elements inside each other: building the tree takes time by the square of them."""

_BLOCKS: Final = frozenset(
    {"p", "div", "blockquote", "pre", "ul", "ol", "li", "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "hr"}
)
_APART: Final = frozenset({"p", "pre", "ul", "ol", "table", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote"})
"""Blocks with a blank line before and after them."""
_KEPT: Final = _BLOCKS | {"a", "br", "td", "th"}
_DROPPED: Final = {"script", "style", "head", "title", "template", "noscript", "mx-reply"}
_TAG: Final = re.compile(rb"<(/?)([A-Za-z][A-Za-z0-9:]*)")
_NEVER_NESTED: Final = frozenset(
    b"area base br col dd dt hr img input li link meta option p tbody td th thead tr wbr".split()
)
"""Elements that are empty, or that end where the next one of their kind begins."""


def can_be_text(html: bytes) -> bool:
    """Whether this page is small and flat enough to be turned into text; otherwise it is a file."""
    if len(html) > MAX_HTML:
        return False
    depth = deepest = 0
    for closing, name in _TAG.findall(html):
        if name.lower() not in _NEVER_NESTED:
            depth += -1 if closing and depth else not closing
            deepest = max(deepest, depth)
    return deepest <= MAX_NESTING


def from_html(html: str) -> str:
    """The text of an HTML part: paragraphs, list items, quotes and the targets of links are kept."""
    safe = nh3.clean(
        html,
        tags=set(_KEPT),
        clean_content_tags=_DROPPED,
        attributes={"a": {"href"}},
        url_schemes={"http", "https", "mailto"},
        link_rel=None,
    )
    writer = _Writer()
    writer.feed(safe)
    writer.close()
    return charsets.lines(writer.text())


class _Writer(HTMLParser):
    """Walks HTML that nh3 has made well-formed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[str] = [""]
        self._quotes = 0
        self._pre = 0
        self._link: str | None = None
        self._link_text = ""

    def text(self) -> str:
        return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in self._lines))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self._break(apart=tag in _APART)
        self._quotes += tag == "blockquote"
        self._pre += tag == "pre"
        if tag == "br":
            self._lines.append("")
        elif tag == "li":
            self._put("- ")
        elif tag in {"td", "th"} and self._lines[-1].strip():
            self._put(" ")
        elif tag == "a":
            self._link, self._link_text = dict(attrs).get("href"), ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._close_link()
        if tag in _BLOCKS:
            self._break(apart=tag in _APART)
        self._quotes -= tag == "blockquote"
        self._pre -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if self._link is not None:
            self._link_text += data
        if self._pre:
            first, *more = data.split("\n")
            self._put(first)
            for line in more:
                self._lines.append("")
                self._put(line)
            return
        words = re.sub(r"[ \t\r\n\f]+", " ", data)
        at_start = not self._lines[-1] or self._lines[-1].endswith(" ")
        self._put(words.lstrip(" ") if at_start else words)

    def _put(self, text: str) -> None:
        if text and not self._lines[-1] and self._quotes > 0:
            self._lines[-1] = "> " * min(self._quotes, 5)
        self._lines[-1] += text

    def _break(self, *, apart: bool) -> None:
        if self._lines[-1].strip():
            self._lines.append("")
        if apart and len(self._lines) > 1 and self._lines[-2].strip(" >-"):
            self._lines.append("")

    def _close_link(self) -> None:
        """A reader must see where a link leads before he follows it."""
        target, shown = self._link, self._link_text.strip()
        self._link = None
        if target and target.removeprefix("mailto:").rstrip("/") != shown.rstrip("/"):
            self._put(f" <{target}>" if shown else f"<{target}>")


def unflow(text: str, *, delete_space: bool) -> str:
    """``format=flowed`` lines joined to paragraphs (RFC 3676, 4), quotes of different depth kept apart."""
    out: list[list[str]] = []
    open_depth: int | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        rest = line.lstrip(">")
        depth = len(line) - len(rest)
        shown = rest.removeprefix(" ")  # what was stuffed
        flows = shown.endswith(" ") and shown != "-- "
        if open_depth != depth or shown == "-- ":
            out.append(["> " * depth])
        out[-1].append(shown[:-1] if flows and delete_space else shown)
        open_depth = depth if flows else None
    return "\n".join("".join(pieces) for pieces in out)
