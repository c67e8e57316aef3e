"""The Olm machine: what strangers send stops nothing, what a crash leaves behind is made good."""

from __future__ import annotations

import json
import secrets
import stat
from pathlib import Path
from typing import Any, Final

import pytest
import vodozemac
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nio.store import SqliteStore
from peewee import OperationalError  # type: ignore[import-untyped]
from structlog.typing import EventDict
from vodozemac import LibolmPickleException

from bridges.matrix.olm import NOTHING, Decrypted
from bridges.matrix.session import MatrixSettings, open_store
from tests.parts.matrix_writer import MEGOLM, OLM, Addressee, Writer, garbage, message
from trust.errors import DeviceKeysDiffer, ForgedState, MalformedEvent, SecretUnreadable, StoreAway, Undecryptable

BOT: Final = "@bot:localhost"
ADA: Final = "@ada:localhost"
EVE: Final = "@eve:localhost"
ROOM: Final = "!room"


class Machine:
    """The bot's device, which can die and come back."""

    def __init__(self, directory: Path) -> None:
        self.settings = MatrixSettings("http://127.0.0.1", BOT, directory / "store", secrets.token_hex(32))
        self.olm = open_store(self.settings, BOT, "BOTDEVICE", new=True)
        self.given: dict[str, Any] = {}
        self.publish()

    @property
    def addressee(self) -> Addressee:
        keys = self.olm.account.identity_keys
        return Addressee(BOT, keys["curve25519"], keys["ed25519"])

    def publish(self) -> None:
        body = self.olm.keys_to_upload() or {}
        self.given |= body.get("one_time_keys", {})
        self.olm.uploaded({"one_time_key_counts": {"signed_curve25519": 50}})

    def claim(self) -> str:
        """A one-time key, as a server gives it away."""
        return str(self.given.pop(next(iter(self.given)))["key"])

    def crash(self) -> None:
        self.olm.close()
        self.olm = open_store(self.settings, BOT, "BOTDEVICE", new=False)

    def meet(self, writer: Writer) -> Writer:
        writer.meet(self.addressee, self.claim())
        return writer

    def learn(self, *writers: Writer) -> None:
        listed: dict[str, dict[str, Any]] = {}
        for writer in writers:
            listed.setdefault(writer.user, {})[writer.id] = writer.object()
        self.olm.learn_devices({"device_keys": listed})

    def trust(self, writer: Writer) -> None:
        self.olm.verify_device(self.olm.device_store[writer.user][writer.id])

    def befriend(self, writer: Writer) -> Writer:
        """A trusted device that has shared its room key with us."""
        self.learn(writer)
        self.trust(writer)
        self.olm.receive(self.meet(writer).share(self.addressee, ROOM))
        return writer


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def ada(machine: Machine) -> Writer:
    return machine.befriend(Writer(ADA, "ADADEVICE"))


# --- what comes to the device (hazard 4) -----------------------------------------------------------------------------


def test_a_room_key_that_comes_through_a_channel_opens_what_follows(machine: Machine) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    received = machine.olm.receive(ada.share(machine.addressee, ROOM))
    opened = machine.olm.decrypt(ROOM, ada.say(ROOM, "hello"))
    assert (received.room_key_session, opened.content["body"]) == (ada.room_session.session_id, "hello")


POISON: Final[dict[str, object]] = {
    "a first message that is garbage": {"type": 0, "body": garbage()},
    "a first message that is no base64": {"type": 0, "body": "ä!"},
    "a later message that is garbage": {"type": 1, "body": garbage()},
    "a later message that is no base64": {"type": 1, "body": "\x00"},
    "an empty message": {"type": 0, "body": ""},
    "a message that is a number": {"type": 0, "body": 7},
    "a type that does not exist": {"type": 2, "body": garbage()},
    "a type that is a text": {"type": "0", "body": garbage()},
    "a type that is an object": {"type": {}, "body": garbage()},
    "nothing": None,
    "a list": [],
}


