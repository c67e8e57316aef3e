"""Groups, contacts and members by command, on a real GnuPG and a real database."""

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.pgp import Person
from tests.parts.terminal import Terminal, at_work


@pytest.fixture
def terminal(short_dir: Path) -> Terminal:
    return at_work(short_dir)


@pytest.fixture
def tld_ops(terminal: Terminal) -> Terminal:
    terminal.ok("group", "create", "tld-ops", "--address", "TLD-ops@lists.example", "--description", "All  ccTLDs")
    return terminal


@pytest.fixture(scope="module")
def ada() -> Iterator[Person]:
    person = Person.create(None, "Ada Janssen", "ada@example.nl")
    yield person
    person.close()


@pytest.fixture
def ada_key(ada: Person, tmp_path: Path) -> Path:
    path = tmp_path / "ada.asc"
    path.write_bytes(ada.armoured_key)
    return path


# --- groups ----------------------------------------------------------------------------------------------------------


def test_a_group_has_a_list_key_that_another_gnupg_can_import(tld_ops: Terminal, ada: Person) -> None:
    shown = json.loads(tld_ops.ok("group", "show", "tld-ops", "--json"))
    ada.gpg("--import", data=tld_ops.ok("group", "show", "tld-ops", "--key").encode())
    assert shown["list_key"] in ada.gpg("--with-colons", "--list-keys", "tld-ops@lists.example").output.decode()
    assert (shown["address"], shown["description"], shown["federate"]) == ("tld-ops@lists.example", "All ccTLDs", True)


def test_a_group_is_listed_and_shown(tld_ops: Terminal) -> None:
    assert "tld-ops  tld-ops@lists.example  0        room not made yet" in tld_ops.ok("group", "list")
    shown = tld_ops.ok("group", "show", "TLD-OPS")
    assert "No members yet. Next: secir member add tld-ops CONTACT --by room|mail" in shown
    assert "refused mails  none" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tld-ops", "--address", "x@lists.example"), "The group tld-ops is there already."),
        (("other", "--address", "tld-ops@lists.example"), "A group with the address tld-ops@lists.example is there"),
        (("other", "--address", "other@elsewhere.example"), "other@lists.example"),
        (("Two words", "--address", "x@lists.example"), "tld-ops"),
        (("other", "--address", "no address"), "ada@example.nl"),
    ],
)
def test_a_group_that_can_not_be_is_refused_and_leaves_no_key(
    tld_ops: Terminal, words: tuple[str, ...], told: str
) -> None:
    before = os.listdir(tld_ops.directory / "data/gnupg")
    said = tld_ops("group", "create", *words)
    assert said.code == 1
    assert told in said.err
    assert before == os.listdir(tld_ops.directory / "data/gnupg")


def test_a_group_that_nobody_knows_is_refused_with_the_way_to_find_it(terminal: Terminal) -> None:
    said = terminal("group", "show", "nobody")
    assert (said.code, "secir group list" in said.err) == (1, True)


# --- contacts --------------------------------------------------------------------------------------------------------


def test_a_contact_has_an_organisation_an_address_with_a_key_and_a_matrix_id(
    terminal: Terminal, ada: Person, ada_key: Path
) -> None:
    terminal.ok(
        *("contact", "add", "Ada  Janssen", "--organisation", "NL", "--organisation-name", "SIDN"),
        *("--mail", "Ada@Example.nl", "--key", str(ada_key), "--matrix", "@ada:example.nl"),
    )
    shown = json.loads(terminal.ok("contact", "show", "ADA@example.nl", "--json"))
    assert (shown["name"], shown["organisation"], shown["matrix_ids"]) == ("Ada Janssen", "nl", ["@ada:example.nl"])
    assert [{"address": "ada@example.nl", "key": ada.fingerprint, "expires_at": None, "paused_at": None}] == shown[
        "addresses"
    ]
    assert "SIDN (nl)" in terminal.ok("contact", "show", "@ada:example.nl")
    assert "Ada Janssen  nl            ada@example.nl  @ada:example.nl" in terminal.ok("contact", "list")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("Ada", "--organisation", "nl"), "--organisation-name"),
        (("Ada", "--organisation-name", "SIDN"), "--organisation nl"),
        (("Ada", "--organisation", "no such!"), "nl"),
        (("Ada", "--mail", "ada"), "ada@example.nl"),
        (("Ada", "--mail", "ada@example.nl\nBcc: x@y.z"), "ada@example.nl"),
        (("Ada", "--matrix", "ada"), "@ada:example.nl"),
        (("\x1b[2J",), "Ada Janssen"),
        (("Ada <ada@example.nl>",), "Ada Janssen"),
        (("Ada", "--key", "x.asc"), "--mail ada@example.nl --key ada.asc"),
        (("Ada", "--mail", "ada@example.nl", "--key", "nosuchfile.asc"), "--key ada.asc"),
    ],
)
def test_a_contact_that_can_not_be_is_refused_whole(terminal: Terminal, words: tuple[str, ...], told: str) -> None:
    said = terminal("contact", "add", *words)
    assert said.code == 1
    assert told in said.err.partition("Next: ")[2]
    assert terminal.ok("contact", "list").startswith("There is nobody yet.")


