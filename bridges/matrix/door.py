"""The Matrix side as the path between the doors sees it. Implements ``ports.RoomDoor``.

Owns the order in which the events of one post go out, and their transaction ids; all else is ``incoming``, ``render``
and ``outgoing``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nio.crypto import encrypt_attachment

from bridges.matrix.incoming import Incoming
from bridges.matrix.outgoing import Outgoing
from bridges.matrix.render import FileToSend, file_event, render
from bridges.matrix.session import Session
from bridges.ports import RoomFile, RoomMessage, RoomPost
from trust.records import Attachment, Group


class MatrixDoor:
    """Reads what is written in the groups' rooms and writes there."""

    def __init__(self, session: Session, incoming: Incoming, outgoing: Outgoing) -> None:
        self._session = session
        self._incoming = incoming
        self._outgoing = outgoing

    async def send(self, post: RoomPost) -> tuple[str, ...]:
        """Show ``post`` in its room; the ids of its events, first the one to be answered.

        May be done again after any failure: the events bear the same transaction ids each time, and the server knows
        those it has. Raises RoomFault, HomeserverFault.
        """
        shown = render(post)
        events = [await self._send(post, number, content) for number, content in enumerate(shown.texts)]
        for number, file in enumerate(shown.files, start=len(events)):
            events.append(await self._send(post, number, file_event(file, await self._upload(file))))
        return tuple(events)

    async def read(self, group: Group, event: Mapping[str, object]) -> RoomMessage | None:
        """See ``Incoming.read``."""
        return await self._incoming.read(group, event)

    async def fetch(self, file: RoomFile) -> Attachment:
        """See ``Incoming.fetch``."""
        return await self._incoming.fetch(file)

    async def _send(self, post: RoomPost, number: int, content: Mapping[str, Any]) -> str:
        return await self._outgoing.send(post.group, content, transaction=f"{post.transaction}-{number}")

    async def _upload(self, file: FileToSend) -> dict[str, Any]:
        """Encrypt and upload; the "EncryptedFile" object. The server sees random bytes without a name."""
        sealed, secrets = await asyncio.to_thread(encrypt_attachment, file.attachment.data)
        return {**secrets, "url": await self._session.api.upload(sealed)}
