"""Who is told of an error, and how often. A pure table; the texts live in ``bot/texts``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from trust import errors

DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is told. ``again_after`` None means once and never again for the same subject."""

    room: bool = False
    admins: bool = False
    member: bool = False
    """The member concerned, at the registered address, never at one that a header names."""
    again_after: timedelta | None = None


NOBODY: Final = Audience()
UNDELIVERED: Final = Audience(admins=True, member=True, again_after=timedelta(minutes=15))
"""Of messages that did not arrive: their author and the admins, many of them in one notice."""

AUDIENCES: Final[tuple[tuple[type[errors.SecirError], Audience], ...]] = (
    (errors.UnverifiedDevice, Audience(room=True, member=True)),
    (errors.NoIdentity, Audience(room=True, member=True)),
    (errors.IdentityChanged, Audience(admins=True, member=True, again_after=DAY)),
    (errors.StrangerInRoom, Audience(admins=True, again_after=DAY)),
    (errors.RoomDrifted, Audience(admins=True, again_after=DAY)),
    (errors.NoUsableKey, Audience(admins=True, again_after=DAY)),
    (errors.MailOutage, Audience(room=True, again_after=timedelta(hours=6))),
    (errors.RoomOutage, Audience(admins=True, again_after=timedelta(hours=6))),
    (errors.AddressPaused, Audience(admins=True, member=True, again_after=DAY)),
    (errors.Unexpected, Audience(admins=True, again_after=DAY)),
    (errors.SafeUnavailable, Audience(admins=True, again_after=DAY)),
    (errors.HomeserverRefused, Audience(admins=True, again_after=DAY)),
    (errors.Undecryptable, Audience(room=True)),
    (errors.FileUnreadable, Audience(room=True)),
    (errors.ForgedState, Audience(room=True, admins=True, again_after=DAY)),
    (errors.NotEncryptedEvent, Audience(room=True, again_after=DAY)),
    (errors.AttachmentTooBig, Audience(room=True, member=True)),
    (errors.TooManyAttachments, Audience(member=True)),
    (errors.MayNotPost, Audience(member=True, again_after=DAY)),
    (errors.AlreadyPosted, NOBODY),
    (errors.UnknownSigner, Audience(admins=True, again_after=DAY)),
    (errors.NotForThisList, Audience(admins=True, again_after=DAY)),
    (errors.PostRefusal, Audience(member=True, admins=True, again_after=DAY)),
)
"""First match wins, so the special stands before the general."""


def audience(error: errors.SecirError) -> Audience:
    """Who is told of ``error``."""
    return next((who for kind, who in AUDIENCES if isinstance(error, kind)), NOBODY)