def test_the_same_name_twice_is_refused(terminal: Terminal) -> None:
    terminal.ok("contact", "add", "Ada Janssen")
    assert "The contact Ada Janssen is there already." in terminal("contact", "add", "Ada Janssen").err


def test_an_address_belongs_to_one_person(terminal: Terminal) -> None:
    terminal.ok("contact", "add", "Ada", "--mail", "ada@example.nl")
    assert terminal("contact", "add", "Bo", "--mail", "ada@example.nl").code == 1
    assert terminal("contact", "show", "Bo").code == 1


def test_a_key_belongs_to_one_person(terminal: Terminal, ada_key: Path) -> None:
    terminal.ok("contact", "add", "Ada", "--mail", "ada@example.nl", "--key", str(ada_key))
    said = terminal("contact", "add", "Bo", "--mail", "bo@example.nl", "--key", str(ada_key))
    assert "already belongs to Ada" in said.err


def test_another_key_is_pinned_by_set(terminal: Terminal, ada: Person, ada_key: Path) -> None:
    terminal.ok("contact", "add", "Ada", "--mail", "ada@example.nl")
    assert "no key" in terminal.ok("contact", "show", "Ada")
    assert ada.fingerprint[-4:] in terminal.ok("contact", "set", "Ada", "--key", str(ada_key))


def test_set_without_anything_to_set_is_refused(terminal: Terminal) -> None:
    terminal.ok("contact", "add", "Ada")
    assert terminal("contact", "set", "Ada").code == 1
    assert terminal("contact", "set", "Ada", "--key", "x.asc").code == 1


def test_a_key_may_come_by_standard_input(terminal: Terminal, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ada.armoured_key)))
    assert ada.fingerprint[-4:] in terminal.ok("contact", "add", "Ada", "--mail", "ada@example.nl", "--key", "-")


@pytest.mark.parametrize(
    ("algorithm", "encryption", "expires", "at", "told"),
    [
        ("ed25519", "cv25519", "2d", "20240101T000000", "expired on 2024-01-03"),
        ("rsa1024", "cv25519", "never", None, "is too weak"),
        ("ed25519", None, "never", None, "no valid part for encryption"),
    ],
    ids=["expired", "weak", "signs-only"],
)
def test_a_key_that_can_not_be_used_is_refused_and_nothing_is_added(
    tld_ops: Terminal, tmp_path: Path, algorithm: str, encryption: str | None, expires: str, at: str | None, told: str
) -> None:
    bo = Person.create(None, "Bo", "bo@example.nl", algorithm=algorithm, encryption=encryption, expires=expires, at=at)
    (tmp_path / "bo.asc").write_bytes(bo.armoured_key)
    bo.close()
    tld_ops.ok("contact", "add", "Bo")
    words = ("Bo", "--mail", "bo@example.nl", "--key", str(tmp_path / "bo.asc"))
    for said in (tld_ops("contact", "set", *words), tld_ops("member", "add", "tld-ops", *words, "--by", "mail")):
        assert said.code == 1
        assert told in said.err
    assert json.loads(tld_ops.ok("contact", "show", "Bo", "--json"))["addresses"] == []


