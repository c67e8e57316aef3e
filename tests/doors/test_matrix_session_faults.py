"""What a homeserver answers becomes errors of ours, and the sync keeps its head: on a homeserver double."""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.typing import EventDict

from bridges.matrix.api import Api, InteractiveAuthNeeded, read_json
from bridges.matrix.session import MatrixSettings, Session, open_store
from bridges.matrix.sync import Listeners, Sync
from storage.database import Database
from tests.parts.homeserver_double import Answer, HomeserverDouble, always, never, one_after_another
from tests.parts.mail import self_signed
from tests.parts.ports import free_port
from trust.errors import (
    AttachmentTooBig,
    FileUnreadable,
    HomeserverAway,
    HomeserverRefused,
    LoginLost,
    RateLimited,
    SecirError,
)
from trust.records import Fingerprint, PublicKey

Doubles = Callable[[Answer], Awaitable[HomeserverDouble]]
EMPTY: Final = {"next_batch": "s1"}


@pytest.fixture
async def double() -> AsyncIterator[Doubles]:
    async with AsyncExitStack() as stack:

        async def start(answer: Answer) -> HomeserverDouble:
            return await stack.enter_async_context(HomeserverDouble(answer).running())

        yield start


@pytest.fixture
async def api() -> AsyncIterator[Callable[[str], Api]]:
    made: list[Api] = []

    def make(url: str) -> Api:
        made.append(Api(url, user_id="@bot:test", device_id="BOT", access_token="token"))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def refusal_of(server: HomeserverDouble, make: Callable[[str], Api], timeout: float = 5) -> SecirError:
    with pytest.raises(SecirError) as raised:
        await make(server.url).request("GET", "account", "whoami", timeout=timeout)
    return raised.value


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"errcode": "M_UNKNOWN_TOKEN", "error": "x"}, LoginLost),
        (401, {"errcode": "M_MISSING_TOKEN"}, LoginLost),
        (403, {"errcode": "M_USER_DEACTIVATED"}, LoginLost),
        (403, {"errcode": "M_FORBIDDEN"}, HomeserverRefused),
        (404, {"errcode": "M_NOT_FOUND"}, HomeserverRefused),
        (404, {}, HomeserverAway),
        (404, [], HomeserverAway),
        (500, {"errcode": "M_UNKNOWN"}, HomeserverAway),
        (502, None, HomeserverAway),
        (504, {"errcode": "M_FORBIDDEN"}, HomeserverAway),
        (429, {"errcode": "M_LIMIT_EXCEEDED"}, RateLimited),
        (400, {"errcode": "M_LIMIT_EXCEEDED"}, RateLimited),
        (401, {"flows": [{"stages": []}], "session": "s"}, InteractiveAuthNeeded),
    ],
)
async def test_each_kind_of_refusal_is_an_error_of_its_own(
    double: Doubles, api: Callable[[str], Api], status: int, body: Any, error: type[SecirError]
) -> None:
    server = await double(always(status, body))
    assert error is type(await refusal_of(server, api))


async def test_a_refusal_names_its_code_and_status(double: Doubles, api: Callable[[str], Api]) -> None:
    server = await double(always(403, {"errcode": "M_FORBIDDEN", "error": "a canary"}))
    assert {"errcode": "M_FORBIDDEN", "status": 403} == (await refusal_of(server, api)).params


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({"retry_after_ms": 1500}, {}, 1.5),
        ({}, {"Retry_After": "7"}, 7.0),
        ({"retry_after_ms": 1500}, {"Retry_After": "7"}, 7.0),
        ({}, {}, 5.0),
        ({"retry_after_ms": "soon"}, {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 5.0),
        ({"retry_after_ms": -5}, {}, 5.0),
        ({"retry_after_ms": 0}, {}, 5.0),
        ({"retry_after_ms": 10**9}, {}, 3600.0),
        ({"retry_after_ms": True}, {}, 5.0),
    ],
)
async def test_a_rate_limit_tells_how_long_to_wait(
    double: Doubles, api: Callable[[str], Api], body: dict[str, Any], headers: dict[str, str], seconds: float
) -> None:
    server = await double(always(429, {"errcode": "M_LIMIT_EXCEEDED", **body}, **headers))
    refused = await refusal_of(server, api)
    assert isinstance(refused, RateLimited)
    assert seconds == refused.retry_after


