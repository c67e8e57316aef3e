"""A backup that is put back: the bridge works on, and nothing that went out since goes out again (P12, K-12)."""

from __future__ import annotations

import shutil

import pytest

from tests.parts.bridge import Refused
from tests.parts.town import BORIS, GROUP, Town

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_what_waited_in_a_backup_is_not_sent_again_and_the_bridge_works_on(town: Town) -> None:
    data, backup = town.bridge.directory / "data", town.bridge.directory / "backup"
    town.sink.replies[BORIS[1]] = "451 4.3.0 later"
    await town.ada.say(town.room, "Before the backup.")
    await town.chen.receive("Before the backup.")
    await town.bridge.stop()
    shutil.copytree(data, backup)

    town.sink.replies.clear()
    await town.bridge.start()
    await town.boris.receive("Before the backup.")
    await town.ada.say(town.room, "After the backup.")
    await town.boris.receive("After the backup.")
    await town.chen.receive("After the backup.")
    await town.bridge.stop()

    shutil.rmtree(data)
    backup.rename(data)
    with pytest.raises(Refused, match="secir db restored"):
        await town.bridge.cli("run")
    said = await town.bridge.cli("db", "restored")
    assert "secir queue" in said
    await town.bridge.start()
    await town.chen.write("Here again", "After the restoring, by mail.")
    await town.ada.wait_for("After the restoring, by mail.")  # so it reads the room again, too
    await town.ada.say(town.room, "After the restoring.")
    await town.boris.receive("After the restoring.")

    texts = [letter.text for letter in town.boris.letters()]
    assert [sum(text in letter for letter in texts) for text in ("Before the backup.", "After the backup.")] == [1, 1]
    assert "restored" in await town.bridge.cli("queue", "list", GROUP)
