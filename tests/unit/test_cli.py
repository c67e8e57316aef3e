"""The command line: each command is declared whole, understands what it should, and refuses with the next step."""

import asyncio
import inspect
import io
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bot.__main__ import execute, main
from bot.cli import console as consoles
from bot.cli.command import Call, function
from bot.cli.console import Console
from bot.cli.parser import build
from tests.parts.terminal import SECRET, Terminal, at_work
from tools.write_docs import leaves
from trust.errors import NoSuchGroup

ROOT = Path(__file__).parents[2]
COMMANDS = {parser.prog: parser for parser in leaves(build())}
INIT = ("--homeserver", "https://matrix.example.org", "--user", "@secir:example.org", "--domain", "lists.example")


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path, {})


# --- the tree of commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prog", COMMANDS)
def test_each_command_names_a_function_that_is_there(prog: str) -> None:
    name = COMMANDS[prog].get_default("function")
    assert inspect.iscoroutinefunction(function(name))


@pytest.mark.parametrize("prog", COMMANDS)
def test_each_command_and_each_option_says_what_it_is_for(prog: str) -> None:
    assert (COMMANDS[prog].description or "").partition("\n")[0].endswith(".")
    assert all(action.help for action in COMMANDS[prog]._actions)


def test_help_fits_a_terminal_and_names_every_topic() -> None:
    text = build().format_help()
    assert max(map(len, text.splitlines())) <= 116
    assert not [
        topic for topic in ("init", "check", "run", "identity", "group", "contact", "member") if topic not in text
    ]


