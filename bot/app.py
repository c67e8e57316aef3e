"""The running bridge: everything is built once, runs in one task group, and stops in order.

Order of the stop: no new mail and no new events, then the workers finish the row in hand, then the rest closes. What is
left is a row, and the next start claims it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import structlog

from bot import parts, workers
from bot.clock import SystemClock
from bot.config import Config
from bot.phrases import Phrases
from bot.upkeep import HEARTBEAT, RARELY, Upkeep
from bot.workers import AnyWorker, Bells
from bridges.alarms import Alarms
from bridges.arrivals import MailArrivals, Patience, RoomArrivals
from bridges.bounced import Returns
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
from bridges.matrix.witness import Witness
from bridges.undelivered import Undelivered
from storage.database import Database
from trust.errors import HomeserverAway, RateLimited, RoomFault, SecirError, StoreFault
from trust.posts import Rules
from trust.records import Group

log = structlog.get_logger()

LAST_ROW: Final = 6.0
"""Seconds that the workers have at a stop to finish the row in hand; a service manager waits 10."""

KNOCK_AGAIN: Final = 5.0
"""Seconds until a homeserver that did not answer at the start is asked again."""


class Bridge:
    """One running instance."""

    def __init__(self, config: Config, database: Database, session: Session, mail: SmtpMailDoor) -> None:
        clock, phrases = SystemClock(), Phrases.load()
        self._config = config
        self._database = database
        self._bells = Bells()
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
            ring=self._bells.events.ring,
        )
        returns = Returns(database=database, alarms=alarms, clock=clock, limit=config.limits.max_bounces)
        self.carrier = Carrier(
            database=database,
            safe=self._safe,
            mail=mail,
            room=door,
            intake=intake,
            alarms=alarms,
            clock=clock,
            give_up_after=config.limits.give_up_after,
            mail_workers=config.mail.relay.connections,
            on_refused=returns.refused,
            ring=self._bells.ring_deliveries,
        )
        undelivered = Undelivered(
            database=database,
            alarms=alarms,
            notify=intake.notify,
            phrases=phrases,
            clock=clock,
            give_up_after=config.limits.give_up_after,
        )
        self.upkeep = Upkeep(
            config,
            database,
            clock,
            carrier=self.carrier,
            undelivered=undelivered,
            bells=self._bells,
            heartbeat=parts.heartbeat_file(config),
        )
        self.sync = Sync(session, database, clock, self._news(devices), long_poll=config.matrix.sync_timeout)
        self.listeners = [
            Listener(
                settings,
                database=database,
                phrases=phrases,
                clock=clock,
                arrived=self._bells.mails.ring,
                returns=parts.returns(config),
                came_back=returns.returned,
                has_room=parts.room_check(config),
            )
            for settings in parts.listener_settings(config)
        ]
        self._session = session
        self._witness = Witness(session, database)
        self._asked, self._reached = asyncio.Event(), asyncio.Event()
        self._room_workers = workers.for_rooms(self._bells, self._room_arrivals, self.carrier)
        connections = config.mail.relay.connections
        others = workers.for_mail(self._bells, self._mail_arrivals, self.carrier, connections=connections)
        self.workers = [*self._room_workers, *others]

    def _room_door(self, session: Session, devices: Devices, alarms: Alarms, phrases: Phrases) -> MatrixDoor:
        keys = KeyShare(session, devices, phrases)
        outgoing = Outgoing(session, self._database, self.rooms, keys, alarm=alarms)
        incoming = Incoming(session, self._database, devices, file_limit_mb=self._config.limits.max_attachment_mb)
        return MatrixDoor(session, incoming, outgoing)

    def _news(self, devices: Devices) -> Listeners:
        bell = self._bells.events
        return Listeners(
            on_events=bell.ring,
            on_room_key=lambda _: bell.ring(),
            on_state=self._room_changed,
            on_devices=devices.changed,
        )

    def _room_changed(self, room_id: str) -> None:
        self.rooms.changed(room_id)
        self._bells.rooms.ring()

    async def _tend_rooms(self) -> None:
        """Look after the rooms whenever one changed and, by the clock, when the roll may have."""
        await self._reached.wait()
        while True:
            try:
                await self.reconcile()
            except SecirError as fault:
                log.warning("rooms.untended", code=fault.code)
            await self._bells.rooms.wait(self._config.matrix.reconcile_every.total_seconds())

    async def reconcile(self) -> None:
        """Bring rooms and roll together. One group's trouble stops no other."""
        async with self._database.transaction() as tx:
            groups = await tx.groups.all()
        for group in groups:
            await self._tend(group)

    async def _tend(self, group: Group) -> None:
        try:
            with_room = await self.rooms.ensure(group)
            await self.rooms.reconcile(with_room)
            await self.rooms.check(with_room)
        except RoomFault as fault:
            log.warning("room.unsafe", group=group.name, code=fault.code)

    async def run(self, stop: asyncio.Event) -> None:
        """Everything, until ``stop`` is set. Raises LoginLost, or what ``crosssigning.ensure`` finds wrong.

        Mail is taken in from the first moment; what needs the homeserver begins when it answers.
        """
        schedule = self.upkeep.schedule()
        schedule.every(RARELY, "witness", self._witness.tick)
        try:
            async with asyncio.TaskGroup() as tasks:
                for listener in self.listeners:
                    await listener.start()
                endless = [
                    tasks.create_task(each)
                    for each in (
                        self._keep_synced(),
                        self._tend_rooms(),
                        self._stay_alone(),
                        schedule.run(),
                    )
                ]
                working = [tasks.create_task(self._work(worker)) for worker in self.workers]
                log.info("bridge.running")
                await stop.wait()
                await self._wind_down(working)
                for task in [*endless, *working]:
                    task.cancel()
        except BaseExceptionGroup as group:
            # What ends the bridge cancels the rest, which may fail at that in ways that say nothing.
            if (known := group.subgroup(SecirError)) is None:
                raise
            raise _first_leaf(known) from None

    async def _stay_alone(self) -> None:
        """Raises AnotherInstance when a second bridge took the database while it was out of our reach."""
        while True:
            await asyncio.sleep(HEARTBEAT.total_seconds())
            with contextlib.suppress(StoreFault):
                await self._database.hold()

    async def _keep_synced(self) -> None:
        while not await self._reached_homeserver():
            self._asked.set()
            await asyncio.sleep(KNOCK_AGAIN)
        self._asked.set()
        self._reached.set()
        await self.sync.run()

    async def _reached_homeserver(self) -> bool:
        """Our keys are published, our device is signed, and the first position is kept before anybody is invited."""
        try:
            await self._witness.check()
            await self._witness.tick()
            await self._session.publish_keys()
            await crosssigning.ensure(self._session, self._database)
            await self._first_position()
        except (HomeserverAway, RateLimited) as fault:
            log.warning("bridge.waits_for_homeserver", code=fault.code)
            return False
        return True

    async def _first_position(self) -> None:
        async with self._database.transaction() as tx:
            known = await tx.events.position(self._session.user_id)
        if known is None:
            await self.sync.round()

    async def _work(self, worker: AnyWorker) -> None:
        """Nothing is sent out of a backup that the homeserver could tell; but if it is away, mail goes without it."""
        await (self._reached if worker in self._room_workers else self._asked).wait()
        await worker.run()

    async def _wind_down(self, working: Sequence[asyncio.Task[None]]) -> None:
        log.info("bridge.stopping")
        for worker in self.workers:
            worker.stop()
        self._asked.set()
        self._reached.set()
        closing = [asyncio.create_task(listener.stop()) for listener in self.listeners]
        await asyncio.wait([*closing, *working], timeout=LAST_ROW)
        for claims in (self._mail_arrivals.claims, self._room_arrivals.claims, self.carrier.claims):
            with contextlib.suppress(StoreFault):  # what can't be recorded now is done once more after the start
                await claims.pay()

    async def close(self) -> None:
        await self._safe.close()


def _first_leaf(group: BaseExceptionGroup[SecirError]) -> SecirError:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first


async def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises SetupFault, SchemaOutdated, StoreAway, HomeserverFault."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with parts.alone(config):
        async with AsyncExitStack() as closing:
            database = await closing.enter_async_context(parts.open_database(config))
            await database.hold()
            session = await Session.resume(parts.matrix_settings(config), database)
            closing.push_async_callback(session.close)
            mail = SmtpMailDoor(
                parts.relay(config),
                returns=parts.returns(config),
                phrases=Phrases.load(),
                limits=parts.letter_limits(config),
            )
            closing.push_async_callback(mail.close)
            bridge = Bridge(config, database, session, mail)
            closing.push_async_callback(bridge.close)
            await bridge.upkeep.recover()
            await bridge.run(stop)
    log.info("bridge.stopped")
