"""How the database is opened, checked and upgraded, and what a transaction keeps."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from storage import database as database_module
from storage import schema, versions
from storage.database import Database
from storage.store import Store
from tests.parts.databases import SECRET, PostgresServer, SqliteFiles
from tests.parts.ports import free_port
from tests.storage import given
from trust.errors import AnotherInstance, BadValue, SchemaOutdated, SchemaTooNew, StoreAway, StoreFull
from trust.records import OrganisationId


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def engine_of(database: Database) -> AsyncEngine:
    return database._engine


async def test_an_empty_database_is_refused_until_it_is_upgraded(empty_url: str) -> None:
    database = Database(empty_url, SECRET)
    with pytest.raises(SchemaOutdated) as refusal:
        await database.open()
    assert {"found": "none", "wanted": versions.newest()} == refusal.value.params
    await database.upgrade()
    await database.open()
    await database.close()


async def test_refusing_a_missing_file_does_not_make_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'missing.db'}", SECRET)
    with pytest.raises(SchemaOutdated):
        await database.open()
    assert [] == files_in(tmp_path)


async def test_a_database_of_a_newer_program_is_refused_and_not_touched(database: Database) -> None:
    async with engine_of(database).begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew):
        await database.open()
    with pytest.raises(SchemaTooNew):
        await database.upgrade()


async def test_an_upgrade_keeps_what_is_there_and_may_be_run_again(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.organisations.add("nl", "SIDN")
    await database.upgrade()
    async with database.transaction() as tx:
        assert await tx.organisations.by_ident("nl") is not None


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_after_the_tables(connection: Connection) -> None:
        run(connection)
        raise OSError("the power went")

    run = versions.upgrade
    monkeypatch.setattr(versions, "upgrade", fail_after_the_tables)
    database = Database(empty_url, SECRET)
    with pytest.raises(StoreAway):
        await database.upgrade()
    async with engine_of(database).connect() as connection:
        assert [] == await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await database.close()


async def test_the_migrations_and_the_tables_in_code_agree(url: str, empty_url: str) -> None:
    migrated, created = Database(url, SECRET), Database(empty_url, SECRET)
    async with engine_of(created).begin() as connection:
        await connection.run_sync(schema.metadata.create_all)
        wanted = await connection.run_sync(described)
    async with engine_of(migrated).connect() as connection:
        found = await connection.run_sync(described)
    await migrated.close()
    await created.close()
    assert wanted == found


def described(connection: Connection) -> dict[str, Any]:
    """All that the database says of its tables, in no order."""
    inspector = inspect(connection)
    return {
        table: one_described(connection, table) for table in inspector.get_table_names() if table in schema_tables()
    }


def schema_tables() -> set[str]:
    return set(schema.metadata.tables)


def one_described(connection: Connection, table: str) -> dict[str, Any]:
    inspector = inspect(connection)
    return {
        "columns": [{**column, "type": repr(column["type"])} for column in inspector.get_columns(table)],
        "primary key": inspector.get_pk_constraint(table),
        "foreign keys": sorted(map(repr, inspector.get_foreign_keys(table))),
        "unique": sorted(map(repr, inspector.get_unique_constraints(table))),
        "checks": sorted(map(repr, inspector.get_check_constraints(table))),
        "indexes": sorted(index_described(index) for index in inspector.get_indexes(table)),
        "options": inspector.get_table_options(table),
    }


def index_described(index: Any) -> str:
    conditions = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return repr({**index, "dialect_options": conditions})


async def test_ids_are_not_used_again(database: Database) -> None:
    async with database.transaction() as tx:
        group = await given.group(tx)
        post = await given.post(tx, group)
        member = await given.member(tx, group, "Ada")
        first = await given.delivery(tx, post, member.id)
        await tx.deliveries.drop_for(member.id)
        second = await given.delivery(tx, post, member.id)
    assert first < second


async def test_what_is_raised_in_a_transaction_undoes_it_and_comes_out(database: Database) -> None:
    async def fail(tx: Store) -> None:
        await tx.organisations.add("nl", "SIDN")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with database.transaction() as tx:
            await fail(tx)
    async with database.transaction() as tx:
        assert [] == await tx.organisations.all()


async def test_a_cancelled_transaction_is_undone_and_the_next_one_works(database: Database) -> None:
    started = asyncio.Event()

    async def hang() -> None:
        async with database.transaction() as tx:
            await tx.organisations.add("nl", "SIDN")
            started.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(hang())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.transaction() as tx:
        assert [] == await tx.organisations.all()


async def test_many_transactions_at_once_all_get_their_turn(database: Database) -> None:
    async def add(number: int) -> None:
        async with database.transaction() as tx:
            await tx.organisations.add(f"x{number}", "Registry")

    await asyncio.gather(*(add(number) for number in range(50)))
    async with database.transaction() as tx:
        assert 50 == len(await tx.organisations.all())


async def test_an_error_of_the_database_shows_no_parameters(database: Database) -> None:
    with pytest.raises(IntegrityError) as failure:
        async with database.transaction() as tx:
            await tx.contacts.add("a canary", OrganisationId(99))
    assert "a canary" not in str(failure.value)


async def test_a_server_that_does_not_answer_is_away() -> None:
    database = Database(f"postgresql://nobody@127.0.0.1:{free_port()}/none", SECRET)
    for attempt in (database.open(), database.upgrade(), look(database)):
        with pytest.raises(StoreAway):
            await attempt
    await database.close()


async def look(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.groups.all()


async def test_a_folder_that_is_not_there_is_away(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/no/such/folder/secir.db", SECRET)
    with pytest.raises(StoreAway):
        await database.upgrade()


async def test_a_database_that_is_not_there_on_a_server_is_away(postgres: PostgresServer) -> None:
    database = Database(postgres.empty() + "_gone", SECRET)
    with pytest.raises(StoreAway):
        await database.open()
    await database.close()


async def test_a_connection_that_broke_is_replaced(postgres: PostgresServer) -> None:
    url = postgres.migrated()
    database = Database(url, SECRET)
    await database.open()
    cut_off(postgres, url)
    async with database.transaction() as tx:
        assert [] == await tx.groups.all()
    await database.close()


async def test_a_connection_that_breaks_in_a_transaction_is_an_outage(postgres: PostgresServer) -> None:
    url = postgres.migrated()
    database = Database(url, SECRET)

    async def be_cut_off() -> None:
        async with database.transaction() as tx:
            await tx.groups.all()
            cut_off(postgres, url)
            await tx.organisations.add("nl", "SIDN")

    with pytest.raises(StoreAway):
        await be_cut_off()
    await database.close()


def cut_off(server: PostgresServer, url: str) -> None:
    """End all connections to a database but our own."""
    server.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        database=url,
    )


async def test_a_locked_sqlite_file_is_away_after_the_timeout(
    sqlite: SqliteFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "PRAGMAS", ("PRAGMA busy_timeout = 50",))
    url = sqlite.migrated(tmp_path)
    database = Database(url, SECRET)
    await database.open()
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreAway):
        async with database.transaction():
            pass
    other.execute("ROLLBACK")
    async with database.transaction() as tx:
        assert [] == await tx.groups.all()
    other.close()
    await database.close()


async def test_sqlite_writes_safely_and_for_our_eyes_only(tmp_path: Path) -> None:
    path = tmp_path / "secir.db"
    path.touch(0o644)
    database = Database(f"sqlite:///{path}", SECRET)
    await database.upgrade()
    await database.open()
    async with engine_of(database).connect() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        found = {name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in names}
        modes = {stat.S_IMODE(file.stat().st_mode) for file in files_in(tmp_path)}
    await database.close()
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 10_000}
    assert wanted == found
    assert {0o600} == modes


@pytest.mark.parametrize(
    "url", ["", "secir.db", "sqlite://", "sqlite:///:memory:", "mysql://host/db", "postgresql://h"]
)
def test_a_url_that_names_no_database_we_speak_is_refused(url: str) -> None:
    with pytest.raises(BadValue):
        Database(url, SECRET)


def test_a_refused_url_is_not_repeated() -> None:
    with pytest.raises(BadValue) as refusal:
        Database("postgresql://me:hunter2@host:port/db", SECRET)
    assert "hunter2" not in repr((refusal.value.params, refusal.value.__cause__))


def test_the_sslmode_of_libpq_is_understood() -> None:
    database = Database("postgresql://me@host/db?sslmode=verify-full", SECRET)
    assert {"ssl": "verify-full"} == dict(engine_of(database).url.query)


def test_a_secret_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Database("sqlite:///secir.db", b"short")


# --- one bridge at a time --------------------------------------------------------------------------------------------


async def test_a_second_bridge_on_the_same_postgresql_database_is_refused(
    postgres_pair: tuple[Database, Database],
) -> None:
    here, there = postgres_pair
    await here.hold()
    with pytest.raises(AnotherInstance):
        await there.hold()
    await here.close()
    await there.hold()


async def test_a_bridge_that_lost_its_connection_holds_the_database_again_unless_another_came(
    postgres_pair: tuple[Database, Database], postgres: PostgresServer
) -> None:
    here, there = postgres_pair
    await here.hold()
    await here.hold()
    postgres.query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    await here.hold()
    postgres.query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    await there.hold()
    with pytest.raises(AnotherInstance):
        await here.hold()


async def test_a_database_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(
    sqlite: SqliteFiles, tmp_path: Path
) -> None:
    url = sqlite.migrated(tmp_path)
    database = Database(url, SECRET)
    async with database.transaction() as tx:
        await given.group(tx)
        (pages,) = await tx.groups._connection.exec_driver_sql("PRAGMA page_count")  # as if the disk ended here
        await tx.groups._connection.exec_driver_sql(f"PRAGMA max_page_count = {pages[0]}")
    with pytest.raises(StoreFull):
        async with database.transaction() as tx:
            await tx.mails.take_in((await tx.groups.all())[0].id, bytes(100_000), given.NOON)
    async with database.transaction() as tx:
        await tx.groups._connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    async with database.transaction() as tx:
        assert await tx.mails.take_in((await tx.groups.all())[0].id, bytes(100_000), given.NOON) is not None
    await database.close()