@pytest.mark.parametrize("for_us", POISON.values(), ids=POISON.keys())
def test_a_broken_message_to_the_device_is_refused_and_the_next_one_is_read(machine: Machine, for_us: object) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    refused = machine.olm.receive(ada.wrapped(machine.addressee, for_us))
    after = machine.olm.receive(ada.share(machine.addressee, ROOM))
    assert (NOTHING, ada.room_session.session_id) == (refused, after.room_key_session)


@pytest.mark.parametrize("sender_key", ["", "short", 7, None, "=" * 43, garbage(64), {}])
def test_a_sender_key_that_is_none_is_refused(machine: Machine, sender_key: object) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    event = ada.share(machine.addressee, ROOM)
    event["content"]["sender_key"] = sender_key
    assert NOTHING == machine.olm.receive(event)


@pytest.mark.parametrize("ciphertext", [None, [], "text", {"other": {"type": 0, "body": "x"}}])
def test_a_ciphertext_that_is_not_for_us_is_refused(machine: Machine, ciphertext: object) -> None:
    ada = Writer(ADA, "ADADEVICE")
    assert NOTHING == machine.olm.receive(ada.wrapped(machine.addressee, None, ciphertext=ciphertext))


def test_a_first_message_for_a_one_time_key_that_we_never_had_is_refused(machine: Machine) -> None:
    ada, stranger = Writer(ADA, "ADADEVICE"), vodozemac.Account()
    ada.meet(machine.addressee, stranger.curve25519_key.to_base64())
    assert NOTHING == machine.olm.receive(ada.share(machine.addressee, ROOM))


@pytest.mark.parametrize(
    "change",
    [
        {"session_key": garbage(229)},
        {"session_key": "ä"},
        {"session_key": None},
        {"session_id": vodozemac.GroupSession().session_id},
        {"session_id": 5},
        {"room_id": None},
        {"room_id": "!x" * 200},
        {"algorithm": "m.megolm.v0"},
    ],
)
def test_a_broken_room_key_is_refused_and_a_good_one_after_it_is_taken(
    machine: Machine, change: dict[str, object]
) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    broken = ada.payload(machine.addressee, "m.room_key", ada.room_key(ROOM) | change)
    refused = machine.olm.receive(ada.envelope(machine.addressee, broken))
    after = machine.olm.receive(ada.share(machine.addressee, ROOM))
    assert (NOTHING, ada.room_session.session_id) == (refused, after.room_key_session)


@pytest.mark.parametrize(
    "change",
    [
        {"sender": EVE},
        {"recipient": ADA},
        {"recipient_keys": {"ed25519": "x"}},
        {"recipient_keys": None},
        {"keys": {}},
        {"keys": {"ed25519": None}},
        {"type": None},
        {"content": None},
    ],
)
def test_a_room_key_made_for_somebody_else_is_refused(machine: Machine, change: dict[str, object]) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    payload = ada.payload(machine.addressee, "m.room_key", ada.room_key(ROOM)) | change
    assert NOTHING == machine.olm.receive(ada.envelope(machine.addressee, payload))


@pytest.mark.parametrize("inside", ["", "null", "[]", "{", "[" * 50_000, '{"type": NaN}', '"\\ud800"'])
def test_a_message_whose_inside_is_no_object_is_refused(machine: Machine, inside: str) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    assert NOTHING == machine.olm.receive(ada.envelope(machine.addressee, inside))


ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_event_to_the_device_raises(machine: Machine, data: st.DataObject) -> None:
    for_us = {"type": data.draw(st.sampled_from([0, 1]) | ANYTHING), "body": data.draw(ANYTHING)}
    content = {
        "algorithm": data.draw(st.just(OLM) | ANYTHING),
        "sender_key": data.draw(st.just(machine.addressee.curve25519) | ANYTHING),
        "ciphertext": data.draw(st.just({machine.addressee.curve25519: for_us}) | ANYTHING),
        "room_id": data.draw(ANYTHING),
        "session_id": data.draw(ANYTHING),
        "code": data.draw(ANYTHING),
    }
    event = {
        "type": data.draw(st.sampled_from(["m.room.encrypted", "m.room_key.withheld"]) | ANYTHING),
        "sender": data.draw(st.just(ADA) | ANYTHING),
        "content": data.draw(st.just(content) | ANYTHING),
    }
    assert machine.olm.receive(event).room_key_session is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inside=ANYTHING)
