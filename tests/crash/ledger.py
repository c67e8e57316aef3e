"""What was accepted, what arrived where, and the verdict. Pure: it is told, and asks nobody."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

ROOM: Final = "room"
_WRITTEN: Final = re.compile(r"\[(\w+) writes number (\d+)\]")


class Numbered(NamedTuple):
    """One post: whose, and its number among those."""

    sender: str
    number: int

    @property
    def text(self) -> str:
        return f"[{self.sender} writes number {self.number}]"

    @classmethod
    def read(cls, text: str) -> Numbered | None:
        """The post that a text holds, whatever was put around it."""
        found = _WRITTEN.search(text)
        return cls(found[1], int(found[2])) if found else None


class Copy(NamedTuple):
    """One thing that arrived. ``name`` is its event id or its Message-ID; ``post`` None for one that nobody wrote."""

    destination: str
    post: Numbered | None
    name: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures of a run. ``renamed`` counts copies whose Message-ID differs from the first's; ``most_copies`` is
    how often the most repeated mail came."""

    posts: int
    missing: int
    twice_in_room: int
    twice_by_mail: int
    wrong_order: int
    renamed: int
    not_ours: int
    most_copies: int

    def holds(self, *, twice_by_mail: float) -> bool:
        """Whether all is as promised, with at most so many repeated mails."""
        faults = self.missing + self.twice_in_room + self.wrong_order + self.renamed + self.not_ours
        return faults == 0 and self.posts > 0 and self.twice_by_mail <= twice_by_mail


class Ledger:
    """Members read by mail all that they did not write themselves; the room shows what came by mail."""

    def __init__(self, members: Sequence[str], in_room: str) -> None:
        self._members = tuple(members)
        self._in_room = in_room
        self._accepted: list[Numbered] = []

    def accept(self, post: Numbered) -> None:
        """It was answered with 250, or is in the room."""
        self._accepted.append(post)

    @property
    def posts(self) -> int:
        return len(self._accepted)

    def destinations(self, post: Numbered) -> tuple[str, ...]:
        readers = tuple(member for member in self._members if member != post.sender)
        return readers if post.sender == self._in_room else (ROOM, *readers)

    @property
    def expected(self) -> Counter[str]:
        """How many different posts each destination is to have."""
        return Counter(destination for post in self._accepted for destination in self.destinations(post))

    def judge(self, copies: Sequence[Copy]) -> Verdict:
        """``copies`` in the order in which they arrived."""
        counts = Counter((copy.destination, copy.post) for copy in copies if copy.post)
        wanted = {(destination, post) for post in self._accepted for destination in self.destinations(post)}
        twice = Counter({pair: count - 1 for pair, count in counts.items() if count > 1})
        in_room = sum(number for (destination, _), number in twice.items() if destination == ROOM)
        return Verdict(
            posts=len(self._accepted),
            missing=len(wanted - counts.keys()),
            twice_in_room=in_room,
            twice_by_mail=twice.total() - in_room,
            wrong_order=_inversions(copies),
            renamed=_renamed(copies),
            most_copies=max((number for (place, _), number in counts.items() if place != ROOM), default=0),
            not_ours=sum(copy.post is None or (copy.destination, copy.post) not in wanted for copy in copies),
        )

    def wrong(self, copies: Sequence[Copy]) -> list[str]:
        """What is missing, what nobody wrote, and what stands twice in the room, by name."""
        counts = Counter((copy.destination, copy.post) for copy in copies if copy.post)
        wanted = {(destination, post) for post in self._accepted for destination in self.destinations(post)}
        found = [f"missing: {post.text} at {where}" for where, post in sorted(wanted - counts.keys())]
        found += [f"not ours: {copy}" for copy in copies if (copy.destination, copy.post) not in wanted]
        return found + [f"twice: {post.text}" for (where, post), n in counts.items() if where == ROOM and n > 1]


def _inversions(copies: Sequence[Copy]) -> int:
    """At each destination, for each sender: how often a higher number came first. Repeated copies do not count."""
    seen: set[tuple[str, Numbered]] = set()
    lines: dict[tuple[str, str], list[int]] = defaultdict(list)
    for destination, post, _ in copies:
        if post and (destination, post) not in seen:
            seen.add((destination, post))
            lines[destination, post.sender].append(post.number)
    return sum(later < earlier for line in lines.values() for earlier, later in pairwise(line))


def _renamed(copies: Sequence[Copy]) -> int:
    first: dict[tuple[str, Numbered], str] = {}
    mails = [copy for copy in copies if copy.post and copy.destination != ROOM]
    return sum(first.setdefault((copy.destination, copy.post), copy.name) != copy.name for copy in mails if copy.post)
