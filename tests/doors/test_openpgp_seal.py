"""Sealing on real GnuPG: each reader's own message, and what GnuPG, Sequoia and RNP make of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridges.openpgp import packets
from bridges.openpgp.home import _recipe, create
from bridges.openpgp.keyring import impersonators
from bridges.openpgp.process import Limits, Runner
from bridges.openpgp.safe import GnuPGSafe
from bridges.openpgp.sealing import deal
from bridges.ports import Sealed
from tests.parts.pgp import Crowd, Person, list_packets, read_by_rnp, read_by_sq
from trust.errors import BadValue, ListKeyMissing, SafeUnavailable
from trust.records import Fingerprint, Group, GroupId, PublicKey

ENTITY = b"Content-Type: text/plain\r\n\r\nPhishing kit at 192.0.2.7.\r\n"
PASSPHRASE = "0123456789abcdef" * 4
LIST = "tld-ops@lists.test"


def pinned(person: Person) -> PublicKey:
    return PublicKey(Fingerprint(person.fingerprint), person.public_key)


def named(key: PublicKey, address: str = LIST) -> Group:
    return Group(GroupId(1), "tld-ops", address, "", key, federate=False, room_token="t")


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with Crowd() as crowd:
        yield crowd


@pytest.fixture(scope="module")
def people(crowd: Crowd) -> list[Person]:
    return [crowd.person(name) for name in ("Anna", "Bert", "Carla", "Dora", "Emil")]


@pytest.fixture(scope="module")
def group(crowd: Crowd) -> Group:
    return named(asyncio.run(_list_key(crowd.directory)))


async def _list_key(directory: Path) -> PublicKey:
    return await GnuPGSafe(directory, lambda _: PASSPHRASE).create_list_key(name="TLD-OPS", address=LIST)


@pytest.fixture
async def safe(crowd: Crowd, group: Group) -> AsyncIterator[GnuPGSafe]:
    safe = GnuPGSafe(crowd.directory, lambda _: PASSPHRASE)
    yield safe
    await safe.close()


def copy_for(safe: GnuPGSafe, sealed: Sealed, person: Person) -> bytes:
    return safe.armour(sealed.session_keys[Fingerprint(person.fingerprint)], sealed.packet)


# --- a member's copy


async def test_each_member_opens_their_own_copy_and_sees_the_lists_signature(
    safe: GnuPGSafe, group: Group, people: list[Person]
) -> None:
    sealed = await safe.seal(group, ENTITY, [pinned(person) for person in people])
    assert {group.key.fingerprint, *(person.fingerprint for person in people)} == set(sealed.session_keys)
    for person in people:
        received = person.open(copy_for(safe, sealed, person), group.key.data)
        assert (ENTITY, group.key.fingerprint) == (received.data, received.signer)


async def test_nobody_can_open_the_copy_of_another(safe: GnuPGSafe, group: Group, people: list[Person]) -> None:
    sealed = await safe.seal(group, ENTITY, [pinned(person) for person in people])
    for reader, owner in itertools.permutations(people[:2], 2):
        with pytest.raises(AssertionError, match="No secret key"):
            reader.open(copy_for(safe, sealed, owner))


async def test_a_copy_holds_one_session_key_and_one_data_packet_and_names_only_its_reader(
    safe: GnuPGSafe, group: Group, people: list[Person]
) -> None:
    sealed = await safe.seal(group, ENTITY, [pinned(person) for person in people])
    copy = copy_for(safe, sealed, people[0])
    assert [":pubkey enc packet:", ":encrypted data packet:"] == list_packets(copy)
    (key,) = packets.split(sealed.session_keys[Fingerprint(people[0].fingerprint)] + sealed.packet).session_keys
    assert key.key_id in {part[-16:] for part in packets.fingerprints(people[0].public_key)}


async def test_every_header_of_a_copy_is_in_new_format(safe: GnuPGSafe, group: Group, people: list[Person]) -> None:
    sealed = await safe.seal(group, ENTITY + os.urandom(100_000), [pinned(people[0])])
    heads = {sealed.session_keys[Fingerprint(people[0].fingerprint)][0], sealed.packet[0]}
    assert {0xC0 | packets.PUBLIC_KEY_SESSION_KEY, 0xC0 | packets.SEIPD} == heads
    assert 0xFF == sealed.packet[1]


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000])
async def test_sequoia_reads_a_copy_and_finds_the_lists_signature_good(
    safe: GnuPGSafe, group: Group, people: list[Person], size: int
) -> None:
    entity = ENTITY + b"x" * size
    copy = copy_for(safe, await safe.seal(group, entity, [pinned(person) for person in people]), people[1])
    assert entity == read_by_sq(copy, people[1].secret_key, group.key.data)


@pytest.mark.parametrize("size", [0, 1, 5000, 300_000])
async def test_rnp_reads_a_copy_and_finds_the_lists_signature_good(
    safe: GnuPGSafe, group: Group, people: list[Person], size: int
) -> None:
    entity = ENTITY + b"x" * size
    copy = copy_for(safe, await safe.seal(group, entity, [pinned(person) for person in people]), people[1])
    assert entity == read_by_rnp(copy, people[1].secret_key, group.key.data)


async def test_gnupg_opens_armour_of_every_length_modulo_three(
    safe: GnuPGSafe, group: Group, people: list[Person]
) -> None:
    for size in range(3):
        sealed = await safe.seal(group, ENTITY + b"x" * size, [pinned(people[0])])
        assert ENTITY + b"x" * size == people[0].open(copy_for(safe, sealed, people[0]), group.key.data).data


async def test_an_rsa_member_reads_a_copy_as_well(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    member = crowd.person("Rosa", algorithm="rsa2048", encryption="rsa2048")
    sealed = await safe.seal(group, ENTITY, [pinned(member)])
    assert ENTITY == member.open(copy_for(safe, sealed, member), group.key.data).data


# --- the group's own copy


async def test_the_group_opens_its_own_copy(safe: GnuPGSafe, group: Group, people: list[Person]) -> None:
    sealed = await safe.seal(group, ENTITY, [pinned(people[0])])
    assert ENTITY == await safe.reopen(group, sealed.packet, sealed.session_keys[group.key.fingerprint])


async def test_the_group_does_not_open_with_a_members_session_key_nor_a_members_message(
    safe: GnuPGSafe, group: Group, people: list[Person]
) -> None:
    sealed = await safe.seal(group, ENTITY, [pinned(people[0])])
    with pytest.raises(SafeUnavailable):
        await safe.reopen(group, sealed.packet, sealed.session_keys[Fingerprint(people[0].fingerprint)])
    foreign = packets.split(people[0].seal(ENTITY, group.key.data, armour=False))
    with pytest.raises(SafeUnavailable):
        await safe.reopen(group, foreign.packet, foreign.session_keys[0].framed)


async def test_a_post_without_mail_members_is_sealed_for_the_group_alone(safe: GnuPGSafe, group: Group) -> None:
    assert {group.key.fingerprint} == set((await safe.seal(group, ENTITY, [])).session_keys)


async def test_ten_megabytes_are_sealed_and_opened(safe: GnuPGSafe, group: Group, people: list[Person]) -> None:
    entity = os.urandom(10 * 1024 * 1024)
    sealed = await safe.seal(group, entity, [pinned(people[0])])
    assert entity == await safe.reopen(group, sealed.packet, sealed.session_keys[group.key.fingerprint])
    assert entity == people[0].open(copy_for(safe, sealed, people[0]), group.key.data).data


async def test_posts_sealed_at_the_same_time_do_not_mix(safe: GnuPGSafe, group: Group, people: list[Person]) -> None:
    async def one(number: int) -> bytes:
        reader = people[number % len(people)]
        sealed = await safe.seal(
            group, b"post %d" % number, [pinned(p) for p in people[: number % 5]] + [pinned(reader)]
        )
        return reader.open(copy_for(safe, sealed, reader), group.key.data).data

    expected = [b"post %d" % number for number in range(20)]
    assert expected == list(await asyncio.gather(*(one(number) for number in range(20))))


# --- recipients that GnuPG would not take


async def test_unusable_keys_cost_only_their_own_copies(
    safe: GnuPGSafe, group: Group, crowd: Crowd, people: list[Person]
) -> None:
    expired = crowd.person("Xaver", at="20240101T000000", expires="1y")
    revoked = crowd.person("Yvonne")
    revoked.revoke()
    signs_only = crowd.person("Zoe", encryption=None)
    rubbish = PublicKey(Fingerprint("F" * 40), b"rubbish")
    bad = [pinned(expired), pinned(revoked), pinned(signs_only), rubbish]
    sealed = await safe.seal(group, ENTITY, [*bad, *(pinned(person) for person in people)])
    assert {group.key.fingerprint, *(person.fingerprint for person in people)} == set(sealed.session_keys)
    assert ENTITY == people[4].open(copy_for(safe, sealed, people[4]), group.key.data).data


async def test_a_list_of_260_is_sealed_to_by_one_call(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    many = [
        PublicKey(Fingerprint(packets.fingerprints(data)[0]), data)
        for data in crowd.person("Crowd").add_certificates(260)
    ]
    sealed = await safe.seal(group, ENTITY, many)
    assert 261 == len(set(sealed.session_keys.values()))
    assert {group.key.fingerprint, *(key.fingerprint for key in many)} == set(sealed.session_keys)


async def test_one_certificate_given_twice_is_sealed_to_once(
    safe: GnuPGSafe, group: Group, people: list[Person]
) -> None:
    sealed = await safe.seal(group, ENTITY, [pinned(people[0]), pinned(people[0]), group.key])
    assert {group.key.fingerprint, people[0].fingerprint} == set(sealed.session_keys)


async def test_a_key_that_changed_is_used_at_once(safe: GnuPGSafe, group: Group, crowd: Crowd) -> None:
    member = crowd.person("Moni", at="20240101T000000")
    before = pinned(member)
    await safe.seal(group, ENTITY, [before])
    member.add_subkey("cv25519", "encr")
    sealed = await safe.seal(group, ENTITY, [pinned(member)])
    (key,) = packets.split(sealed.session_keys[before.fingerprint] + sealed.packet).session_keys
    assert key.key_id not in {part[-16:] for part in packets.fingerprints(before.data)}


async def test_a_certificate_that_holds_anothers_primary_key_is_left_out(
    safe: GnuPGSafe, group: Group, people: list[Person]
) -> None:
    victim, thief = pinned(people[0]), pinned(people[1])
    stolen = next(packets.packets(victim.data)).body
    forged = replace(thief, data=thief.data + packets.Packet(packets.PUBLIC_SUBKEY, stolen).framed())
    assert {thief.fingerprint} == impersonators({forged.fingerprint: forged.data, victim.fingerprint: victim.data})
    sealed = await safe.seal(group, ENTITY, [forged, victim])
    assert {group.key.fingerprint, victim.fingerprint} == set(sealed.session_keys)


def test_a_session_key_that_nobody_asked_for_stops_the_post(group: Group, people: list[Person]) -> None:
    ours, foreign = (
        packets.SessionKey(packets.fingerprints(data)[1][-16:], b"packet")
        for data in (group.key.data, people[0].public_key)
    )
    assert {group.key.fingerprint: b"packet"} == deal([ours], [group.key])
    with pytest.raises(SafeUnavailable):
        deal([ours, foreign], [group.key])
    with pytest.raises(SafeUnavailable):
        deal([foreign], [group.key, pinned(people[0])])


# --- the ring, a cache


async def test_rings_left_by_a_killed_process_are_swept_away(
    safe: GnuPGSafe, group: Group, crowd: Crowd, people: list[Person]
) -> None:
    (home,) = crowd.directory.iterdir()
    (home / "rings" / "tmp1").mkdir(parents=True, exist_ok=True)
    for name in ("old.kbx", "old.kbx.lock", "tmp1/ring.kbx"):
        (home / "rings" / name).write_bytes(b"half a ring")
    sealed = await safe.seal(group, ENTITY, [pinned(people[0])])
    assert ENTITY == people[0].open(copy_for(safe, sealed, people[0]), group.key.data).data
    assert 1 == len(list((home / "rings").iterdir()))


async def test_a_ring_that_vanished_is_made_again(
    safe: GnuPGSafe, group: Group, crowd: Crowd, people: list[Person]
) -> None:
    (home,) = crowd.directory.iterdir()
    await safe.seal(group, ENTITY, [pinned(people[0])])
    for ring in (home / "rings").iterdir():
        ring.unlink()
    sealed = await safe.seal(group, ENTITY, [pinned(people[0])])
    assert {group.key.fingerprint, people[0].fingerprint} == set(sealed.session_keys)


async def test_the_home_holds_the_lists_key_only_and_one_ring_at_a_time(
    safe: GnuPGSafe, group: Group, crowd: Crowd, people: list[Person]
) -> None:
    (home,) = crowd.directory.iterdir()
    for count in (1, 3, 5):
        await safe.seal(group, ENTITY, [pinned(person) for person in people[:count]])
    assert 1 == len(list((home / "rings").iterdir()))
    assert people[0].fingerprint.encode() not in (home / "pubring.kbx").read_bytes().hex().upper().encode()


# --- the list's key and its home


async def test_a_list_key_is_made_once_and_its_home_is_closed_to_others(crowd: Crowd) -> None:
    directory = crowd.directory / "sub"
    safe = GnuPGSafe(directory, lambda _: PASSPHRASE)
    first = await safe.create_list_key(name="Überwachung", address="u@lists.test")
    assert first == await safe.create_list_key(name="Überwachung", address="u@lists.test")
    (home,) = directory.iterdir()
    assert (0o700, 0o700) == (directory.stat().st_mode & 0o777, home.stat().st_mode & 0o777)
    names = [packet.body for packet in packets.packets(first.data) if packet.tag == packets.USER_ID]
    assert ["Überwachung <u@lists.test>"] == [name.decode() for name in names]
    assert (await safe.probe(named(first, "u@lists.test"))).decrypts
    await safe.close()
    shutil.rmtree(directory)


async def test_a_list_key_does_not_lean_on_the_agents_memory(crowd: Crowd) -> None:
    """An agent that keeps nothing forgets a recipe's passphrase between primary key and subkey, one time in fifty."""
    safe = GnuPGSafe(crowd.directory / "many", lambda _: PASSPHRASE)
    made = [await safe.create_list_key(name="Many", address=f"{number}@lists.test") for number in range(8)]
    assert 8 == len({key.fingerprint for key in made})
    assert "assphrase" not in _recipe(crowd.directory, "gpg", "Many", LIST)
    shutil.rmtree(crowd.directory / "many")