def test_no_inside_of_a_message_to_the_device_raises(machine: Machine, inside: object) -> None:
    eve = Writer(EVE, "EVEDEVICE")
    if not machine.given:
        machine.olm.observe({"signed_curve25519": 0}, None)
        machine.publish()
    machine.meet(eve)
    key = eve.payload(machine.addressee, "m.room_key", inside)
    received = [machine.olm.receive(eve.envelope(machine.addressee, payload)) for payload in (key, inside)]
    assert [NOTHING, NOTHING] == received


# --- what this bot never does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["m.room_key", "m.forwarded_room_key"])
def test_a_room_key_in_clear_is_not_taken(machine: Machine, kind: str) -> None:
    ada = Writer(ADA, "ADADEVICE")
    machine.olm.receive({"type": kind, "sender": ADA, "content": ada.room_key(ROOM)})
    with pytest.raises(Undecryptable):
        machine.olm.decrypt(ROOM, ada.say(ROOM, "hello"))


def test_a_forwarded_room_key_is_not_taken_even_from_our_own_account(machine: Machine) -> None:
    ada, own = Writer(ADA, "ADADEVICE"), machine.meet(Writer(BOT, "OTHER"))
    machine.learn(own)
    machine.trust(own)
    key = ada.room_key(ROOM) | {
        "sender_key": ada.account.curve25519_key.to_base64(),
        "sender_claimed_ed25519_key": ada.account.ed25519_key.to_base64(),
        "forwarding_curve25519_key_chain": [],
    }
    machine.olm.receive(own.envelope(machine.addressee, own.payload(machine.addressee, "m.forwarded_room_key", key)))
    with pytest.raises(Undecryptable):
        machine.olm.decrypt(ROOM, ada.say(ROOM, "hello"))


def test_a_request_for_a_room_key_is_never_answered(machine: Machine, ada: Writer) -> None:
    request = {"action": "request", "requesting_device_id": ada.id, "request_id": "1", "body": ada.room_key(ROOM)}
    machine.olm.receive({"type": "m.room_key_request", "sender": ADA, "content": request})
    queued = (machine.olm.received_key_requests, machine.olm.outgoing_to_device_messages)
    assert ({}, []) == queued


def test_a_withheld_key_is_logged_with_ids_and_nothing_that_somebody_wrote(
    machine: Machine, logs: list[EventDict]
) -> None:
    content = {"algorithm": MEGOLM, "room_id": ROOM, "session_id": "S", "code": "m.unverified", "reason": "a canary"}
    machine.olm.receive({"type": "m.room_key.withheld", "sender": ADA, "content": content})
    assert [
        {
            "event": "room-key.withheld-from-us",
            "log_level": "warning",
            "user": ADA,
            "room": ROOM,
            "session": "S",
            "code": "m.unverified",
        }
    ] == logs


# --- events of a room (hazards 3, 5, 16) -----------------------------------------------------------------------------


def test_an_event_without_sender_key_and_device_id_decrypts_as_verified(machine: Machine, ada: Writer) -> None:
    opened = machine.olm.decrypt(ROOM, ada.say(ROOM, "hello"))
    content = {"msgtype": "m.text", "body": "hello"}
    session = ada.room_session.session_id
    assert Decrypted("m.room.message", content, ADA, "ADADEVICE", session, 0, verified=True) == opened


