"""What the bot remembers for itself: secrets, identities, notices, the audit record."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from storage import schema
from storage.database import Database
from storage.records import AuditEntry
from storage.store import Store
from tests.parts.databases import SECRET, PostgresServer, SqliteFiles
from tests.storage import given
from tests.storage.given import NOON
from trust.errors import AlreadyThere, SecretUnreadable

CANARY = b"syt_canary_access_token"


async def test_a_secret_comes_back_and_the_last_one_put_wins(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.secrets.get("matrix/login") is None
        await tx.secrets.put("matrix/login", b"old")
        await tx.secrets.put("matrix/login", CANARY)
        await tx.secrets.put("empty", b"")
        assert CANARY == await tx.secrets.get("matrix/login")
        assert b"" == await tx.secrets.get("empty")


async def test_a_secret_does_not_open_with_another_key(database: Database, url: str) -> None:
    async with database.transaction() as tx:
        await tx.secrets.put("matrix/login", CANARY)
    stranger = Database(url, b"\xff" * 32)
    with pytest.raises(SecretUnreadable) as refusal:
        async with stranger.transaction() as tx:
            await tx.secrets.get("matrix/login")
    await stranger.close()
    assert {"name": "matrix/login"} == refusal.value.params


@pytest.mark.parametrize("box", [b"", b"short", b"\x00" * 40])
async def test_a_damaged_secret_is_refused(database: Database, box: bytes) -> None:
    async with database.transaction() as tx:
        await tx.secrets.put("matrix/login", CANARY)
        await tx.secrets._connection.execute(update(schema.secrets).values(box=box))
        with pytest.raises(SecretUnreadable):
            await tx.secrets.get("matrix/login")


async def test_a_secret_put_in_anothers_place_is_refused(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.secrets.put("matrix/seeds", CANARY)
        await tx.secrets._connection.execute(update(schema.secrets).values(name="matrix/login"))
        with pytest.raises(SecretUnreadable):
            await tx.secrets.get("matrix/login")


async def test_a_secret_is_never_in_clear_on_disk(sqlite: SqliteFiles, tmp_path: Path) -> None:
    database = Database(sqlite.migrated(tmp_path), SECRET)
    async with database.transaction() as tx:
        await tx.secrets.put("matrix/login", CANARY)
    while_open = bytes_in(tmp_path)
    await database.close()
    for content in (while_open, bytes_in(tmp_path)):
        assert b"matrix/login" in content
        assert CANARY not in content


def bytes_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_a_secret_is_never_in_clear_in_a_dump(postgres: PostgresServer) -> None:
    url = postgres.migrated()
    database = Database(url, SECRET)
    async with database.transaction() as tx:
        await tx.secrets.put("matrix/login", CANARY)
    await database.close()
    dumped = postgres.query("SELECT name, encode(box, 'escape') FROM secrets", database=url)
    assert dumped.startswith("matrix/login|")
    assert CANARY.decode() not in dumped


async def test_the_first_identity_seen_is_pinned_until_somebody_decides(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.identities.pinned("@ada:hs") is None
        await tx.identities.pin("@ada:hs", "master one", "first-seen", NOON)
        await tx.identities.pin("@ada:hs", "master one", "first-seen", NOON)
        with pytest.raises(AlreadyThere):
            await tx.identities.pin("@ada:hs", "master two", "first-seen", NOON)
        assert "master one" == await tx.identities.pinned("@ada:hs")
        await tx.identities.repin("@ada:hs", "master two", "verified", NOON)
        assert ("master two", "verified") == (
            await tx.identities.pinned("@ada:hs"),
            await tx.identities.level("@ada:hs"),
        )


async def test_a_notice_is_told_once_or_again_after_a_while(database: Database) -> None:
    day = timedelta(days=1)
    async with database.transaction() as tx:
        assert await tx.notices.first("no-key/7", NOON)
        assert not await tx.notices.first("no-key/7", NOON + 100 * day)
        assert not await tx.notices.first("no-key/7", NOON + day / 2, again_after=day)
        assert await tx.notices.first("no-key/7", NOON + day, again_after=day)
        assert not await tx.notices.first("no-key/7", NOON + 1.5 * day, again_after=day)
        assert await tx.notices.first("no-key/8", NOON)


async def test_a_notice_whose_transaction_failed_was_not_told(database: Database) -> None:
    async def fail(tx: Store) -> None:
        assert await tx.notices.first("no-key/7", NOON)
        raise KeyError("killed")

    with pytest.raises(KeyError):
        async with database.transaction() as tx:
            await fail(tx)
    async with database.transaction() as tx:
        assert await tx.notices.first("no-key/7", NOON)


async def test_the_audit_record_is_read_newest_first_per_group(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        await tx.audit.add(NOON, "started")
        await tx.audit.add(NOON, "member.added", group=group.id, actor="operator", subject="7", detail="mail")
        await tx.audit.add(NOON, "member.removed", group=group.id)
        assert ["member.removed", "member.added"] == [e.action for e in await tx.audit.recent(group.id, 10)]
        assert ["started"] == [entry.action for entry in await tx.audit.recent(None, 10)]
        entry = (await tx.audit.recent(group.id, 2))[1]
    assert AuditEntry(NOON, "member.added", group.id, "operator", "7", "mail") == entry
