"""Builds the controller from its settings and runs it; the only module that imports everything.

Both ports are bound before anything else, so that a taken one is said at once. Clients that
connect early wait in the listening queues until the event log is read.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog
from anabranch_kit.adapters.jetstream_event_store import JetStreamEventStore
from anabranch_kit.adapters.jetstream_provision import ProvisionFailed
from anabranch_kit.adapters.nats_bus import NatsBus
from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.health import HealthServer
from anabranch_kit.ids import new_id
from anabranch_kit.membership import keep_announced
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.event_store import EventStoreUnavailable
from anabranch_kit.ports.registry import ClusterInfo, Member
from anabranch_kit.run import CannotStart
from anabranch_kit.wire_client import SegmentStoreClient, SegmentStorePool
from nats.aio.client import Client

from anabranch_controller.adapters.jetstream_feed import JetStreamFeed
from anabranch_controller.adapters.mark_segments import WireMarkSegments
from anabranch_controller.adapters.members import RegistryMembers
from anabranch_controller.adapters.segment_stores import LocateForClient, WireSegmentStores
from anabranch_controller.cluster import ContainersFixed, join_cluster
from anabranch_controller.cluster_feed import ClusterWatcher
from anabranch_controller.core import ControllerCore
from anabranch_controller.duty import Duty
from anabranch_controller.entrypoints.commands import serve_scale_commands
from anabranch_controller.entrypoints.grpc_server import GrpcServer
from anabranch_controller.entrypoints.grpc_service import GrpcService
from anabranch_controller.entrypoints.rest_server import RestServer
from anabranch_controller.feed import FeedProjector
from anabranch_controller.locator import Locator
from anabranch_controller.placement import Placement
from anabranch_controller.retention import Retention
from anabranch_controller.settings import WILDCARDS, ControllerSettings
from anabranch_controller.watermarks import Watermarks

if TYPE_CHECKING:
    from litestar import Litestar

CANNOT_START: Final = (NatsUnreachable, ProvisionFailed, EventStoreUnavailable, ContainersFixed)

log = structlog.stdlib.get_logger("anabranch.controller")


class _Ground(NamedTuple):
    """What the controller stands on: connections, and the facts of its cluster."""

    client: Client
    registry: RedisRegistry
    store: JetStreamEventStore
    feed: JetStreamFeed
    cluster: ClusterInfo


async def serve(settings: ControllerSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises CannotStart when something outside is not as needed."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        grpc = GrpcServer(
            clock=clock, instance=settings.member_id, share_port=settings.grpc_share_port
        )
        rest = RestServer()
        stack.push_async_callback(grpc.stop)
        stack.push_async_callback(rest.stop)
        member = _member(
            settings,
            grpc_port=grpc.bind(settings.grpc_host, settings.grpc_port),
            started_ms=clock.now_ms(),
        )
        rest_port = rest.bind(settings.rest_host, settings.rest_port)
        ground = await stack.enter_async_context(_ground(settings, clock))
        members = RegistryMembers(ground.registry, member)
        locator = Locator(ground.registry, containers_count=ground.cluster.containers_count)
        pool = SegmentStorePool()
        stack.push_async_callback(pool.close)
        chance = random.Random()  # noqa: S311 - pauses between attempts, nothing secret
        stores = SegmentStoreClient(pool, LocateForClient(locator), clock, chance=chance)
        core = _core(ground, members, locator, stores, chance, clock)
        parts = partial(_parts, core, ground.client, locator)

        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(work)
                for work in (
                    core.run(),
                    locator.run(),
                    _placement(ground, member, clock).run(),
                    _projector(settings, ground, member, clock).run(),
                    _watcher(ground, member, clock).run(),
                    _retention(settings, ground, member, core).run(),
                    _watermarks(settings, ground, member, core, stores).run(),
                    keep_announced(ground.registry, member, clock=clock),
                )
            ]
            if await _ready_before(stop, core):
                await grpc.start(GrpcService(core, members.endpoints))
                group.create_task(rest.serve(await asyncio.to_thread(_rest_app, core, parts)))
                await stack.enter_async_context(_scale_commands(ground.client, core))
                await stack.enter_async_context(_probes(settings, parts))
                log.info("controller.serving", grpc_port=member.port, rest_port=rest_port)
                await stop.wait()
            # The ways in are closed before what they stand on.
            await asyncio.gather(rest.stop(), grpc.stop())
            for task in background:
                task.cancel()


# --- parts -------------------------------------------------------------------------------


def _member(settings: ControllerSettings, *, grpc_port: int, started_ms: int) -> Member:
    host = settings.advertised_host or settings.grpc_host
    return Member(
        id=settings.member_id,
        incarnation=new_id().hex,
        role="controller",
        host=socket.gethostname() if host in WILDCARDS else host,
        port=settings.advertised_port or grpc_port,
        started_ms=started_ms,
        pid=os.getpid(),
    )


@asynccontextmanager
async def _ground(settings: ControllerSettings, clock: Clock) -> AsyncIterator[_Ground]:
    """Connections and provisioned streams. Raises CannotStart."""
    try:
        registry = RedisRegistry(settings.redis_url, clock=clock)
    except ValueError as error:
        raise CannotStart(f"--redis-url {settings.redis_url}: {error}") from error
    async with AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        try:
            client = await connect_nats(settings.nats_url, name=settings.member_id, clock=clock)
            stack.push_async_callback(client.close)
            store = JetStreamEventStore(client, clock=clock, replicas=settings.replicas)
            feed = JetStreamFeed(client, clock=clock, replicas=settings.replicas)
            await store.provision()
            await feed.provision()
            cluster = await join_cluster(store, containers_count=settings.containers, new_id=new_id)
        except CANNOT_START as error:
            raise CannotStart(str(error)) from error
        except msgspec.DecodeError as error:
            raise CannotStart(f"the first message of the event log is damaged: {error}") from error
        yield _Ground(client, registry, store, feed, cluster)


def _core(
    ground: _Ground,
    members: RegistryMembers,
    locator: Locator,
    client: SegmentStoreClient,
    chance: random.Random,
    clock: Clock,
) -> ControllerCore:
    return ControllerCore(
        ground.store,
        stores=WireSegmentStores(client),
        locator=locator,
        members=members,
        clock=clock,
        random=chance,
        new_id=new_id,
        instance=members.myself.incarnation,
    )


def _placement(ground: _Ground, member: Member, clock: Clock) -> Placement:
    return Placement(ground.registry, ground.cluster, holder=member.incarnation, clock=clock)


def _projector(
    settings: ControllerSettings, ground: _Ground, member: Member, clock: Clock
) -> FeedProjector:
    return FeedProjector(
        ground.store,
        ground.feed,
        ground.registry,
        holder=member.incarnation,
        source=f"anabranch://{ground.cluster.cluster_id}",
        clock=clock,
        snapshot_every_s=settings.feed_snapshot_s,
    )


def _watcher(ground: _Ground, member: Member, clock: Clock) -> Duty:
    watcher = ClusterWatcher(
        ground.registry,
        ground.feed,
        source=f"anabranch://{ground.cluster.cluster_id}",
        clock=clock,
    )
    return Duty(
        "cluster-feed", watcher.run, ground.registry, holder=member.incarnation, clock=clock
    )


def _retention(
    settings: ControllerSettings, ground: _Ground, member: Member, core: ControllerCore
) -> Duty:
    retention = Retention(core.context, period_s=settings.retention_period_s)
    return _duty("retention", retention.run, ground, member, core)


def _watermarks(
    settings: ControllerSettings,
    ground: _Ground,
    member: Member,
    core: ControllerCore,
    client: SegmentStoreClient,
) -> Duty:
    marks = WireMarkSegments(client, new_id)
    watermarks = Watermarks(core.context, marks, period_s=settings.watermark_period_s)
    return _duty("watermarks", watermarks.run, ground, member, core)


def _duty(
    name: str,
    work: Callable[[], Coroutine[None, None, None]],
    ground: _Ground,
    member: Member,
    core: ControllerCore,
) -> Duty:
    async def when_ready() -> None:
        await core.ready.wait()
        await work()

    return Duty(
        name, when_ready, ground.registry, holder=member.incarnation, clock=core.context.clock
    )


def _rest_app(core: ControllerCore, parts: Callable[[], dict[str, bool]]) -> Litestar:
    """Loaded last and beside the loop: the web framework takes as long as half of the rest,
    and clients need gRPC alone."""
    from anabranch_controller.entrypoints.rest import rest_app

    return rest_app(core, parts)


def _parts(core: ControllerCore, client: Client, locator: Locator) -> dict[str, bool]:
    """What works now, under the names that Pravega gives to its health contributors."""
    return {
        "GRPCServer": core.ready.is_set(),
        "eventProcessor": core.ready.is_set() and client.is_connected,
        "retentionService": core.ready.is_set(),
        "segmentContainerMonitor": not locator.unserved(),
        "watermarkingService": core.ready.is_set(),
    }


@asynccontextmanager
async def _scale_commands(client: Client, core: ControllerCore) -> AsyncIterator[None]:
    subscription = await serve_scale_commands(NatsBus(client), core)
    try:
        yield
    finally:
        await subscription.close()


@asynccontextmanager
async def _probes(
    settings: ControllerSettings, parts: Callable[[], dict[str, bool]]
) -> AsyncIterator[None]:
    """/health, /ready and /metrics, when a port is set for them. Raises CannotStart."""
    if settings.health_port == 0:
        yield
        return
    server = HealthServer(lambda: [f"{name} is down" for name, ok in parts().items() if not ok])
    try:
        await server.start(settings.health_host, settings.health_port)
    except OSError as error:
        raise CannotStart(
            f"health port {settings.health_port}: {error.strerror or error}."
            " Choose another with --health-port."
        ) from error
    try:
        yield
    finally:
        await server.close()


async def _ready_before(stop: asyncio.Event, core: ControllerCore) -> bool:
    """Whether the event log was read before the service was told to stop."""
    waits = [asyncio.create_task(core.ready.wait()), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return core.ready.is_set()