@pytest.mark.parametrize("kind", ["m.room.power_levels", "m.room.member", "m.room.tombstone", "m.room.message"])
@pytest.mark.parametrize("key", ["", ADA, None])
def test_an_encrypted_event_that_pretends_to_be_state_is_refused(
    machine: Machine, ada: Writer, kind: str, key: str | None
) -> None:
    payload = {"type": kind, "room_id": ROOM, "state_key": key, "content": {"users": {ADA: 100}}}
    with pytest.raises(ForgedState):
        machine.olm.decrypt(ROOM, ada.post(ROOM, payload))


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "null",
        "[]",
        '{"a": ',
        "[" * 50_000,
        {"room_id": ROOM},
        {"type": "m.room.message", "content": {}},
        {"type": "m.room.message", "content": {}, "room_id": "!elsewhere"},
        {"type": "m.room.message", "content": [], "room_id": ROOM},
        {"type": {}, "content": {}, "room_id": ROOM},
    ],
)
def test_an_event_whose_inside_is_broken_or_of_another_room_is_refused(
    machine: Machine, ada: Writer, payload: object
) -> None:
    with pytest.raises(MalformedEvent):
        machine.olm.decrypt(ROOM, ada.post(ROOM, payload))


def test_what_else_stands_in_the_plaintext_harms_nothing(machine: Machine, ada: Writer) -> None:
    payload = message(ROOM, "hello") | {"unsigned": None, "event_id": 7, "sender": EVE, "origin_server_ts": "late"}
    opened = machine.olm.decrypt(ROOM, ada.post(ROOM, payload))
    assert (ADA, "hello") == (opened.sender, opened.content["body"])


@pytest.mark.parametrize(
    "change",
    [
        {"ciphertext": garbage()},
        {"ciphertext": None},
        {"ciphertext": "ä"},
        {"session_id": None},
        {"algorithm": "m.olm.v1.curve25519-aes-sha2"},
    ],
)
def test_a_broken_envelope_is_refused(machine: Machine, ada: Writer, change: dict[str, object]) -> None:
    event = ada.say(ROOM, "hello")
    event["content"] |= change
    with pytest.raises(MalformedEvent):
        machine.olm.decrypt(ROOM, event)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inside=ANYTHING)
def test_no_inside_of_a_room_event_raises_anything_but_a_refusal(machine: Machine, ada: Writer, inside: object) -> None:
    payload = inside if isinstance(inside, dict) else {"type": inside, "room_id": ROOM, "content": inside}
    with pytest.raises((MalformedEvent, ForgedState)):
        machine.olm.decrypt(ROOM, ada.post(ROOM, payload))


def test_an_event_that_the_server_relabels_is_not_verified(machine: Machine, ada: Writer) -> None:
    eve = machine.befriend(Writer(EVE, "EVEDEVICE"))
    opened = machine.olm.decrypt(ROOM, eve.say(ROOM, "I am Ada", sender=ADA))
    assert (ADA, "", False) == (opened.sender, opened.device_id, opened.verified)


def test_an_event_that_names_another_device_of_its_sender_is_judged_by_its_keys(machine: Machine, ada: Writer) -> None:
    ghost = Writer(ADA, "GHOST")
    machine.learn(ada, ghost)
    machine.olm.receive(machine.meet(ghost).share(machine.addressee, ROOM))
    event = ghost.say(ROOM, "I am signed")
    event["content"] |= {"device_id": ada.id, "sender_key": ada.account.curve25519_key.to_base64()}
    opened = machine.olm.decrypt(ROOM, event)
    assert ("GHOST", False) == (opened.device_id, opened.verified)


def test_a_device_that_claims_the_fingerprint_of_another_is_not_verified(machine: Machine, ada: Writer) -> None:
    eve = machine.meet(Writer(EVE, "EVEDEVICE"))
    payload = eve.payload(machine.addressee, "m.room_key", eve.room_key(ROOM))
    payload["keys"] = {"ed25519": ada.account.ed25519_key.to_base64()}
    machine.olm.receive(eve.envelope(machine.addressee, payload))
    assert not machine.olm.decrypt(ROOM, eve.say(ROOM, "I am Ada", sender=ADA)).verified


