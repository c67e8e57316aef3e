"""What must not pass does not pass, and whoever can mend it is told how."""

from __future__ import annotations

import asyncio
import itertools
import smtplib
from collections.abc import Callable

import pytest

from tests.parts.pgp import Person
from tests.parts.responder import Responder
from tests.parts.town import GROUP, LIST, Town

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = {"limits": {"undecryptable_notice_after": "1s"}, "log": {"level": "debug"}}


NUMBERS = itertools.count(1)


def entity(text: str) -> bytes:
    return b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + text.encode() + b"\r\n"


async def refused(action: Callable[[], object]) -> tuple[int, str]:
    """The code and text with which the bridge refuses in the SMTP dialogue."""
    try:
        await asyncio.to_thread(action)
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        return code, said.decode()
    except smtplib.SMTPResponseException as error:
        return error.smtp_code, str(error.smtp_error, "ascii") if isinstance(error.smtp_error, bytes) else ""
    raise AssertionError("it was taken")


async def nothing_passed(town: Town, text: str) -> bool:
    """Whether ``text`` is nowhere, once a later message has gone all the way."""
    marker = f"Marker {next(NUMBERS)}."
    await town.chen.write("Marker", marker)
    await town.ada.wait_for(marker)
    await town.boris.receive(marker)
    in_room = any(text in message.body for message in town.ada.messages)
    return not in_room and not any(person.has(text) for person in (town.boris, town.chen))


async def test_a_mail_to_an_unknown_address_is_refused_at_rcpt(town: Town) -> None:
    mail = town.boris.wrap(b"-----BEGIN PGP MESSAGE-----\n\nx\n-----END PGP MESSAGE-----\n")
    code, said = await refused(lambda: town.boris._hand_over(mail, "nobody@lists.example"))
    assert (code, said) == (550, "5.1.1 There is no list with this address. Next: Check the address.")


async def test_a_mail_in_clear_is_refused_with_the_next_step(town: Town) -> None:
    mail = f"From: {town.boris.address}\r\nTo: {LIST}\r\nSubject: hello\r\n\r\nin clear\r\n".encode()
    code, said = await refused(lambda: town.boris._hand_over(mail, LIST))
    assert code == 550
    assert "Encrypt it with the list's key, sign it with your own" in said


async def test_a_mail_that_is_too_big_is_refused_with_552(town: Town) -> None:
    mail = town.boris.wrap(b"-----BEGIN PGP MESSAGE-----\n\n" + b"A" * 76 * 400_000 + b"\n")
    code, _ = await refused(lambda: town.boris._hand_over(mail, LIST))
    assert code == 552


async def test_an_encrypted_mail_without_a_signature_goes_nowhere_and_its_member_is_told(town: Town) -> None:
    text = "Nobody signed this."
    message = town.boris.person.seal(entity(text), town.boris.list_key, sign=False)
    await town.boris.hand_over(town.boris.wrap(message))
    told = await town.boris.receive("it is encrypted, but not signed")
    assert told.signer == town.boris.list_fingerprint
    assert text not in told.text
    assert await nothing_passed(town, text)


async def test_a_mail_signed_by_an_unknown_key_goes_nowhere_and_the_admin_is_told(town: Town) -> None:
    text = "A stranger's key made this signature."
    stranger = Person.create(None, "Mallory", town.boris.address)
    try:
        message = stranger.seal(entity(text), town.boris.list_key)
        await town.boris.hand_over(town.boris.wrap(message))
        await town.ada.wait_for("no member's key made its signature")
        assert await nothing_passed(town, text)
    finally:
        stranger.close()


async def test_the_same_mail_in_a_new_envelope_is_posted_once(town: Town) -> None:
    text = "Once is enough."
    message = town.boris.person.seal(entity(text), town.boris.list_key)
    await town.boris.hand_over(town.boris.wrap(message))
    await town.ada.wait_for(text)
    await town.boris.hand_over(town.boris.wrap(message))
    after = "Something else."
    await town.boris.write("Else", after)
    await town.ada.wait_for(after)
    assert sum(text in message.body for message in town.ada.messages) == 1


async def test_a_mail_without_protected_headers_is_posted_with_a_remark(town: Town) -> None:
    text = "My program protects no headers."
    message = town.boris.person.seal(entity(text), town.boris.list_key)
    await town.boris.hand_over(town.boris.wrap(message))
    shown = await town.ada.wait_for(text)
    assert "does not say which list it was written for" in shown.body


async def test_what_was_signed_for_another_list_is_refused_and_its_signer_is_told_whoever_sent_it(town: Town) -> None:
    text = "Meant for another list."
    head = b"To: other@lists.example\r\n"
    inside = head + entity(text).replace(b"charset=utf-8", b'charset=utf-8; protected-headers="v1"')
    message = town.boris.person.seal(inside, town.boris.list_key)
    await town.chen.hand_over(town.chen.wrap(message))
    await town.boris.receive("it was signed for other addresses")
    assert await nothing_passed(town, text)
    assert not town.chen.has("it was signed for other addresses")


