"""The fixtures all tests share: thin wrappers around ``tests.parts``.

Servers that serve a whole session are plain processes, started by synchronous fixtures, so that each test may have an
event loop of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parts.synapse import Synapse


@pytest.fixture(scope="session")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Synapse]:
    """One homeserver for all tests, its rate limits lifted. Take new accounts from it, and rooms of your own."""
    with Synapse(tmp_path_factory.mktemp("synapse")) as server:
        yield server
