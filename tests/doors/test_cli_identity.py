"""``secir identity`` and ``secir check`` on a real homeserver, relay and GnuPG."""

import asyncio
import dataclasses
import json
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot import config, parts
from tests.parts.identity import signed_devices
from tests.parts.mail import mail_sink
from tests.parts.ports import LOOPBACK, free_port
from tests.parts.synapse import Account, Synapse
from tests.parts.terminal import Said, Terminal, at_work


@pytest.fixture
def account(synapse: Synapse) -> Account:
    return synapse.new_account("secir")


def terminal_of(directory: Path, synapse: Synapse, account: Account) -> Terminal:
    directory.mkdir(exist_ok=True)
    environ = {"SECIR_MATRIX_PASSWORD": account.password}
    return at_work(directory, homeserver=synapse.url, user=account.user_id, environ=environ)


@pytest.fixture
def terminal(short_dir: Path, synapse: Synapse, account: Account) -> Terminal:
    return terminal_of(short_dir / "one", synapse, account)


def shown(terminal: Terminal) -> dict[str, str]:
    found: dict[str, str] = json.loads(terminal.ok("identity", "show", "--json"))
    return found


def signed_on_server(synapse: Synapse, account: Account) -> set[str]:
    """The devices whose chain of signatures holds, judged by code that is not the product's."""
    token = synapse.log_in(account).access_token
    answer = synapse.call("POST", "/_matrix/client/v3/keys/query", {"device_keys": {account.user_id: []}}, token=token)
    return {device.device_id for device in signed_devices(answer, account.user_id)}


def test_create_prints_the_recovery_key_alone_on_standard_output(
    terminal: Terminal, synapse: Synapse, account: Account
) -> None:
    said = terminal("identity", "create")
    assert said.code == 0
    assert len(said.out.split()) == 12
    assert "keep it in a safe place" in said.err
    assert shown(terminal)["device_id"] in signed_on_server(synapse, account)
    assert shown(terminal)["state"].startswith("sound")


def test_create_a_second_time_is_refused_and_changes_nothing(terminal: Terminal) -> None:
    terminal.ok("identity", "create")
    before = shown(terminal)
    said = terminal("identity", "create")
    assert said.code == 1
    assert "has a Matrix identity already" in said.err
    assert before == shown(terminal)


def test_a_lost_recovery_key_is_replaced_and_the_identity_stays(terminal: Terminal) -> None:
    first = terminal.ok("identity", "create")
    before = shown(terminal)
    second = terminal.ok("identity", "create", "--new-recovery-key")
    assert first != second
    assert before == shown(terminal)


def test_a_new_recovery_key_needs_an_identity(terminal: Terminal) -> None:
    said = terminal("identity", "create", "--new-recovery-key")
    assert (said.code, "secir identity create" in said.err) == (1, True)


def test_on_a_new_machine_the_recovery_key_brings_the_identity_back(
    terminal: Terminal, short_dir: Path, synapse: Synapse, account: Account
) -> None:
    recovery_key = terminal.ok("identity", "create")
    (short_dir / "recovery.key").write_text(recovery_key)
    other = terminal_of(short_dir / "two", synapse, account)
    other.ok("identity", "restore", "--recovery-key-file", str(short_dir / "recovery.key"))
    assert shown(terminal)["identity"] == shown(other)["identity"]
    assert {shown(terminal)["device_id"], shown(other)["device_id"]} <= signed_on_server(synapse, account)


def test_a_login_that_the_server_forgot_is_made_anew(
    terminal: Terminal, short_dir: Path, synapse: Synapse, account: Account
) -> None:
    (short_dir / "recovery.key").write_text(terminal.ok("identity", "create"))
    before = shown(terminal)
    token = synapse.log_in(account).access_token
    synapse.call("POST", "/_matrix/client/v3/logout/all", {}, token=token)
    assert "no longer valid" in shown(terminal)["state"]
    terminal.ok("identity", "restore", "--recovery-key-file", str(short_dir / "recovery.key"))
    after = shown(terminal)
    assert before["identity"] == after["identity"]
    assert before["device_id"] != after["device_id"]
    assert after["state"].startswith("sound")


@pytest.mark.parametrize("text", ["", "EsTa abcd", "no recovery key at all", "\xff"])
def test_a_wrong_recovery_key_is_refused(terminal: Terminal, short_dir: Path, text: str) -> None:
    terminal.ok("identity", "create")
    (short_dir / "recovery.key").write_bytes(text.encode("latin-1"))
    said = terminal("identity", "restore", "--recovery-key-file", str(short_dir / "recovery.key"))
    assert said.code == 1
    assert "not the recovery key" in said.err


def test_a_wrong_password_is_told_as_the_servers_refusal(short_dir: Path, synapse: Synapse, account: Account) -> None:
    terminal = at_work(
        short_dir, homeserver=synapse.url, user=account.user_id, environ={"SECIR_MATRIX_PASSWORD": "wrong"}
    )
    said = terminal("identity", "create")
    assert said.code == 1
    assert "M_FORBIDDEN" in said.err