def test_a_file_that_is_no_key_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "x.asc").write_text("no key at all")
    said = terminal("contact", "add", "Ada", "--mail", "ada@example.nl", "--key", str(tmp_path / "x.asc"))
    assert "This is not an OpenPGP key." in said.err


# --- members ---------------------------------------------------------------------------------------------------------


def members(terminal: Terminal) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(terminal.ok("member", "list", "tld-ops", "--json"))
    return found


def test_a_member_by_mail_is_reached_at_the_only_address(tld_ops: Terminal, ada: Person, ada_key: Path) -> None:
    tld_ops.ok("contact", "add", "Ada Janssen", "--mail", "ada@example.nl", "--key", str(ada_key))
    tld_ops.ok("member", "add", "tld-ops", "ada janssen", "--by", "mail", "--role", "admin")
    assert [
        {
            "name": "Ada Janssen",
            "by": "mail",
            "role": "admin",
            "state": "active",
            "address": "ada@example.nl",
            "key": ada.fingerprint,
            "paused_at": None,
            "matrix_id": None,
        }
    ] == members(tld_ops)
    assert "ada@example.nl" in tld_ops.ok("member", "list", "tld-ops")


def test_a_member_by_room_keeps_the_address_and_key_for_sealed_notes(
    tld_ops: Terminal, ada: Person, ada_key: Path
) -> None:
    tld_ops.ok("contact", "add", "Ada", "--mail", "ada@example.nl", "--key", str(ada_key))
    said = tld_ops.ok("member", "add", "tld-ops", "Ada", "--by", "room", "--matrix", "@ada:example.nl")
    [member] = members(tld_ops)
    assert ("room", "@ada:example.nl", ada.fingerprint) == (member["by"], member["matrix_id"], member["key"])
    assert "invites" in said


def test_a_member_by_mail_without_a_key_is_told_to_get_nothing(tld_ops: Terminal) -> None:
    tld_ops.ok("contact", "add", "Ada", "--mail", "ada@example.nl")
    said = tld_ops.ok("member", "add", "tld-ops", "Ada", "--by", "mail")
    assert "mail is held, and nothing is sent in clear" in said
    assert 'secir contact set "Ada" --key FILE' in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tld-ops", "Ada", "--by", "mail"), "--mail ADDRESS"),
        (("tld-ops", "Ada", "--by", "room"), "--matrix @name:server"),
        (("tld-ops", "Nobody", "--by", "room"), "secir contact add"),
        (("nothing", "Ada", "--by", "room"), "secir group list"),
    ],
)
def test_a_membership_that_can_not_be_is_refused(tld_ops: Terminal, words: tuple[str, ...], told: str) -> None:
    tld_ops.ok("contact", "add", "Ada")
    said = tld_ops("member", "add", *words)
    assert said.code == 1
    assert told in said.err
    assert members(tld_ops) == []


def test_with_several_addresses_the_command_asks_which(tld_ops: Terminal) -> None:
    tld_ops.ok("contact", "add", "Ada", "--mail", "ada@example.nl")
    tld_ops.ok("contact", "set", "Ada", "--mail", "ada@example.com")
    assert "--mail ada@example.com" in tld_ops("member", "add", "tld-ops", "Ada", "--by", "mail").err
    tld_ops.ok("member", "add", "tld-ops", "Ada", "--by", "mail", "--mail", "ADA@example.nl")
    assert members(tld_ops)[0]["address"] == "ada@example.nl"


def test_a_member_twice_is_refused_and_one_who_left_may_come_back(tld_ops: Terminal) -> None:
    tld_ops.ok("contact", "add", "Ada", "--mail", "ada@example.nl")
    words = ("tld-ops", "Ada", "--by", "mail")
    tld_ops.ok("member", "add", *words)
    assert tld_ops("member", "add", *words).code == 1
    assert "no longer a member of tld-ops" in tld_ops.ok("member", "remove", "tld-ops", "Ada")
    assert members(tld_ops) == []
    assert tld_ops("member", "remove", "tld-ops", "Ada").code == 1
    tld_ops.ok("member", "add", *words)
    assert len(members(tld_ops)) == 1