def test_a_device_that_lists_the_channel_key_of_another_as_its_own_is_not_verified(
    machine: Machine, ada: Writer
) -> None:
    eve = Writer(EVE, "EVEDEVICE")
    shown = {name: value for name, value in eve.object().items() if name != "signatures"}
    shown["keys"]["curve25519:EVEDEVICE"] = ada.account.curve25519_key.to_base64()
    machine.olm.learn_devices({"device_keys": {EVE: {"EVEDEVICE": eve.signed_key(shown)}}})
    machine.trust(eve)
    assert not machine.olm.decrypt(ROOM, ada.say(ROOM, "by Ada", sender=EVE)).verified


def test_a_device_that_is_not_trusted_or_no_longer_listed_is_not_verified(machine: Machine, ada: Writer) -> None:
    before = machine.olm.decrypt(ROOM, ada.say(ROOM, "one")).verified
    machine.olm.blacklist_device(machine.olm.device_store[ADA][ada.id])
    excluded = machine.olm.decrypt(ROOM, ada.say(ROOM, "two")).verified
    machine.trust(ada)
    machine.olm.learn_devices({"device_keys": {ADA: {}}})
    gone = machine.olm.decrypt(ROOM, ada.say(ROOM, "three")).verified
    assert (before, excluded, gone) == (True, False, False)


def test_a_missing_key_is_told_with_its_session(machine: Machine) -> None:
    ada = Writer(ADA, "ADADEVICE")
    with pytest.raises(Undecryptable) as raised:
        machine.olm.decrypt(ROOM, ada.say(ROOM, "hello"))
    assert {"session_id": ada.room_session.session_id} == raised.value.params


def test_a_key_that_begins_after_the_message_leaves_it_undecryptable(machine: Machine) -> None:
    ada = Writer(ADA, "ADADEVICE")
    early = ada.say(ROOM, "before you came")
    machine.befriend(ada)
    with pytest.raises(Undecryptable):
        machine.olm.decrypt(ROOM, early)


def test_a_key_of_one_room_opens_nothing_in_another(machine: Machine, ada: Writer) -> None:
    with pytest.raises(Undecryptable):
        machine.olm.decrypt("!other", ada.say("!other", "hello"))


# --- room keys that come twice ---------------------------------------------------------------------------------------


def test_a_later_copy_of_a_room_key_never_displaces_an_earlier_one(machine: Machine, ada: Writer) -> None:
    early = ada.say(ROOM, "early")
    later = machine.olm.receive(ada.share(machine.addressee, ROOM))
    machine.crash()
    assert (None, "early") == (later.room_key_session, machine.olm.decrypt(ROOM, early).content["body"])


def test_an_earlier_copy_of_a_room_key_displaces_a_later_one(machine: Machine) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    whole = ada.payload(machine.addressee, "m.room_key", ada.room_key(ROOM))
    early = ada.say(ROOM, "early")
    machine.olm.receive(ada.share(machine.addressee, ROOM))
    machine.olm.receive(ada.envelope(machine.addressee, whole))
    machine.crash()
    assert "early" == machine.olm.decrypt(ROOM, early).content["body"]


def test_nobody_can_take_over_the_session_of_another(machine: Machine, ada: Writer) -> None:
    eve = machine.befriend(Writer(EVE, "EVEDEVICE"))
    stolen = eve.payload(machine.addressee, "m.room_key", ada.room_key(ROOM))
    machine.olm.receive(eve.envelope(machine.addressee, stolen))
    now = machine.olm.decrypt(ROOM, ada.say(ROOM, "one")).verified
    as_eve = machine.olm.decrypt(ROOM, ada.say(ROOM, "two", sender=BOT)).verified
    machine.crash()
    later = machine.olm.decrypt(ROOM, ada.say(ROOM, "three")).verified
    assert (now, as_eve, later) == (True, False, True)


