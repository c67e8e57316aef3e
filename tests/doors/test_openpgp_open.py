"""Opening on real GnuPG: what passes, and that every other message is a typed refusal without a byte of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bridges.openpgp import packets
from bridges.openpgp.process import Limits, Outcome, Runner
from bridges.openpgp.safe import GnuPGSafe
from tests.parts.pgp import Crowd, Person, write_by_rnp, write_by_sq
from trust.errors import (
    BadSignature,
    BrokenEncryption,
    NotForThisList,
    NotSigned,
    SafeUnavailable,
    SecirError,
    UnknownSigner,
)
from trust.records import Fingerprint, Group, GroupId, PublicKey

TEXT = b"Content-Type: text/plain\r\n\r\nBotnet C2 at 198.51.100.9.\r\n"
PASSPHRASE = "0123456789abcdef" * 4
LIST = "tld-ops@lists.test"


def pinned(person: Person) -> PublicKey:
    return PublicKey(Fingerprint(person.fingerprint), person.public_key)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with Crowd() as crowd:
        yield crowd


@pytest.fixture(scope="module")
def anna(crowd: Crowd) -> Person:
    return crowd.person("Anna")


@pytest.fixture(scope="module")
def bert(crowd: Crowd) -> Person:
    return crowd.person("Bert")


@pytest.fixture(scope="module")
def group(crowd: Crowd) -> Group:
    key = asyncio.run(_list_key(crowd.directory))
    return Group(GroupId(1), "tld-ops", LIST, "", key, federate=False, room_token="t")


async def _list_key(directory: Path) -> PublicKey:
    return await GnuPGSafe(directory, lambda _: PASSPHRASE).create_list_key(name="TLD-OPS", address=LIST)


@pytest.fixture
async def safe(crowd: Crowd, group: Group) -> AsyncIterator[GnuPGSafe]:
    safe = GnuPGSafe(crowd.directory, lambda _: PASSPHRASE)
    yield safe
    await safe.close()


async def refusal(safe: GnuPGSafe, group: Group, message: bytes, *signers: Person) -> type[SecirError]:
    with pytest.raises(SecirError) as caught:
        await safe.open(group, message, [pinned(person) for person in signers])
    return type(caught.value)


# --- what passes


@pytest.mark.parametrize("armour", [True, False])
async def test_a_message_signed_by_a_member_opens(safe: GnuPGSafe, group: Group, anna: Person, armour: bool) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    message = anna.seal(TEXT, group.key.data, armour=armour)
    opened = await safe.open(group, message, [pinned(anna)])
    assert (TEXT, anna.fingerprint) == (opened.data, opened.signer)
    assert before <= opened.signed_at <= before + timedelta(seconds=30)


async def test_the_member_is_found_among_many(safe: GnuPGSafe, group: Group, anna: Person, bert: Person) -> None:
    message = bert.seal(TEXT, group.key.data, anna.public_key)
    assert bert.fingerprint == (await safe.open(group, message, [pinned(anna), pinned(bert)])).signer


async def test_a_signing_subkey_speaks_for_its_primary_key(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    carla = crowd.person("Carla")
    carla.add_subkey("ed25519", "sign")
    message = carla.seal(TEXT, group.key.data)
    assert carla.fingerprint == (await safe.open(group, message, [pinned(carla)])).signer


async def test_an_rsa_member_is_read_as_well(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    dora = crowd.person("Dora", algorithm="rsa2048", encryption="rsa2048")
    message = dora.seal(TEXT, group.key.data)
    assert dora.fingerprint == (await safe.open(group, message, [pinned(dora)])).signer


@pytest.mark.parametrize(
    "options", [("--compress-algo", "bzip2"), ("--textmode",), ("--set-filename", "a\n[GNUPG:] b")]
)
async def test_compression_text_mode_and_file_names_make_no_difference(
    safe: GnuPGSafe, group: Group, anna: Person, options: tuple[str, ...]
) -> None:
    message = anna.seal(b"one\ntwo\n", group.key.data, options=options)
    opened = await safe.open(group, message, [pinned(anna)])
    assert b"one\ntwo\n" == opened.data.replace(b"\r", b"")


async def test_a_message_that_sequoia_made_opens(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    opened = await safe.open(group, write_by_sq(TEXT, anna.secret_key, group.key.data), [pinned(anna)])
    assert (TEXT, anna.fingerprint) == (opened.data, opened.signer)


@pytest.mark.parametrize(("options", "tag"), [((), packets.SEIPD), (("--aead=OCB",), packets.AEAD)])
async def test_a_message_that_rnp_made_opens(
    safe: GnuPGSafe, group: Group, anna: Person, options: tuple[str, ...], tag: int
) -> None:
    message = write_by_rnp(TEXT, anna.secret_key, group.key.data, *options)
    assert tag == packets.split(message).tag
    opened = await safe.open(group, message, [pinned(anna)])
    assert (TEXT, anna.fingerprint) == (opened.data, opened.signer)


async def test_a_flipped_bit_in_an_aead_packet_gives_nothing_away(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    message = bytearray(write_by_rnp(TEXT, anna.secret_key, group.key.data, "--aead=OCB"))
    for place in (-1, -20, -60):
        message[place] ^= 0x04
        assert BrokenEncryption is await refusal(safe, group, bytes(message), anna)
        message[place] ^= 0x04


async def test_a_sender_who_hides_the_recipients_is_read(
    safe: GnuPGSafe, group: Group, anna: Person, bert: Person
) -> None:
    message = anna.seal(TEXT, bert.public_key, group.key.data, options=["--throw-keyids"])
    assert anna.fingerprint == (await safe.open(group, message, [pinned(anna)])).signer


async def test_the_same_signature_in_a_new_envelope_has_the_same_name(
    safe: GnuPGSafe, group: Group, anna: Person, bert: Person
) -> None:
    signed = anna.gpg("--local-user", anna.fingerprint, "--sign", data=TEXT).output
    names = set()
    for person in (anna, bert):
        message = person.gpg(
            "--no-literal", "--recipient", person.learn(group.key.data), "--encrypt", data=signed
        ).output
        names.add((await safe.open(group, message, [pinned(anna)])).signature_id)
    assert 1 == len(names)
    again = await safe.open(group, anna.seal(TEXT + b"\r\n", group.key.data), [pinned(anna)])
    assert again.signature_id not in names


# --- what is refused


async def test_a_mail_for_someone_else_is_not_for_this_list(
    safe: GnuPGSafe, group: Group, anna: Person, bert: Person
) -> None:
    for options in ([], ["--throw-keyids"]):
        message = anna.seal(TEXT, bert.public_key, options=options)
        assert NotForThisList is await refusal(safe, group, message, anna)


async def test_a_mail_without_a_signature_is_refused(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    assert NotSigned is await refusal(safe, group, anna.seal(TEXT, group.key.data, sign=False), anna)


async def test_a_signature_by_someone_unknown_is_refused(
    safe: GnuPGSafe, group: Group, anna: Person, bert: Person
) -> None:
    message = bert.seal(TEXT, group.key.data)
    assert UnknownSigner is await refusal(safe, group, message, anna)
    assert UnknownSigner is await refusal(safe, group, message)


async def test_a_member_of_before_is_unknown_although_the_ring_still_holds_the_key(
    safe: GnuPGSafe, group: Group, anna: Person, bert: Person
) -> None:
    message = bert.seal(TEXT, group.key.data)
    await safe.open(group, message, [pinned(anna), pinned(bert)])
    assert UnknownSigner is await refusal(safe, group, message, anna)


async def test_a_message_by_the_list_itself_is_nobodys_post(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    sealed = await safe.seal(group, TEXT, [])
    message = safe.armour(sealed.session_keys[group.key.fingerprint], sealed.packet)
    with pytest.raises(UnknownSigner):
        await safe.open(group, message, [pinned(anna), group.key])


async def test_two_signatures_are_refused(safe: GnuPGSafe, group: Group, anna: Person, bert: Person) -> None:
    secret = bert.secret_key
    anna.gpg("--import", data=secret)
    message = anna.seal(TEXT, group.key.data, options=["--local-user", bert.fingerprint])
    assert BadSignature is await refusal(safe, group, message, anna, bert)
    assert BadSignature is await refusal(safe, group, message, anna)


async def test_a_signature_with_sha1_is_refused(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    message = anna.seal(TEXT, group.key.data, options=["--digest-algo", "SHA1"])
    assert BadSignature is await refusal(safe, group, message, anna)


async def test_an_expired_signature_is_refused(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    emil = crowd.person("Emil", at="20240101T000000")
    options = ["--default-sig-expire", "1d"]
    message = emil.seal(TEXT, group.key.data, at="20261001T000000", options=options)
    assert BadSignature is await refusal(safe, group, message, emil)


async def test_a_signature_by_an_expired_key_is_refused(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    fred = crowd.person("Fred", at="20240101T000000", expires="2y")
    message = fred.seal(TEXT, group.key.data, at="20250101T000000")
    assert BadSignature is await refusal(safe, group, message, fred)


async def test_a_signature_by_a_revoked_key_is_refused(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    gerd = crowd.person("Gerd")
    message = gerd.seal(TEXT, group.key.data)
    assert gerd.fingerprint == (await safe.open(group, message, [pinned(gerd)])).signer
    gerd.revoke()
    assert BadSignature is await refusal(safe, group, message, gerd)


async def test_a_signed_text_that_is_not_encrypted_is_refused(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    assert BrokenEncryption is await refusal(safe, group, anna.seal(TEXT, encrypt=False), anna)
    assert BrokenEncryption is await refusal(safe, group, anna.gpg("--clearsign", data=TEXT).output, anna)


async def test_a_bare_text_in_openpgp_form_is_refused(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    assert BrokenEncryption is await refusal(safe, group, anna.gpg("--store", data=TEXT).output, anna)


@pytest.mark.parametrize("passphrase", ["guess", PASSPHRASE])
async def test_a_message_under_a_password_is_refused(
    safe: GnuPGSafe, group: Group, anna: Person, passphrase: str
) -> None:
    password = ["--passphrase", passphrase, "--symmetric"]
    assert BrokenEncryption is await refusal(safe, group, anna.gpg(*password, data=TEXT).output, anna)
    both = anna.seal(TEXT, group.key.data, options=password)
    assert BrokenEncryption is await refusal(safe, group, both, anna)


async def test_a_flipped_bit_anywhere_in_the_data_gives_nothing_away(
    safe: GnuPGSafe, group: Group, anna: Person
) -> None:
    message = anna.seal(TEXT, group.key.data, armour=False)
    start = len(split(message)[0])
    for place in {start + 3, *range(start + 20, len(message), 41), len(message) - 25, len(message) - 1}:
        flipped = bytearray(message)
        flipped[place] ^= 0x04
        assert BrokenEncryption is await refusal(safe, group, bytes(flipped), anna)


async def test_a_flipped_bit_in_the_session_key_is_broken_encryption(
    safe: GnuPGSafe, group: Group, anna: Person
) -> None:
    message = anna.seal(TEXT, group.key.data, armour=False)
    for place in (14, 30, 60, len(split(message)[0]) - 1):
        flipped = bytearray(message)
        flipped[place] ^= 0x20
        assert BrokenEncryption is await refusal(safe, group, bytes(flipped), anna)


@pytest.mark.parametrize(
    "change",
    [
        lambda keys, data: keys + data + packets.Packet(11, b"b\x00\x00\x00\x00\x00hello").framed(),
        lambda keys, data: keys + data + data,
        lambda keys, data: packets.Packet(11, b"b\x00\x00\x00\x00\x00hello").framed() + keys + data,
        lambda keys, data: keys + packets.Packet(9, data[3:]).framed(),
        lambda keys, data: keys + data[:-30],
        lambda keys, data: keys * 257 + data,
        lambda keys, data: data,
        lambda keys, data: b"-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n",
        lambda keys, data: b"",
        lambda keys, data: b"Good morning",
    ],
    ids=["after", "twice", "before", "SED", "cut", "257 keys", "no key", "armoured rubbish", "empty", "prose"],
)
async def test_a_message_with_another_frame_is_refused(
    safe: GnuPGSafe, group: Group, anna: Person, change: Callable[[bytes, bytes], bytes]
) -> None:
    message = change(*split(anna.seal(TEXT, group.key.data, armour=False)))
    assert BrokenEncryption is await refusal(safe, group, message, anna)


async def test_text_round_the_armour_is_refused(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    message = anna.seal(TEXT, group.key.data)
    assert BrokenEncryption is await refusal(safe, group, b"Dear all,\n\n" + message, anna)
    assert BrokenEncryption is await refusal(safe, group, message + b"-- \nAnna\n", anna)
    assert BrokenEncryption is await refusal(safe, group, message + message, anna)


async def test_a_message_within_a_message_is_not_looked_into(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    inner = anna.seal(TEXT, group.key.data, armour=False)
    recipient = anna.learn(group.key.data)
    outer = anna.gpg("--no-literal", "--recipient", recipient, "--encrypt", data=inner).output
    assert BrokenEncryption is await refusal(safe, group, outer, anna)


async def test_200_foreign_session_keys_cost_nothing(safe: GnuPGSafe, group: Group, anna: Person) -> None:
    keys, data = split(anna.seal(TEXT, group.key.data, armour=False))
    foreign = packets.Packet(1, b"\x03" + b"F" * 8 + b"\x12" + b"k" * 60).framed()
    opened = await safe.open(group, foreign * 200 + keys + data, [pinned(anna)])
    assert anna.fingerprint == opened.signer


@pytest.mark.parametrize("sign", [True, False])
async def test_a_small_mail_that_unpacks_to_much_is_refused(
    crowd: Crowd, group: Group, anna: Person, sign: bool
) -> None:
    safe = GnuPGSafe(crowd.directory, lambda _: PASSPHRASE, Limits(plaintext_bytes=1024 * 1024))
    bomb = anna.seal(bytes(40 * 1024 * 1024), group.key.data, sign=sign, options=["-z", "9"])
    assert len(bomb) < 100_000
    assert BrokenEncryption is await refusal(safe, group, bomb, anna)
    fits = anna.seal(bytes(1024 * 1024), group.key.data, options=["-z", "9"])
    assert 1024 * 1024 == len((await safe.open(group, fits, [pinned(anna)])).data)
    await safe.close()


# --- our own faults


async def test_a_wrong_passphrase_is_a_fault_of_ours_and_no_refusal(crowd: Crowd, group: Group, anna: Person) -> None:
    safe = GnuPGSafe(crowd.directory, lambda _: "wrong")
    assert SafeUnavailable is await refusal(safe, group, anna.seal(TEXT, group.key.data), anna)
    await safe.close()


async def test_an_agent_that_died_is_started_again(safe: GnuPGSafe, crowd: Crowd, group: Group, anna: Person) -> None:
    message = anna.seal(TEXT, group.key.data)
    await safe.open(group, message, [pinned(anna)])
    other = GnuPGSafe(crowd.directory, lambda _: PASSPHRASE)
    await other.open(group, message, [pinned(anna)])
    await other.close()
    assert anna.fingerprint == (await safe.open(group, message, [pinned(anna)])).signer


def split(message: bytes) -> tuple[bytes, bytes]:
    """The session-key packets and the data packet of a binary message."""
    parts = packets.split(message)
    return b"".join(key.framed for key in parts.session_keys), parts.packet


# --- GnuPG itself fails once


async def test_a_refusal_by_gnupg_is_believed_only_when_it_says_so_twice(
    safe: GnuPGSafe, group: Group, anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status of the first call is cut short, as when its agent goes away in the middle."""
    run, cut = Runner.run, [True]

    async def falters(self: Runner, home: Path, arguments: Sequence[str], **how: Any) -> Outcome:
        outcome = await run(self, home, arguments, **how)
        is_cut = "--decrypt" in arguments and cut.pop() if cut else False
        return replace(outcome, status=outcome.status[:60], returncode=2) if is_cut else outcome

    monkeypatch.setattr(Runner, "run", falters)
    message = anna.seal(TEXT, group.key.data)
    assert (await safe.open(group, message, [pinned(anna)])).data == TEXT
    assert cut == []
