"""The tree of all that can be refused or fail.

    SecirError
    ├── Refusal            what came in is not accepted; the sender, or an admin, can mend it
    │   ├── MailRefusal    … about a mail
    │   ├── PostRefusal    … about who wrote, when, and to which list
    │   ├── EventRefusal   … about an event of the room
    │   ├── KeyRefusal     … about a key that somebody wants to register
    │   └── RequestRefusal … about what an operator or admin asks for
    └── Fault              something around us does not work; the operator can mend it
        ├── RoomFault      nothing may be sent to a room now
        ├── RelayFault     a mail could not be handed over
        ├── HomeserverFault
        ├── SafeFault      GnuPG
        ├── StoreFault     the database
        └── SetupFault     configuration, login, identity

Each leaf has a ``code`` (its entry in ``bot/texts/en.toml`` says what happened and what to do next), and
``retryable``: whether the same thing may succeed later, untouched. Parameters fill the text; they are ids,
names and numbers, never contents of a post, keys or passwords. ``str()`` of an error is its code and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from trust.records import MemberId


class SecirError(Exception):
    """Root of the tree. ``params`` are the values that the text of this code names."""

    code: ClassVar[str]
    retryable: ClassVar[bool] = False

    def __init__(self, **params: str | int) -> None:
        super().__init__(self.code)
        self.params: dict[str, str | int] = params


class Refusal(SecirError):
    """What came in is not accepted."""


class Fault(SecirError):
    """Something around us does not work."""


def leaves(root: type[SecirError] = SecirError) -> Iterator[type[SecirError]]:
    """Every error that can be raised: the classes of the tree that have a code."""
    for child in root.__subclasses__():
        if "code" in vars(child):
            yield child
        yield from leaves(child)


# --- mail: refused in the SMTP dialogue, or after it by a sealed note -------------------------------------------------


class MailRefusal(Refusal):
    smtp: ClassVar[str]
    """The reply code and enhanced status code (RFC 5321, RFC 3463) if it is refused in the dialogue."""


class UnknownAddress(MailRefusal):
    """No group has this address. params: none (strangers get one identical sentence)."""

    code = "unknown-address"
    smtp = "550 5.1.1"


class MailTooBig(MailRefusal):
    """params: limit_mb."""

    code = "mail-too-big"
    smtp = "552 5.3.4"


class MailNotEncrypted(MailRefusal):
    """The root of the mail is not RFC 3156 ``multipart/encrypted``, nor one lone inline OpenPGP text part."""

    code = "mail-not-encrypted"
    smtp = "550 5.7.1"


class MailIsSmime(MailRefusal):
    """S/MIME, which this product does not speak."""

    code = "mail-is-smime"
    smtp = "550 5.7.1"


class MailBroken(MailRefusal):
    """The MIME structure can't be read, or passes its limits (parts, depth, header size)."""

    code = "mail-broken"
    smtp = "550 5.6.0"


class MailHasBareNewline(MailRefusal):
    """A CR or LF alone (SMTP smuggling), or a NUL."""

    code = "mail-bare-newline"
    smtp = "554 5.6.0"


class MailIsAutomatic(MailRefusal):
    """A bounce, an auto-reply or a list's mail (RFC 3834): never relayed, never answered."""

    code = "mail-automatic"
    smtp = "550 5.7.1"


class TooManyRecipients(MailRefusal):
    """params: limit."""

    code = "too-many-recipients"
    smtp = "452 4.5.3"
    retryable = True


class TooManyConnections(MailRefusal):
    code = "too-many-connections"
    smtp = "421 4.7.0"
    retryable = True


class ReturnsOnly(MailRefusal):
    """Written by a person to the address to which only bounces go."""

    code = "returns-only"
    smtp = "550 5.7.1"


class NoSpace(MailRefusal):
    """The disk is full, or nearly: the sender's server keeps the mail."""

    code = "no-space"
    smtp = "452 4.3.1"
    retryable = True


