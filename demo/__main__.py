"""``python -m demo``: the bridge as its users see it, on a throw-away homeserver, mail relay and people.

Everything is set up by the same commands that an operator types. With ``--keep`` it stays up afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import shutil
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from demo.transcript import Transcript
from tests.parts.bridge import Refused
from tests.parts.messages import Message
from tests.parts.synapse import Synapse
from tests.parts.town import ADA, BORIS, CHEN, GROUP, Town

CAPTURE: Final = bytes(range(256)) * 64
"""16 KiB that stand for a packet capture."""
ZONE: Final = b"$ORIGIN example.\n@ 3600 IN SOA ns1 hostmaster 2026112201 7200 900 1209600 3600\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Demo:
    """The story, scene by scene."""

    def __init__(self, out: Transcript, town: Town) -> None:
        self.out = out
        self.town = town
        self.ada, self.boris, self.chen = town.ada, town.boris, town.chen
        self.room = ""

    async def set_up(self) -> None:
        """What the operator types."""
        self.out.scene("The operator sets the group up")
        self.room = await self.town.open_group()
        self.out.say(f"Ada accepts the invitation to the encrypted room {self.room}")

    async def room_to_list(self) -> None:
        """A message of the responder reaches both mail members, each with a key of their own."""
        out = self.out
        out.scene("A responder writes in the room; both mail members read it")
        text = "Our name servers get 40 Gbit/s of DNS floods since 02:50 UTC. Who else sees this?"
        out.say(f"Ada writes: {text}")
        await self.ada.say(self.room, text)
        for person in (self.boris, self.chen):
            letter = await person.receive(text)
            out.shown(f"{person.name} ({person.address})", f"Subject: {letter.subject}\n\n{letter.text}")
            out.check(f"{person.name} decrypted it with a key of their own", letter.session_keys == 1)
            signed = letter.signer == person.list_fingerprint
            out.check(f"it bears a good signature by the list's key {letter.signer}", signed)
            silent = letter.outer_is_silent([ADA, *BORIS, *CHEN, "floods"])
            out.check("the outside names no person and no subject", silent)

    async def list_to_room(self) -> None:
        """A mail reaches the room and the other member, and the answer finds its thread."""
        out = self.out
        out.scene("A mail member writes to the list; the room and the other member read it")
        text = "We see it too, from the same sources. Filter list follows."
        out.say(f"Boris mails: {text}")
        sent = await self.boris.write("Same flood here", text)
        shown = await self.ada.wait_for(text)
        out.shown("Ada (room)", shown.body)
        out.check("it came from the bridge's cross-signed device", shown.verified)
        out.check("the room names its author", BORIS[0] in shown.body)
        letter = await self.chen.receive(text)
        out.shown(f"{CHEN[0]} ({self.chen.address})", f"Subject: {letter.subject}\n\n{letter.text}")
        out.check("Chen has the list's good signature on it", letter.signer == self.chen.list_fingerprint)
        out.check("Boris gets no copy of his own mail", not self.boris.has(text))
        await self._answer_from_room(shown, sent)

    async def _answer_from_room(self, shown: Message, sent: str) -> None:
        out = self.out
        out.scene("A reply each way stays in its thread")
        text = "Thank you, Boris. I take the list at once."
        out.say(f"Ada answers Boris's message in the room: {text}")
        answered = await self.ada.say(self.room, text, reply_to=shown.event_id)
        boris_reads = await self.boris.receive(text)
        out.shown(
            BORIS[0], f"Subject: {boris_reads.subject}\nIn-Reply-To: {boris_reads.in_reply_to}\n\n{boris_reads.text}"
        )
        out.check("Boris's program files it under the mail he sent", sent in boris_reads.references)
        chen_reads = await self.chen.receive(text)
        original = await self.chen.receive("We see it too")
        out.check("Chen's program files it under the copy she got", original.message_id in chen_reads.references)
        answer = "I have the same filters running in Taipei."
        out.say(f"Chen answers by mail: {answer}")
        await self.chen.write(chen_reads.subject, answer, answers=chen_reads)
        in_room = await self.ada.wait_for(answer)
        out.shown("Ada (room)", in_room.body)
        out.check("the room shows it as a reply to Ada's message", in_room.reply_to == answered)

    async def files(self) -> None:
        """A file each way arrives unchanged."""
        out = self.out
        out.scene("A file each way")
        out.say(f"Ada sends flood.pcap, SHA-256 {sha256(CAPTURE)}")
        await self.ada.send_file(self.room, "flood.pcap", CAPTURE, "application/vnd.tcpdump.pcap")
        for person in (self.boris, self.chen):
            letter = await person.receive_file("flood.pcap")
            got = sha256(letter.files["flood.pcap"])
            out.check(f"{person.name} has flood.pcap, SHA-256 {got}", got == sha256(CAPTURE))
        out.say(f"Boris mails filters.zone, SHA-256 {sha256(ZONE)}")
        await self.boris.write("Filters", "As promised.", files={"filters.zone": ZONE})
        message = await self.ada.wait_for(lambda m: m.file is not None and m.body == "filters.zone")
        got = sha256(await self.ada.fetch(message))
        out.check(f"Ada has filters.zone, SHA-256 {got}", got == sha256(ZONE))
        letter = await self.chen.receive_file("filters.zone")
        out.check("Chen has the same file", sha256(letter.files["filters.zone"]) == sha256(ZONE))

    async def wire(self) -> None:
        """Nothing in clear went through the room."""
        self.out.scene("What the homeserver saw")
        kinds = {
            e["type"]
            for e in self.town.synapse.stored_events(self.room)
            if not e["type"].startswith("m.room.") or "state_key" not in e
        }
        self.out.check(f"in the room, besides its settings, only {sorted(kinds)}", kinds == {"m.room.encrypted"})


async def play(directory: Path, *, keep: bool) -> int:
    out = Transcript()
    out.scene("Starting a throw-away homeserver, a mail sink and the bridge")
    with Synapse(directory / "synapse") as synapse:
        async with AsyncExitStack() as closing:
            town = await Town.build(closing, synapse, narrate=out.say)
            out.say(f"Synapse at {synapse.url}; the bridge takes mail at 127.0.0.1:{town.bridge.mail_port}")
            try:
                await tell(Demo(out, town))
            except (TimeoutError, Refused) as error:
                out.check(f"the story came to its end ({error!r})", held=False)
                out.shown("Who mends it (the end of the bridge's log)", "\n".join(town.bridge.log.splitlines()[-25:]))
            if keep:
                await stay(out, town)
    return out.close()


async def tell(demo: Demo) -> None:
    """The story from beginning to end."""
    await demo.set_up()
    await demo.room_to_list()
    await demo.list_to_room()
    await demo.files()
    await demo.wire()


async def stay(out: Transcript, town: Town) -> None:
    """Keep everything up until Ctrl-C, and say how to look at it."""
    out.scene("Kept running")
    you = await asyncio.to_thread(town.synapse.new_account, "you")
    await town.operator("contact", "add", "You", "--matrix", you.user_id)
    await town.operator("member", "add", GROUP, "You", "--by", "room")
    out.say(f"Log in with Element (desktop): homeserver {town.synapse.url}, user {you.name}, password {you.password}")
    out.say("Let Element set up recovery (that signs your device), accept the invitation, and write.")
    out.say(f"What an operator can ask: secir --config {town.bridge.config_file} group show {GROUP}")
    out.say("Press Ctrl-C to stop.")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    out.say("Stopping.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="stay up afterwards and say how to log in")
    arguments = parser.parse_args()
    logging.getLogger("nio").setLevel(logging.CRITICAL)  # Ada's library talks of keys that are on their way
    directory = Path(tempfile.mkdtemp(prefix="secir-"))
    try:
        return asyncio.run(play(directory, keep=arguments.keep))
    except KeyboardInterrupt:
        return 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
