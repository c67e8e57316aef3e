"""A disk that is full, or nearly: mail is put off with a proper reply, and what was taken is whole."""

from __future__ import annotations

import asyncio
import smtplib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
import pytest_asyncio
import yaml

from tests.parts.disk import SmallDisk, small_disk
from tests.parts.ports import LOOPBACK
from tests.parts.synapse import Synapse
from tests.parts.town import LIST, Town
from tests.parts.traffic import Writer, arrived_once_in_order, heard, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEGABYTES: Final = 32
LEFT_KB: Final = 256
"""Free when the filler is there: for some mails and no more."""
MAIL_OCTETS: Final = 50_000
FULL_AT_MOST: Final = 40.0
REFUSALS: Final = 4
"""So many answers that are no 250, then room is made."""
SOON: Final = 45.0
"""Seconds in which everything must be there once there is room."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def disk() -> AsyncIterator[SmallDisk]:
    with small_disk(MEGABYTES) as mounted:
        yield mounted


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(synapse: Synapse, disk: SmallDisk) -> AsyncIterator[Town]:
    """All that it keeps is on the small disk, and it takes mail to the last octet."""
    settings = {"data_dir": str(disk.path), "database": {}, "limits": {"min_free_mb": 0}}
    async with AsyncExitStack() as closing:
        built = await Town.build(closing, synapse, settings=settings)
        await built.open_group()
        yield built


async def test_a_disk_that_fills_up_under_load_puts_mail_off_and_loses_none_that_was_taken(
    town: Town, disk: SmallDisk
) -> None:
    async with (
        Writer(town.boris, "full", every=0.1, size=MAIL_OCTETS) as boris,
        Writer(town.chen, "full", every=0.1, size=MAIL_OCTETS) as chen,
    ):
        assert await until(lambda: min(len(boris.written), len(chen.written)) > 1, most=20)
        disk.fill(leave_kb=LEFT_KB)
        assert await until(lambda: len(boris.refused) + len(chen.refused) >= REFUSALS, most=FULL_AT_MOST)
        await town.ada.say(town.room, "[said while it was full]")
        await asyncio.sleep(3)
        disk.free()
    refused = [*boris.refused, *chen.refused]
    await arrived_once_in_order(town, boris, chen, within=SOON)
    for writer, reader in ((boris, town.chen), (chen, town.boris)):
        letters = [letter for letter in reader.letters() if heard(writer.texts, [letter.text])]
        assert {len(letter.files["padding.bin"]) for letter in letters} == {MAIL_OCTETS}
    await town.boris.receive("[said while it was full]", timeout=SOON)
    said = sorted({f"{answer.code} {answer.said[:5]}" for answer in refused})
    print(f"{len(boris.written) + len(chen.written)} mails taken, {len(refused)} put off: {said}")  # noqa: T201
    assert set(said) <= {"452 4.3.1", "451 4.3.0"}
    with sqlite3.connect(disk.path / "secir.db") as looked_at:
        assert looked_at.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    looked_at.close()
    assert "worker.unexpected" not in town.bridge.log


def _rcpt(port: int) -> tuple[int, bytes]:
    with smtplib.SMTP(LOOPBACK, port, local_hostname="client.test", timeout=30) as smtp:
        smtp.ehlo()
        smtp.mail("boris@registry.example")
        return smtp.rcpt(LIST)


async def test_with_less_free_than_the_operator_wants_mail_is_put_off_before_it_is_sent(
    town: Town, disk: SmallDisk
) -> None:
    settings = yaml.safe_load(town.bridge.config_file.read_text())
    settings["limits"]["min_free_mb"] = MEGABYTES // 4
    await town.bridge.stop()
    town.bridge.config_file.write_text(yaml.safe_dump(settings))
    await town.bridge.start()
    text = "[room enough]"
    await town.boris.write("Room", text)
    await town.chen.receive(text)
    disk.fill(leave_kb=MEGABYTES * 1024 // 8)
    try:
        code, said = await asyncio.to_thread(_rcpt, town.mail_port)
    finally:
        disk.free()
    assert (code, said[:5]) == (452, b"4.3.1")
    await town.boris.write("Room", "[room again]")
    await town.chen.receive("[room again]")
