"""How a post looks in the room."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.matrix.render import file_event, kind_of_file, render, size, split
from bridges.ports import RoomAnswer, RoomPost
from trust.records import Attachment, Content, Fingerprint, Group, GroupId, PublicKey

GROUP = Group(
    id=GroupId(1),
    name="tld-ops",
    address="tld-ops@lists.test",
    description="",
    key=PublicKey(Fingerprint("A" * 40), b""),
    federate=False,
    room_token="t",
)
LONGEST_PLAINTEXT = 48_352
"""Bytes of JSON that fit into an encrypted event, as measured on Synapse."""


def post(
    text: str,
    *,
    author: str = "Ada (by mail, key …1A2B3C4D)",
    subject: str = "Phishing",
    answers: RoomAnswer | None = None,
    files: tuple[Attachment, ...] = (),
) -> RoomPost:
    return RoomPost(GROUP, author, Content(subject, text, files), answers, transaction="t")


def bodies(rendered: RoomPost) -> list[str]:
    return [str(content["body"]) for content in render(rendered).texts]


def only(rendered: RoomPost) -> dict[str, Any]:
    (content,) = render(rendered).texts
    return dict(content)


def test_author_and_subject_stand_first_and_the_author_is_bold() -> None:
    content = only(post("Seen at bank.example.\n\nAda"))
    assert {
        "msgtype": "m.text",
        "body": "Ada (by mail, key …1A2B3C4D) · Phishing\n\nSeen at bank.example.\n\nAda",
        "format": "org.matrix.custom.html",
        "formatted_body": "<strong>Ada (by mail, key …1A2B3C4D)</strong> · Phishing<br><br>"
        "Seen at bank.example.<br><br>Ada",
        "m.mentions": {},
    } == content


def test_a_notice_of_the_bot_is_its_text_alone() -> None:
    content = only(post("Nothing was sent.", author="", subject="Notice of tld-ops"))
    assert {"msgtype": "m.notice", "body": "Nothing was sent.", "m.mentions": {}} == content


def test_markup_in_a_mail_stays_text() -> None:
    content = only(post("<img src=x onerror=alert(1)>", author="<b>", subject="<mx-reply>"))
    assert (
        "<strong>&lt;b&gt;</strong> · &lt;mx-reply&gt;<br><br>&lt;img src=x onerror=alert(1)&gt;"
        == content["formatted_body"]
    )


@pytest.mark.parametrize("written", ["@room", "@ROOM", "hello @room!", "@room@room"])
def test_a_mail_rings_nobody(written: str) -> None:
    content = only(post(written, subject=written))
    shown = (content["body"] + content["formatted_body"]).lower()
    assert ("@room" in shown, {}) == (False, content["m.mentions"])


@pytest.mark.parametrize("author", ["", "Ada", "!Ada", " !Ada", "\u200b!Ada"])
@pytest.mark.parametrize("text", ["!remove everybody", "\n !key", "\u2060!x", "!" * 100_000])
def test_nothing_that_is_shown_begins_with_the_command_mark(author: str, text: str) -> None:
    assert [] == [body for body in bodies(post(text, author=author, subject="!x")) if body.lstrip()[:1] in {"!", ""}]


def test_a_name_can_not_turn_letters_around_or_break_the_line() -> None:
    body = only(post("text", author="Ada\u202e\n\x00Eve", subject="a\r\nb\u200bc"))["body"]
    assert "Ada Eve · a bc\n\ntext" == body


def test_an_answer_and_a_thread_are_marked_as_such() -> None:
    answer = only(post("x", answers=RoomAnswer("$answered")))["m.relates_to"]
    in_thread = only(post("x", answers=RoomAnswer("$answered", "$root")))["m.relates_to"]
    reply = {"m.in_reply_to": {"event_id": "$answered"}}
    assert (reply, {"rel_type": "m.thread", "event_id": "$root", "is_falling_back": False, **reply}) == (
        answer,
        in_thread,
    )


def test_of_several_events_only_the_first_answers_and_all_are_in_the_thread() -> None:
    file = Attachment("a.txt", "text/plain", b"x")
    shown = render(post("x", answers=RoomAnswer("$answered"), files=(file,)))
    threaded = render(post("x", answers=RoomAnswer("$answered", "$root"), files=(file,)))
    relation = threaded.files[0].relation
    assert ({}, "m.thread", True) == (shown.files[0].relation, relation["rel_type"], relation["is_falling_back"])


def test_a_long_text_comes_in_numbered_parts_and_nothing_of_it_is_lost() -> None:
    lines = [f'line {number} with ünïcödé and "quotes"' for number in range(2000)]
    shown = bodies(post("\n".join(lines)))
    headings = [body.split("\n\n", 1)[0] for body in shown]
    together = "\n".join(body.split("\n\n", 1)[1] for body in shown)
    assert (["(1/3)", "(2/3)", "(3/3)"], lines) == ([h.split(" · ")[-1] for h in headings], together.split("\n"))


@pytest.mark.parametrize("letter", ["a", "é", "\U0001f525", '"', "\n", "a ", "漢"])
@pytest.mark.parametrize("length", [100, 11_000, 13_000, 39_000, 41_000, 130_000])
def test_every_event_fits_whatever_the_letters_take(letter: str, length: int) -> None:
    shown = render(post(letter * length, author="é" * 300, subject="\U0001f525" * 300))
    assert all(len(json.dumps(dict(content))) < LONGEST_PLAINTEXT for content in shown.texts)


def test_a_very_long_text_goes_as_a_file_after_its_beginning() -> None:
    text = "word " * 40_000 + "end"
    shown = render(post(text))
    (content,) = shown.texts
    (file,) = shown.files
    preview = str(content["body"]).split("\n\n", 1)[1]
    assert (True, "message.txt", "text/plain", text.encode()) == (
        preview.endswith("word\n[…]") and len(preview) < 2100,
        file.attachment.name,
        file.attachment.media_type,
        file.attachment.data,
    )


def test_a_text_as_big_as_a_mail_is_rendered_at_once() -> None:
    assert 1 == len(render(post("x" * 25_000_000)).texts)


@given(st.text(max_size=300), st.integers(min_value=13, max_value=200))
def test_parts_are_never_too_big_and_lose_no_word(text: str, limit: int) -> None:
    parts = split(text, limit, most=1000)
    assert (True, "".join(text.split())) == (
        all(size(part) <= limit for part in parts),
        "".join("".join(parts).split()),
    )


def test_a_post_with_files_shows_its_heading_first_and_the_files_after() -> None:
    files = (Attachment("../a\x00.pdf", "application/pdf", b"1"), Attachment("b.png", "image/png", b"22"))
    shown = render(post("", files=files))
    events = [file_event(file, {"url": "mxc://h/x", "v": "v2"}) for file in shown.files]
    assert (["Ada (by mail, key …1A2B3C4D) · Phishing"], events) == (
        [content["body"] for content in shown.texts],
        [
            {
                "msgtype": kind,
                "body": name,
                "filename": name,
                "file": {"url": "mxc://h/x", "v": "v2"},
                "info": {"mimetype": media_type, "size": length},
                "m.mentions": {},
            }
            for kind, name, media_type, length in (
                ("m.file", "a.pdf", "application/pdf", 1),
                ("m.image", "b.png", "image/png", 2),
            )
        ],
    )


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        ("image/png", "m.image"),
        ("image/svg+xml", "m.file"),
        ("image/tiff", "m.file"),
        ("audio/ogg", "m.audio"),
        ("video/mp4", "m.video"),
        ("text/html", "m.file"),
        ("", "m.file"),
    ],
)
def test_only_what_clients_can_decode_safely_is_shown_as_a_picture(media_type: str, kind: str) -> None:
    assert kind == kind_of_file(media_type)


def test_contents_do_not_show_in_a_repr() -> None:
    assert "canary" not in repr(render(post("canary", files=(Attachment("canary", "text/plain", b"canary"),))))