async def test_a_list_key_that_cannot_be_made_leaves_nothing(crowd: Crowd) -> None:
    starved = Runner(Limits(memory_bytes=1024 * 1024))
    with pytest.raises(SafeUnavailable):
        await create(starved, crowd.directory / "none", name="None", address=LIST, passphrase=PASSPHRASE)
    assert [] == os.listdir(crowd.directory / "none")
    shutil.rmtree(crowd.directory / "none")


async def test_a_probe_shows_that_the_list_key_signs_and_decrypts(safe: GnuPGSafe, group: Group) -> None:
    probe = await safe.probe(group)
    assert (True, True, await safe.version()) == (probe.signs, probe.decrypts, probe.version)


async def test_a_probe_with_the_wrong_passphrase_shows_that_the_key_does_not_sign(crowd: Crowd, group: Group) -> None:
    safe = GnuPGSafe(crowd.directory, lambda _: "wrong")
    assert not (await safe.probe(group)).signs
    await safe.close()


async def test_a_group_without_its_home_or_with_another_key_lacks_its_list_key(
    safe: GnuPGSafe, group: Group, people: list[Person]
) -> None:
    for stranger in (named(group.key, "other@lists.test"), named(pinned(people[0]))):
        with pytest.raises(ListKeyMissing):
            await safe.seal(stranger, ENTITY, [])


