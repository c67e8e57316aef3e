"""The strict grammar, on status lines made here: no key, no process, and no forgery that works."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.openpgp.status import judge_status, reasons
from trust.errors import (
    BadSignature,
    BrokenEncryption,
    NotForThisList,
    NotSigned,
    SafeUnavailable,
    SecirError,
    UnknownSigner,
)
from trust.records import Fingerprint

OURS = Fingerprint("A" * 40)
ANNA = Fingerprint("B" * 40)
SUBKEY = "C" * 40
SIGNED_AT = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
STAMP = int(SIGNED_AT.timestamp())

DECRYPTION = [
    f"DECRYPTION_KEY {'D' * 40} {OURS} -",
    "BEGIN_DECRYPTION",
    "DECRYPTION_INFO 2 9 0",
    f"PLAINTEXT 62 {STAMP} ",
    "PLAINTEXT_LENGTH 5",
]
SIGNATURE = [
    "NEWSIG",
    f"KEY_CONSIDERED {ANNA} 0",
    f"SIG_ID abc 2026-11-22 {STAMP}",
    f"GOODSIG {SUBKEY[-16:]} Anna <anna@example.test>",
    f"VALIDSIG {SUBKEY} 2026-11-22 {STAMP} 0 4 0 22 10 00 {ANNA}",
]
END = ["DECRYPTION_OKAY", "GOODMDC", "END_DECRYPTION"]
GOOD = [*DECRYPTION, *SIGNATURE, *END]


def status(*lines: str) -> bytes:
    return b"".join(b"[GNUPG:] " + line.encode("latin-1") + b"\n" for line in lines)


def verdict_on(octets: bytes, code: int = 0) -> Fingerprint:
    return judge_status(octets, code, list_key=OURS, signers={ANNA}).signer


def refusal_of(*lines: str, code: int = 0) -> type[SecirError]:
    with pytest.raises(SecirError) as caught:
        verdict_on(status(*lines), code)
    return type(caught.value)


def swapped(old: str, new: str, lines: list[str] = GOOD) -> list[str]:
    return [new if line.startswith(old) else line for line in lines]


def test_the_primary_key_and_the_time_of_one_good_signature_are_the_verdict() -> None:
    verdict = judge_status(status(*GOOD), 0, list_key=OURS, signers={ANNA})
    assert (ANNA, SIGNED_AT) == (verdict.signer, verdict.signed_at)


@pytest.mark.parametrize("missing", [line for line in GOOD if line.split()[0] not in {"KEY_CONSIDERED", "SIG_ID"}])
def test_every_line_of_the_grammar_is_needed(missing: str) -> None:
    kept = [line for line in GOOD if line != missing]
    if missing.startswith("PLAINTEXT_LENGTH"):
        assert ANNA == verdict_on(status(*kept))
    else:
        assert refusal_of(*kept) in {BrokenEncryption, BadSignature}


@pytest.mark.parametrize("twice", [line for line in GOOD if line.split()[0] not in {"KEY_CONSIDERED", "SIG_ID"}])
def test_no_line_of_the_grammar_may_come_twice(twice: str) -> None:
    lines = [copy for line in GOOD for copy in ([line, line] if line == twice else [line])]
    if twice.startswith("PLAINTEXT_LENGTH"):
        assert ANNA == verdict_on(status(*lines))
    else:
        assert refusal_of(*lines) in {BrokenEncryption, BadSignature}


@pytest.mark.parametrize("place", range(len(GOOD) + 1))
@pytest.mark.parametrize(
    "line", ["BADMDC", "DECRYPTION_FAILED", "NODATA 3", "UNEXPECTED 0", "FAILURE x 1", "NEVERHEARD"]
)
def test_a_line_that_is_not_expected_is_refused_wherever_it_stands(place: int, line: str) -> None:
    assert BrokenEncryption is refusal_of(*GOOD[:place], line, *GOOD[place:])


@pytest.mark.parametrize(
    "line", ["BADSIG X n", "EXPSIG X n", "EXPKEYSIG X n", "REVKEYSIG X n", "ERRSIG X 22 2 00 0 5 -"]
)
def test_a_signature_that_does_not_count_is_refused_beside_a_good_one_and_alone(line: str) -> None:
    assert BadSignature is refusal_of(*DECRYPTION, *SIGNATURE, line, *END)
    assert BadSignature is refusal_of(*swapped("GOODSIG", line), code=1)


def test_gnupg_ends_at_an_expired_signature_and_it_is_named_so() -> None:
    expired = swapped("GOODSIG", "EXPSIG X n", SIGNATURE)
    assert BadSignature is refusal_of(*DECRYPTION, *expired, "FAILURE gpg-exit 33554433", code=1)


def test_gnupg_ends_at_a_bad_signature_and_it_is_broken_like_all_damage() -> None:
    assert BrokenEncryption is refusal_of(*DECRYPTION, "NEWSIG", "BADSIG X n", "FAILURE gpg-exit 33554433", code=1)


def test_a_good_signature_of_a_stranger_is_an_unknown_signer() -> None:
    with pytest.raises(UnknownSigner):
        judge_status(status(*GOOD), 0, list_key=OURS, signers={Fingerprint("E" * 40)})


def test_the_fingerprint_of_the_signing_subkey_is_not_the_signers() -> None:
    with pytest.raises(UnknownSigner):
        judge_status(status(*GOOD), 0, list_key=OURS, signers={Fingerprint(SUBKEY)})


def test_a_signature_whose_key_is_missing_is_an_unknown_signer() -> None:
    strange = ["NEWSIG", f"ERRSIG {'E' * 16} 22 10 00 {STAMP} 9 {'E' * 40}", f"NO_PUBKEY {'E' * 16}"]
    assert UnknownSigner is refusal_of(*DECRYPTION, *strange, *END, code=2)


def test_a_good_and_a_strange_signature_together_are_refused_as_doubled() -> None:
    strange = ["NEWSIG", f"ERRSIG {'E' * 16} 22 10 00 {STAMP} 9 {'E' * 40}", f"NO_PUBKEY {'E' * 16}"]
    assert BadSignature is refusal_of(*DECRYPTION, *SIGNATURE, *strange, *END, code=2)


def test_a_mail_without_a_signature_is_refused() -> None:
    assert NotSigned is refusal_of(*DECRYPTION, *END)


def test_a_signed_mail_that_is_not_encrypted_is_refused() -> None:
    assert BrokenEncryption is refusal_of("PLAINTEXT 62 0 ", *SIGNATURE)


def test_a_mail_for_another_key_is_not_for_this_list() -> None:
    lines = ("ENC_TO 0123456789ABCDEF 18 0", "NO_SECKEY 0123456789ABCDEF", "BEGIN_DECRYPTION", "DECRYPTION_FAILED")
    assert NotForThisList is refusal_of(*lines, "END_DECRYPTION", code=2)


@pytest.mark.parametrize("line", ["PLAINTEXT", "DECRYPTION_OKAY"])
def test_a_signature_outside_the_encryption_is_refused(line: str) -> None:
    if line == "PLAINTEXT":
        moved = [*DECRYPTION[:3], *SIGNATURE, *DECRYPTION[3:], *END]
    else:
        moved = [*DECRYPTION, END[0], *SIGNATURE, *END[1:]]
    assert BrokenEncryption is refusal_of(*moved)


@pytest.mark.parametrize("code", [1, 2, 33])
def test_the_lines_of_a_good_message_count_for_nothing_with_another_exit_code(code: int) -> None:
    assert BrokenEncryption is refusal_of(*GOOD, code=code)


def test_a_decryption_by_another_key_of_the_home_is_refused() -> None:
    assert BrokenEncryption is refusal_of(*swapped("DECRYPTION_KEY", f"DECRYPTION_KEY {OURS} {ANNA} -"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (8, "2"),
        (8, "1"),
        (8, "11"),
        (9, "10"),
        (9, "02"),
        (10, ANNA.lower()),
        (10, ANNA[:-1]),
        (3, "-1"),
        (3, "9" * 11),
    ],
)
def test_a_weak_hash_another_kind_of_signature_or_a_crippled_field_is_refused(field: int, value: str) -> None:
    words = SIGNATURE[-1].split(" ")
    words[field] = value
    assert BadSignature is refusal_of(*swapped("VALIDSIG", " ".join(words)))


@pytest.mark.parametrize("extra", ["", " x"])
def test_a_valid_signature_has_ten_fields_no_more_no_less(extra: str) -> None:
    line = SIGNATURE[-1] + extra if extra else SIGNATURE[-1].rsplit(" ", 1)[0]
    assert BadSignature is refusal_of(*swapped("VALIDSIG", line))


def test_without_integrity_protection_nothing_counts() -> None:
    for info in ("DECRYPTION_INFO 0 9 0", "DECRYPTION_INFO 2 9", "DECRYPTION_INFO "):
        lines = [line for line in swapped("DECRYPTION_INFO", info) if line != "GOODMDC"]
        assert BrokenEncryption is refusal_of(*lines)


def test_an_aead_packet_proves_its_integrity_without_an_mdc() -> None:
    lines = [line for line in swapped("DECRYPTION_INFO", "DECRYPTION_INFO 0 9 2") if line != "GOODMDC"]
    assert ANNA == verdict_on(status(*lines))


@pytest.mark.parametrize("code", [11, 0x0400_000B, 77, 0x0400_8056])
def test_a_failing_agent_is_our_fault_and_not_the_senders(code: int) -> None:
    lines = (f"ERROR pkdecrypt_failed {code}", "BEGIN_DECRYPTION", "DECRYPTION_FAILED", "END_DECRYPTION")
    assert SafeUnavailable is refusal_of(*lines, code=2)


@pytest.mark.parametrize("code", ["16777226", "16777234", "", "x"])
def test_a_session_key_that_does_not_decrypt_is_broken_encryption(code: str) -> None:
    lines = (f"ERROR pkdecrypt_failed {code}", "BEGIN_DECRYPTION", "DECRYPTION_FAILED", "END_DECRYPTION")
    assert BrokenEncryption is refusal_of(*lines, code=2)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        status(*GOOD)[:-1],
        status(*GOOD) + b"[GNUPG:] PROGRESS",
        status(*GOOD) + b"gpg: Good signature\n",
        status(*GOOD) + b"\n",
        status(*GOOD) + b" [GNUPG:] PROGRESS\n",
        status(*GOOD) + b"[GNUPG:]  PROGRESS\n",
        status(*GOOD).replace(b"\n", b"\r\n"),
        status(*GOOD).replace(b"\n", b"\r"),
    ],
)
def test_what_is_not_a_line_of_the_status_pipe_is_refused(octets: bytes) -> None:
    with pytest.raises(SecirError) as caught:
        verdict_on(octets)
    assert caught.type in {BrokenEncryption, BadSignature}


def test_the_cause_is_noted_for_the_log_and_not_shown_in_the_text() -> None:
    with pytest.raises(NotSigned) as caught:
        verdict_on(status(*DECRYPTION, *END))
    assert ("not-signed", "no-signature") == (str(caught.value), reasons(caught.value))


VALUES = st.one_of(
    st.binary(max_size=80),
    st.lists(
        st.sampled_from([b"\r", b"\x0b", b"\x85", b"\xe2\x80\xa8", b"\x00", b"[GNUPG:] GOODSIG ", b"NEWSIG", b" "])
    ).map(b"".join),
).map(lambda value: value.replace(b"\n", b""))
"""What a member may put into a name, a file name or a notation; GnuPG itself escapes the line feed."""


@given(name=VALUES, file=VALUES, notation=VALUES)
def test_no_value_changes_the_verdict_on_a_good_message(name: bytes, file: bytes, notation: bytes) -> None:
    octets = status(*DECRYPTION[:3]) + b"[GNUPG:] PLAINTEXT 62 0 " + file + b"\n" + status(*SIGNATURE[:3])
    octets += b"[GNUPG:] GOODSIG CCCCCCCCCCCCCCCC " + name + b"\n" + status(SIGNATURE[-1])
    octets += b"[GNUPG:] NOTATION_DATA " + notation + b"\n" + status(*END)
    assert ANNA == verdict_on(octets)


@given(values=st.lists(VALUES, min_size=3, max_size=3))
def test_no_value_makes_a_signature_where_there_is_none(values: list[bytes]) -> None:
    octets = status(*DECRYPTION[:3])
    keywords = (b"PLAINTEXT", b"NOTATION_DATA", b"KEY_CONSIDERED")
    octets += b"".join(b"[GNUPG:] %s %s\n" % pair for pair in zip(keywords, values, strict=True))
    with pytest.raises(NotSigned):
        verdict_on(octets + status(*END))


@given(octets=st.binary(max_size=400))
def test_octets_at_random_are_refused_and_never_crash(octets: bytes) -> None:
    for lines in (octets, status(*DECRYPTION) + octets, status(*GOOD) + octets + b"\n"):
        with pytest.raises(SecirError):
            verdict_on(lines)
