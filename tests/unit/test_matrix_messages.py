"""What the inside of a room event says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.matrix.messages import media_type, plain, safe_name, understand, without_fallback
from bridges.ports import RoomAnswer, RoomMessage
from trust.errors import EventRefusal, FileUnreadable, MalformedEvent

SECRETS: Final = {"v": "v2", "url": "mxc://h/x"}


def read(content: Mapping[str, Any], kind: str = "m.room.message", /, **around: object) -> RoomMessage | None:
    event = {"origin_server_ts": 1_790_000_000_123, "content": around}
    return understand(event, kind=kind, content=content, event_id="$e", sender="@ada:localhost")


def understood(content: Mapping[str, Any], **around: object) -> RoomMessage:
    message = read(content, "m.room.message", **around)
    assert message is not None
    return message


def said(body: str, **more: object) -> dict[str, object]:
    return {"msgtype": "m.text", "body": body, **more}


def reply(event_id: str) -> dict[str, object]:
    return {"m.in_reply_to": {"event_id": event_id}}


def test_a_text_is_read_with_its_author() -> None:
    assert RoomMessage("$e", "@ada:localhost", "hello") == read(said("hello"))


@pytest.mark.parametrize(("kind", "text"), [("m.text", "waves"), ("m.notice", "waves"), ("m.emote", "* waves")])
def test_kinds_of_text(kind: str, text: str) -> None:
    assert text == understood({"msgtype": kind, "body": "waves"}).text


@pytest.mark.parametrize(
    "content",
    [
        {"msgtype": "m.location", "body": "here", "geo_uri": "geo:1,2"},
        {"msgtype": "m.key.verification.request", "body": "verify", "methods": []},
        {"msgtype": "x.unknown", "body": "?"},
        {"msgtype": 5, "body": "?"},
        {"msgtype": ["m.text"], "body": "?"},
        {"body": "?"},
        {},
    ],
)
def test_kinds_that_are_not_for_the_list(content: dict[str, object]) -> None:
    assert read(content) is None


@pytest.mark.parametrize("kind", ["m.reaction", "m.sticker", "m.key.verification.done", "m.room.redaction", ""])
def test_other_events_are_not_for_the_list(kind: str) -> None:
    assert read(said("hello"), kind) is None


@pytest.mark.parametrize("body", [None, 5, ["x"], "x" * 65_537])
def test_a_text_that_is_none_or_too_long_is_refused(body: object) -> None:
    with pytest.raises(MalformedEvent):
        read({"msgtype": "m.text", "body": body})


def test_control_characters_and_half_letters_are_taken_out() -> None:
    assert "a\nb\tc\nd👍🏽‍💻" == plain("a\r\nb\tc\rd\x00\x1b\ud800👍🏽‍💻")


# --- answers, threads, corrections -----------------------------------------------------------------------------------


def test_an_answer_names_what_it_answers_inside_or_outside_of_the_ciphertext() -> None:
    inside = understood(said("yes", **{"m.relates_to": reply("$a")})).answers
    outside = understood(said("yes"), **{"m.relates_to": reply("$a")}).answers
    assert (inside, outside) == (RoomAnswer("$a"), RoomAnswer("$a"))


def test_what_stands_inside_wins() -> None:
    message = understood(said("yes", **{"m.relates_to": reply("$mine")}), **{"m.relates_to": reply("$servers")})
    assert RoomAnswer("$mine") == message.answers


def test_a_message_in_a_thread_answers_its_last_event_or_its_root() -> None:
    thread = {"rel_type": "m.thread", "event_id": "$root", "is_falling_back": True}
    with_reply = understood(said("x", **{"m.relates_to": thread | reply("$last")})).answers
    without = understood(said("x", **{"m.relates_to": thread})).answers
    assert (with_reply, without) == (RoomAnswer("$last", "$root"), RoomAnswer("$root", "$root"))


def test_a_correction_has_the_new_text_and_names_what_it_replaces() -> None:
    relation = {"rel_type": "m.replace", "event_id": "$old"}
    message = understood(said("* new", **{"m.relates_to": relation, "m.new_content": said("new")}))
    assert ("new", "$old", None) == (message.text, message.replaces, message.answers)


def test_a_server_can_not_make_a_correction_of_a_message() -> None:
    message = understood(said("hello"), **{"m.relates_to": {"rel_type": "m.replace", "event_id": "$old"}})
    assert ("hello", None) == (message.text, message.replaces)


def test_the_quotation_of_an_older_client_is_taken_off_an_answer_and_no_other_quotation() -> None:
    quoted = "> <@eve:localhost> one\n> two\n\nno"
    answer = understood(said(quoted, **{"m.relates_to": reply("$a")})).text
    alone = understood(said(quoted)).text
    own = without_fallback("> somebody said\n\nno")
    assert ("no", quoted, "> somebody said\n\nno") == (answer, alone, own)


def test_only_a_quotation_leaves_nothing() -> None:
    assert "" == without_fallback("> <@eve:localhost> one\n> two")


@pytest.mark.parametrize(
    "relation",
    [None, [], "x", {"m.in_reply_to": None}, {"m.in_reply_to": {"event_id": 5}}, {"rel_type": "m.thread"}, reply("\n")],
)
def test_a_broken_relation_is_none(relation: object) -> None:
    assert understood(said("x", **{"m.relates_to": relation})).answers is None


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_with_its_caption() -> None:
    info = {"mimetype": "Text/CSV; charset=utf-8", "size": 12}
    content = {"msgtype": "m.file", "body": "the list", "filename": "a.csv", "file": SECRETS, "info": info}
    message = understood(content)
    assert message.file is not None
    assert ("the list", "a.csv", "text/csv", 12, SECRETS) == (
        message.text,
        message.file.name,
        message.file.media_type,
        message.file.size,
        message.file.secrets,
    )


@pytest.mark.parametrize("kind", ["m.file", "m.image", "m.audio", "m.video"])
def test_the_body_of_a_file_without_a_name_is_its_name(kind: str) -> None:
    message = understood({"msgtype": kind, "body": "a.csv", "file": SECRETS})
    assert message.file is not None
    assert ("", "a.csv", "application/octet-stream", None) == (
        message.text,
        message.file.name,
        message.file.media_type,
        message.file.size,
    )


@pytest.mark.parametrize("content", [{"url": "mxc://h/x"}, {"file": None}, {"file": {}}, {"file": "mxc://h/x"}])
def test_a_file_that_lies_on_the_server_in_clear_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(FileUnreadable):
        read({"msgtype": "m.file", "body": "a.csv", **content})


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.csv", "a.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\a.exe", "a.exe"),
        ("..", ""),
        (".bashrc", "bashrc"),
        ("a\x00b\n\u202ecsv.exe", "abcsv.exe"),
        ('a<b>:"c"|?*.txt', "a_b___c____.txt"),
        ("e\u0301.txt", "é.txt"),
        ("x" * 300 + ".csv", "x" * 116 + ".csv"),
        ("\ud800.txt", "txt"),
    ],
)
def test_a_file_name_is_one_harmless_path_part(name: str, safe: str) -> None:
    assert safe == safe_name(name)


@pytest.mark.parametrize("value", [None, 5, "", "text", "text/", "a b/c", "text/plain\r\nX: y", "a/" + "b" * 100])
def test_what_is_no_media_type_is_that_of_unknown_bytes(value: object) -> None:
    assert "application/octet-stream" == media_type(value)


ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS: Final = ["msgtype", "body", "filename", "file", "info", "m.relates_to", "m.new_content", "format"]


@given(
    st.sampled_from(["m.text", "m.file", "m.emote"]),
    st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
    ANYTHING,
    ANYTHING,
)
def test_no_content_raises_anything_but_a_refusal(
    kind: str, content: dict[str, Any], relation: object, time: object
) -> None:
    event = {"origin_server_ts": time, "content": {"m.relates_to": relation}}
    try:
        understand(
            event, kind="m.room.message", content={"msgtype": kind} | content, event_id="$e", sender="@ada:localhost"
        )
    except EventRefusal as refused:
        assert refused.code in {"event-malformed", "file-unreadable"}  # noqa: PT017 - either is right