async def test_a_home_that_lost_its_secret_key_is_noticed(crowd: Crowd) -> None:
    safe = GnuPGSafe(crowd.directory / "lost", lambda _: PASSPHRASE)
    key = await safe.create_list_key(name="Lost", address=LIST)
    for secret in (crowd.directory / "lost").glob("*/private-keys-v1.d/*.key"):
        secret.unlink()
    with pytest.raises(ListKeyMissing):
        await safe.seal(named(key), ENTITY, [])
    await safe.close()
    shutil.rmtree(crowd.directory / "lost")


async def test_a_secret_key_that_goes_while_the_list_runs_is_a_fault_and_no_refusal_of_a_mail(
    crowd: Crowd, people: list[Person]
) -> None:
    safe = GnuPGSafe(crowd.directory / "gone", lambda _: PASSPHRASE)
    key = await safe.create_list_key(name="Gone", address=LIST)
    message = people[0].seal(ENTITY, key.data)
    await safe.open(named(key), message, [pinned(people[0])])
    for secret in (crowd.directory / "gone").glob("*/private-keys-v1.d/*.key"):
        secret.unlink()
    with pytest.raises(SafeUnavailable):
        await safe.open(named(key), message, [pinned(people[0])])
    await safe.close()
    shutil.rmtree(crowd.directory / "gone")


