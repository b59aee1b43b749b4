"""Builds the segment store from its settings and runs it; the only module that imports all."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import structlog
from anabranch_kit.adapters.nats_bus import NatsBus
from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
from anabranch_kit.adapters.object_stores import open_object_store
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.feed_outbox import FeedOutbox
from anabranch_kit.health import HealthServer
from anabranch_kit.ids import new_id
from anabranch_kit.membership import keep_announced
from anabranch_kit.ports.bus import Bus
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import (
    ObjectStore,
    ObjectStoreUnavailable,
    UnsupportedObjectStore,
)
from anabranch_kit.ports.registry import Member
from anabranch_kit.run import CannotStart
from nats.aio.client import Client

from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.file_log_lock import (
    DataDirectoryInUse,
    DataDirectoryLock,
    DataDirectoryOfAnother,
    claim_for_cluster,
)
from anabranch_segmentstore.adapters.jetstream_log import JetStreamLogStore
from anabranch_segmentstore.adapters.jetstream_log_sync import report_sync
from anabranch_segmentstore.adapters.tiering_bus import QueuedTiering
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.collection import Freezer
from anabranch_segmentstore.connection import Connection
from anabranch_segmentstore.container import Container, ContainerSettings, open_container
from anabranch_segmentstore.domain.flushing import FlushRules
from anabranch_segmentstore.hosting import ContainerHost, Opener
from anabranch_segmentstore.load import SegmentTaken
from anabranch_segmentstore.ports import ContainerId, DurableLog, LogStore
from anabranch_segmentstore.reports import report_load
from anabranch_segmentstore.settings import MIB, SegmentStoreSettings
from anabranch_segmentstore.store import SegmentStore
from anabranch_segmentstore.tiering import TieringSettings

BACKLOG: Final = 1024  # connections that the kernel accepts ahead of us

log = structlog.stdlib.get_logger("anabranch.segmentstore")


async def serve(settings: SegmentStoreSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises CannotStart when something needed is not there."""
    clock = SystemClock()
    incarnation = new_id().hex
    async with AsyncExitStack() as owned:
        wal = settings.wal_dir if settings.tier1 == "file" else None
        if wal is not None:
            owned.callback(_lock(settings, wal).release)
        listening = _bind(settings, settings.port)
        owned.callback(listening.close)
        administering = _bind(settings, settings.admin_port) if settings.admin_port else None
        if administering is not None:
            owned.callback(administering.close)
        objects = await _open_objects(settings, clock)
        owned.push_async_callback(objects.close)
        logs = await _open_logs(settings, wal, clock, owned)
        owned.push_async_callback(logs.close)
        client = await _connect(settings, clock)
        owned.push_async_callback(client.close)
        bus = NatsBus(client)
        registry = _open_registry(settings, clock)
        owned.push_async_callback(registry.close)

        outbox = FeedOutbox(bus, member=settings.member_id, clock=clock)
        opener = container_opener(settings, clock=clock, bus=bus, objects=objects, outbox=outbox)
        freezer = Freezer()

        def make_host(number: ContainerId, on_change: Callable[[], None]) -> ContainerHost:
            def changed() -> None:
                if host.is_silent:
                    freezer.ended()
                elif host.container is not None:
                    freezer.opened()
                on_change()

            host = ContainerHost(
                number,
                owner=f"{settings.member_id} {incarnation}",
                logs=logs,
                open_container=opener,
                bus=bus,
                clock=clock,
                on_change=changed,
            )
            return host

        store = SegmentStore(
            registry=registry,
            make_host=make_host,
            clock=clock,
            new_id=new_id,
            containers_count=settings.containers or None,
            claim=None if wal is None else partial(_claim, wal),
        )
        port: int = listening.getsockname()[1]
        await _listen(store, listening, owned)
        if administering is not None:
            await _listen(store, administering, owned, is_admin=True)
        await _start_health(store, settings, owned)
        member = Member(
            id=settings.member_id,
            incarnation=incarnation,
            role="segmentstore",
            host=settings.reachable_host,
            port=port,
            started_ms=clock.now_ms(),
            pid=os.getpid(),
        )
        log.info(
            "segmentstore.started", host=settings.host, port=port, wal=str(wal or settings.tier1)
        )

        def take() -> list[SegmentTaken]:
            running = [host.container for host in store.serving if host.container is not None]
            return list(chain.from_iterable(container.take_load() for container in running))

        async with asyncio.TaskGroup() as tasks:
            announced = tasks.create_task(keep_announced(registry, member, clock=clock))
            telling = tasks.create_task(outbox.run())
            reporting = tasks.create_task(
                report_load(
                    bus, clock, store=settings.member_id, incarnation=incarnation, take=take
                )
            )
            running = tasks.create_task(store.run(member))
            await stop.wait()
            reporting.cancel()
            running.cancel()  # drains the containers and closes their logs
            await asyncio.wait([running])
            telling.cancel()
            announced.cancel()


