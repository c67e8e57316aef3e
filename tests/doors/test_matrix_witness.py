"""The homeserver tells a database that was put back from a backup, on a real Synapse."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridges.matrix.witness import TYPE, Witness
from storage.database import Database
from tests.parts.matrix_bot import Bot
from tests.parts.synapse import Synapse
from trust.errors import BackupRestored, HomeserverAway, HomeserverRefused


@pytest.fixture
async def bot(synapse: Synapse, tmp_path: Path) -> AsyncIterator[Bot]:
    """One whose database has synced before."""
    arrived = await Bot.arrive(synapse, tmp_path / "bot")
    async with arrived.database.transaction() as tx:
        await tx.events.take_in(arrived.account.user_id, "s1", [])
    yield arrived
    await arrived.close()


async def started(bot: Bot) -> Witness:
    witness = Witness(bot.session, bot.database)
    await witness.check()
    return witness


async def here(bot: Bot) -> int | None:
    async with bot.database.transaction() as tx:
        return await tx.witness.count(bot.account.user_id)


async def there(bot: Bot) -> object:
    return (await bot.session.api.request("GET", *place(bot)))["count"]


async def tell(bot: Bot, content: object) -> None:
    """What the homeserver has from now on."""
    await bot.session.api.request("PUT", *place(bot), body=content)


def place(bot: Bot) -> tuple[str, ...]:
    return "user", bot.account.user_id, "account_data", TYPE


async def test_database_and_homeserver_count_the_same(bot: Bot) -> None:
    witness = await started(bot)
    assert 0 == await here(bot)
    await witness.tick()
    await witness.tick()
    assert (2, 2) == (await here(bot), await there(bot))
    await started(bot)


async def test_a_database_from_a_backup_is_told_and_stays_told(bot: Bot, tmp_path: Path) -> None:
    witness = await started(bot)
    await witness.tick()
    await bot.database.close()
    shutil.copy(tmp_path / "bot-secir.db", tmp_path / "backup.db")
    await witness.tick()
    await bot.database.close()
    shutil.copy(tmp_path / "backup.db", tmp_path / "bot-secir.db")
    for _ in range(2):
        restored = Witness(bot.session, bot.database)
        with pytest.raises(BackupRestored):
            await restored.check()
        # By the clock it may be asked to tick all the same: that must not cover up what it found.
        await restored.tick()
        assert (1, 2) == (await here(bot), await there(bot))


async def test_a_crash_between_the_two_is_no_backup(bot: Bot) -> None:
    witness = await started(bot)
    async with bot.obstacle("user", error=HomeserverAway()):
        with pytest.raises(HomeserverAway):
            await witness.tick()
    assert 1 == await here(bot)
    witness = await started(bot)
    await witness.tick()
    assert (2, 2) == (await here(bot), await there(bot))


async def test_a_backup_from_before_the_first_count_is_told(bot: Bot) -> None:
    await tell(bot, {"count": 1})
    with pytest.raises(BackupRestored):
        await started(bot)


async def test_a_new_database_takes_the_homeservers_number(bot: Bot, tmp_path: Path) -> None:
    await tell(bot, {"count": 7})
    new = Database(f"sqlite:///{tmp_path}/new.db", b"s" * 32)
    await new.upgrade()
    await Witness(bot.session, new).check()
    async with new.transaction() as tx:
        assert 7 == await tx.witness.count(bot.account.user_id)
    await new.close()


async def test_a_backup_that_was_made_safe_goes_on_from_the_homeservers_number(bot: Bot) -> None:
    await tell(bot, {"count": 7})
    async with bot.database.transaction() as tx:
        await tx.witness.put(bot.account.user_id, 3)
        await tx.events.forget_position(bot.account.user_id)
        await tx.witness.forget(bot.account.user_id)
    witness = await started(bot)
    await witness.tick()
    assert (8, 8) == (await here(bot), await there(bot))


@pytest.mark.parametrize("content", [{}, {"count": "9"}, {"count": True}, {"count": -1}, {"count": None}])
async def test_what_is_no_number_counts_as_none(bot: Bot, content: object) -> None:
    await tell(bot, content)
    await started(bot)
    assert 0 == await here(bot)


@pytest.mark.parametrize("fault", [HomeserverAway(), HomeserverRefused(errcode="M_FORBIDDEN", status=403)])
async def test_without_an_answer_nothing_has_passed(bot: Bot, fault: Exception) -> None:
    witness = Witness(bot.session, bot.database)
    async with bot.obstacle("user", error=fault):
        with pytest.raises(type(fault)):
            await witness.check()
    await witness.tick()
    assert await here(bot) is None