def test_nobody_can_cut_the_session_of_another_short(machine: Machine, ada: Writer) -> None:
    eve = machine.befriend(Writer(EVE, "EVEDEVICE"))
    early = ada.say(ROOM, "early")
    later = eve.payload(machine.addressee, "m.room_key", ada.room_key(ROOM))
    machine.olm.receive(eve.envelope(machine.addressee, later))
    machine.crash()
    assert "early" == machine.olm.decrypt(ROOM, early).content["body"]


# --- device lists (hazards 6, 7, 13) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "curve25519"])
@pytest.mark.parametrize("key", ["AAAA", "ä", "", None, 7, garbage(33), garbage(32) + "="])
def test_a_device_with_a_malformed_key_is_left_out_and_the_others_are_learned(
    machine: Machine, kind: str, key: object
) -> None:
    good, bad = Writer(ADA, "GOOD"), Writer(ADA, "BAD")
    shown = bad.object()
    shown["keys"][f"{kind}:BAD"] = key
    machine.olm.learn_devices({"device_keys": {ADA: {"BAD": shown, "GOOD": good.object()}}})
    assert ["GOOD"] == [device.id for device in machine.olm.device_store.active_user_devices(ADA)]


@pytest.mark.parametrize("shown", [None, [], "text", {}, {"keys": None}, {"keys": {}, "signatures": 5}])
def test_a_device_that_is_no_device_is_left_out(machine: Machine, shown: object) -> None:
    machine.olm.learn_devices({"device_keys": {ADA: {"BAD": shown}, EVE: shown}})
    assert [*machine.olm.device_store.active_user_devices(ADA)] == []


def test_a_device_of_another_name_or_owner_or_without_its_own_signature_is_left_out(machine: Machine) -> None:
    ada, unsigned = Writer(ADA, "ADADEVICE"), Writer(ADA, "UNSIGNED")
    shown = {"RENAMED": ada.object(), "UNSIGNED": unsigned.object() | {"signatures": {}}}
    machine.olm.learn_devices({"device_keys": {ADA: shown, EVE: {"ADADEVICE": ada.object()}}})
    assert [
        *machine.olm.device_store.active_user_devices(ADA),
        *machine.olm.device_store.active_user_devices(EVE),
    ] == []


def test_a_device_that_is_missing_once_counts_again_when_it_is_back_even_after_a_restart(
    machine: Machine, ada: Writer
) -> None:
    machine.olm.learn_devices({"device_keys": {ADA: {}}})
    gone = [*machine.olm.device_store.active_user_devices(ADA)]
    machine.learn(ada)
    machine.crash()
    back = [device.id for device in machine.olm.device_store.active_user_devices(ADA)]
    assert ([], [ada.id], True) == (gone, back, machine.olm.decrypt(ROOM, ada.say(ROOM, "hello")).verified)


def test_a_listed_device_never_changes_its_fingerprint(machine: Machine, ada: Writer) -> None:
    impostor = Writer(ADA, ada.id)
    machine.learn(impostor)
    assert ada.account.ed25519_key.to_base64() == machine.olm.device_store[ADA][ada.id].ed25519


def test_trust_does_not_outlive_the_keys_it_was_in(machine: Machine, ada: Writer) -> None:
    newcomer = Writer(ADA, ada.id)
    machine.olm.learn_devices({"device_keys": {ADA: {}}})
    machine.learn(newcomer)
    machine.crash()
    device = machine.olm.device_store[ADA][ada.id]
    assert (newcomer.account.ed25519_key.to_base64(), False) == (device.ed25519, machine.olm.is_device_verified(device))


# --- our own keys (hazards 1, 9, 10) ---------------------------------------------------------------------------------


