"""The client-server API of Matrix: one request, one answer, or an error of ours.

The only place that turns a homeserver's answers into exceptions. Owns the address, the access token and the HTTP
connections (nio's); knows nothing of rooms, devices or encryption. It never tries twice: who asks knows how long to
wait. Source: Matrix Client-Server API, "API Standards" and "Content repository".
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import nio
from aiohttp import ClientError, ClientResponse

from trust.errors import (
    AttachmentTooBig,
    FileUnreadable,
    HomeserverAway,
    HomeserverFault,
    HomeserverRefused,
    LoginLost,
    RateLimited,
)

CLIENT: Final = "/_matrix/client/v3/"
CLIENT_MEDIA: Final = "/_matrix/client/v1/media/"
UPLOAD: Final = "/_matrix/media/v3/upload"
JSON_TYPE: Final = "application/json"
OPAQUE: Final = "application/octet-stream"
MEDIA_TIMEOUT: Final = 120.0
"""Seconds for a file, up or down."""
MEDIA_WAIT_MS: Final = 20_000
"""How long our server may wait for the server that has a file."""
CHUNK: Final = 64 * 1024
MIB: Final = 1024 * 1024
MXC: Final = re.compile(r"mxc://([A-Za-z0-9.:\[\]-]{1,255})/([A-Za-z0-9_-]{1,255})")
ERRCODE: Final = re.compile(r"[A-Z0-9_.a-z-]{1,64}")
BRACKETS_AND_STRINGS: Final = re.compile(rb'[\[\]{}]|"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
DEEPEST: Final = 200
"""Levels of an answer that are read if there are too many: Synapse allows an event a hundred."""
DEFAULT_WAIT: Final = 5.0
"""Seconds to wait after a 429 that names no time."""
LONGEST_WAIT: Final = 3600.0
TOKEN_IS_DEAD: Final = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED"})


class InteractiveAuthNeeded(HomeserverRefused):
    """The server wants the password once more (user-interactive authentication), or did not like the one given.

    ``session`` and ``flows`` are the server's; ``errcode`` is "" the first time, M_FORBIDDEN for a wrong password.
    """

    def __init__(self, *, session: str, flows: Sequence[Mapping[str, Any]], errcode: str = "") -> None:
        super().__init__(errcode=errcode or "M_FORBIDDEN", status=401)
        self.session = session
        self.flows = list(flows)
        self.errcode = errcode


class Api:
    """Requests in the name of one device. ``access_token`` is empty before the login."""

    def __init__(self, homeserver: str, *, user_id: str = "", device_id: str = "", access_token: str = "") -> None:
        self.user_id = user_id
        self.device_id = device_id
        self._access_token = access_token
        # Total time is ours to limit, request by request: nio's own limit is switched off.
        self._client = nio.AsyncClient(homeserver.rstrip("/"), config=nio.AsyncClientConfig(request_timeout=0))

    async def request(
        self,
        method: str,
        *segments: str,
        body: object | None = None,
        query: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Any:
        """The JSON answer (an object, or a list) to a request below ``/_matrix/client/v3/``.

        ``segments`` are quoted one by one; ``timeout`` is in seconds, for all of it. Raises RateLimited, HomeserverAway
        (no connection, no answer in time, 5xx, not JSON), LoginLost, InteractiveAuthNeeded, HomeserverRefused.
        """
        path = CLIENT + "/".join(quote(segment, safe="") for segment in segments)
        if query:
            path += "?" + urlencode(query)
        data = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        status, headers, answer = await self._exchange(method, path, data, timeout=timeout)
        if 200 <= status < 300:
            return read_json(answer)
        raise refusal(status, headers, answer, with_token=bool(self._access_token))

    async def upload(self, data: bytes) -> str:
        """Store ``data`` (which must be encrypted) on the homeserver; its ``mxc://`` URI.

        The server learns no file name and no media type: both travel in the encrypted event. Raises HomeserverFault.
        """
        status, headers, answer = await self._exchange("POST", UPLOAD, data, content_type=OPAQUE, timeout=MEDIA_TIMEOUT)
        if not 200 <= status < 300:
            raise refusal(status, headers, answer, with_token=True)
        shown = read_json(answer)
        uri = shown.get("content_uri") if isinstance(shown, dict) else None
        if not isinstance(uri, str) or not MXC.fullmatch(uri):
            raise HomeserverAway
        return uri

    async def download(self, mxc: str, limit: int) -> bytes:
        """The bytes behind an ``mxc://`` URI, at most ``limit`` of them (authenticated media, Matrix 1.11).

        Raises AttachmentTooBig, FileUnreadable (no such URI, or no such file), HomeserverFault.
        """
        parts = MXC.fullmatch(mxc)
        if not parts:
            raise FileUnreadable
        path = f"{CLIENT_MEDIA}download/{parts[1]}/{parts[2]}?timeout_ms={MEDIA_WAIT_MS}"
        status, headers, answer = await self._exchange("GET", path, None, timeout=MEDIA_TIMEOUT, limit=limit)
        if status == 404:
            raise FileUnreadable
        if not 200 <= status < 300:
            raise refusal(status, headers, answer, with_token=True)
        return answer

    async def close(self) -> None:
        """Close the connections. The login stays."""
        await self._client.close()

    async def _exchange(
        self,
        method: str,
        path: str,
        data: bytes | None,
        *,
        content_type: str = JSON_TYPE,
        timeout: float,
        limit: int | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Content-Type": content_type}
        if self._access_token:
            headers["Authorization"] = f"Bearer {self._access_token}"
        try:
            async with asyncio.timeout(timeout):
                response = await self._client.send(method, path, data, headers)
                async with response:
                    return response.status, response.headers, await _body(response, limit)
        except (ClientError, OSError, TimeoutError) as error:
            raise HomeserverAway from error


async def _body(response: ClientResponse, limit: int | None) -> bytes:
    """The body; with ``limit``, no more than that is ever held. Raises AttachmentTooBig."""
    if limit is None:
        return await response.read()
    received = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        received += chunk
        if len(received) > limit:
            raise AttachmentTooBig(limit_mb=limit // MIB)
    return bytes(received)


def read_json(answer: bytes) -> Any:
    """The JSON of an answer. Raises HomeserverAway for what is none: something else answers in the server's place.

    What the standard knows no word for (``NaN``, ``Infinity``) becomes null, so that it can be stored again. So does
    what is nested so deeply that Python can't read it: anybody may send that to our device, and a sync that can't be
    read would be the last one.
    """
    try:
        try:
            return json.loads(answer, parse_constant=_null)
        except RecursionError:
            return json.loads(shallow(answer), parse_constant=_null)
    except ValueError as error:
        raise HomeserverAway from error


def shallow(answer: bytes) -> bytes:
    """JSON in which every value below ``DEEPEST`` levels is null."""
    kept: list[bytes] = []
    depth = begin = 0
    for token in BRACKETS_AND_STRINGS.finditer(answer):
        if token[0] in b"[{":
            depth += 1
            if depth == DEEPEST + 1:
                kept += [answer[begin : token.start()], b"null"]
        elif token[0] in b"]}":
            if depth == DEEPEST + 1:
                begin = token.end()
            depth -= 1
    return b"".join([*kept, answer[begin:]])


def _null(_: str) -> None:
    return None


def refusal(status: int, headers: Mapping[str, str], answer: bytes, *, with_token: bool) -> HomeserverFault:
    """The error that an answer of ``status`` stands for."""
    try:
        shown = json.loads(answer)
    except (ValueError, RecursionError):
        shown = None
    fields: dict[str, Any] = shown if isinstance(shown, dict) else {}
    errcode = _errcode(fields)
    if status == 429 or errcode == "M_LIMIT_EXCEEDED":
        return RateLimited(retry_after=retry_after(fields, headers))
    if with_token and errcode in TOKEN_IS_DEAD:
        return LoginLost()
    if status == 401 and isinstance(fields.get("flows"), list):
        flows = [flow for flow in fields["flows"] if isinstance(flow, dict)]
        return InteractiveAuthNeeded(session=str(fields.get("session", "")), flows=flows, errcode=errcode)
    if status >= 500 or status < 400 or not errcode:
        # Without an error code it is not a homeserver that speaks: a proxy, or a wrong address that may be mended.
        return HomeserverAway()
    return HomeserverRefused(errcode=errcode, status=status)


def retry_after(fields: Mapping[str, Any], headers: Mapping[str, str]) -> float:
    """Seconds to wait after a 429: the header counts, the older field in milliseconds if there is none."""
    return _seconds(headers.get("Retry-After"), 1) or _seconds(fields.get("retry_after_ms"), 1000) or DEFAULT_WAIT


def _seconds(value: object, unit: int) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value) / unit
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None


def _errcode(fields: Mapping[str, Any]) -> str:
    """The error code: a word without blanks, since it is shown and logged."""
    code = fields.get("errcode")
    return code if isinstance(code, str) and ERRCODE.fullmatch(code) else ""
