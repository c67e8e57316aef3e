"""What the commands look up and check alike: groups, contacts, addresses, key files."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Final

from bot.config_values import DOMAIN, LABEL, MATRIX_ID
from bridges.openpgp.safe import GnuPGSafe
from storage.store import Store
from trust.errors import BadValue, ContactAmbiguous, NoSuchContact, NoSuchGroup
from trust.keys import MAX_FILE_KB
from trust.records import Contact, Fingerprint, Group, MailAddress, PublicKey

GROUP_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
LOCAL_PART: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
ADDRESS_BYTES: Final = 254
"""RFC 5321, 4.5.3.1.3 less the angle brackets."""
NAME_CHARACTERS: Final = 100


def group_name(text: str) -> str:
    """It stands in logs and subjects: one plain word. Raises BadValue."""
    if not GROUP_NAME.fullmatch(text):
        raise BadValue(what=f"The group name {text!r}", example="tld-ops")
    return text


def mail_address(text: str) -> str:
    """In small letters. Raises BadValue."""
    local, _, domain = text.lower().rpartition("@")
    if not LOCAL_PART.fullmatch(local) or not DOMAIN.fullmatch(domain) or len(text) > ADDRESS_BYTES:
        raise BadValue(what=f"The mail address {text!r}", example="ada@example.nl")
    return text.lower()


def matrix_id(text: str) -> str:
    """Raises BadValue."""
    if not MATRIX_ID.fullmatch(text):
        raise BadValue(what=f"The Matrix id {text!r}", example="@ada:example.nl")
    return text


def person_name(text: str) -> str:
    """What readers will see as the author. Raises BadValue."""
    name = " ".join(text.split())
    if not name or not name.isprintable() or len(name) > NAME_CHARACTERS or set(name) & set('<>@"'):
        raise BadValue(what=f"The name {text!r}", example="Ada Janssen")
    return name


def organisation_ident(text: str) -> str:
    """A ccTLD as an A-label, or another short word, in small letters. Raises BadValue."""
    if not re.fullmatch(LABEL, text.lower()):
        raise BadValue(what=f"The organisation {text!r}", example="nl")
    return text.lower()


async def group(tx: Store, name: str) -> Group:
    """Raises NoSuchGroup."""
    found = await tx.groups.by_name(name)
    if found is None:
        raise NoSuchGroup(group=name)
    return found


async def contact(tx: Store, text: str) -> Contact:
    """The one contact with this name, mail address or Matrix id. Raises NoSuchContact, ContactAmbiguous."""
    found = await tx.contacts.find(text)
    if not found:
        raise NoSuchContact(contact=text)
    if len(found) > 1:
        raise ContactAmbiguous(contact=text, count=len(found))
    return found[0]


async def key_from(safe: GnuPGSafe, path: Path, now: datetime) -> PublicKey:
    """The key in a file (``-``: standard input), judged fit for use. Raises KeyRefusal, BadValue, SafeUnavailable."""
    limit = MAX_FILE_KB * 1024 + 1
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit)
        else:
            with path.open("rb") as file:
                data = file.read(limit)
    except OSError as error:
        raise BadValue(what=f"The key file {path} ({error.strerror})", example="--key ada.asc") from error
    return await safe.read_key(data, now)


def spaced(fingerprint: Fingerprint) -> str:
    """As people compare it: ten groups of four digits."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))


def address_facts(address: MailAddress) -> str:
    """An address, and since when nothing is sent to it."""
    return f"{address.address} (paused since {address.paused_at:%Y-%m-%d})" if address.paused_at else address.address


def key_facts(key: PublicKey | None, now: datetime) -> str:
    """One line on a key for a listing."""
    if key is None:
        return "no key"
    if key.expires_at is None:
        return spaced(key.fingerprint)
    word = "expired" if key.expires_at <= now else "until"
    return f"{spaced(key.fingerprint)} ({word} {key.expires_at:%Y-%m-%d})"