class StoreUnavailable(MailRefusal):
    """The mail could not be committed: the sender's server keeps it."""

    code = "mail-not-stored"
    smtp = "451 4.3.0"
    retryable = True


# --- posts: judged after decryption ----------------------------------------------------------------------------------


class PostRefusal(Refusal):
    """Found after the mail was taken in: becomes a note to the registered address of the member concerned."""

    signer: MemberId | None = None
    """The member whose good signature it bears: the one concerned, whoever stands in From."""


class NotForThisList(PostRefusal):
    """Encrypted, but not to the list's key."""

    code = "not-for-this-list"


class BrokenEncryption(PostRefusal):
    """Damaged, without integrity protection, or of a form that the strict grammar refuses. One code for all causes."""

    code = "broken-encryption"


class NotSigned(PostRefusal):
    code = "not-signed"


class BadSignature(PostRefusal):
    """Bad, expired, revoked, doubled or weak: one code for all causes of a signature that does not count."""

    code = "bad-signature"


class UnknownSigner(PostRefusal):
    """A good signature is not by a key pinned for a member, or can't be checked for want of the key."""

    code = "unknown-signer"


class MayNotPost(PostRefusal):
    """params: state."""

    code = "may-not-post"


class SignatureTooOld(PostRefusal):
    """params: days."""

    code = "signature-too-old"


class SignatureInTheFuture(PostRefusal):
    code = "signature-in-the-future"


class SignedForAnotherList(PostRefusal):
    """The signed headers inside name other addresses, and not this list's (surreptitious forwarding)."""

    code = "signed-for-another-list"


class AlreadyPosted(PostRefusal):
    """The same signature was posted before (replay)."""

    code = "already-posted"


class EmptyPost(PostRefusal):
    code = "empty-post"


class ContentUnreadable(PostRefusal):
    """Decrypted and signed, but what is inside can't be read as a mail."""

    code = "content-unreadable"


class AttachmentTooBig(PostRefusal):
    """params: limit_mb."""

    code = "attachment-too-big"


class TooManyAttachments(PostRefusal):
    """params: limit."""

    code = "too-many-attachments"


# --- the room's events -----------------------------------------------------------------------------------------------


class EventRefusal(Refusal):
    pass


class NotEncryptedEvent(EventRefusal):
    """A message in clear in an encrypted room: dropped, its author told."""

    code = "event-not-encrypted"


class ForgedState(EventRefusal):
    """An encrypted event that pretends to be room state."""

    code = "event-forged-state"


class ReplayedEvent(EventRefusal):
    """The same Megolm session and index under another event id."""

    code = "event-replayed"


class NotAMember(EventRefusal):
    """Written by somebody in the room who is not a member of the group. params: user."""

    code = "not-a-member"


class UnverifiedDevice(EventRefusal):
    """Sent from a device that its owner has not cross-signed. params: user, device."""

    code = "device-not-verified"


class MalformedEvent(EventRefusal):
    code = "event-malformed"


class Undecryptable(EventRefusal):
    """The room key is missing: kept, and tried again when the key comes. params: session_id."""

    code = "event-undecryptable"
    retryable = True


class FileUnreadable(EventRefusal):
    """A file of the room fails its hash or can't be decrypted."""

    code = "file-unreadable"


class IdentityChanged(EventRefusal):
    """The member's cross-signing identity is not the one pinned. params: user."""

    code = "identity-changed"


class NoIdentity(EventRefusal):
    """The member has not set up cross-signing. params: user."""

    code = "no-identity"


# --- keys that somebody wants to register ----------------------------------------------------------------------------


class KeyRefusal(Refusal):
    pass


class NotAKey(KeyRefusal):
    code = "key-unreadable"


class SecretKeyGiven(KeyRefusal):
    """A secret key was handed over: it must be treated as compromised."""

    code = "key-is-secret"


class SeveralKeys(KeyRefusal):
    """params: count."""

    code = "key-several"


