"""A homeserver that answers what a test wants: only for faults that a real one can't be made to show."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.parts.ports import LOOPBACK, free_port


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    """Path and query, as they were on the wire."""
    headers: Mapping[str, str]
    body: bytes
    at: float


Answer = Callable[[Request], Awaitable[web.StreamResponse]]


@dataclass
class HomeserverDouble:
    """Answers by ``answer``, and remembers what was asked."""

    answer: Answer
    port: int = field(default_factory=free_port)
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{LOOPBACK}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[HomeserverDouble]:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, self.port, ssl_context=self.tls).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Request(request.method, request.raw_path, dict(request.headers), await request.read(), time.monotonic())
        self.requests.append(seen)
        return await self.answer(seen)


def always(status: int, body: Any = None, *, text: str | None = None, **headers: str) -> Answer:
    """The same answer to everything."""

    async def answer(_: Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if text is not None:
            return web.Response(status=status, text=text, headers=named)
        return web.json_response(body, status=status, headers=named)

    return answer


def never() -> Answer:
    """No answer at all."""

    async def answer(_: Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError("never comes here")

    return answer


def one_after_another(*answers: Answer) -> Answer:
    """Each of ``answers`` once, the last one for ever."""
    left = list(answers)

    async def answer(request: Request) -> web.StreamResponse:
        chosen = left.pop(0) if len(left) > 1 else left[0]
        return await chosen(request)

    return answer
