"""One town per module: its tests share a bridge, a room and three members; each test's texts are its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.parts.synapse import Synapse
from tests.parts.town import Town


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(request: pytest.FixtureRequest, synapse: Synapse) -> AsyncIterator[Town]:
    """A town whose group is open. A module may name ``SETTINGS`` that are put over the bridge's configuration."""
    settings = getattr(request.module, "SETTINGS", None)
    async with AsyncExitStack() as closing:
        built = await Town.build(closing, synapse, settings=settings)
        await built.open_group()
        yield built


@pytest.fixture(autouse=True)
def _bridge_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the bridge logged meanwhile is shown with a test that fails."""
    town: Town | None = request.getfixturevalue("town") if "town" in request.fixturenames else None
    before = len(town.bridge.log) if town else 0
    yield
    if town:
        print(town.bridge.log[before:])  # noqa: T201