async def test_a_broken_mail_is_refused_and_the_next_one_passes(town: Town) -> None:
    text = "Cut in the middle."
    message = town.boris.person.seal(entity(text), town.boris.list_key)
    broken = message[: len(message) // 2] + b"\n-----END PGP MESSAGE-----\n"
    await town.boris.hand_over(town.boris.wrap(broken))
    await town.boris.receive("its encryption is damaged")
    assert await nothing_passed(town, text)


async def test_a_message_in_clear_in_the_room_is_not_passed_on_and_its_author_is_told(town: Town) -> None:
    text = "My client forgot to encrypt."
    await town.ada.send_in_clear(town.room, "m.room.message", {"msgtype": "m.text", "body": text})
    await town.ada.wait_for("was not encrypted, so it was not passed on")
    assert await nothing_passed(town, text)


async def test_an_event_that_stays_unreadable_is_told_about_in_the_room_once(town: Town) -> None:
    sealed = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "sender_key": town.ada.curve25519,
        "device_id": town.ada.device_id,
        "session_id": "bm8gc3VjaCBzZXNzaW9uIG5vIHN1Y2ggc2Vzc2lvbiE",
        "ciphertext": "AwgAEhAAAAAAAAAAAAAAAAAAAAAA",
    }
    for _ in range(3):
        await town.ada.send_in_clear(town.room, "m.room.encrypted", sealed)
    await town.ada.wait_for("I can't read a message in this room yet")
    await asyncio.sleep(2)
    assert sum("I can't read a message" in message.body for message in town.ada.messages) == 1


async def test_a_ghost_device_in_a_members_account_gets_no_key_and_the_room_goes_on(town: Town) -> None:
    async with await town.ada.unsigned_device() as ghost:
        text = "Only for devices that Ada signed."
        await town.boris.write("Ghosts", text)
        await town.ada.wait_for(text)
        await town.ada.wait_for(f"The device {ghost.device_id} of {town.ada.user_id} is not verified")
        event_id = (await town.ada.wait_for(text)).event_id
        assert (await ghost.wait_unreadable(event_id)).reason == "withheld:m.unverified"
        assert not any(text in message.body for message in ghost.messages)


async def test_a_member_whose_identity_changed_gets_nothing_until_the_operator_accepts_it(town: Town) -> None:
    async with await Responder.create(town.synapse, "grace") as grace:
        await town.operator("contact", "add", "Grace Hopper", "--matrix", grace.user_id)
        await town.operator("member", "add", GROUP, "Grace Hopper", "--by", "room")
        await grace.accept_invite(town.room)
        known, changed, accepted = "Grace reads this.", "Grace does not read this.", "Grace reads again."
        await town.boris.write("One", known)
        await grace.wait_for(known)
        await grace.reset_identity()
        await town.boris.write("Two", changed)
        event_id = (await town.ada.wait_for(changed)).event_id
        await town.ada.wait_for(f"The Matrix identity of {grace.user_id} is not the one that was known")
        await grace.wait_unreadable(event_id)
        await town.operator("identity", "accept", grace.user_id)
        await town.boris.write("Three", accepted)
        await grace.wait_for(accepted)


async def test_mail_to_a_member_without_a_usable_key_is_held_and_goes_out_when_there_is_one(town: Town) -> None:
    dora = town.mail_member("Dora Nagy", "dora@dns.example")
    dora.learn_list_key(town.boris.list_key)
    await town.operator("contact", "add", dora.name, "--mail", dora.address)
    await town.operator("member", "add", GROUP, dora.name, "--by", "mail")
    text = "Dora must read this as soon as she can."
    await town.ada.say(town.room, text)
    await town.ada.wait_for("Dora Nagy has no key that is valid now")
    assert not [mail for mail in town.sink.mails if dora.address in mail.recipients]
    await town.operator("contact", "set", dora.name, "--mail", dora.address, "--key", str(dora.key_file))
    letter = await dora.receive(text)
    assert (letter.signer, letter.session_keys) == (dora.list_fingerprint, 1)


async def test_a_removed_member_gets_nothing_more_and_may_write_nothing_more(town: Town) -> None:
    emil = town.mail_member("Emil Novak", "emil@cz.example")
    emil.learn_list_key(town.boris.list_key)
    await town.operator("contact", "add", emil.name, "--mail", emil.address, "--key", str(emil.key_file))
    await town.operator("member", "add", GROUP, emil.name, "--by", "mail")
    await town.ada.say(town.room, "Emil still reads this.")
    await emil.receive("Emil still reads this.")
    await town.operator("member", "remove", GROUP, emil.name)
    text = "Emil does not read this."
    await town.ada.say(town.room, text)
    await town.boris.receive(text)
    said = "Emil writes this in vain."
    await emil.write("Vain", said)
    assert await nothing_passed(town, said)
    assert not emil.has(text)


async def test_no_text_subject_or_file_name_reaches_a_log_or_a_file_in_clear(town: Town) -> None:
    canary = "canary-7d1f3a"
    await town.ada.say(town.room, f"{canary} in the room")
    await town.boris.receive(f"{canary} in the room")
    await town.boris.write(f"{canary} subject", f"{canary} by mail", files={f"{canary}.txt": canary.encode()})
    await town.ada.wait_for(f"{canary} by mail")
    await town.chen.receive(f"{canary} by mail")
    await town.ada.send_in_clear(town.room, "m.room.message", {"msgtype": "m.text", "body": f"{canary} in clear"})
    await town.bridge.stop()
    files = [path for path in town.bridge.directory.rglob("*") if path.is_file()]
    found = [path.name for path in files if canary.encode() in path.read_bytes()]
    await town.bridge.start()
    assert len(files) > 5
    assert found == []