async def test_the_wish_for_a_password_keeps_session_flows_and_code(double: Doubles, api: Callable[[str], Api]) -> None:
    flows = [{"stages": ["m.login.password"]}]
    server = await double(always(401, {"flows": flows, "session": "s", "errcode": "M_FORBIDDEN"}))
    asked = await refusal_of(server, api)
    assert isinstance(asked, InteractiveAuthNeeded)
    assert ("s", flows, "M_FORBIDDEN") == (asked.session, asked.flows, asked.errcode)


@pytest.mark.parametrize("text", ["<html>Welcome to our hotel</html>", "", "{", "\x00"])
async def test_an_answer_that_is_no_json_means_that_the_homeserver_is_away(
    double: Doubles, api: Callable[[str], Api], text: str
) -> None:
    server = await double(always(200, text=text))
    assert HomeserverAway is type(await refusal_of(server, api))


async def test_no_connection_and_no_answer_mean_that_the_homeserver_is_away(
    double: Doubles, api: Callable[[str], Api]
) -> None:
    nobody = HomeserverDouble(never(), port=free_port())
    silent = await double(never())
    found = [await refusal_of(server, api, 0.2) for server in (nobody, silent)]
    assert [HomeserverAway, HomeserverAway] == [type(error) for error in found]


async def test_a_homeserver_with_a_certificate_that_nobody_vouches_for_gets_no_request(
    api: Callable[[str], Api], tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate.chain, certificate.key)
    async with HomeserverDouble(always(200, {}), tls=tls).running() as server:
        refused = await refusal_of(server, api)
    assert (HomeserverAway, []) == (type(refused), server.requests)


async def test_path_segments_are_quoted_and_the_token_is_in_the_header_only(
    double: Doubles, api: Callable[[str], Api]
) -> None:
    server = await double(always(200, {}))
    await api(server.url).request(
        "PUT", "rooms", "!a/b:ü", "send", "x", "$+", body={"ü": "\U0001f525"}, query={"a": "b c"}
    )
    (request,) = server.requests
    assert (
        "/_matrix/client/v3/rooms/!a%2Fb:%C3%BC/send/x/$%2B?a=b+c",
        "Bearer token",
        {"ü": "\U0001f525"},
    ) == (request.path, request.headers["Authorization"], json.loads(request.body))


def test_what_is_nested_too_deeply_is_cut_and_the_rest_is_read() -> None:
    deep = "[" * 50_000 + '"]}"' + "]" * 50_000
    text = '{"events": [{"deep": DEEP, "text": "[[\\"[{"}, {"after": {"x": 1}}], "n": NaN}'.replace("DEEP", deep)
    read = read_json(text.encode())
    assert ('[["[{', {"after": {"x": 1}}, None) == (read["events"][0]["text"], read["events"][1], read["n"])


# --- media -----------------------------------------------------------------------------------------------------------


async def test_an_upload_tells_the_server_neither_name_nor_type(double: Doubles, api: Callable[[str], Api]) -> None:
    server = await double(always(200, {"content_uri": "mxc://test/abc"}))
    uri = await api(server.url).upload(b"sealed")
    (request,) = server.requests
    assert ("mxc://test/abc", "/_matrix/media/v3/upload", "application/octet-stream", b"sealed") == (
        uri,
        request.path,
        request.headers["Content-Type"],
        request.body,
    )


