"""The mail door as the path between the doors sees it. Implements ``ports.MailDoor`` out of its neighbours."""

from __future__ import annotations

from bridges.mail import compose, letters, parse
from bridges.mail.letters import LetterLimits
from bridges.mail.outgoing import Relay
from bridges.mail.returns import ReturnPaths
from bridges.ports import Copy, Envelope, Heading, Letter, Phrasebook
from trust.records import Content


class SmtpMailDoor:
    """Reads and writes mails, and hands them to the relay."""

    def __init__(self, relay: Relay, *, returns: ReturnPaths, phrases: Phrasebook, limits: LetterLimits) -> None:
        self._relay = relay
        self._returns = returns
        self._phrases = phrases
        self._limits = limits

    def read_envelope(self, raw: bytes) -> Envelope:
        return parse.read_envelope(raw)

    def read_letter(self, entity: bytes, envelope: Envelope) -> Letter:
        return letters.read_letter(entity, envelope, self._limits)

    def write_entity(self, heading: Heading, content: Content) -> bytes:
        return compose.write_entity(heading, content, self._phrases)

    def read_entity(self, entity: bytes) -> Content:
        return compose.read_entity(entity)

    async def send(self, copy: Copy) -> None:
        """The envelope sender names this very delivery: a bounce tells which member it did not reach."""
        mail = compose.wrap(copy, self._phrases)
        sender = self._returns.address(copy.group, copy.delivery, copy.post.reference)
        await self._relay.send(sender=sender, recipient=copy.recipient, mail=mail)

    async def close(self) -> None:
        await self._relay.close()