def test_the_identity_is_not_touched_while_a_bridge_runs(terminal: Terminal) -> None:
    settings = config.load(terminal.directory / "secir.yaml", terminal.environ)
    with parts.alone(settings):
        said = terminal("identity", "create")
    assert said.code == 1
    assert "Another bridge" in said.err


# --- check -----------------------------------------------------------------------------------------------------------


def findings(said: str) -> dict[str, str]:
    """Part to ``ok`` or ``MEND``."""
    marked = [line for line in said.splitlines() if line[:6] in ("ok    ", "MEND  ")]
    return {line[6:].partition(":")[0]: line[:4].strip() for line in marked}


def to_be_mended(said: str) -> set[str]:
    return {part for part, mark in findings(said).items() if mark == "MEND"}


@pytest.fixture
async def ready(terminal: Terminal) -> AsyncIterator[Terminal]:
    """A bridge whose every part is there: identity, group, relay, a free port."""
    async with mail_sink() as sink:
        path = terminal.directory / "secir.yaml"
        mail = f"  relay: {{port: {sink.port}}}\n  listeners: [{{port: {free_port()}}}]\n"
        path.write_text(path.read_text() + mail)
        await asyncio.to_thread(terminal.ok, "identity", "create")
        await asyncio.to_thread(terminal.ok, "group", "create", "tld-ops", "--address", "tld-ops@lists.example")
        yield terminal


async def check(terminal: Terminal) -> Said:
    return await asyncio.to_thread(terminal, "check")


async def test_check_finds_all_well_when_it_is(ready: Terminal) -> None:
    said = await check(ready)
    assert (0, set()) == (said.code, to_be_mended(said.out)), said.out
    expected = {"configuration", "database", "data_dir", "GnuPG", "list key of tld-ops", "homeserver", "login"}
    expected |= {"cross-signing", "relay", "listener", "group tld-ops", "queue", "bridge"}
    assert expected == set(findings(said.out))
    assert said.out.rstrip().endswith("All is well.")


async def test_check_tells_a_folder_that_others_may_read(ready: Terminal) -> None:
    (ready.directory / "data").chmod(0o755)
    said = await check(ready)
    assert (1, {"data_dir"}) == (said.code, to_be_mended(said.out))
    assert "chmod 700" in said.out


async def test_check_tells_a_secret_key_that_is_another_one(ready: Terminal) -> None:
    other = dataclasses.replace(ready, environ={**ready.environ, "SECIR_SECRET_KEY": "f" * 64})
    assert {"list key of tld-ops", "login"} <= to_be_mended((await check(other)).out)


async def test_check_tells_a_lost_list_key(ready: Terminal) -> None:
    shutil.rmtree(ready.directory / "data/gnupg")
    said = await check(ready)
    assert {"list key of tld-ops"} == to_be_mended(said.out)
    assert "from a backup" in said.out


async def test_check_tells_a_login_that_the_server_forgot(ready: Terminal, synapse: Synapse, account: Account) -> None:
    token = synapse.log_in(account).access_token
    synapse.call("POST", "/_matrix/client/v3/logout/all", {}, token=token)
    said = await check(ready)
    assert {"login"} == to_be_mended(said.out)
    assert "secir identity restore" in said.out


async def test_check_tells_a_port_that_another_program_has(ready: Terminal) -> None:
    port = config.load(ready.directory / "secir.yaml", ready.environ).mail.listeners[0].port
    with socket.create_server((LOOPBACK, port)):
        said = await check(ready)
    assert {"listener"} == to_be_mended(said.out)


async def test_check_tells_members_without_a_valid_key(ready: Terminal) -> None:
    await asyncio.to_thread(ready.ok, "contact", "add", "Ada", "--mail", "ada@example.nl")
    await asyncio.to_thread(ready.ok, "member", "add", "tld-ops", "Ada", "--by", "mail")
    said = await check(ready)
    assert {"group tld-ops"} == to_be_mended(said.out)
    assert "Ada has no key that is valid now" in said.out


async def test_check_of_a_new_bridge_tells_all_that_is_missing(short_dir: Path) -> None:
    terminal = await asyncio.to_thread(at_work, short_dir, homeserver=f"http://{LOOPBACK}:{free_port()}")
    path = short_dir / "secir.yaml"
    path.write_text(path.read_text() + f"  relay: {{port: {free_port()}}}\n  listeners: [{{port: {free_port()}}}]\n")
    said = await check(terminal)
    assert {"homeserver", "login", "relay", "groups"} == to_be_mended(said.out)


async def test_check_without_a_database_goes_on_with_the_rest(ready: Terminal) -> None:
    (ready.directory / "data/secir.db").unlink()
    said = await check(ready)
    assert {"database"} == to_be_mended(said.out)
    assert "secir db upgrade" in said.out
    assert findings(said.out)["relay"] == "ok"


async def test_check_with_a_wrong_configuration_tells_its_mistakes_first(ready: Terminal) -> None:
    path = ready.directory / "secir.yaml"
    path.write_text(path.read_text().replace("lists.example", "No Domain"))
    said = await check(ready)
    assert said.code == 1
    assert "mail.domain: must be a domain name" in said.err