def test_the_first_upload_holds_device_keys_one_time_keys_and_a_fallback_key(tmp_path: Path) -> None:
    settings_ = MatrixSettings("http://127.0.0.1", BOT, tmp_path, secrets.token_hex(32))
    body = open_store(settings_, BOT, "NEW", new=True).keys_to_upload() or {}
    (fallback,) = body["fallback_keys"].values()
    assert (50, True, BOT) == (len(body["one_time_keys"]), fallback["fallback"], body["device_keys"]["user_id"])


def test_nothing_is_uploaded_while_enough_is_left_or_while_we_do_not_know(machine: Machine) -> None:
    machine.crash()
    unknown = machine.olm.keys_to_upload()
    machine.olm.observe({"signed_curve25519": 26}, ["signed_curve25519"])
    assert (None, None) == (unknown, machine.olm.keys_to_upload())


@pytest.mark.parametrize(
    "counts", [{"signed_curve25519": 0}, {}, {"signed_curve25519": None}, {"signed_curve25519": -3}]
)
def test_none_left_means_fifty_new_ones(machine: Machine, counts: dict[str, object]) -> None:
    machine.olm.observe(counts, ["signed_curve25519"])
    body = machine.olm.keys_to_upload() or {}
    new = set(body["one_time_keys"]) - set(machine.given)
    assert ({"one_time_keys"}, 50) == (set(body), len(new))


def test_a_sync_that_does_not_tell_the_count_changes_nothing(machine: Machine) -> None:
    machine.olm.observe(None, None)
    assert machine.olm.keys_to_upload() is None


def test_a_used_fallback_key_is_followed_by_a_new_one(machine: Machine) -> None:
    machine.olm.observe({"signed_curve25519": 50}, [])
    body = machine.olm.keys_to_upload() or {}
    machine.olm.uploaded({"one_time_key_counts": {"signed_curve25519": 50}})
    assert ({"fallback_keys"}, None) == (set(body), machine.olm.keys_to_upload())


def test_a_crash_after_the_upload_means_the_very_same_keys_again(machine: Machine) -> None:
    machine.olm.observe({"signed_curve25519": 0}, [])
    lost = machine.olm.keys_to_upload()
    machine.crash()
    machine.olm.observe({"signed_curve25519": 0}, [])
    assert lost == machine.olm.keys_to_upload()


def test_a_crash_after_the_upload_loses_no_private_half(machine: Machine) -> None:
    machine.olm.observe({"signed_curve25519": 0}, [])
    machine.given = (machine.olm.keys_to_upload() or {})["one_time_keys"]
    machine.crash()
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    assert machine.olm.receive(ada.share(machine.addressee, ROOM)).room_key_session


def test_keys_that_the_server_has_under_the_same_names_are_skipped(machine: Machine) -> None:
    machine.olm.observe({"signed_curve25519": 0}, None)
    first = machine.olm.keys_to_upload() or {}
    machine.olm.skip_unpublished()
    second = machine.olm.keys_to_upload() or {}
    assert set() == set(first["one_time_keys"]) & set(second["one_time_keys"])


def test_a_first_message_opens_once_whatever_crashes_in_between(machine: Machine) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    event = ada.share(machine.addressee, ROOM)
    first = machine.olm.receive(event).room_key_session
    again = machine.olm.receive(event).room_key_session
    machine.crash()
    after_crash = machine.olm.receive(event).room_key_session
    sessions = len(machine.olm.session_store[ada.account.curve25519_key.to_base64()])
    assert (True, None, None, 1) == (bool(first), again, after_crash, sessions)


def test_the_private_half_of_a_used_one_time_key_is_gone_from_disk(machine: Machine) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    event = ada.share(machine.addressee, ROOM)
    machine.olm.receive(event)
    machine.olm.store.database.execute_sql("DELETE FROM olmsessions")
    machine.crash()
    machine.olm.receive(event)
    assert [] == [*machine.olm.session_store]


