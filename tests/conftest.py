"""The fixtures all tests share: thin wrappers around ``tests.parts``.

Servers that serve a whole session are plain processes, started by synchronous fixtures, so that each test may have an
event loop of its own. No test may depend on another's order: ``--shuffle`` runs them in a random one.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import Final

import pytest
import structlog
from structlog.typing import EventDict

from tests.parts.databases import postgres, sqlite
from tests.parts.loopback import loopback_only
from tests.parts.postfix import Postfix
from tests.parts.responder import Responder
from tests.parts.synapse import Synapse

__all__ = ["postgres", "sqlite"]
"""Fixtures that are made where their part is."""

DEADLINE: Final = 120.0
"""Seconds a test may take, unless it is marked ``@pytest.mark.deadline(seconds)``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", metavar="SEED", nargs="?", const="", help="run the tests in a random order")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deadline(seconds): how long this test may take")
    config.addinivalue_line("markers", "long: load and outages of minutes: run by make crash, not by make test")
    if config.getoption("shuffle") == "":
        config.option.shuffle = str(random.randrange(10**6))  # noqa: S311 - not a secret


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long and random values don't stand in a test's name: workers side by side must find the same names."""
    too_long = isinstance(val, str | bytes) and len(val) > 60
    return argname if too_long or isinstance(val, dict) else None


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.getoption("shuffle")
    return [f"random order: --shuffle {seed}"] if seed else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if seed := config.getoption("shuffle"):
        random.Random(seed).shuffle(items)  # noqa: S311 - not a secret


# --- walls and limits ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _wall() -> Iterator[None]:
    """Nothing leaves the machine, and nothing touches the GnuPG home of who runs the tests."""
    with loopback_only(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("GNUPGHOME", "/nonexistent/gnupg-home-of-nobody")
        yield


class DeadlinePassed(BaseException):
    """A test took too long. No ``Exception``, so that no code under test swallows it."""


@pytest.fixture(autouse=True)
def _deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """End a test that hangs, and show where every thread and task stood."""
    marker = request.node.get_closest_marker("deadline")
    seconds = float(marker.args[0]) if marker else DEADLINE

    def ring(_number: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(all_threads=True)
        with contextlib.suppress(RuntimeError):  # no loop runs
            for task in asyncio.all_tasks():
                task.print_stack()
        raise DeadlinePassed(f"{request.node.nodeid} took more than {seconds:g} s.")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path, mode 700: sockets in it (GnuPG's agent) must stay under 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="secir-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    """What is logged while the test runs, at every level: one dictionary an entry."""
    with structlog.testing.capture_logs() as entries:
        yield entries


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """One homeserver for all tests, its rate limits lifted. Take new accounts from it, and rooms of your own."""
    with Synapse(tmp_path_factory.mktemp("synapse")) as server:
        yield server


@pytest.fixture
async def responder(synapse: Synapse) -> AsyncIterator[Callable[..., Awaitable[Responder]]]:
    """``ada = await responder("ada")``: people who are sent home when the test ends (see ``Responder.create``)."""
    async with AsyncExitStack() as stack:

        async def create(name: str, *, strict: bool = True, cross_signed: bool = True) -> Responder:
            person = await Responder.create(synapse, name, strict=strict, cross_signed=cross_signed)
            return await stack.enter_async_context(person)

        yield create


@pytest.fixture(scope="session")
def postfix() -> Iterator[Postfix]:
    """One Postfix for all tests; needs root."""
    directory = Path(tempfile.mkdtemp(prefix="secir-postfix-", dir="/tmp"))
    with Postfix(directory) as server:
        yield server
    shutil.rmtree(directory, ignore_errors=True)
