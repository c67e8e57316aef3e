"""The parts themselves: what they let through and what they keep out must hold before they can judge the bot."""

from __future__ import annotations

from tests.parts.responder import Responder
from tests.parts.synapse import Synapse


async def test_two_responders_talk_in_an_encrypted_room(synapse: Synapse) -> None:
    async with await Responder.create(synapse, "ada") as ada, await Responder.create(synapse, "ben") as ben:
        room_id = await ada.create_room(ben.user_id, name="testbed")
        assert room_id == await ben.accept_invite()
        question = await ada.say(room_id, "Phishing on bank.example")
        heard = await ben.wait_for("Phishing")
        assert (question, ada.user_id, True) == (heard.event_id, heard.sender, heard.verified)
        await ben.say(room_id, "Seen here too", reply_to=question)
        assert question == (await ada.wait_for("Seen here")).reply_to
        await ben.say(room_id, "Taking it down", thread=question)
        assert question == (await ada.wait_for("Taking it")).thread
        assert not ada.undecryptable and not ada.faults
        assert {"m.room.encrypted"} == {e["type"] for e in synapse.stored_events(room_id) if "state_key" not in e}
