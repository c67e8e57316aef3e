"""Messages of a room as a responder writes and reads them (Matrix specification v1.15, "Instant messaging")."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KINDS_OF_FILE: Final = {"image": "m.image", "audio": "m.audio", "video": "m.video"}


@dataclass(frozen=True, slots=True)
class Message:
    """A message that could be read. ``verified``: its sender's identity signed the device that sent it."""

    event_id: str
    room_id: str
    sender: str
    verified: bool
    content: Mapping[str, Any] = field(repr=False)

    @property
    def body(self) -> str:
        return str(self.content.get("body", ""))

    @property
    def formatted(self) -> str | None:
        """The HTML form, if there is one."""
        formatted = self.content.get("formatted_body")
        return formatted if isinstance(formatted, str) else None

    @property
    def relates_to(self) -> Mapping[str, Any]:
        relation = self.content.get("m.relates_to")
        return relation if isinstance(relation, dict) else {}

    @property
    def reply_to(self) -> str | None:
        """The event this answers; None also for the fall-back that a thread carries for old clients."""
        if self.relates_to.get("is_falling_back"):
            return None
        answered = self.relates_to.get("m.in_reply_to")
        return answered.get("event_id") if isinstance(answered, dict) else None

    @property
    def thread(self) -> str | None:
        """The root event of the thread this is in."""
        return self.relates_to.get("event_id") if self.relates_to.get("rel_type") == "m.thread" else None

    @property
    def replaces(self) -> str | None:
        """The event that this one edits."""
        return self.relates_to.get("event_id") if self.relates_to.get("rel_type") == "m.replace" else None

    @property
    def file(self) -> Mapping[str, Any] | None:
        """The ``EncryptedFile``, for a message that carries one."""
        file = self.content.get("file")
        return file if isinstance(file, dict) else None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An event that could not be read, and why.

    ``no-key``: the room key never came; ``withheld:<code>``: its sender said so; ``device-not-signed``: decrypted, but
    a client that excludes insecure devices does not show it; ``broken``: anything else.
    """

    event_id: str
    room_id: str
    sender: str
    reason: str


def text(body: str, relation: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body} | ({"m.relates_to": dict(relation)} if relation else {})


def relation(reply_to: str | None, thread: str | None) -> dict[str, Any] | None:
    """What makes a message an answer to ``reply_to``, a part of the thread under ``thread``, or both."""
    answers = {"m.in_reply_to": {"event_id": reply_to or thread}}
    if thread:
        return {"rel_type": "m.thread", "event_id": thread, "is_falling_back": reply_to is None, **answers}
    return answers if reply_to else None


def edit(event_id: str, body: str) -> dict[str, Any]:
    return text(f"* {body}", {"rel_type": "m.replace", "event_id": event_id}) | {"m.new_content": text(body)}


def file_message(name: str, media_type: str, size: int, secret: Mapping[str, Any]) -> dict[str, Any]:
    kind = KINDS_OF_FILE.get(media_type.partition("/")[0], "m.file")
    info = {"mimetype": media_type, "size": size}
    return {"msgtype": kind, "body": name, "filename": name, "info": info, "file": dict(secret)}


def encrypt_file(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """The ciphertext and the ``EncryptedFile`` without its ``url`` (AES-256-CTR, version v2)."""
    key, nonce = secrets.token_bytes(32), secrets.token_bytes(8) + bytes(8)
    sealed = _aes_ctr(key, nonce, data)
    web_key = {"kty": "oct", "alg": "A256CTR", "ext": True, "key_ops": ["encrypt", "decrypt"], "k": _url_base64(key)}
    hashes = {"sha256": _base64(hashlib.sha256(sealed).digest())}
    return sealed, {"v": "v2", "key": web_key, "iv": _base64(nonce), "hashes": hashes}


def decrypt_file(sealed: bytes, file: Mapping[str, Any]) -> bytes:
    """Raises ValueError if the ciphertext is not the one that ``file`` names."""
    if file["hashes"]["sha256"].rstrip("=") != _base64(hashlib.sha256(sealed).digest()):
        raise ValueError("The file's ciphertext does not have the hash that its message names.")
    return _aes_ctr(_bytes(file["key"]["k"]), _bytes(file["iv"]), sealed)


def _aes_ctr(key: bytes, nonce: bytes, data: bytes) -> bytes:
    stream = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
    return stream.update(data) + stream.finalize()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _url_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4))
