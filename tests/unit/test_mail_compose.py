"""What we write: nothing but the list outside, everything inside, and every octet read back as it was."""

from __future__ import annotations

import email
import re
from email import policy
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridges.mail import charsets, compose, fields
from bridges.mail.letters import LetterLimits, read_letter, safe_name
from bridges.mail.parse import read_envelope
from bridges.ports import Copy, Envelope, Heading
from tests.parts.mail import LIST, NOW, Sentences, a_group, a_member, a_post, armour
from trust.errors import MailIsAutomatic
from trust.records import Attachment, Content, DeliveryId

NOWHERE = Envelope(b"", "[tld-ops] Encrypted message", (), None, ())
EXPECTED_INSIDE = {"from", "to", "reply-to", "subject", "date", "message-id", "in-reply-to", "references", "list-id"}
EXPECTED_INSIDE |= {"list-post", "precedence", "x-auto-response-suppress", "x-loop", "hp-outer", "secir-preface"}
EXPECTED_INSIDE |= {"content-type", "content-transfer-encoding", "auto-submitted"}


def heading(**changes: object) -> Heading:
    values: dict[str, object] = {
        "group": a_group(),
        "author": a_member(),
        "note": "from the room",
        "message_id": "m5@lists.test",
        "date": NOW,
        "references": ("m1@lists.test", "m4@lists.test"),
    }
    return Heading(**{**values, **changes})  # type: ignore[arg-type]


def write(content: Content, **changes: object) -> bytes:
    return compose.write_entity(heading(**changes), content, Sentences())


def wrap(**changes: object) -> bytes:
    values: dict[str, object] = {
        "group": a_group(),
        "post": a_post(),
        "delivery": DeliveryId(1),
        "recipient": "bob@elsewhere.test",
        "references": ("m1@lists.test", "m4@lists.test"),
        "message": armour(),
    }
    return compose.wrap(Copy(**{**values, **changes}), Sentences())  # type: ignore[arg-type]


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw.replace(b"\r\n", b"\n"), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


# --- inside ----------------------------------------------------------------------------------------------------------


def test_the_inside_names_author_list_subject_and_thread() -> None:
    entity = parsed(write(Content("Grüße aus dem Labor", "hello")))

    assert entity["From"] == "Ada Lovelace via tld-ops <tld-ops@lists.test>"
    assert entity["To"] == entity["Reply-To"] == "tld-ops <tld-ops@lists.test>"
    assert entity["Subject"] == "Grüße aus dem Labor"
    assert entity["Date"].datetime == NOW
    assert entity["Message-ID"] == "<m5@lists.test>"
    assert entity["In-Reply-To"] == "<m4@lists.test>"
    assert entity["References"].split() == ["<m1@lists.test>", "<m4@lists.test>"]
    assert entity["List-Id"] == "<tld-ops.lists.test>"


def test_the_root_of_the_entity_bears_both_marks_of_header_protection() -> None:
    for content in (Content("s", "x"), Content("s", "x", (Attachment("a.txt", "text/plain", b"x"),))):
        parameters = parsed(write(content))["Content-Type"].params
        assert (parameters["protected-headers"], parameters["hp"]) == ("v1", "cipher")


def test_hp_outer_says_what_stands_outside_and_how() -> None:
    inside = fields.read_block(write(Content("secret subject", "x")).partition(b"\r\n\r\n")[0])
    outside = fields.read_block(wrap().partition(b"\r\n\r\n")[0])
    told = [value.split(": ", 1) for name, value in inside if name == "hp-outer"]

    assert [(name.lower(), value) for name, value in told] == [
        (name, value) for name, value in outside if name not in {"mime-version", "content-type"}
    ]
    assert ["Subject", "[tld-ops] Encrypted message"] in told


def test_the_first_line_of_the_text_names_the_author() -> None:
    text = parsed(write(Content("s", "one\n\ntwo"))).get_content()

    assert text == "Ada Lovelace (from the room) wrote:\n\none\n\ntwo\n"
    assert parsed(write(Content("s", "one"), note="")).get_content().startswith("Ada Lovelace wrote:\n\n")


