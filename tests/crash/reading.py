"""What arrived: told from outside while the bridge runs, opened and proven at the end."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage, Message
from typing import Final

from tests.crash.ledger import ROOM, Copy, Numbered
from tests.parts.mail import Collected, MailSink
from tests.parts.people import MailMember
from tests.parts.responder import Responder

SAMPLE: Final = 50
"""Mails of each member that are really opened; of the others the Message-ID tells which post they are."""
THREADS: Final = 2


class Mailboxes:
    """What the relay took for ``members``, in its order."""

    def __init__(self, sink: MailSink, members: Sequence[MailMember]) -> None:
        self._sink = sink
        self._members = {member.address: member for member in members}
        self._seen: list[tuple[str, str]] = []

    def mails(self) -> list[tuple[str, str]]:
        """(member, Message-ID) of each mail, by nothing but the outside of it."""
        for mail in self._sink.mails[len(self._seen) :]:
            (recipient,) = mail.recipients
            self._seen.append((self._members[recipient].name, str(_outer(mail)["Message-ID"])))
        return self._seen

    def copies(self) -> list[Copy]:
        """Every mail with the post it holds. One copy of each Message-ID is opened, and a sample of each member's.

        Raises AssertionError for a mail that its reader can't open, that the list did not sign, or that holds another
        post than the first of this Message-ID. Blocks for some seconds.
        """
        mails = self.mails()
        chosen = set({name: number for number, (_, name) in enumerate(mails)}.values())
        for member in self._members.values():
            mine = [number for number, (reader, _) in enumerate(mails) if reader == member.name]
            chosen.update(mine[:: max(1, len(mine) // SAMPLE)])
        numbers = sorted(chosen)
        posts: dict[str, Numbered | None] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            for number, post in zip(numbers, pool.map(self._open, numbers), strict=True):
                name = mails[number][1]
                assert posts.setdefault(name, post) == post, f"{name} holds {post} and {posts[name]}"
        return [Copy(reader, posts[name], name) for reader, name in mails]

    def _open(self, number: int) -> Numbered | None:
        mail = self._sink.mails[number]
        member = self._members[mail.recipients[0]]
        _, sealed = _outer(mail).iter_parts()
        message = sealed.get_payload(decode=True)
        assert isinstance(message, bytes)
        opened = member.person.open(message)
        assert opened.signer == member.list_fingerprint
        inner: Message = email.message_from_bytes(opened.data, policy=email.policy.default)
        assert isinstance(inner, EmailMessage)
        return Numbered.read(str(inner.get_content()))


def in_room(ada: Responder) -> list[Copy]:
    """What the responder saw. What can't be read, or came in clear, is nobody's post."""
    read = [Copy(ROOM, Numbered.read(each.body), each.event_id) for each in ada.messages]
    strange = [each.event_id for each in ada.undecryptable] + [each.event_id for each in ada.in_clear]
    return read + [Copy(ROOM, None, event_id) for event_id in strange]


def _outer(mail: Collected) -> EmailMessage:
    parsed: Message = email.message_from_bytes(mail.data, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed
