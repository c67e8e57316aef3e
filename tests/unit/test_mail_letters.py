"""The inside of an opened mail: whose headers count, what a person gets to read, which files come along."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bridges.mail.letters import LetterLimits, read_letter, safe_name
from bridges.ports import Envelope, Letter
from tests.parts.mail import CORPORA
from trust.errors import AttachmentTooBig, ContentUnreadable, PostRefusal, TooManyAttachments
from trust.records import Content

OUTSIDE = Envelope(b"", "outer subject", ("outer@x.test",), "outer-id@x.test", ("outer-ref@x.test",))
LIMITS = LetterLimits(attachments=3, attachment_mb=1)
CORPUS = sorted(path for path in CORPORA.glob("*/*") if path.suffix in {".eml", ".txt"} and path.is_file())

FIELDS = (
    b"From: Ada <ADA@inner.test>\nTo: tld-ops <Tld-Ops@lists.test>\nCc: bob@x.test\nSubject: inner\n subject\n"
    b"Message-ID: <inner@x.test>\nIn-Reply-To: <r1@x.test>\nList-Id: ops <tld-ops.lists.test>\n"
)


def read(entity: bytes) -> Letter:
    return read_letter(entity, OUTSIDE, LIMITS)


def content(entity: bytes) -> Content:
    return read(entity).content


def mixed(*parts: bytes, kind: bytes = b"multipart/mixed", extra: bytes = b"") -> bytes:
    head = b"Content-Type: " + kind + b'; boundary="b"' + extra + b"\n\n"
    return head + b"".join(b"--b\n" + part + b"\n" for part in parts) + b"--b--\n"


def plain(text: bytes) -> bytes:
    return b"Content-Type: text/plain\n\n" + text


# --- whose headers count ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [b'protected-headers="v1"', b'hp="cipher"', b'hp="clear"', b"hp=cipher"])
def test_protected_headers_win_over_the_outside(mark: bytes) -> None:
    letter = read(FIELDS + b"Content-Type: text/plain; " + mark + b"\n\nhello\n")

    assert letter.content == Content("inner subject", "hello")
    assert letter.from_addresses == ("ada@inner.test",)
    assert letter.message_id == "inner@x.test"
    assert letter.references == ("r1@x.test",)
    assert letter.bound_to == ("tld-ops@lists.test", "bob@x.test", "tld-ops.lists.test")


@pytest.mark.parametrize(
    "entity",
    [
        FIELDS + b"Content-Type: text/plain\n\nhello\n",
        FIELDS + b"Content-Type: text/plain; hp=other\n\nhello\n",
        FIELDS + b'Content-Type: text/plain; protected-headers="v2"\n\nhello\n',
        mixed(FIELDS + b'Content-Type: text/plain; protected-headers="v1"\n\nhello\n'),
        b"Content-Type: multipart/alternative; boundary=x\n\n--x\n"
        + FIELDS
        + b'Content-Type: text/plain; hp="cipher"\n\nhello\n--x--\n',
    ],
    ids=["no mark", "unknown hp", "unknown version", "one level down", "in an alternative"],
)
def test_headers_that_are_not_marked_on_the_root_are_not_believed(entity: bytes) -> None:
    letter = read(entity)

    assert letter.content == Content("outer subject", "hello")
    assert letter.from_addresses == ("outer@x.test",)
    assert letter.references == ("outer-ref@x.test",)
    assert letter.bound_to == ()


def test_a_wrapped_message_of_rfc_8551_is_unwrapped() -> None:
    letter = read(b'Content-Type: message/rfc822; forwarded="no"\n\n' + FIELDS + b"Content-Type: text/plain\n\nhello\n")

    assert letter.content == Content("inner subject", "hello")
    assert letter.bound_to[0] == "tld-ops@lists.test"


def test_a_forwarded_message_is_a_file_and_its_headers_are_its_own() -> None:
    forwarded = FIELDS + b"\nhello\n"
    letter = read(mixed(plain(b"see"), b"Content-Type: message/rfc822\n\n" + forwarded))

    assert letter.content.subject == "outer subject"
    assert [("attachment-1.eml", "message/rfc822", forwarded)] == [
        (file.name, file.media_type, file.data) for file in letter.content.attachments
    ]


def test_with_hp_a_missing_inner_subject_is_an_empty_one_and_with_v1_the_outer_stays() -> None:
    assert content(b'Content-Type: text/plain; hp="cipher"\n\nx').subject == ""
    assert content(b'Content-Type: text/plain; protected-headers="v1"\n\nx').subject == "outer subject"


def test_several_authors_are_all_told() -> None:
    letter = read(b"From: a@x.test\nFrom: b@x.test, c@x.test\nContent-Type: text/plain; hp=clear\n\nx")

    assert letter.from_addresses == ("a@x.test", "b@x.test", "c@x.test")


def test_a_subject_that_hides_a_line_break_stays_one_line() -> None:
    letter = read(
        b"Subject: =?utf-8?q?x=0D=0ABcc:_evil@x.test=E2=80=A8y=E2=80=AE?=\nContent-Type: text/plain; hp=clear\n\nx"
    )

    assert letter.content.subject == "x Bcc: evil@x.test y"


def test_a_subject_without_end_is_cut() -> None:
    letter = read(b"Subject: " + b"s" * 5000 + b"\nContent-Type: text/plain; hp=clear\n\nx")

    assert len(letter.content.subject) == 250
    assert letter.content.subject.endswith("s…")


# --- what a person reads ---------------------------------------------------------------------------------------------


def test_the_text_of_an_inline_message_is_taken_as_it_is() -> None:
    text = "Hello: world\n\n  indented\nGrüße".encode()

    assert content(text) == Content("outer subject", "Hello: world\n\n  indented\nGrüße")


@pytest.mark.parametrize(
    ("charset", "data"),
    [
        (b"utf-8", "Grüße €".encode()),
        (b"iso-8859-15", "Grüße €".encode("iso-8859-15")),
        (b"iso-8859-1", "Grüße €".encode("cp1252")),
        (b"unknown-8bit", "Grüße €".encode()),
        (b"no-such-charset", "Grüße €".encode("cp1252")),
        (b"us-ascii", "Grüße €".encode()),
        (b"utf-16", "Grüße €".encode("utf-16")),
        (b"idna", "Grüße €".encode()),
        (b"zlib", "Grüße €".encode()),
    ],
)
def test_every_charset_is_read_and_wrong_ones_are_guessed(charset: bytes, data: bytes) -> None:
    assert content(b"Content-Type: text/plain; charset=" + charset + b"\n\n" + data).text == "Grüße €"


def test_plain_text_is_preferred_to_a_page() -> None:
    page = b"Content-Type: text/html\n\n<p>page</p>"

    assert content(mixed(plain(b"plain"), page, kind=b"multipart/alternative")).text == "plain"
    assert content(mixed(plain(b" \n"), page, kind=b"multipart/alternative")).text == "page"
    assert content(mixed(page, kind=b"multipart/alternative")).text == "page"


def test_an_empty_last_form_does_not_hide_the_text_of_another() -> None:
    page = b"Content-Type: text/html\n\n<p>page</p>"

    assert content(mixed(page, b"\n", kind=b"multipart/alternative")).text == "page"


def test_a_forgotten_semicolon_does_not_hide_the_parts() -> None:
    entity = b'Content-Type: multipart/mixed\n\tboundary="b"\n\n--b\n\nhello\n--b--\n'

    assert content(entity).text == "hello"


def test_a_page_becomes_readable_text() -> None:
    page = (
        b"Content-Type: text/html; charset=utf-8\n\n<html><head><title>t</title><style>p {}</style></head><body>"
        b"<p>Dear&nbsp;all,<br>see <a href='https://x.test/a?b=1&amp;c=2'>here</a> and "
        b"<a href='https://x.test/'>https://x.test</a>, <a href='javascript:evil()'>not here</a></p>"
        b"<ul><li>one</li><li>two &lt;3</li></ul><script>evil()</script><blockquote><p>old</p><p>older</p></blockquote>"
        b"<pre>a\n  b</pre><table><tr><td>1</td><td>2</td></tr></table><img src='http://track.test/'></body></html>"
    )

    assert content(page).text == (
        "Dear\xa0all,\nsee here <https://x.test/a?b=1&c=2> and https://x.test, not here\n\n- one\n- two <3\n\n"
        "> old\n\n> older\n\na\n  b\n\n1 2"
    )


def test_flowed_lines_are_joined_and_quotes_kept_apart() -> None:
    text = b"one \ntwo\n> quoted \n> more\n>> deeper\n stuffed\n-- \nAda\n"
    entity = b"Content-Type: text/plain; format=flowed\n\n" + text

    assert content(entity).text == "one two\n> quoted more\n> > deeper\nstuffed\n-- \nAda"


def test_flowed_lines_with_delsp_lose_the_blank() -> None:
    entity = b"Content-Type: text/plain; format=flowed; delsp=yes\n\nhttps://x.test/ \nlong\n"

    assert content(entity).text == "https://x.test/long"


def test_control_characters_and_exotic_line_ends_do_not_reach_the_reader() -> None:
    entity = b"Content-Type: text/plain; charset=utf-8\n\na\0b\x1b[31mc\td\r\ne\xe2\x80\xa8f\xc2\x85g\r"

    assert content(entity).text == "ab[31mc\td\ne\nf\ng"


def test_a_legacy_display_part_is_not_shown() -> None:
    legacy = b'Content-Type: text/plain; protected-headers="v1"\n\nSubject: inner subject\n'
    headers = b'Content-Type: text/rfc822-headers; protected-headers="v1"\n\nSubject: inner subject\n'
    for part in (legacy, headers):
        entity = FIELDS + mixed(part, plain(b"hello"), extra=b'; protected-headers="v1"')
        assert content(entity) == Content("inner subject", "hello")


def test_legacy_display_lines_are_not_shown() -> None:
    text = b'Content-Type: text/plain; hp-legacy-display="1"\n\nSubject: inner subject\n\nhello\n'
    page = (
        b'Content-Type: text/html; hp-legacy-display="1"\n\n<html><body>'
        b'<div class="header-protection-legacy-display"><pre>Subject: s</pre></div><p>hello</p></body></html>'
    )
    for part in (text, page):
        assert content(FIELDS + mixed(part, extra=b'; hp="cipher"')).text == "hello"
    assert content(FIELDS + mixed(text, extra=b'; hp="clear"')).text == "Subject: inner subject\n\nhello"


def test_several_texts_are_shown_one_after_the_other() -> None:
    signature = b"Content-Type: application/pgp-signature\n\n-----BEGIN PGP SIGNATURE-----\n"

    found = content(mixed(plain(b"one"), b"Content-Type: text/html\n\n<b>two</b>", signature))

    assert found == Content("outer subject", "one\n\ntwo")


@pytest.mark.parametrize("body", [b"<p>" * 1_000_000, b"<div>" * 501], ids=["large", "deep"])
def test_a_page_that_is_too_much_to_read_is_a_file(body: bytes) -> None:
    page = b"Content-Type: text/html\n\n" + body

    letter = read_letter(mixed(plain(b"see"), page), OUTSIDE, LetterLimits(attachments=1, attachment_mb=5))

    assert letter.content.text == "see"
    assert [file.media_type for file in letter.content.attachments] == ["text/html"]


def test_a_text_of_megabytes_is_a_file() -> None:
    letter = read_letter(b"a: b\n" * 1_000_000, OUTSIDE, LetterLimits(attachment_mb=10))

    assert [(file.name, len(file.data)) for file in letter.content.attachments] == [("attachment-1.txt", 5_000_000)]


# --- files -----------------------------------------------------------------------------------------------------------


def named(disposition: bytes) -> str:
    part = b"Content-Type: application/octet-stream\nContent-Disposition: attachment" + disposition + b"\n\nx"
    return content(mixed(part)).attachments[0].name


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b"; filename=plain.pdf", "plain.pdf"),
        (b'; filename="with \\"quotes\\".pdf"', "with _quotes_.pdf"),
        (b"; filename*=utf-8''Ma%C3%9Fnahmen%20Okt.%202021.html", "Maßnahmen Okt. 2021.html"),
        (
            b';\n filename*0*="utf-8\'\'Ma%C3%9Fna";\n filename*1*=hm;\n filename*2*="en%20M%c3%a4rz.html"',
            "Maßnahmen März.html",
        ),
        (b"; filename*=Cp1252''Auftragsbest%E4tigung.pdf;", "Auftragsbestätigung.pdf"),
        (b'; filename*="=?utf-8?Q?somed=C3=A4=C3=BCta.html.zip?="', "somedäüta.html.zip"),
        (b'; filename="=?UTF-8?Q?Ma=C3=9Fn=?= =?UTF-8?Q?ahmen.html?="', "Maßnahmen.html"),
        (b'; filename="=?utf-8?b?4oKs?=.txt"', "€.txt"),
        (b"; filename=one.txt; filename*=utf-8''two.txt", "one.txt"),
        (b'; filename="../../etc/passwd"', "passwd"),
        (b'; filename="C:\\\\Users\\\\ada\\\\report.pdf"', "report.pdf"),
        (b'; filename="..."', "attachment-1.bin"),
        (b"; filename*=utf-8''evil%E2%80%AEfdp.exe", "evilfdp.exe"),
        (b"; filename*=utf-8''a%0D%0AX-Evil:%20b%00.txt", "a X-Evil_ b .txt"),
        (b"", "attachment-1.bin"),
    ],
)
def test_the_name_of_a_file_is_decoded_and_made_safe(disposition: bytes, name: str) -> None:
    assert named(disposition) == name


def test_a_name_without_end_keeps_its_ending() -> None:
    assert safe_name("x" * 500 + ".tar.gz") == "x" * 117 + ".gz"


def test_files_keep_their_octets() -> None:
    data = bytes(range(256)) * 100
    import base64

    part = b"Content-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64\n\n" + base64.encodebytes(data)

    found = content(mixed(plain(b"see"), part)).attachments

    assert [("a.png", "image/png", data)] == [(file.name, file.media_type, file.data) for file in found]


def test_a_text_file_is_a_file_and_a_text_is_not() -> None:
    log = b"Content-Type: text/plain; name=a.log\nContent-Disposition: inline; filename=a.log\n\nlog"
    found = content(mixed(plain(b"see"), log))

    assert (found.text, [file.name for file in found.attachments]) == ("see", ["a.log"])


def test_a_picture_beside_a_page_is_kept_as_a_file() -> None:
    page = (
        mixed(
            b"Content-Type: text/html\n\n<p>see</p>",
            b"Content-Type: image/png\nContent-Id: <1>\n\nx",
            kind=b"multipart/related",
        )
        .replace(b'"b"', b'"c"')
        .replace(b"--b", b"--c")
    )
    found = content(mixed(plain(b"plain"), page, kind=b"multipart/alternative"))

    assert (found.text, [file.name for file in found.attachments]) == ("plain", ["attachment-1.png"])


def test_too_many_and_too_big_files_are_refused_with_the_limit() -> None:
    file = b"Content-Disposition: attachment\n\n"
    with pytest.raises(TooManyAttachments) as many:
        read(mixed(*[file + b"x"] * 4))
    with pytest.raises(AttachmentTooBig) as big:
        read(mixed(file + b"x" * (1024 * 1024 + 1)))

    assert (many.value.params, big.value.params) == ({"limit": 3}, {"limit_mb": 1})


def test_what_is_beyond_the_limits_of_mime_is_unreadable() -> None:
    with pytest.raises(ContentUnreadable):
        read(mixed(*[b"\nx"] * 300))


HOSTILE = {
    "deep page": b"Content-Type: text/html\n\n" + b"<div>" * 50_000 + b"x",
    "unclosed tags": b"Content-Type: text/html\n\n" + b"<a href='" * 100_000,
    "formatting": b"Content-Type: text/html\n\n" + b"<p><b id=1><i>" * 20_000 + b"x",
    "half tags": b"Content-Type: text/html\n\n" + b"<!" * 400_000,
    "table cells": b"Content-Type: text/html\n\n" + b"<table><tr><td>" * 400 + b"<td>" * 100_000,
    "quotes": b"Content-Type: text/html\n\n" + b"<blockquote>" * 2000 + b"x",
    "1 MB that never says Content-Type": b"a: b\n" * 200_000,
    "flowed": b"Content-Type: text/plain; format=flowed\n\n" + b"x \n" * 300_000,
}


@pytest.mark.parametrize("entity", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_letter_takes_long_to_read(entity: bytes) -> None:
    started = time.perf_counter()
    read(entity)

    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_real_mail_of_the_corpora_is_read_without_any_other_exception(path: Path) -> None:
    try:
        letter = read_letter(path.read_bytes(), OUTSIDE, LetterLimits(attachments=50))
    except PostRefusal:
        return
    names = [file.name for file in letter.content.attachments]
    assert [name for name in names if name != safe_name(name) or not name] == []
    assert letter.content.text.isprintable() or set(letter.content.text) - set("\n\t") != set()


NAMES = {
    "attach_filename_apostrophed": "Maßnahmen Okt. 2021.html",
    "attach_filename_apostrophed_cont": "Maßnahmen März 2022.html",
    "attach_filename_apostrophed_cp1252": "Auftragsbestätigung.pdf",
    "attach_filename_apostrophed_invalid": "somedäüta.html.zip",
    "attach_filename_apostrophed_windows1251": "программирование.HTM",
    "attach_filename_combined": "Maßnahmen Okt. 2020.html",
    "attach_filename_encoded_words": "Maßnahmen Okt. 2020.html",
    "attach_filename_encoded_words_binary": "§ 165 Abs",
    "attach_filename_encoded_words_cont": "Maßn'ah'men Okt. 2020.html",
    "attach_filename_encoded_words_windows1251": "file Что нового 2020.pdf",
    "attach_filename_simple": "test.html",
}


@pytest.mark.parametrize("path", [path for path in CORPUS if path.stem in NAMES], ids=lambda path: str(path.stem))
def test_the_files_of_the_corpora_bear_their_names(path: Path) -> None:
    letter = read_letter(path.read_bytes(), OUTSIDE, LIMITS)

    assert NAMES[path.stem] in [file.name for file in letter.content.attachments]
