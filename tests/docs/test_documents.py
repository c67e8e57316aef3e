"""What is written for people says what the code does."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot import config, config_text
from bot.cli.parser import build
from bot.config import Config
from bot.config_file import KeyPath
from tools import write_docs

ROOT = Path(__file__).parents[2]
WRITTEN_BY_PEOPLE = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
DOCUMENTS = [name for name in WRITTEN_BY_PEOPLE if (ROOT / name).exists()]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
COMMANDS = {parser.prog for parser in write_docs.leaves(build())}
TOPICS = {" ".join(command.split()[:2]) for command in COMMANDS}


# --- generated -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", write_docs.documents(), ids=str)
def test_a_generated_document_is_up_to_date(path: Path) -> None:
    assert write_docs.documents()[path] == (ROOT / path).read_text("utf-8"), "run: make docs"


# --- the example configuration ---------------------------------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path) -> Config:
    (tmp_path / "secir.yaml").write_text((ROOT / "config.example.yaml").read_text("utf-8"), "utf-8")
    return config.load(tmp_path / "secir.yaml", {"SECIR_SECRET_KEY": "0" * 64})


def with_least(tmp_path: Path, example: Config) -> Config:
    """A configuration of the required keys alone."""
    least = {
        "matrix": {"homeserver": example.matrix.homeserver, "user_id": example.matrix.user_id},
        "mail": {"domain": example.mail.domain},
    }
    (tmp_path / "least.yaml").write_text(yaml.safe_dump(least), "utf-8")
    return config.load(tmp_path / "least.yaml", {"SECIR_SECRET_KEY": "0" * 64})


def test_each_default_in_the_example_is_the_one_in_the_code(tmp_path: Path, example: Config) -> None:
    assert example.model_dump() == with_least(tmp_path, example).model_dump()


def test_the_example_holds_every_key() -> None:
    text = (ROOT / "config.example.yaml").read_text("utf-8")
    assert [
        entry.key for entry in config_text.entries() if not re.search(rf"^[ -]*#?{entry.key[-1]}:", text, re.M)
    ] == []


def test_each_key_left_out_of_the_example_would_be_right_as_it_stands_there(tmp_path: Path) -> None:
    """The commented keys, all switched on, pass the checks: an operator takes the # away and goes on."""
    text = re.sub(r"^( *)#([a-z_]+:)", r"\1\2", (ROOT / "config.example.yaml").read_text("utf-8"), flags=re.MULTILINE)
    for name in ("database.password", "matrix.password", "smtp.password", "secret.key"):
        (tmp_path / name).write_text("0" * 64)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "tls").mkdir()
    for name in ("fullchain.pem", "privkey.pem", "authority.pem"):
        (tmp_path / "tls" / name).touch()
    (tmp_path / "secir.yaml").write_text(text, "utf-8")
    assert config.load(tmp_path / "secir.yaml", {}).mail.relay.username == "secir"


def test_each_key_says_in_plain_words_what_it_is_for() -> None:
    undocumented: list[KeyPath] = [entry.key for entry in config_text.entries() if not entry.found.description]
    assert undocumented == []


# --- commands --------------------------------------------------------------------------------------------------------


def fenced(text: str) -> str:
    """What stands in code: blocks and backticks."""
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_make_target_that_is_named_is_there(name: str) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)\b", fenced((ROOT / name).read_text("utf-8"))))
    assert set() == named - TARGETS


@pytest.mark.parametrize("name", [*DOCUMENTS, "bot/texts/en.toml"])
def test_each_command_that_is_named_is_there(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    said = fenced(text) if name.endswith(".md") else text
    named = re.findall(r"\bsecir(?: --config [\w./-]+)? ([a-z]+)(?: ([a-z]+)\b)?", said)
    wrong = [
        f"secir {first} {second}".strip()
        for first, second in named
        if f"secir {first}" not in COMMANDS
        and f"secir {first} {second}".strip() not in COMMANDS | {f"secir {first}"} & TOPICS
    ]
    assert wrong == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_link_to_a_file_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", (ROOT / name).read_text("utf-8"))
    files = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in files if not ((ROOT / name).parent / link).exists()] == []


# --- the project's own files -----------------------------------------------------------------------------------------


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_changelog_begins_with_what_is_not_released_yet_or_with_this_version() -> None:
    first = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first
    assert first[1] in {"Unreleased", pyproject()["project"]["version"]}


@pytest.mark.parametrize("name", [path.name for path in ROOT.glob("requirements*")])
def test_locks_name_no_registry_and_no_place_on_a_machine(name: str) -> None:
    assert (
        re.findall(
            r"https?://\S+|file:\S+|--(?:extra-)?index-url|--find-links|^-e .*", (ROOT / name).read_text("utf-8")
        )
        == []
    )


def pinned(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-synapse.lock"])
def test_each_locked_package_has_its_hashes(name: str) -> None:
    blocks = re.split(r"^(?=[A-Za-z0-9])", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_tests_run_on_the_versions_that_are_shipped() -> None:
    product, development = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert product == {name: development[name] for name in product}


def test_each_dependency_is_locked() -> None:
    wanted = {re.split(r"[\[<>=]", line)[0].lower() for line in pyproject()["project"]["dependencies"]}
    assert wanted <= {name.lower() for name in pinned("requirements.lock")}


def test_ci_runs_the_whole_suite_and_nothing_else() -> None:
    script = (ROOT / ".ci/run").read_text("utf-8")
    assert re.findall(r"^exec (.*)$", script, re.MULTILINE) == ["make test </dev/null"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
