"""``secir identity``: the bot's login and its cross-signing identity."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bot import parts
from bot.cli import desk, lookup
from bot.cli.command import Call
from bot.config import Config
from bot.credentials import MATRIX
from bot.phrases import Phrases
from bridges.matrix import chain, crosssigning
from bridges.matrix.session import Session
from storage.database import Database
from trust.errors import (
    BadValue,
    DeviceKeysDiffer,
    IdentityMissing,
    IdentityThere,
    LoginLost,
    NoIdentity,
    NoSuchContact,
    RecoveryKeyWrong,
    SecirError,
)

MAX_BYTES: Final = 4096
ACCEPTED: Final = "accepted"
"""The level of a pin that the operator confirmed."""


async def create(call: Call) -> None:
    settings = desk.settings(call)
    with parts.alone(settings):
        async with desk.database(call) as database:
            there = await _seeds(database) is not None
            if there and not call.words.new_recovery_key:
                raise IdentityThere
            if call.words.new_recovery_key and not there:
                raise IdentityMissing
            recovery_key = await _create(call, settings, database)
    call.console.note(
        "The bot's identity is ready. This is its recovery key, shown only now:",
        "",
    )
    call.console.say(recovery_key)
    call.console.note(
        "",
        "Write it down and keep it in a safe place, apart from this machine.",
        "Whoever has it and the account's password can pretend to be the bot. Without it, a lost machine means a new",
        "identity, which every member must verify again.",
        "Next: secir group create",
    )


async def _create(call: Call, settings: Config, database: Database) -> str:
    password = _password(call, settings)
    session = await _login(call, settings, database, password)
    try:
        with call.console.step("Publishing the bot's keys"):
            await session.publish_keys()
            return await crosssigning.create(session, database, password)
    finally:
        await session.close()


async def restore(call: Call) -> None:
    settings = desk.settings(call)
    recovery_key = _read_recovery_key(call.words.recovery_key_file)
    with parts.alone(settings):
        async with desk.database(call) as database:
            session = await _sound_login(call, settings, database)
            try:
                with call.console.step("Fetching the bot's identity"):
                    await crosssigning.restore(session, database, recovery_key)
            finally:
                await session.close()
    call.console.say("The bot's identity is here again, and its device is signed.", "Next: secir check")


def _read_recovery_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("ascii").strip()
    except OSError as error:
        raise BadValue(what=f"The file {path}", example="--recovery-key-file recovery.key") from error
    except UnicodeDecodeError as error:
        raise RecoveryKeyWrong from error


def _password(call: Call, settings: Config) -> str:
    given = settings.credentials.matrix_password
    return given or call.console.ask_secret(MATRIX.variable, f"Password of {settings.matrix.user_id}")


async def _login(call: Call, settings: Config, database: Database, password: str) -> Session:
    """The login that is there, or a new one."""
    matrix = parts.matrix_settings(settings)
    with call.console.step("Logging in"):
        try:
            return await Session.resume(matrix, database)
        except IdentityMissing:
            return await Session.log_in(matrix, database, password)


async def _sound_login(call: Call, settings: Config, database: Database) -> Session:
    """The login that is there if the homeserver still honours it and its keys are whole; otherwise a new one."""
    matrix = parts.matrix_settings(settings)
    with call.console.step("Looking for a login"):
        session = None
        try:
            session = await Session.resume(matrix, database)
            await session.publish_keys()
        except (IdentityMissing, DeviceKeysDiffer, LoginLost):
            if session is not None:
                await session.close()
        else:
            return session
    password = _password(call, settings)
    with call.console.step("Logging in"):
        session = await Session.log_in(matrix, database, password)
        await session.publish_keys()
    return session


async def show(call: Call) -> None:
    settings = desk.settings(call)
    async with desk.database(call) as database:
        seeds = await _seeds(database)
        if seeds is None:
            raise IdentityMissing
        session = await Session.resume(parts.matrix_settings(settings), database)
        try:
            with call.console.step("Asking the homeserver"):
                state = await _state(session, database)
        finally:
            await session.close()
    facts = {"user_id": session.user_id, "device_id": session.device_id, "identity": seeds.public("master")}
    if call.words.json:
        call.console.as_json({**facts, "state": state})
        return
    call.console.facts(
        ("Matrix id", facts["user_id"]),
        ("device", facts["device_id"]),
        ("identity", f"{facts['identity']} (master key)"),
        ("state", state),
    )


async def accept(call: Call) -> None:
    """Pin the identity that the homeserver shows now."""
    user = lookup.matrix_id(call.words.user)
    async with desk.database(call) as database:
        async with database.transaction() as tx:
            if not await tx.contacts.find(user):
                raise NoSuchContact(contact=user)
            before = await tx.identities.pinned(user)
        master = await _shown(call, database, user)
        async with database.transaction() as tx:
            await tx.identities.repin(user, master, ACCEPTED, desk.now())
            await tx.audit.add(desk.now(), "identity.accepted", actor="operator", subject=user, detail=master)
    call.console.facts(("member", user), ("before", before or "none"), ("now", f"{master} (master key)"))
    call.console.say("", "The bridge gives this account the next messages.")


async def _shown(call: Call, database: Database, user: str) -> str:
    session = await Session.resume(parts.matrix_settings(desk.settings(call)), database)
    try:
        with call.console.step("Asking the homeserver"):
            answer = await session.api.request("POST", "keys", "query", body={"device_keys": {user: []}})
    finally:
        await session.close()
    found = chain.identity(answer, user)
    if found is None:
        raise NoIdentity(user=user)
    return found.master


async def _state(session: Session, database: Database) -> str:
    try:
        await crosssigning.ensure(session, database)
    except SecirError as error:
        return Phrases.load().explain(error)
    return "sound: the device is signed by the identity, and the homeserver shows the same"


async def _seeds(database: Database) -> crosssigning.Seeds | None:
    async with database.transaction() as tx:
        packed = await tx.secrets.get(crosssigning.SECRET)
    return None if packed is None else crosssigning.Seeds.unpack(packed)