@pytest.mark.parametrize("answer", [{}, [], {"content_uri": 5}, {"content_uri": "https://test/x"}])
async def test_an_upload_without_a_uri_did_not_happen(
    double: Doubles, api: Callable[[str], Api], answer: object
) -> None:
    server = await double(always(200, answer))
    with pytest.raises(HomeserverAway):
        await api(server.url).upload(b"sealed")


async def test_a_download_is_authenticated_and_cut_off_at_its_limit(double: Doubles, api: Callable[[str], Api]) -> None:
    server = await double(always(200, text="x" * 3_000_000))
    small = await api(server.url).download("mxc://test/abc", 3_000_000)
    with pytest.raises(AttachmentTooBig) as raised:
        await api(server.url).download("mxc://test/abc", 2 * 1024 * 1024)
    assert (3_000_000, {"limit_mb": 2}, "/_matrix/client/v1/media/download/test/abc?timeout_ms=20000") == (
        len(small),
        raised.value.params,
        server.requests[0].path,
    )


@pytest.mark.parametrize(
    "uri", ["", "https://test/x", "mxc://test", "mxc://test/../x", "mxc://te st/x", "mxc://t/x?a=b"]
)
async def test_what_is_no_media_uri_is_never_asked_for(double: Doubles, api: Callable[[str], Api], uri: str) -> None:
    server = await double(always(200, text="x"))
    with pytest.raises(FileUnreadable):
        await api(server.url).download(uri, 100)
    assert [] == server.requests


async def test_a_file_that_is_gone_is_unreadable(double: Doubles, api: Callable[[str], Api]) -> None:
    server = await double(always(404, {"errcode": "M_NOT_FOUND"}))
    with pytest.raises(FileUnreadable):
        await api(server.url).download("mxc://test/abc", 100)


# --- the sync --------------------------------------------------------------------------------------------------------


class FixedClock:
    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/secir.db", b"s" * 32)
    await made.upgrade()
    yield made
    await made.close()


@pytest.fixture
async def syncing(database: Database, tmp_path: Path) -> AsyncIterator[Callable[[HomeserverDouble], Sync]]:
    sessions: list[Session] = []

    def make(server: HomeserverDouble) -> Sync:
        settings = MatrixSettings(server.url, "@bot:test", tmp_path / "store", secrets.token_hex(32))
        olm = open_store(settings, "@bot:test", "BOT", new=True)
        olm.keys_to_upload()
        olm.uploaded({"one_time_key_counts": {"signed_curve25519": 50}})
        session = Session(Api(server.url, user_id="@bot:test", device_id="BOT", access_token="token"), olm)
        sessions.append(session)
        listeners = Listeners(lambda: None, lambda _: None, lambda _: None, lambda _: None)
        return Sync(session, database, FixedClock(), listeners, long_poll=timedelta(0))

    yield make
    for session in sessions:
        await session.close()


async def run_for(sync: Sync, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await sync.run()


async def test_a_dead_token_is_asked_with_once(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync], logs: list[EventDict]
) -> None:
    server = await double(always(401, {"errcode": "M_UNKNOWN_TOKEN"}))
    with pytest.raises(LoginLost):
        await syncing(server).run()
    assert (1, ["sync.from_now", "sync.login_lost"]) == (len(server.requests), [entry["event"] for entry in logs])


async def test_a_homeserver_that_is_away_is_asked_less_and_less_and_logged_once(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync], logs: list[EventDict]
) -> None:
    server = await double(always(502, text="<html>Bad gateway</html>"))
    await run_for(syncing(server), 4)
    pauses = [b.at - a.at for a, b in zip(server.requests, server.requests[1:], strict=False)]
    told = [entry for entry in logs if entry["event"] == "sync.interrupted"]
    assert (True, True, 1) == (2 <= len(server.requests) <= 5, pauses[-1] > pauses[0], len(told))


async def test_a_homeserver_that_comes_back_is_logged_and_the_sync_goes_on(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync], database: Database, logs: list[EventDict]
) -> None:
    server = await double(one_after_another(always(500), always(200, EMPTY)))
    await run_for(syncing(server), 2.5)
    async with database.transaction() as tx:
        position = await tx.events.position("@bot:test")
    assert ("s1", 1) == (position, [entry["event"] for entry in logs].count("sync.recovered"))