def test_a_notice_of_the_bot_has_no_author_and_says_that_it_is_automatic() -> None:
    entity = parsed(write(Content("s", "x"), author=None))

    assert entity["From"] == "tld-ops <tld-ops@lists.test>"
    assert entity["Auto-Submitted"] == "auto-generated"
    assert entity.get_content() == "x\n"
    assert parsed(wrap(post=a_post(author_id=None)))["Auto-Submitted"] == "auto-generated"
    assert parsed(wrap())["Auto-Submitted"] is None


def test_a_file_arrives_with_its_octets_and_its_name() -> None:
    data = bytes(range(256)) * 99
    content = Content("s", "see", (Attachment("Maßnahmen für März.pdf", "application/pdf", data),))

    part = next(parsed(write(content)).iter_attachments())

    assert part.get_filename() == "Maßnahmen für März.pdf"
    assert part.get_content_type() == "application/pdf"
    assert part.get_payload(decode=True) == data


def test_a_forwarded_mail_keeps_its_octets_though_message_parts_may_not_be_base64() -> None:
    raw = b"From: a@b.test\n\nFrom here\n"
    content = Content("s", "", (Attachment("a.eml", "message/rfc822", raw),))

    found = compose.read_entity(write(content)).attachments[0]

    assert (found.name, found.media_type, found.data) == ("a.eml", "application/octet-stream", raw)


LINES = "From here to there\nFrom " + "x" * 200 + "\n.\n..\n-- \n--b\ntrailing \ttab\t\n" + "ü" * 100 + "\n" + "y" * 77


def test_the_entity_is_canonical_and_survives_every_transport() -> None:
    entity = write(Content("s" * 300, LINES, (Attachment("ü" * 120 + ".pdf", "application/pdf", b"x" * 500),)))

    assert entity.count(b"\n") == entity.count(b"\r\n") == entity.count(b"\r")
    assert entity.isascii()
    lines = entity.split(b"\r\n")
    assert [line for line in lines if len(line) > 76] == []
    assert [line for line in lines if line != line.rstrip()] == []
    assert [line for line in lines if line.startswith(b"From ") or line == b"."] == []
    assert compose.read_entity(entity).text == LINES


def test_a_text_that_looks_like_a_boundary_or_a_preface_stays_text() -> None:
    text = "Ada Lovelace wrote:\n\n--=_x\nContent-Type: text/html\n\n<b>"
    content = Content("s", text, (Attachment("a", "text/plain", b"x"),))

    assert compose.read_entity(write(content)).text == text


def test_a_name_can_not_become_a_line_of_its_own() -> None:
    entity = write(Content("s", "x"), author=a_member("Ada\r\nBcc: eve@x.test\u2028\n\nEve"), note="a\nb")

    assert "Bcc" not in parsed(entity)
    assert parsed(entity).get_content() == "Ada Bcc: eve@x.test Eve (a b) wrote:\n\nx\n"
    assert compose.read_entity(entity).text == "x"


def test_a_block_of_fields_refuses_to_inject() -> None:
    for value in ("a\r\nBcc: b", "a\nb", "a\rb", "a\r\n\r\nb", "ü"):
        with pytest.raises(ValueError, match="Subject"):
            fields.block([("Subject", value)])


# --- outside ---------------------------------------------------------------------------------------------------------

OUTSIDE = """\
From: "tld-ops" <tld-ops@lists.test>
To: "tld-ops" <tld-ops@lists.test>
Reply-To: "tld-ops" <tld-ops@lists.test>
Subject: [tld-ops] Encrypted message
Date: Mon, 04 May 2026 12:30:00 +0000
Message-ID: <m5@lists.test>
In-Reply-To: <m4@lists.test>
References: <m1@lists.test>
 <m4@lists.test>
List-Id: <tld-ops.lists.test>
List-Post: <mailto:tld-ops@lists.test>
Precedence: list
X-Auto-Response-Suppress: OOF, AutoReply
X-Loop: tld-ops@lists.test
MIME-Version: 1.0
Content-Type: multipart/encrypted; protocol="application/pgp-encrypted";
 boundary="B"

This is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)
--B
Content-Type: application/pgp-encrypted
Content-Description: PGP/MIME version identification

Version: 1

--B
Content-Type: application/octet-stream; name="encrypted.asc"
Content-Description: OpenPGP encrypted message
Content-Disposition: inline; filename="encrypted.asc"

ARMOUR

--B--
"""