@pytest.mark.parametrize(
    "words", [[], ["grup"], ["group"], ["group", "create"], ["member", "add", "g", "c", "--by", "x"]]
)
def test_what_is_not_understood_ends_with_2_and_the_next_step(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "\nNext: secir" in capsys.readouterr().err


def test_a_refusal_ends_with_1_and_says_what_and_next(tmp_path: Path) -> None:
    async def refuse(call: Call) -> None:
        raise NoSuchGroup(group="tld-ops")

    err = io.StringIO()
    assert execute(refuse, Call(build().parse_args(["run"]), Console(io.StringIO(), err))) == 1
    assert (
        err.getvalue()
        == "secir: There is no group with the name tld-ops.\nNext: See the names with: secir group list\n"
    )


def test_a_mistake_of_our_own_prints_neither_traceback_nor_values(capsys: pytest.CaptureFixture[str]) -> None:
    async def crash(call: Call) -> None:
        raise RuntimeError("canary-4711")

    err = io.StringIO()
    assert execute(crash, Call(build().parse_args(["run"]), Console(io.StringIO(), err))) == 1
    assert "report it" in err.getvalue()
    assert "canary" not in err.getvalue()


def test_a_reader_that_has_gone_is_no_fault(tmp_path: Path) -> None:
    at_work(tmp_path)
    words = [sys.executable, "-m", "bot", "--config", str(tmp_path / "secir.yaml"), "group", "list"]
    environ = {**os.environ, "SECIR_SECRET_KEY": SECRET}
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(words, cwd=ROOT, env=environ, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (run.returncode, run.stderr) == (1, b"")


def test_the_configuration_may_be_named_in_front_behind_or_in_the_environment(tmp_path: Path) -> None:
    named = [
        Call(build().parse_args(["--config", "a.yaml", "check"]), Console()),
        Call(build().parse_args(["check", "--config", "a.yaml"]), Console()),
        Call(build().parse_args(["check"]), Console(), {"SECIR_CONFIG": "a.yaml"}),
    ]
    assert {Path("a.yaml")} == {call.config_path() for call in named}


def test_help_loads_no_library_of_the_bridge() -> None:
    code = (
        "import sys; from bot.cli.parser import build; build().format_help();"
        "print(sorted({'nio','sqlalchemy','pydantic','aiosmtpd','gnupg'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "[]\n"


# --- init ------------------------------------------------------------------------------------------------------------


def test_init_makes_a_bridge_that_only_its_user_can_read(terminal: Terminal, tmp_path: Path) -> None:
    terminal.ok("init", *INIT)
    modes = {p: stat.S_IMODE((tmp_path / p).stat().st_mode) for p in ("data", "secret.key", "data/secir.db")}
    assert modes == {"data": 0o700, "secret.key": 0o600, "data/secir.db": 0o600}
    assert terminal.ok("group", "list").startswith("There is no group yet.")


def test_init_writes_each_answer_under_its_key(terminal: Terminal, tmp_path: Path) -> None:
    terminal.ok(
        "init", *INIT, "--data-dir", "state", "--relay-host", "localhost", "--relay-port", "2525", "--relay-tls", "none"
    )
    written = (tmp_path / "secir.yaml").read_text()
    expected = [
        "data_dir: state",
        "host: localhost",
        "port: 2525",
        "domain: lists.example",
        "user_id: '@secir:example.org'",
    ]
    assert not [line for line in expected if line not in written]


def test_init_asks_for_what_no_option_gives(terminal: Terminal, tmp_path: Path) -> None:
    asked = Terminal(tmp_path, {}, typed="https://matrix.example.org\n@secir:example.org\nlists.example\n")
    said = asked("init")
    assert (said.code, said.err.count(": ")) == (0, 3)


def test_init_without_answers_and_without_a_terminal_names_the_option(terminal: Terminal, tmp_path: Path) -> None:
    said = terminal("init")
    assert said.code == 1
    assert "--homeserver" in said.err
    assert os.listdir(tmp_path) == []


def test_init_with_a_wrong_answer_makes_nothing(terminal: Terminal, tmp_path: Path) -> None:
    said = terminal("init", *INIT[:-1], "No Domain")
    assert said.code == 1
    assert "mail.domain: must be a domain name" in said.err
    assert os.listdir(tmp_path) == []


def test_init_again_keeps_what_is_there(terminal: Terminal, tmp_path: Path) -> None:
    terminal.ok("init", *INIT)
    before = (tmp_path / "secret.key").read_text(), (tmp_path / "secir.yaml").read_text()
    assert terminal.ok("init").count("Kept") == 2
    assert before == ((tmp_path / "secret.key").read_text(), (tmp_path / "secir.yaml").read_text())


def test_init_with_options_never_overwrites_a_configuration(terminal: Terminal) -> None:
    terminal.ok("init", *INIT)
    said = terminal("init", *INIT)
    assert said.code == 1
    assert "is there already" in said.err


def test_init_makes_no_new_secret_key_beside_data_that_another_one_sealed(terminal: Terminal, tmp_path: Path) -> None:
    terminal.ok("init", *INIT)
    (tmp_path / "secret.key").unlink()
    said = terminal("init")
    assert said.code == 1
    assert "secret key is not the one" in said.err
    assert not (tmp_path / "secret.key").exists()


def test_the_database_of_an_older_program_is_refused_with_the_command_that_upgrades_it(tmp_path: Path) -> None:
    terminal = at_work(tmp_path)
    (tmp_path / "data/secir.db").unlink()
    said = terminal("group", "list")
    assert said.code == 1
    assert "secir db upgrade" in said.err
    terminal.ok("db", "upgrade")
    terminal.ok("group", "list")


# --- health ----------------------------------------------------------------------------------------------------------


def test_health_tells_a_living_bridge_from_a_dead_one(tmp_path: Path) -> None:
    terminal = at_work(tmp_path)
    assert terminal("health").code == 1
    (tmp_path / "data/heartbeat").touch()
    assert terminal("health").code == 0
    old = time.time() - 91
    os.utime(tmp_path / "data/heartbeat", (old, old))
    assert terminal("health").code == 1


# --- the console -----------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


async def slow(console: Console, seconds: float) -> None:
    with console.step("Working"):
        await asyncio.sleep(seconds)


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, ""), (0.15, "Working …\n")])
def test_what_takes_long_is_told_once_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, seconds: float, shown: str
) -> None:
    monkeypatch.setattr(consoles, "SECOND", 0.05)
    err = io.StringIO()
    asyncio.run(slow(Console(io.StringIO(), err), seconds))
    assert shown == err.getvalue()


def test_on_a_terminal_a_spinner_turns_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "SECOND", 0.05)
    err = Screen()
    asyncio.run(slow(Console(io.StringIO(), err), 0.6))
    assert {"\r| Working …", "\r/ Working …"} <= {"\r" + part for part in err.getvalue().split("\r")}
    assert err.getvalue().endswith("\r\x1b[K")


def test_control_characters_never_reach_the_terminal() -> None:
    out = io.StringIO()
    Console(out).say("Ada\x1b[2J\u202e\x07")
    assert out.getvalue() == "Ada\ufffd[2J\ufffd\ufffd\n"


def test_columns_stand_under_their_headings() -> None:
    out = io.StringIO()
    Console(out).table(["name", "by"], [["Ada Janssen", "room"], ["Bo", "mail"]])
    assert out.getvalue() == "NAME         BY\nAda Janssen  room\nBo           mail\n"