class KeyTooBig(KeyRefusal):
    """params: limit_kb."""

    code = "key-too-big"


class KeyExpired(KeyRefusal):
    """params: fingerprint, date."""

    code = "key-expired"


class KeyRevoked(KeyRefusal):
    """params: fingerprint."""

    code = "key-revoked"


class KeyWeak(KeyRefusal):
    """params: fingerprint, algorithm."""

    code = "key-weak"


class KeyCannotEncrypt(KeyRefusal):
    """params: fingerprint."""

    code = "key-cannot-encrypt"


class KeyCannotSign(KeyRefusal):
    """params: fingerprint."""

    code = "key-cannot-sign"


class KeyNameUnsafe(KeyRefusal):
    """A user id with control or format characters, over 256 bytes, or not UTF-8. params: fingerprint."""

    code = "key-name-unsafe"


class KeyTaken(KeyRefusal):
    """The key is pinned for another contact. params: fingerprint, contact."""

    code = "key-taken"


# --- what an operator or admin asks for ------------------------------------------------------------------------------


class RequestRefusal(Refusal):
    pass


class NoSuchGroup(RequestRefusal):
    """params: group."""

    code = "no-such-group"


class NoSuchContact(RequestRefusal):
    """params: contact."""

    code = "no-such-contact"


class ContactAmbiguous(RequestRefusal):
    """params: contact, count."""

    code = "contact-ambiguous"


class NoSuchMember(RequestRefusal):
    """params: contact, group."""

    code = "no-such-member"


class AlreadyThere(RequestRefusal):
    """params: what."""

    code = "already-there"


class BadValue(RequestRefusal):
    """params: what, example."""

    code = "bad-value"


class NoSuchItem(RequestRefusal):
    """Nothing in the queue has this name. params: item."""

    code = "no-such-item"


class ContentGone(RequestRefusal):
    """An item of the queue whose content is not kept any more can't be tried again. params: item."""

    code = "content-gone"


class ItemInHand(RequestRefusal):
    """A worker is at it now: it must not be moved under its hands. params: item."""

    code = "item-in-hand"


class MemberNeedsAddress(RequestRefusal):
    """An email-only member without a mail address. params: contact."""

    code = "member-needs-address"


class MemberNeedsMatrixId(RequestRefusal):
    """A responder without a Matrix id. params: contact."""

    code = "member-needs-matrix-id"


# --- faults ----------------------------------------------------------------------------------------------------------


class RoomFault(Fault):
    """Nothing may be sent to this room now."""


class RoomNotReady(RoomFault):
    """The group has no room yet."""

    code = "room-not-ready"
    retryable = True


class EncryptionNotLoaded(RoomFault):
    """The client would send clear text."""

    code = "encryption-not-loaded"
    retryable = True


class RoomDrifted(RoomFault):
    """The room's state is not the pinned one. params: group, types."""

    code = "room-drifted"
    retryable = True


class StrangerInRoom(RoomFault):
    """Somebody is joined who is not a member. params: group, users."""

    code = "stranger-in-room"
    retryable = True


class KeyNotShared(RoomFault):
    """The room key did not reach every device that should have it. params: count."""

    code = "key-not-shared"
    retryable = True


class RelayFault(Fault):
    """A mail could not be handed over. params: reply (code and enhanced status only)."""


class RelayAway(RelayFault):
    """No connection, or none that gets as far as a transaction: it concerns every mail."""

    code = "relay-away"
    retryable = True


class MailOutage(RelayFault):
    """For a while no mail has left, for anybody. params: minutes."""

    code = "mail-outage"


class RelayBroke(RelayFault):
    """The connection broke, or the server fell silent, in the middle of this mail."""

    code = "relay-broke"
    retryable = True


class RelayBusy(RelayFault):
    """4xx for this recipient."""

    code = "relay-busy"
    retryable = True


class RelayRefused(RelayFault):
    """5xx for this recipient: trying again is useless."""

    code = "relay-refused"


