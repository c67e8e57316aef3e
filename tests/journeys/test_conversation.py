"""One conversation, two doors: what is written at one is read at the other, by whom it is for and by nobody else."""

from __future__ import annotations

import pytest

from tests.parts.pgp import read_by_rnp, read_by_sq
from tests.parts.town import ADA, BORIS, CHEN, LIST, Town

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_room_message_reaches_every_mail_member_sealed_to_that_member_alone(town: Town) -> None:
    text = "Registrar API of our TLD answers with 500 since 01:10 UTC."
    await town.ada.say(town.room, text)
    for person in (town.boris, town.chen):
        letter = await person.receive(text)
        assert (letter.signer, letter.session_keys) == (person.list_fingerprint, 1)
        assert letter.sender == f"{ADA} via tld-ops <{LIST}>"
        assert letter.subject == text
        assert letter.text.startswith(f"{ADA} (from the room) wrote:\r\n")


async def test_the_outside_of_a_mail_names_the_list_and_nobody_else(town: Town) -> None:
    text = "Subject that must stay inside: zone file corrupted"
    await town.ada.say(town.room, text)
    letter = await town.boris.receive(text)
    assert letter.outer_is_silent([ADA, *BORIS, *CHEN, "ada", "boris", "chen", "zone file"])
    assert "Subject: [tld-ops] Encrypted message" in letter.outer
    assert f'Reply-To: "tld-ops" <{LIST}>' in letter.outer


async def test_sequoia_and_rnp_decrypt_a_sealed_mail_and_find_the_list_signature_good(town: Town) -> None:
    text = "Other programs must read this, too."
    await town.ada.say(town.room, text)
    letter = await town.chen.receive(text)
    list_key = town.chen.person.gpg("--export", town.chen.list_fingerprint).output
    for read in (read_by_sq, read_by_rnp):
        assert text.encode() in read(letter.message, town.chen.person.secret_key, list_key)
    assert letter.session_keys == 1


async def test_a_mail_appears_in_the_room_with_author_subject_and_text(town: Town) -> None:
    text = "We lost the link to our second registry site."
    await town.boris.write("Link down in Novi Sad", text)
    shown = await town.ada.wait_for(text)
    first, _, rest = shown.body.partition("\n\n")
    assert first.startswith(f"{BORIS[0]} (by mail, signed, key …{town.boris.person.fingerprint[-8:]})")
    assert first.endswith("Link down in Novi Sad")
    assert rest.strip() == text
    assert shown.verified


async def test_a_mail_reaches_the_other_member_and_does_not_come_back_to_its_author(town: Town) -> None:
    text = "Who runs the anycast node in Nairobi?"
    await town.boris.write("Anycast", text)
    letter = await town.chen.receive(text)
    after = "A later message, which Boris does get."
    await town.ada.say(town.room, after)
    await town.boris.receive(after)
    assert (letter.subject, letter.signer) == ("Anycast", town.chen.list_fingerprint)
    assert not town.boris.has(text)


async def test_a_room_answer_to_a_mail_is_filed_under_that_mail_by_its_author_and_by_others(town: Town) -> None:
    question, answer = "Is the .example zone signed again?", "It is, since ten minutes."
    sent = await town.boris.write("Signing", question)
    chens = await town.chen.receive(question)
    shown = await town.ada.wait_for(question)
    await town.ada.say(town.room, answer, reply_to=shown.event_id)
    at_boris, at_chen = await town.boris.receive(answer), await town.chen.receive(answer)
    assert (at_boris.in_reply_to, at_boris.subject) == (sent, "Re: Signing")
    assert (at_chen.in_reply_to, at_chen.subject) == (chens.message_id, "Re: Signing")
    assert sent not in at_chen.outer


async def test_a_mail_answer_appears_in_the_room_as_a_reply(town: Town) -> None:
    question, answer = "Can somebody test DNS over TCP to us?", "It answers from here."
    asked = await town.ada.say(town.room, question)
    letter = await town.chen.receive(question)
    await town.chen.write(f"Re: {letter.subject}", answer, answers=letter)
    shown = await town.ada.wait_for(answer)
    assert shown.reply_to == asked


async def test_a_thread_of_the_room_stays_a_thread_when_mail_answers_in_it(town: Town) -> None:
    root_text, in_thread, answer = (
        "Incident 42: start of the log.",
        "02:10 filters are up.",
        "02:20 seen from here, too.",
    )
    root = await town.ada.say(town.room, root_text)
    await town.ada.say(town.room, in_thread, thread=root)
    start, letter = await town.boris.receive(root_text), await town.boris.receive(in_thread)
    assert start.message_id in letter.references
    await town.boris.write(f"Re: {letter.subject}", answer, answers=letter)
    shown = await town.ada.wait_for(answer)
    assert shown.thread == root


async def test_a_correction_in_the_room_reaches_mail_members_as_an_answer_to_what_it_corrects(town: Town) -> None:
    wrong, right = "The bad prefix is 192.0.2.0/25.", "The bad prefix is 198.51.100.0/25."
    event = await town.ada.say(town.room, wrong)
    first = await town.boris.receive(wrong)
    await town.ada.edit(town.room, event, right)
    second = await town.boris.receive(right)
    assert second.in_reply_to == first.message_id
    assert "correction of an earlier message" in second.text


async def test_a_file_of_the_room_reaches_mail_members_unchanged(town: Town) -> None:
    data = bytes(range(256)) * 1024
    await town.ada.send_file(town.room, "queries.pcap", data, "application/vnd.tcpdump.pcap")
    for person in (town.boris, town.chen):
        assert (await person.receive_file("queries.pcap")).files["queries.pcap"] == data


async def test_a_file_of_a_mail_reaches_the_room_and_the_other_member_unchanged(town: Town) -> None:
    data = b"\x00\xff\r\n.\r\nFrom the zone\n" * 5000
    await town.boris.write("Zone", "The zone as of 03:00.", files={"zone ü.bin": data})
    message = await town.ada.wait_for(lambda m: m.file is not None and m.body == "zone ü.bin")
    assert await town.ada.fetch(message) == data
    assert (await town.chen.receive_file("zone ü.bin")).files["zone ü.bin"] == data


async def test_nothing_but_encrypted_events_was_ever_sent_to_the_room(town: Town) -> None:
    await town.ada.say(town.room, "One more, so that there is something to look at.")
    sent = {event["type"] for event in town.synapse.stored_events(town.room) if "state_key" not in event}
    assert sent == {"m.room.encrypted"}