def container_opener(
    settings: SegmentStoreSettings,
    *,
    clock: Clock,
    bus: Bus,
    objects: ObjectStore,
    outbox: FeedOutbox | None = None,
) -> Opener:
    """How hosts open a container: recovered from its log, with its share of the cache."""
    cache = BlockCache(settings.cache_mib * MIB)
    tiering = TieringSettings(
        rules=FlushRules(segment_bytes=settings.flush_mib * MIB, age_s=settings.flush_age_s),
        untiered_bytes_max=settings.untiered_mib * MIB,
    )

    async def open_one(number: ContainerId, opened: DurableLog) -> Container:
        container = await open_container(
            number,
            opened,
            clock=clock,
            cache=cache,
            objects=objects,
            settings=ContainerSettings(),
        )
        container.start_tiering(QueuedTiering(bus), tiering, outbox)
        return container

    return open_one


def _lock(settings: SegmentStoreSettings, wal: Path) -> DataDirectoryLock:
    try:
        return DataDirectoryLock(wal, settings.member_id)
    except DataDirectoryInUse as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"--wal-dir {wal}: {error.strerror or error}") from error


def _claim(wal: Path, cluster: str) -> None:
    try:
        claim_for_cluster(wal, cluster)
    except DataDirectoryOfAnother as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(f"--wal-dir {wal}: {error.strerror or error}") from error


async def _open_logs(
    settings: SegmentStoreSettings, wal: Path | None, clock: Clock, owned: AsyncExitStack
) -> LogStore:
    if wal is not None:
        return FileLogStore(wal, new_id=new_id, file_bytes=settings.log_file_mib * MIB)
    # A connection of its own: long frames would hold up what else travels on it.
    client = await _connect(settings, clock)
    owned.push_async_callback(client.close)
    monitor_urls = [url.strip() for url in settings.nats_monitor_urls.split(",") if url.strip()]
    await report_sync(client, monitor_urls=monitor_urls, replicas=settings.tier1_replicas)
    return JetStreamLogStore(client, clock=clock, new_id=new_id, replicas=settings.tier1_replicas)


async def _open_objects(settings: SegmentStoreSettings, clock: Clock) -> ObjectStore:
    try:
        return await open_object_store(settings.tier2, clock=clock, new_id=new_id)
    except (UnsupportedObjectStore, ObjectStoreUnavailable) as error:
        raise CannotStart(f"{error}. Set it with --tier2-dir or --tier2-url.") from error


async def _connect(settings: SegmentStoreSettings, clock: Clock) -> Client:
    try:
        return await connect_nats(settings.nats_url, name=settings.member_id, clock=clock)
    except NatsUnreachable as error:
        raise CannotStart(str(error)) from error


def _open_registry(settings: SegmentStoreSettings, clock: Clock) -> RedisRegistry:
    try:
        return RedisRegistry(settings.redis_url, clock=clock)
    except ValueError as error:
        raise CannotStart(f"--redis-url {settings.redis_url}: {error}") from error


def _bind(settings: SegmentStoreSettings, port: int) -> socket.socket:
    """Before anything slow, so that a taken port is said at once. Clients that come early wait
    in the queue of the kernel."""
    try:
        return socket.create_server(
            (settings.host, port), backlog=BACKLOG, reuse_port=settings.share_port
        )
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {settings.host}:{port}: {error.strerror or error}. "
            "Another segment store may be running; choose another with --port or --admin-port."
        ) from error


async def _listen(
    store: SegmentStore,
    listening: socket.socket,
    owned: AsyncExitStack,
    *,
    is_admin: bool = False,
) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(store, is_admin=is_admin), sock=listening, backlog=BACKLOG
    )
    owned.callback(server.close)


async def _start_health(
    store: SegmentStore, settings: SegmentStoreSettings, owned: AsyncExitStack
) -> None:
    if settings.health_port == 0:
        return
    health = HealthServer(store.not_ready)
    owned.push_async_callback(health.close)
    try:
        await health.start(settings.health_host, settings.health_port)
    except OSError as error:
        raise CannotStart(
            f"health port {settings.health_port}: {error.strerror or error}. "
            "Choose another with --health-port."
        ) from error