async def test_the_first_question_of_a_process_is_answered_at_once_and_the_next_ones_may_wait(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync]
) -> None:
    server = await double(always(200, EMPTY))
    sync = syncing(server)
    sync._long_poll = timedelta(seconds=7)
    await sync.round()
    await sync.round()
    asked = [int(request.path.split("timeout=")[1].split("&")[0]) for request in server.requests]
    assert asked[0] < 1000  # any number: an answer that the server remembers from before would be no "now"
    assert asked[1:] == [7000]


async def test_a_rate_limit_is_waited_for(double: Doubles, syncing: Callable[[HomeserverDouble], Sync]) -> None:
    limited = always(429, {"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 700})
    server = await double(one_after_another(limited, always(200, EMPTY)))
    await run_for(syncing(server), 1.2)
    assert server.requests[1].at - server.requests[0].at >= 0.7


async def test_a_server_that_answers_at_once_with_nothing_is_not_asked_in_a_loop(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync]
) -> None:
    server = await double(always(200, EMPTY))
    await run_for(syncing(server), 2.5)
    assert 2 <= len(server.requests) <= 4


@pytest.mark.parametrize("answer", [{}, [], None, {"next_batch": 5}, {"next_batch": ""}])
async def test_an_answer_without_a_position_is_none(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync], answer: object
) -> None:
    server = await double(always(200, answer))
    with pytest.raises(HomeserverAway):
        await syncing(server).round()


@pytest.mark.parametrize(
    "rest",
    [
        {"to_device": None, "rooms": None, "device_lists": None, "device_one_time_keys_count": []},
        {"to_device": {"events": [None, 5, "x", [], {}]}, "device_lists": {"changed": [5, None], "left": {}}},
        {"to_device": {"events": {}}, "rooms": {"join": [], "leave": 5}, "device_unused_fallback_key_types": {}},
        {"rooms": {"join": {"!r": None, "!s": {"timeline": [], "state": 5}}}},
    ],
)
async def test_a_malformed_answer_stops_nothing(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync], database: Database, rest: dict[str, Any]
) -> None:
    server = await double(always(200, {**EMPTY, **rest}))
    await syncing(server).round()
    async with database.transaction() as tx:
        assert "s1" == await tx.events.position("@bot:test")


async def test_an_event_that_is_nested_too_deeply_to_be_stored_is_left_out_and_the_next_one_is_kept(
    double: Doubles, syncing: Callable[[HomeserverDouble], Sync], database: Database
) -> None:
    async with database.transaction() as tx:
        key = PublicKey(Fingerprint("A" * 40), b"key")
        group = await tx.groups.add(
            name="ops", address="ops@lists.test", description="", key=key, federate=False, room_token="t"
        )
        await tx.groups.set_room(group.id, "!room", {})
        await tx.events.take_in("@bot:test", "s0", [])
    events = [event("$deep", "[" * 900 + "]" * 900), event("$after", '"x"')]
    text = '{"next_batch": "s1", "rooms": {"join": {"!room": {"timeline": {"events": [EVENTS]}}}}}'
    server = await double(always(200, text=text.replace("EVENTS", ", ".join(events))))
    await syncing(server).round()
    async with database.transaction() as tx:
        item = await tx.events.claim(FixedClock().now(), lease=timedelta(minutes=1))
    assert item is not None
    assert "$after" == item.event_id


def event(event_id: str, more: str) -> str:
    """An encrypted event, as it is written in an answer."""
    content = '{"algorithm": "m.megolm.v1.aes-sha2", "more": MORE}'.replace("MORE", more)
    return f'{{"type": "m.room.encrypted", "event_id": "{event_id}", "sender": "@ada:test", "content": {content}}}'