def test_the_whole_mail_on_the_wire_is_this_and_names_no_member() -> None:
    raw = wrap()
    boundary = re.search(rb'boundary="(.+)"', raw)
    assert boundary

    shown = raw.replace(b"\r\n", b"\n").replace(boundary[1], b"B").replace(armour(), b"ARMOUR\n").decode()

    assert shown == OUTSIDE
    assert "bob" not in shown
    assert raw.count(b"\n") == raw.count(b"\r\n")


def test_our_own_mail_is_structurally_openpgp_and_never_taken_in_again() -> None:
    with pytest.raises(MailIsAutomatic):
        read_envelope(wrap())

    direct = re.sub(rb"(?im)^(list-id|list-post|precedence|x-loop):.*\r\n", b"", wrap())
    assert read_envelope(direct).message == armour()
    assert read_envelope(direct).references == ("m4@lists.test", "m1@lists.test")


def test_a_mail_that_answers_nothing_has_no_thread_fields() -> None:
    assert "In-Reply-To" not in parsed(wrap(references=()))
    assert "References" not in parsed(wrap(references=()))


def test_a_reference_that_would_inject_a_field_is_left_out() -> None:
    assert "Bcc" not in parsed(wrap(references=("a@b.test>\r\nBcc: <eve@x.test", "good@b.test")))


# --- round trips -----------------------------------------------------------------------------------------------------

anything = st.text(st.characters(codec="utf-8"), max_size=300)
nasty = st.text(st.sampled_from("a =?_.-\t\r\n\0\x85\u2028\u202eü€𝄞From:<>\"'%;*/\\"), max_size=200)
texts = st.one_of(anything, nasty)
files = st.builds(
    Attachment,
    texts.map(lambda name: safe_name(name) or "file"),
    st.sampled_from(["image/png", "text/plain", "text/html", "application/pgp-signature2", "Bad Type", "x/y"]),
    st.binary(max_size=300),
)
contents = st.builds(Content, texts, texts, st.lists(files, max_size=4).map(tuple))


def fields_of(block: bytes) -> set[str]:
    return {name for name, _ in fields.read_block(block)}


@settings(max_examples=300, deadline=None)
@given(contents, texts, texts)
def test_what_was_written_is_read_again_by_us_and_as_a_letter(content: Content, name: str, note: str) -> None:
    entity = write(content, author=a_member(name), note=note)
    subject = charsets.one_line(content.subject)[:250].strip()

    again = compose.read_entity(entity)
    letter = read_letter(entity, NOWHERE, LetterLimits())

    assert again.text == charsets.lines(content.text)
    assert again.subject == subject
    assert [(file.name, file.data) for file in again.attachments] == [
        (safe_name(file.name), file.data) for file in content.attachments
    ]
    assert letter.content.attachments == again.attachments
    assert letter.content.subject == subject
    assert letter.content.text.endswith(again.text)
    assert letter.from_addresses == (LIST,)
    assert letter.bound_to == (LIST, "tld-ops.lists.test")
    assert fields_of(entity.partition(b"\r\n\r\n")[0]) <= EXPECTED_INSIDE


@settings(max_examples=200, deadline=None)
@given(contents)
def test_what_we_write_has_no_line_that_a_transport_would_change(content: Content) -> None:
    lines = write(content).split(b"\r\n")

    assert [line for line in lines if len(line) > 76 or line != line.rstrip() or b"\n" in line or b"\r" in line] == []
    assert [line for line in lines if line.startswith(b"From ")] == []


@settings(max_examples=200, deadline=None)
@given(texts)
def test_a_field_is_read_as_it_was_written(value: str) -> None:
    line = fields.block([("Subject", fields.text(value))])

    assert [(name, fields.decode(text)) for name, text in fields.read_block(line.strip())] == [
        ("subject", charsets.one_line(value))
    ]
