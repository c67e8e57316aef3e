"""``secir check``: is each part reachable and rightly set up? One line a part: ``ok``, or ``MEND`` and what to mend.

A part that others stand on comes before them; what can't be looked at because of that is left out, not guessed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from bot import parts
from bot.cli import desk
from bot.cli.command import FAULT, Call
from bot.config import Config
from bot.phrases import Phrases
from bridges.mail.incoming import ListenerSettings
from bridges.matrix import crosssigning
from bridges.matrix.api import Api
from bridges.matrix.session import Session
from bridges.openpgp.safe import GnuPGSafe
from storage.database import Database
from trust.errors import NoUsableKey, SecirError
from trust.keys import usable
from trust.members import readers_by_mail
from trust.records import Group

PASSWORD_LOGIN: Final = "m.login.password"  # noqa: S105 - the name of a protocol step
FREE_BYTES: Final = 500 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of one part. ``mend`` says what to do; empty if all is well."""

    part: str
    seen: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the checks look at. ``database`` is None where it could not be opened."""

    call: Call
    settings: Config
    running: bool
    database: Database | None = None
    groups: tuple[Group, ...] = ()


Check = Callable[[Inspection], AsyncIterator[Finding]]


async def check(call: Call) -> int:
    settings = desk.settings(call)
    _tell(call, Finding("configuration", str(settings.source)))
    wrong = 0
    async with AsyncExitStack() as stack:
        inspection, finding = await _look_at_database(call, settings, stack)
        _tell(call, finding)
        wrong += bool(finding.mend)
        for name, one in CHECKS:
            with call.console.step(f"Looking at {name}"):
                findings = await _findings(name, one, inspection)
            for finding in findings:
                _tell(call, finding)
                wrong += bool(finding.mend)
    call.console.say("", f"To be mended: {wrong}." if wrong else "All is well.")
    return FAULT if wrong else 0


def _tell(call: Call, finding: Finding) -> None:
    call.console.say(f"{'MEND' if finding.mend else 'ok  '}  {finding.part}: {finding.seen}")
    if finding.mend:
        call.console.say(f"      {finding.mend}")


async def _findings(name: str, one: Check, inspection: Inspection) -> list[Finding]:
    found = []
    try:
        async for finding in one(inspection):
            found.append(finding)
    except SecirError as error:
        found.append(_refused(name, error))
    return found


def _refused(part: str, error: SecirError) -> Finding:
    entry = Phrases.load().entry(error)
    return Finding(part, entry.what, entry.next)


async def _look_at_database(call: Call, settings: Config, stack: AsyncExitStack) -> tuple[Inspection, Finding]:
    running = settings.data_dir.is_dir() and parts.is_running(settings)
    kind = "PostgreSQL" if settings.database.url else f"SQLite, {parts.sqlite_file(settings)}"
    try:
        with call.console.step("Looking at the database"):
            database = await stack.enter_async_context(parts.open_database(settings))
            async with database.transaction() as tx:
                groups = tuple(await tx.groups.all())
    except SecirError as error:
        return Inspection(call, settings, running), _refused("database", error)
    return Inspection(call, settings, running, database, groups), Finding("database", f"{kind}, schema up to date")


# --- the parts -------------------------------------------------------------------------------------------------------


async def folders(look: Inspection) -> AsyncIterator[Finding]:
    folder = look.settings.data_dir
    if not folder.is_dir():
        yield Finding("data_dir", f"{folder} is not there", "Run: secir init")
        return
    if folder.stat().st_mode & 0o077:
        yield Finding("data_dir", f"{folder} can be read by other users", f"Run: chmod 700 {folder}")
    elif shutil.disk_usage(folder).free < FREE_BYTES:
        yield Finding("data_dir", f"{folder} has less than 500 MB free", "Make room on this disk")
    else:
        yield Finding("data_dir", f"{folder}, for this user only")


async def gnupg(look: Inspection) -> AsyncIterator[Finding]:
    async with parts.open_safe(look.settings) as safe:
        yield Finding("GnuPG", f"version {await safe.version()}")
        for group in look.groups:
            yield await _list_key(safe, group)


async def _list_key(safe: GnuPGSafe, group: Group) -> Finding:
    part = f"list key of {group.name}"
    try:
        probe = await safe.probe(group)
    except SecirError as error:
        return _refused(part, error)
    if probe.signs and probe.decrypts:
        return Finding(part, "signs and decrypts")
    return Finding(
        part,
        f"does not {'decrypt' if probe.signs else 'sign'}",
        "Give the secret key that was in use when the group was made, or bring data_dir back from a backup",
    )


async def homeserver(look: Inspection) -> AsyncIterator[Finding]:
    api = Api(look.settings.matrix.homeserver)
    try:
        answer = await api.request("GET", "login")
    finally:
        await api.close()
    flows = answer.get("flows")
    types = {flow.get("type") for flow in flows if isinstance(flow, dict)} if isinstance(flows, list) else set()
    if PASSWORD_LOGIN in types:
        yield Finding("homeserver", f"{look.settings.matrix.homeserver} answers")
    else:
        mend = "Allow login by password for the bot's account: `secir identity` needs it"
        yield Finding("homeserver", f"{look.settings.matrix.homeserver} has no login by password", mend)


async def identity(look: Inspection) -> AsyncIterator[Finding]:
    if look.database is None:
        return
    session = await Session.resume(parts.matrix_settings(look.settings), look.database)
    try:
        owner = (await session.api.request("GET", "account", "whoami")).get("user_id")
        if owner != look.settings.matrix.user_id:
            mend = f"Set matrix.user_id to {owner}, or move data_dir away and begin with: secir init"
            yield Finding("login", f"the bot is logged in as {owner}", mend)
            return
        yield Finding("login", f"{owner}, device {session.device_id}")
        await crosssigning.ensure(session, look.database)
        yield Finding("cross-signing", "the bot's device is signed by its identity")
    finally:
        await session.close()


async def relay(look: Inspection) -> AsyncIterator[Finding]:
    given, probing = look.settings.mail.relay, parts.relay(look.settings)
    try:
        seen = await probing.probe()
    finally:
        await probing.close()
    facts = [f"{given.host}:{given.port} answers", seen.tls or "no TLS", "logged in" if seen.logged_in else "no login"]
    wanted = look.settings.mail.max_message_mb * 1024 * 1024
    if seen.size_limit is not None and seen.size_limit < wanted:
        mend = f"Raise its limit (Postfix: message_size_limit) to {wanted * 3 // 2}, or lower mail.max_message_mb"
        yield Finding("relay", f"{given.host}:{given.port} takes mail up to {seen.size_limit} bytes only", mend)
    else:
        yield Finding("relay", ", ".join(facts))


async def listeners(look: Inspection) -> AsyncIterator[Finding]:
    for given in parts.listener_settings(look.settings):
        yield await _port(given, running=look.running)


async def _port(given: ListenerSettings, *, running: bool) -> Finding:
    """Free for us, or open if the bridge runs."""
    place = f"{given.protocol} {given.host}:{given.port}"
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, given.host, given.port)
    except OSError as error:
        if running:
            return Finding("listener", f"{place} is open")
        mend = "Stop the program that uses it, or choose another port in mail.listeners"
        return Finding("listener", f"{place} can't be opened ({error.strerror})", mend)
    server.close()
    await server.wait_closed()
    if running:
        return Finding(
            "listener", f"{place} is closed though the bridge runs", "Look at the bridge's log, and restart it"
        )
    return Finding("listener", f"{place} is free for the bridge")


async def members(look: Inspection) -> AsyncIterator[Finding]:
    if look.database is None:
        return
    if not look.groups:
        yield Finding("groups", "there is none yet", "Open one: secir group create NAME --address ADDRESS")
    for group in look.groups:
        async with look.database.transaction() as tx:
            everybody = await tx.members.of(group.id)
        if group.stopped:
            mend = "Look at the room, and set it back as the admins were told"
            yield Finding(f"group {group.name}", f"nothing is sent to its room ({group.stopped})", mend)
        else:
            yield Finding(
                f"group {group.name}", f"{len(everybody)} members, {'has its' if group.room_id else 'no'} room"
            )
        for member in readers_by_mail(everybody):
            if member.address is None or not usable(member.address.key, desk.now()):
                yield _refused(f"group {group.name}", NoUsableKey(member=member.name))
            elif member.address.paused_at:
                mend = f"When it works again: secir contact resume {member.address.address}"
                yield Finding(f"group {group.name}", f"mail to {member.name} came back, so it is held", mend)


async def queue(look: Inspection) -> AsyncIterator[Finding]:
    if look.database is None:
        return
    async with look.database.transaction() as tx:
        counts = await tx.queue.counts()
    seen = ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "empty"
    stuck = counts.keys() - {"queued", "waiting"}
    yield Finding("queue", seen, "See what does not move, and why: secir queue list" if stuck else "")


async def bridge(look: Inspection) -> AsyncIterator[Finding]:
    yield Finding("bridge", "runs" if look.running else "does not run now; start it with: secir run")


CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("data_dir", folders),
    ("GnuPG", gnupg),
    ("homeserver", homeserver),
    ("login", identity),
    ("relay", relay),
    ("listener", listeners),
    ("groups", members),
    ("queue", queue),
    ("bridge", bridge),
)
