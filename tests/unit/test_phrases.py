"""The catalogue of texts is complete, has nothing to spare, and names only what errors carry."""

import ast
import re
import string
import tomllib
from pathlib import Path

import pytest

from bot.phrases import Phrases
from trust.errors import ConfigurationWrong, KeyExpired, MailRefusal, NoIdentity, SecirError, leaves

ROOT = Path(__file__).parents[2]
CATALOGUE = tomllib.loads((ROOT / "bot/texts/en.toml").read_text("utf-8"))
LEAVES = list(leaves())
CODES = sorted(leaf.code for leaf in LEAVES)


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def documented_params(leaf: type[SecirError]) -> set[str]:
    """The names after "params:" in the docstring of a leaf or of the class it belongs to."""
    docs = " ".join(kind.__doc__ or "" for kind in leaf.__mro__ if kind.__module__ == "trust.errors" and kind.__doc__)
    return {
        word
        for found in re.findall(r"params: ([^.]*)", docs)
        for word in re.findall(r"[a-z_]+", re.sub(r"\(.*?\)", "", found))
    }


def constants(path: str, function: str = "") -> set[str]:
    """Every literal text in a source file, or in one function of it."""
    tree: ast.AST = ast.parse((ROOT / path).read_text("utf-8"))
    if function:
        tree = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def labels() -> set[str]:
    """The remarks that the rules on posts can make."""
    found = constants("trust/posts.py", "labels")
    return {f"label-{word}" for word in found if re.fullmatch(r"[a-z]+(-[a-z]+)+", word)}


def said() -> set[str]:
    """The first arguments of all ``….say("key")`` calls in the product."""
    keys = set()
    for package in ("bot", "bridges", "storage", "trust"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "say" and node.args:
                    keys |= {str(n.value) for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)}
    return {key for key in keys if re.fullmatch(r"[a-z]+(-[a-z]+)+", key)}


def mentioned() -> set[str]:
    """Every literal text of the product: a key may be chosen first and said later."""
    sources = [path for package in ("bot", "bridges") for path in (ROOT / package).rglob("*.py")]
    return set().union(*(constants(str(path.relative_to(ROOT))) for path in sources))


def test_each_error_has_one_entry_and_no_entry_is_left_over() -> None:
    assert sorted(CATALOGUE["errors"]) == CODES


def test_no_two_errors_share_a_code() -> None:
    assert len(CODES) == len(set(CODES))


def test_each_notice_that_is_said_is_in_the_catalogue() -> None:
    assert set() == (said() | labels()) - set(CATALOGUE["notices"])


def test_no_notice_of_the_catalogue_is_left_unsaid() -> None:
    assert set() == set(CATALOGUE["notices"]) - mentioned() - labels()


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.code)
def test_an_entry_names_only_parameters_that_the_error_documents(leaf: type[SecirError]) -> None:
    entry = CATALOGUE["errors"][leaf.code]
    assert placeholders(entry["what"]) | placeholders(entry["next"]) <= documented_params(leaf)


@pytest.mark.parametrize("code", CODES)
def test_an_entry_says_what_happened_and_the_next_step_in_short_sentences(code: str) -> None:
    entry = CATALOGUE["errors"][code]
    assert {"what", "next"} == set(entry)
    assert entry["what"].count(". ") == 0
    assert all(0 < len(entry[part].split()) <= 26 for part in ("what", "next")), entry


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if issubclass(leaf, MailRefusal)], ids=lambda leaf: leaf.code)
def test_what_strangers_read_by_smtp_is_one_line_of_ascii(leaf: type[SecirError]) -> None:
    text = Phrases.load().explain(leaf(limit_mb=25, limit=50))
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 400


def test_an_explanation_holds_the_parameters_and_the_next_step() -> None:
    error = KeyExpired(fingerprint="A" * 40, date="2026-03-03")
    expected = f"The key {'A' * 40} expired on 2026-03-03. Next: Ask its owner to extend it, and export it again."
    assert expected == Phrases.load().explain(error)


def test_a_parameter_that_was_forgotten_does_not_hide_the_error() -> None:
    assert Phrases.load().explain(NoIdentity()).startswith("? has not set up a Matrix identity")


def test_braces_in_a_parameter_stay_as_they_are() -> None:
    assert "{mistakes}" in Phrases.load().entry(ConfigurationWrong(mistakes="a {mistakes} b")).what


def test_an_unknown_notice_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        Phrases.load().say("no-such-notice")
