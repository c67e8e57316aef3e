"""What of an event is kept."""

from __future__ import annotations

from bridges.matrix.sync import without_words


def test_what_a_message_in_clear_says_is_never_kept() -> None:
    event = {
        "type": "m.room.message",
        "event_id": "$1",
        "sender": "@ada:x.test",
        "content": {"msgtype": "m.text", "body": "in clear", "formatted_body": "<b>in clear</b>"},
        "unsigned": {"m.relations": {"m.replace": {"content": {"body": "in clear"}}}},
    }
    kept = without_words(event)
    assert "in clear" not in str(kept)
    assert kept["content"] == {"msgtype": "m.text"}


def test_an_encrypted_event_is_kept_as_it_came() -> None:
    event = {"type": "m.room.encrypted", "event_id": "$1", "sender": "@ada:x.test", "content": {"ciphertext": "AwgA"}}
    assert without_words(event) is event