def test_a_channel_goes_on_after_a_crash(machine: Machine) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    machine.olm.receive(ada.share(machine.addressee, ROOM))
    machine.crash()
    ada.room_session = vodozemac.GroupSession()
    assert machine.olm.receive(ada.share(machine.addressee, ROOM)).room_key_session


def test_a_full_disk_is_a_fault_and_the_message_is_taken_when_it_comes_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    event = ada.share(machine.addressee, ROOM)

    def full(*_: object) -> None:
        raise OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "save_inbound_group_session", full)
        with pytest.raises(StoreAway):
            machine.olm.receive(event)
    assert ada.room_session.session_id == machine.olm.receive(event).room_key_session


# --- broken channels -------------------------------------------------------------------------------------------------


def test_a_known_device_whose_channel_is_broken_is_noted_and_a_stranger_is_not(machine: Machine) -> None:
    ada, eve = Writer(ADA, "ADADEVICE"), Writer(EVE, "EVEDEVICE")
    machine.learn(ada)
    for writer in (ada, eve):
        writer.meet(machine.addressee, vodozemac.Account().curve25519_key.to_base64())
        machine.olm.receive(writer.share(machine.addressee, ROOM))
    assert [ada.id] == [device.id for device in machine.olm.wedged_devices]


# --- files (hazard 21) -----------------------------------------------------------------------------------------------


def test_the_key_store_is_readable_to_us_alone(machine: Machine) -> None:
    folder = machine.settings.store_dir
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())]
    assert [0o700, 0o600] == modes


def test_the_key_store_opens_with_its_own_key_only(machine: Machine) -> None:
    machine.olm.close()
    for other in (secrets.token_hex(32), "0" * 64):
        wrong = MatrixSettings("http://127.0.0.1", BOT, machine.settings.store_dir, other)
        with pytest.raises(SecretUnreadable):
            open_store(wrong, BOT, "BOTDEVICE", new=False)


def test_the_key_store_is_not_sealed_with_the_default_key_of_nio(machine: Machine) -> None:
    (path,) = machine.settings.store_dir.iterdir()
    machine.olm.close()
    for default in ("DEFAULT_KEY", ""):
        store = SqliteStore(BOT, "BOTDEVICE", str(path.parent), default, path.name)
        with pytest.raises(LibolmPickleException):
            store.load_account()
        store.database.close()


def test_a_key_store_that_is_gone_is_noticed_and_no_new_keys_are_made(machine: Machine) -> None:
    (path,) = machine.settings.store_dir.iterdir()
    machine.olm.close()
    path.unlink()
    with pytest.raises(DeviceKeysDiffer):
        open_store(machine.settings, BOT, "BOTDEVICE", new=False)
    assert not path.exists()


def test_a_damaged_key_store_is_noticed(machine: Machine) -> None:
    (path,) = machine.settings.store_dir.iterdir()
    machine.olm.close()
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(SecretUnreadable):
        open_store(machine.settings, BOT, "BOTDEVICE", new=False)


def test_the_store_of_a_device_has_a_name_of_our_own_whatever_the_server_calls_it(tmp_path: Path) -> None:
    settings_ = MatrixSettings("http://127.0.0.1", "@a/../b:localhost", tmp_path / "store", secrets.token_hex(32))
    open_store(settings_, "@a/../b:localhost", "../../evil", new=True).close()
    (path,) = (tmp_path / "store").iterdir()
    assert (path.name.startswith("olm-"), ["store"]) == (True, [p.name for p in tmp_path.iterdir()])


def test_nothing_that_strangers_sent_is_logged(machine: Machine, logs: list[EventDict]) -> None:
    ada = machine.meet(Writer(ADA, "ADADEVICE"))
    canary = {"msgtype": "canary", "body": "canary"}
    machine.olm.receive(ada.envelope(machine.addressee, ada.payload(machine.addressee, "m.room_key", canary)))
    machine.olm.receive({"type": "canary", "sender": "canary", "content": canary})
    assert "canary" not in json.dumps(logs)
