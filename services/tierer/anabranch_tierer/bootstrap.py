"""Builds the tierer from its settings and runs it; the only module that imports everything."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from contextlib import AsyncExitStack
from typing import Final

import structlog
from anabranch_kit.adapters.jetstream_provision import ProvisionFailed
from anabranch_kit.adapters.nats_bus import NatsBus
from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
from anabranch_kit.adapters.object_stores import open_object_store
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.adapters.tiering_queue import provision_tiering
from anabranch_kit.feed_outbox import FeedOutbox
from anabranch_kit.health import HealthServer
from anabranch_kit.ids import new_id
from anabranch_kit.membership import keep_announced
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import (
    ObjectStore,
    ObjectStoreUnavailable,
    UnsupportedObjectStore,
)
from anabranch_kit.ports.registry import Member
from anabranch_kit.run import CannotStart
from anabranch_kit.wire_client import SegmentStorePool
from nats.aio.client import Client

from anabranch_tierer.adapters.faststream_orders import make_broker, subscribe_orders
from anabranch_tierer.adapters.segment_reader import WireSegmentReader
from anabranch_tierer.handlers import Tierer
from anabranch_tierer.settings import TiererSettings

# A server that came back without its streams (a new disk) gets them again.
PROVISION_AGAIN_S: Final = 5.0
ANY_ADDRESS: Final = "0.0.0.0"

log = structlog.stdlib.get_logger("anabranch.tierer")


async def serve(settings: TiererSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises CannotStart when something needed is not there."""
    clock = SystemClock()
    incarnation = new_id().hex
    async with AsyncExitStack() as owned:
        objects = await _open_objects(settings, clock)
        owned.push_async_callback(objects.close)
        client = await _connect(settings, clock)
        owned.push_async_callback(client.close)
        registry = _open_registry(settings, clock)
        owned.push_async_callback(registry.close)
        pool = SegmentStorePool()
        owned.push_async_callback(pool.close)

        chance = random.Random(incarnation)  # noqa: S311 - spreads retries, guards nothing
        bus = NatsBus(client)
        outbox = FeedOutbox(bus, member=settings.member_id, clock=clock)
        tierer = Tierer(
            reader=WireSegmentReader(pool, registry, clock, chance=chance),
            objects=objects,
            bus=bus,
            clock=clock,
            worker=settings.member_id,
            incarnation=incarnation,
            outbox=outbox,
        )
        health = HealthServer(lambda: _not_ready(client, tierer))
        owned.push_async_callback(health.close)
        port = await _start_health(health, settings)

        await _provision(client, clock, settings)
        broker = make_broker(settings.nats_url, name=f"{settings.member_id}-orders")
        subscribe_orders(
            broker,
            flush=tierer.flush,
            delete=tierer.delete,
            slots=settings.slots,
            clock=clock,
        )
        await broker.start()
        owned.push_async_callback(broker.stop)

        member = Member(
            id=settings.member_id,
            incarnation=incarnation,
            role="tierer",
            host=_reachable_host(settings.health_host),
            port=port,
            started_ms=clock.now_ms(),
            pid=os.getpid(),
        )
        log.info("tierer.started", tier2=settings.tier2, slots=settings.slots)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(keep_announced(registry, member, clock=clock)),
                tasks.create_task(_keep_provisioned(client, clock, settings)),
                tasks.create_task(outbox.run()),
            ]
            await stop.wait()
            for task in running:
                task.cancel()


async def _open_objects(settings: TiererSettings, clock: Clock) -> ObjectStore:
    try:
        return await open_object_store(settings.tier2, clock=clock, new_id=new_id)
    except (UnsupportedObjectStore, ObjectStoreUnavailable) as error:
        raise CannotStart(f"{error}. Set it with --tier2-dir or --tier2-url.") from error


async def _connect(settings: TiererSettings, clock: Clock) -> Client:
    try:
        return await connect_nats(settings.nats_url, name=settings.member_id, clock=clock)
    except NatsUnreachable as error:
        raise CannotStart(str(error)) from error


def _open_registry(settings: TiererSettings, clock: Clock) -> RedisRegistry:
    try:
        return RedisRegistry(settings.redis_url, clock=clock)
    except ValueError as error:
        raise CannotStart(f"--redis-url {settings.redis_url}: {error}") from error


async def _provision(client: Client, clock: Clock, settings: TiererSettings) -> None:
    try:
        await provision_tiering(client, clock=clock, replicas=settings.replicas)
    except ProvisionFailed as error:
        raise CannotStart(str(error)) from error


async def _keep_provisioned(client: Client, clock: Clock, settings: TiererSettings) -> None:
    """After each reconnect: see that the queue is there."""
    reconnects = client.stats["reconnects"]
    while True:
        await clock.sleep(PROVISION_AGAIN_S)
        seen = client.stats["reconnects"]
        if seen == reconnects or not client.is_connected:
            continue
        try:
            await provision_tiering(client, clock=clock, replicas=settings.replicas)
        except ProvisionFailed as error:
            log.warning("tierer.queue_missing", reason=str(error))
        else:
            reconnects = seen


async def _start_health(health: HealthServer, settings: TiererSettings) -> int:
    """The port of the health server, 0 when there is none."""
    if settings.health_port == 0:
        return 0
    try:
        return await health.start(settings.health_host, settings.health_port)
    except OSError as error:
        raise CannotStart(
            f"health port {settings.health_port}: {error.strerror or error}. "
            "Choose another with --health-port."
        ) from error


def _not_ready(client: Client, tierer: Tierer) -> list[str]:
    reasons = [] if client.is_connected else ["not connected to NATS"]
    return reasons + (["tier 2 is unavailable"] if tierer.tier2_is_down else [])


def _reachable_host(host: str) -> str:
    return socket.gethostname() if host == ANY_ADDRESS else host
