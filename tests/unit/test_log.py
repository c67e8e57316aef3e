"""Logs carry action words and ids, whatever is thrown at them (SECURITY T-LOG)."""

import ast
import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from bot import log as bridge_log

ROOT = Path(__file__).parents[2]
CANARY = "canary-Zaragoza-7713"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The logs of this process; afterwards everything is as it was."""
    root, hooks = logging.getLogger(), (sys.excepthook, sys.unraisablehook, threading.excepthook)
    handlers, level = list(root.handlers), root.level
    out = io.StringIO()
    bridge_log.set_up(level="debug", form="json", stream=out)
    yield out
    root.handlers[:], root.level = handlers, level
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raise_with(text: str) -> None:
    raise ValueError(text)


def test_a_line_holds_the_action_the_level_the_time_and_its_ids(stream: io.StringIO) -> None:
    structlog.get_logger().info("post.delivered", post="a1b2c3d4", attempts=2)
    [line] = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "post.delivered", "level": "info", "post": "a1b2c3d4", "attempts": 2}


def test_a_key_that_is_not_on_the_list_is_dropped_and_named(stream: io.StringIO) -> None:
    structlog.get_logger().info("post.taken_in", subject=CANARY, body=CANARY)
    [line] = lines(stream)
    assert line["dropped"] == ["body", "subject"]
    assert CANARY not in stream.getvalue()


@pytest.mark.parametrize("value", ["two words", "a\nb", "x" * 256, b"bytes", {"a": 1}, object(), "\u202eevil"])
def test_a_value_that_is_no_short_word_is_withheld(stream: io.StringIO, value: object) -> None:
    structlog.get_logger().info("event.failed", event_id=value)
    assert lines(stream)[0]["event_id"] == "(withheld)"


def test_contents_in_place_of_an_action_word_are_withheld(stream: io.StringIO) -> None:
    structlog.get_logger().info(f"got message {CANARY}")
    structlog.get_logger().info("got %s", CANARY)
    assert [line["event"] for line in lines(stream)] == ["unnamed", "unnamed"]


def test_an_exception_is_told_by_type_and_place_only(stream: io.StringIO) -> None:
    try:
        raise_with(CANARY)
    except ValueError:
        structlog.get_logger().exception("worker.unexpected", worker="mail")
    [line] = lines(stream)
    assert line["error"] == "ValueError"
    assert any(place.startswith("unit/test_log.py:") for place in line["where"])
    assert CANARY not in stream.getvalue()


def test_an_exception_in_our_code_names_the_line_in_our_code(stream: io.StringIO) -> None:
    from bot.config_values import duration

    try:
        duration(CANARY)
    except ValueError:
        structlog.get_logger().exception("worker.unexpected")
    assert any(place.startswith("bot/config_values.py:") for place in lines(stream)[0]["where"])


def test_a_group_of_exceptions_names_each_of_them(stream: io.StringIO) -> None:
    error = ExceptionGroup(CANARY, [ValueError(CANARY), ExceptionGroup("x", [KeyError(CANARY)])])
    structlog.get_logger().error("app.failed", exc_info=error)
    kinds = [told.partition("@")[0] for told in lines(stream)[0]["errors"]]
    assert kinds == ["ValueError", "KeyError"]
    assert CANARY not in stream.getvalue()


@pytest.mark.parametrize(
    "name", ["nio", "nio.crypto.olm_machine", "aiosmtpd", "mail.log", "sqlalchemy.engine", "asyncio"]
)
def test_a_library_says_only_who_where_and_what_exception(
    stream: io.StringIO, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger, "disabled", False)  # an open listener silences aiosmtpd's
    logger.warning("event %s " + CANARY, {"body": CANARY})
    logger.debug(CANARY)
    try:
        raise_with(CANARY)
    except ValueError:
        logger.exception(CANARY)
    first, second = lines(stream)
    assert (first["event"], first["library"], first["level"]) == ("library.says", name, "warning")
    assert (second["error"], second["level"]) == ("ValueError", "error")
    assert CANARY not in stream.getvalue()


def test_a_library_that_turns_its_own_level_down_still_says_nothing_below_warning(stream: io.StringIO) -> None:
    logger = logging.getLogger("nio.client")
    logger.setLevel(logging.DEBUG)
    logger.debug(CANARY)
    logger.setLevel(logging.NOTSET)
    assert stream.getvalue() == ""


def test_a_lost_task_is_told_without_its_exceptions_words(stream: io.StringIO) -> None:
    async def lose() -> None:
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(raise_with, CANARY))
        await asyncio.wait([task])
        del task

    asyncio.run(lose())
    assert [line["error"] for line in lines(stream)] == ["ValueError"]
    assert CANARY not in stream.getvalue()


def test_a_warning_of_python_is_told_without_its_text(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn(CANARY, stacklevel=1)
    assert [line["library"] for line in lines(stream)] == ["py.warnings"]
    assert CANARY not in stream.getvalue()


@pytest.mark.parametrize(
    "crash",
    [
        f"raise ValueError('{CANARY}')",
        f"import threading\nthreading.Thread(target=lambda: [][int('{CANARY}')]).start()",
        f"class Trap:\n    def __del__(self): raise ValueError('{CANARY}')\nTrap()",
    ],
    ids=["main", "thread", "finaliser"],
)
def test_a_crash_prints_no_values(crash: str) -> None:
    code = f"from bot import log\nlog.set_up(level='debug', form='json')\n{crash}"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30, check=False
    )
    assert CANARY not in run.stdout + run.stderr
    assert json.loads(run.stderr.splitlines()[0])["error"] == "ValueError"


def test_the_console_form_passes_the_same_guard(stream: io.StringIO) -> None:
    bridge_log.set_up(level="info", form="console", stream=stream)
    structlog.get_logger().info("post.delivered", post="a1b2c3d4", subject=CANARY)
    assert "post.delivered" in stream.getvalue()
    assert "a1b2c3d4" in stream.getvalue()
    assert CANARY not in stream.getvalue()


def test_the_level_is_kept(stream: io.StringIO) -> None:
    bridge_log.set_up(level="error", form="json", stream=stream)
    structlog.get_logger().warning("alarm")
    assert stream.getvalue() == ""


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    for package in ("bot", "bridges", "storage", "trust"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id in {"log", "_log", "logger"}
                    and node.func.attr in {"debug", "info", "warning", "error", "exception", "critical"}
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def actions(call: ast.Call) -> list[object]:
    """The words that the first argument can be: a literal, or one of two literals."""
    first = call.args[0] if call.args else None
    chosen = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
    return [each.value if isinstance(each, ast.Constant) else None for each in chosen]


def test_each_log_call_of_the_product_says_an_action_word() -> None:
    wrong = [
        place
        for place, call in log_calls()
        if len(call.args) != 1 or not all(bridge_log.ACTION.fullmatch(str(word)) for word in actions(call))
    ]
    assert wrong == []


def test_each_log_call_of_the_product_uses_keys_that_pass_the_guard() -> None:
    """``**params`` is left to the guard. ``event`` names the action word itself: structlog raises if it comes twice."""
    allowed = (bridge_log.KEYS | {"exc_info", None}) - {"event"}
    wrong = [place for place, call in log_calls() if any(word.arg not in allowed for word in call.keywords)]
    assert wrong == []
