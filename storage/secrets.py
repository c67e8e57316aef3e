"""Small secrets at rest: tokens and seeds, sealed with a key that is not in the database.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce before the ciphertext and the secret's name as associated
data, so that one can't be put in another's place. Knows nothing of what the secrets are for.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage import schema
from storage.columns import insert_into
from trust.errors import SecretUnreadable

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class Sealer:
    """Seals and opens with the key derived for the store (HKDF-SHA256, RFC 5869) from the operator's secret key."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError("the secret key has not 32 bytes")
        self._cipher = AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"secir/store").derive(secret))

    def seal(self, name: str, value: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, name.encode())

    def open(self, name: str, box: bytes) -> bytes:
        """Raises SecretUnreadable if the key, the name or the box is another."""
        try:
            return self._cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise SecretUnreadable(name=name) from error


class Secrets:
    """The sealed secrets by name."""

    def __init__(self, connection: AsyncConnection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def put(self, name: str, value: bytes) -> None:
        insert = insert_into(self._connection, schema.secrets)
        box = self._sealer.seal(name, value)
        await self._connection.execute(
            insert.values(name=name, box=box).on_conflict_do_update(index_elements=["name"], set_={"box": box})
        )

    async def get(self, name: str) -> bytes | None:
        """Raises SecretUnreadable."""
        found = await self._connection.execute(select(schema.secrets.c.box).where(schema.secrets.c.name == name))
        box = found.scalar_one_or_none()
        return None if box is None else self._sealer.open(name, box)