class RelayNotTrusted(RelayFault):
    """TLS or authentication with the relay failed: nothing was sent."""

    code = "relay-not-trusted"
    retryable = True


class Bounced(RelayFault):
    """Handed over, and sent back by a server further on. params: reply (status only)."""

    code = "bounced"


class AddressPaused(RelayFault):
    """Too much mail came back from the member's address: held. params: member, address, count."""

    code = "address-paused"


class Restored(RelayFault):
    """Waited in a backup that was restored: it may have been delivered since, so an operator decides."""

    code = "restored"


class NoUsableKey(RelayFault):
    """The member has no key that a mail could be sealed to: held. params: member."""

    code = "no-usable-key"


class HomeserverFault(Fault):
    pass


class HomeserverAway(HomeserverFault):
    code = "homeserver-away"
    retryable = True


class RoomOutage(HomeserverFault):
    """For a while nothing has got to any room. params: minutes."""

    code = "room-outage"


class RateLimited(HomeserverFault):
    """429. ``retry_after`` in seconds."""

    code = "homeserver-rate-limited"
    retryable = True

    def __init__(self, *, retry_after: float) -> None:
        super().__init__()
        self.retry_after = retry_after


class HomeserverRefused(HomeserverFault):
    """Any other Matrix error. params: errcode, status."""

    code = "homeserver-refused"
    retryable = True


class LoginLost(HomeserverFault):
    """The access token is no longer valid (M_UNKNOWN_TOKEN): what is queued waits for a new login."""

    code = "login-lost"
    retryable = True


class SafeFault(Fault):
    pass


class SafeUnavailable(SafeFault):
    """GnuPG did not run, took too long, or passed its memory limit."""

    code = "gnupg-failed"
    retryable = True


class ListKeyMissing(SafeFault):
    """The secret key of the list is not in its home: mail waits until the operator brings it back. params: group."""

    code = "list-key-missing"
    retryable = True


class StoreFault(Fault):
    pass


class StoreAway(StoreFault):
    code = "store-away"
    retryable = True


class StoreFull(StoreFault):
    """The disk of the database is full."""

    code = "store-full"
    retryable = True


class SchemaOutdated(StoreFault):
    """params: found, wanted."""

    code = "schema-outdated"


class SchemaTooNew(StoreFault):
    """A newer program has upgraded this database. params: found, wanted."""

    code = "schema-too-new"


class SecretUnreadable(StoreFault):
    """A sealed secret does not open with the configured secret key. params: name."""

    code = "secret-unreadable"


class Unexpected(Fault):
    """A mistake of our own: the row is kept and tried again, and the log holds the place."""

    code = "unexpected"
    retryable = True


class SetupFault(Fault):
    pass


class ConfigurationWrong(SetupFault):
    """params: mistakes (one line each: the key, what is wrong, the fix)."""

    code = "configuration-wrong"


class AnotherInstance(SetupFault):
    """params: path."""

    code = "another-instance"


class BackupRestored(SetupFault):
    """The homeserver has seen more of us than the database remembers: a backup was put back."""

    code = "backup-restored"


class IdentityThere(SetupFault):
    """The bot has a Matrix identity already, whole or begun: a second one is never made."""

    code = "identity-there"


class PortTaken(SetupFault):
    """A listener's port can't be opened: another program has it, or it needs rights. params: host, port."""

    code = "port-taken"


class IdentityMissing(SetupFault):
    """The bot has no Matrix login or cross-signing identity yet."""

    code = "identity-missing"


class IdentityElsewhere(SetupFault):
    """The account has a cross-signing identity on the server of which we hold no seeds."""

    code = "identity-elsewhere"


class DeviceKeysDiffer(SetupFault):
    """The homeserver shows other keys for our own device than we hold, or none: only a new device helps."""

    code = "device-keys-differ"


class RecoveryKeyWrong(SetupFault):
    code = "recovery-key-wrong"
