"""The running bridge: everything is built once, runs in one task group, and stops in order.

Order of the stop: no new mail and no new events, then the workers finish the row in hand, then the rest closes. What is
left is a row, and the next start claims it.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from bot import parts
from bot.clock import SystemClock
from bot.config import Config
from bot.phrases import Phrases
from bot.schedule import Schedule
from bridges.alarms import Alarms
from bridges.arrivals import MailArrivals, Patience, RoomArrivals
from bridges.carrier import Carrier
from bridges.intake import Intake
from bridges.mail.door import SmtpMailDoor
from bridges.mail.incoming import Listener
from bridges.matrix import crosssigning
from bridges.matrix.devices import Devices
from bridges.matrix.door import MatrixDoor
from bridges.matrix.incoming import Incoming
from bridges.matrix.keyshare import KeyShare
from bridges.matrix.outgoing import Outgoing
from bridges.matrix.rooms import Rooms
from bridges.matrix.session import Session
from bridges.matrix.sync import Listeners, Sync
from bridges.work import Bell, Worker
from storage.database import Database
from storage.records import DeliveryItem, EventItem, MailItem
from trust.errors import RoomFault, RoomNotReady
from trust.posts import Rules
from trust.records import Door

log = structlog.get_logger()

MAIL_WORKERS: Final = 4
"""Deliveries by mail under way at once; each has its own destination."""
HEARTBEAT: Final = timedelta(seconds=30)
LAST_ROW: Final = 8.0
"""Seconds that the workers have at a stop to finish the row in hand; a service manager waits 10."""


@dataclass(frozen=True, slots=True)
class Bells:
    """Who is woken by what: mail came, events came, there is something to deliver."""

    mails: Bell
    events: Bell
    to_room: Bell
    to_members: Bell

    def ring_deliveries(self) -> None:
        self.to_room.ring()
        self.to_members.ring()


class Bridge:
    """One running instance."""

    def __init__(self, config: Config, database: Database, session: Session, mail: SmtpMailDoor) -> None:
        clock, phrases = SystemClock(), Phrases.load()
        self._config = config
        self._database = database
        self._clock = clock
        self._bells = Bells(Bell(), Bell(), Bell(), Bell())
        self._safe = parts.safe(config)
        rules = Rules(signature_max_age=config.limits.signature_max_age)
        intake = Intake(
            database=database,
            safe=self._safe,
            mail=mail,
            phrases=phrases,
            clock=clock,
            rules=rules,
            ring=self._bells.ring_deliveries,
        )
        alarms = Alarms(database=database, clock=clock, phrases=phrases, notify=intake.notify)
        intake.on_unreachable = alarms
        self.rooms = Rooms(session, database, clock, alarm=alarms, phrases=phrases)
        devices = Devices(session, database, clock)
        door = self._room_door(session, devices, alarms, phrases)
        self._mail_arrivals = MailArrivals(
            database=database, safe=self._safe, mail=mail, intake=intake, alarms=alarms, phrases=phrases, clock=clock
        )
        patience = Patience(silence=config.limits.undecryptable_notice_after)
        self._room_arrivals = RoomArrivals(
            database=database,
            room=door,
            intake=intake,
            alarms=alarms,
            phrases=phrases,
            clock=clock,
            patience=patience,
        )
        self.carrier = Carrier(
            database=database,
            safe=self._safe,
            mail=mail,
            room=door,
            intake=intake,
            alarms=alarms,
            clock=clock,
            give_up_after=config.limits.give_up_after,
        )
        self.sync = Sync(session, database, clock, self._news(devices), long_poll=config.matrix.sync_timeout)
        self.listeners = [
            Listener(settings, database=database, phrases=phrases, clock=clock, arrived=self._bells.mails.ring)
            for settings in parts.listener_settings(config)
        ]
        self.workers = self._workers()

    def _room_door(self, session: Session, devices: Devices, alarms: Alarms, phrases: Phrases) -> MatrixDoor:
        keys = KeyShare(session, devices, phrases)
        outgoing = Outgoing(session, self._database, self.rooms, keys, alarm=alarms)
        incoming = Incoming(session, self._database, devices, max_file_mb=self._config.limits.max_attachment_mb)
        return MatrixDoor(session, incoming, outgoing)

    def _news(self, devices: Devices) -> Listeners:
        bell = self._bells.events
        return Listeners(
            on_events=bell.ring,
            on_room_key=lambda _: bell.ring(),
            on_state=self.rooms.changed,
            on_devices=devices.changed,
        )

    def _workers(self) -> list[Worker[MailItem] | Worker[EventItem] | Worker[DeliveryItem]]:
        bells, mails, events, out = self._bells, self._mail_arrivals, self._room_arrivals, self.carrier
        to_room, to_members = out.claim(Door.ROOM), out.claim(Door.MAIL)
        return [
            Worker("mails", claim=mails.claim, handle=mails.handle, fail=mails.fail, bell=bells.mails),
            Worker("events", claim=events.claim, handle=events.handle, fail=events.fail, bell=bells.events),
            Worker("room", claim=to_room, handle=out.handle, fail=out.fail, bell=bells.to_room),
            *(
                Worker(f"members-{n}", claim=to_members, handle=out.handle, fail=out.fail, bell=bells.to_members)
                for n in range(MAIL_WORKERS)
            ),
        ]

    async def recover(self) -> None:
        """After a crash rows are still leased by a process that is gone: this one is alone, so it takes them back."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            rows = await tx.mails.recover(now) + await tx.events.recover(now) + await tx.deliveries.recover(now)
        if rows:
            log.info("work.recovered", rows=rows)

    async def reconcile(self) -> None:
        """Bring rooms and roll together, and send what waited for a key. One group's trouble stops no other."""
        async with self._database.transaction() as tx:
            groups = await tx.groups.all()
        for group in groups:
            try:
                group = await self.rooms.ensure(group)
                await self.rooms.reconcile(group)
                await self.rooms.check(group)
            except RoomNotReady:
                log.info("room.not_ready", group=group.name)
            except RoomFault as fault:
                log.warning("room.unsafe", group=group.name, code=fault.code)
        if await self.carrier.release_held():
            self._bells.ring_deliveries()

    async def beat(self) -> None:
        """Say that we live, where ``secir health`` looks."""
        parts.heartbeat_file(self._config).touch(mode=0o600)

    async def run(self, stop: asyncio.Event) -> None:
        """Everything, until ``stop`` is set. Raises LoginLost if the homeserver throws the bot out."""
        schedule = Schedule()
        schedule.every(self._config.matrix.reconcile_every, "reconcile", self.reconcile)
        schedule.every(HEARTBEAT, "heartbeat", self.beat)
        async with asyncio.TaskGroup() as tasks:
            endless = [tasks.create_task(self.sync.run()), tasks.create_task(schedule.run())]
            working = [tasks.create_task(worker.run()) for worker in self.workers]
            for listener in self.listeners:
                await listener.start()
            log.info("bridge.running")
            await stop.wait()
            log.info("bridge.stopping")
            for listener in self.listeners:
                await listener.stop()
            for worker in self.workers:
                worker.stop()
            await asyncio.wait(working, timeout=LAST_ROW)
            for task in [*endless, *working]:
                task.cancel()

    async def close(self) -> None:
        await self._safe.close()


async def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises SetupFault, SchemaOutdated, StoreAway, HomeserverFault."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with parts.alone(config):
        async with AsyncExitStack() as closing:
            database = await closing.enter_async_context(parts.open_database(config))
            session = await Session.resume(parts.matrix_settings(config), database)
            closing.push_async_callback(session.close)
            await session.publish_keys()
            await crosssigning.ensure(session, database)
            mail = SmtpMailDoor(parts.relay(config), phrases=Phrases.load(), limits=parts.letter_limits(config))
            closing.push_async_callback(mail.close)
            bridge = Bridge(config, database, session, mail)
            closing.push_async_callback(bridge.close)
            await bridge.recover()
            await bridge.run(stop)
    log.info("bridge.stopped")