@pytest.mark.parametrize(
    ("name", "address"), [("a\n%no-protection", LIST), ("", LIST), ("ok", "a@b>\nName-Real: x"), ("x <y@z>", LIST)]
)
async def test_a_name_that_no_user_id_may_hold_is_refused(crowd: Crowd, name: str, address: str) -> None:
    safe = GnuPGSafe(crowd.directory / "names", lambda _: PASSPHRASE)
    with pytest.raises(BadValue):
        await safe.create_list_key(name=name, address=address)
    assert not (crowd.directory / "names").exists()


async def test_a_directory_whose_path_is_too_long_for_a_socket_is_refused(crowd: Crowd) -> None:
    safe = GnuPGSafe(crowd.directory / ("x" * 60), lambda _: PASSPHRASE)
    with pytest.raises(BadValue):
        await safe.create_list_key(name="TLD-OPS", address=LIST)


async def test_closing_stops_the_agent(crowd: Crowd, group: Group) -> None:
    safe = GnuPGSafe(crowd.directory, lambda _: PASSPHRASE)
    await safe.seal(group, ENTITY, [])
    (home,) = crowd.directory.iterdir()
    assert (home / "S.gpg-agent").exists()
    await safe.close()
    for _ in range(100):
        if not (home / "S.gpg-agent").exists():
            break
        await asyncio.sleep(0.02)
    assert not (home / "S.gpg-agent").exists()


async def test_nothing_of_a_post_gets_into_the_log_or_onto_the_disk(
    safe: GnuPGSafe, group: Group, crowd: Crowd, people: list[Person]
) -> None:
    canary = b"canary-in-the-coal-mine"
    with capture_logs() as logs:
        sealed = await safe.seal(group, canary, [pinned(people[0])])
        await safe.reopen(group, sealed.packet, sealed.session_keys[group.key.fingerprint])
        with pytest.raises(SafeUnavailable):
            await safe.reopen(group, sealed.packet[:-1] + b"x", sealed.session_keys[group.key.fingerprint])
    found = [file for file in crowd.directory.rglob("*") if file.is_file() and canary in file.read_bytes()]
    assert ([], False, False) == (found, canary.decode() in repr(logs), PASSPHRASE in repr(logs))
    assert canary.decode() not in repr(sealed)
