"""Builds the autoscaler from its settings and runs it; the only module that imports everything."""

from __future__ import annotations

import asyncio
import os

from anabranch_kit.adapters.jetstream_event_store import JetStreamEventStore
from anabranch_kit.adapters.jetstream_provision import ProvisionFailed
from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.health import HealthServer
from anabranch_kit.ids import new_id
from anabranch_kit.membership import keep_announced
from anabranch_kit.ports.registry import Member
from anabranch_kit.run import CannotStart

from anabranch_autoscaler.adapters.faststream_cluster import (
    FastStreamCluster,
    make_broker,
    subscribe_reports,
)
from anabranch_autoscaler.domain.scaler import Autoscaler
from anabranch_autoscaler.handlers import Handlers
from anabranch_autoscaler.settings import AutoscalerSettings


async def serve(settings: AutoscalerSettings, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises CannotStart when NATS or a port cannot be had."""
    clock = SystemClock()
    incarnation = new_id().hex
    try:
        client = await connect_nats(settings.nats_url, name=settings.member_id, clock=clock)
    except NatsUnreachable as error:
        raise CannotStart(str(error)) from error
    try:
        registry = RedisRegistry(settings.redis_url, clock=clock)
    except ValueError as error:
        await client.close()
        raise CannotStart(f"--redis-url {settings.redis_url}: {error}") from error
    broker = make_broker(settings.nats_url, name=f"{settings.member_id}-faststream")
    events = JetStreamEventStore(client, clock=clock)
    handlers = Handlers(
        autoscaler=Autoscaler(settings.scale_defaults),
        cluster=FastStreamCluster(broker, source=f"/anabranch/{settings.service}"),
        events=events,
        registry=registry,
        clock=clock,
        holder=f"{settings.member_id}/{incarnation}",
    )
    subscribe_reports(broker, handlers.take_report)
    health = HealthServer(lambda: _not_ready(client.is_connected))
    try:
        try:
            await events.provision()
        except ProvisionFailed as error:
            raise CannotStart(str(error)) from error
        await broker.start()
        port = await _start_health(health, settings)
        member = Member(
            id=settings.member_id,
            incarnation=incarnation,
            role="autoscaler",
            host=settings.health_host,
            port=port,
            started_ms=clock.now_ms(),
            pid=os.getpid(),
        )
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(keep_announced(registry, member, clock=clock)),
                tasks.create_task(handlers.hold_lease()),
                tasks.create_task(handlers.follow_events()),
                tasks.create_task(handlers.act(tasks)),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
    finally:
        await health.close()
        await broker.stop()
        await registry.close()
        await client.close()


async def _start_health(health: HealthServer, settings: AutoscalerSettings) -> int:
    """The port of the health server, 0 when there is none."""
    if settings.health_port == 0:
        return 0
    try:
        return await health.start(settings.health_host, settings.health_port)
    except OSError as error:
        raise CannotStart(
            f"health port {settings.health_port}: {error.strerror or error}."
            " Choose another with --health-port."
        ) from error


def _not_ready(is_connected: bool) -> list[str]:
    return [] if is_connected else ["not connected to NATS"]
