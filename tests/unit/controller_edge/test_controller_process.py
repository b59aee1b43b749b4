"""The controller put together, over a real NATS and a real Valkey: start, stop, bad settings."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import msgspec
import pytest
from anabranch_controller.bootstrap import serve
from anabranch_controller.cluster import ContainersFixed, join_cluster
from anabranch_controller.entrypoints.commands import serve_scale_commands
from anabranch_controller.settings import ControllerSettings
from anabranch_events import subjects
from anabranch_events.bus import KeyRange, ScaleAnswer, ScaleCommand
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.ids import new_id
from anabranch_kit.ports.registry import Member
from anabranch_kit.run import CannotStart
from anabranch_rpc import controller_pb2 as pb
from anabranch_rpc import controller_pb2_grpc
from anabranch_testkit.fakes.bus import MemoryBus
from anabranch_testkit.fakes.event_store import MemoryEventStore
from anabranch_testkit.servers import Server
from anabranch_testkit.waiting import eventually


def _settings(nats: Server, valkey: Server, **changes: Any) -> ControllerSettings:
    values = {
        "nats_url": nats.url,
        "redis_url": valkey.url,
        "grpc_port": 0,
        "rest_port": 0,
        "containers": 3,
    }
    return ControllerSettings(**{**values, **changes})


@contextlib.asynccontextmanager
async def _serving(settings: ControllerSettings, registry: RedisRegistry) -> AsyncIterator[Member]:
    """The controller's member record, while it serves."""
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, stop))
    try:

        async def announced() -> Member | None:
            if task.done():
                task.result()
            members = await registry.members("controller")
            return next((one for one in members if one.id == settings.member_id), None)

        yield await eventually(announced)
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await task


async def test_controller_serves_places_and_leaves(
    nats_server: Server, valkey_server: Server, redis_registry: RedisRegistry
) -> None:
    """A started controller must answer clients, place containers, and go without a trace."""
    store = Member("segmentstore-0", "1", "segmentstore", "127.0.0.1", 1, started_ms=0)
    await redis_registry.announce(store, lease_ms=60_000)
    async with _serving(_settings(nats_server, valkey_server), redis_registry) as member:
        async with grpc.aio.insecure_channel(f"{member.host}:{member.port}") as channel:
            stub = controller_pb2_grpc.ControllerServiceStub(channel)
            created = await stub.createScope(pb.ScopeInfo(scope="s"), wait_for_ready=True)
            assert created.status == pb.CreateScopeStatus.SUCCESS
            listed = await stub.listScopes(pb.ScopesRequest())
            assert set(listed.scopes) == {"s", "_system"}
            servers = await stub.getControllerServerList(pb.ServerRequest())
            assert [(uri.endpoint, uri.port) for uri in servers.nodeURI] == [
                (member.host, member.port)
            ]
        assignments = await eventually(redis_registry.assignments)
        assert {one.member for one in assignments.values()} == {"segmentstore-0"}
        assert sorted(assignments) == [0, 1, 2]
        cluster = await redis_registry.cluster()
        assert cluster is not None
        assert cluster.containers_count == 3
    assert await redis_registry.members("controller") == []


async def test_calls_wait_while_nats_restarts(
    nats_server: Server, valkey_server: Server, redis_registry: RedisRegistry
) -> None:
    """A refusal in this moment would cost a client eleven seconds, or its stream."""
    async with (
        _serving(_settings(nats_server, valkey_server), redis_registry) as member,
        grpc.aio.insecure_channel(f"{member.host}:{member.port}") as channel,
    ):
        stub = controller_pb2_grpc.ControllerServiceStub(channel)
        await stub.createScope(pb.ScopeInfo(scope="before"), wait_for_ready=True)
        await nats_server.kill()
        held = asyncio.ensure_future(stub.createScope(pb.ScopeInfo(scope="meanwhile")))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.shield(held)
        await nats_server.start()
        assert (await held).status == pb.CreateScopeStatus.SUCCESS
        listed = await stub.listScopes(pb.ScopesRequest())
        assert {"before", "meanwhile"} <= set(listed.scopes)


async def test_two_controllers_are_one_to_their_clients(
    nats_server: Server, valkey_server: Server, redis_registry: RedisRegistry
) -> None:
    """Clients are balanced over all instances, so each must see at once what another did."""
    one, two = (_settings(nats_server, valkey_server, member=f"controller-{n}") for n in (0, 1))
    async with (
        _serving(one, redis_registry) as first,
        _serving(two, redis_registry) as second,
        grpc.aio.insecure_channel(f"{first.host}:{first.port}") as channel,
        grpc.aio.insecure_channel(f"{second.host}:{second.port}") as other_channel,
    ):
        stub = controller_pb2_grpc.ControllerServiceStub(channel)
        other = controller_pb2_grpc.ControllerServiceStub(other_channel)
        for number in range(20):
            scope = pb.ScopeInfo(scope=f"s{number}")
            asked, answering = (stub, other) if number % 2 else (other, stub)
            await asked.createScope(scope, wait_for_ready=True)
            assert (await answering.checkScopeExists(scope, wait_for_ready=True)).exists
        servers = await other.getControllerServerList(pb.ServerRequest())
        assert {uri.port for uri in servers.nodeURI} == {first.port, second.port}


async def test_another_number_of_containers_is_refused(
    nats_server: Server, valkey_server: Server, redis_registry: RedisRegistry
) -> None:
    """Segments would be looked for in other containers than those that hold them."""
    async with _serving(_settings(nats_server, valkey_server), redis_registry):
        pass
    changed = _settings(nats_server, valkey_server, containers=5)
    with pytest.raises(CannotStart, match=r"created with 3 containers.*--containers 3"):
        await serve(changed, asyncio.Event())


async def test_taken_rest_port_is_said_before_anything_starts(
    nats_server: Server, valkey_server: Server
) -> None:
    """A half-started controller would hold calls that nobody finishes."""
    with contextlib.closing(await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)) as taken:
        port = taken.sockets[0].getsockname()[1]
        with pytest.raises(CannotStart, match=f"127.0.0.1:{port}.*--rest-port"):
            await serve(_settings(nats_server, valkey_server, rest_port=port), asyncio.Event())


async def test_settings_that_cannot_work_are_named(nats_server: Server) -> None:
    """The message must name the setting, not the library that choked on it."""
    wrong = ControllerSettings(
        nats_url=nats_server.url, redis_url="http://here", grpc_port=0, rest_port=0
    )
    with pytest.raises(CannotStart, match="--redis-url http://here"):
        await serve(wrong, asyncio.Event())


def test_help_teaches_the_settings() -> None:
    """`--help` is the first thing that an operator asks."""
    shown = subprocess.run(
        [sys.executable, "-m", "anabranch_controller", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    for flag in ("--grpc-port", "--rest-port", "--advertised-host", "--containers", "--nats-url"):
        assert flag in shown
    assert re.search(r"fixed\s+when the\s+cluster is created", shown)


async def test_two_instances_that_start_at_once_found_one_cluster() -> None:
    """Two cluster ids would make two clusters of one event log."""
    store = MemoryEventStore()
    first, second = await asyncio.gather(
        join_cluster(store, containers_count=4, new_id=new_id),
        join_cluster(store, containers_count=4, new_id=new_id),
    )
    assert first == second
    with pytest.raises(ContainersFixed, match="--containers 4"):
        await join_cluster(store, containers_count=8, new_id=new_id)


async def test_scale_commands_are_answered(controller: Any) -> None:
    """The autoscaler must learn whether its scale was taken, and why not."""
    bus = MemoryBus()
    controller.answers["scale_by_command"] = ScaleAnswer("started")
    await serve_scale_commands(bus, controller)
    command = ScaleCommand("s", "x", 0, (0,), (KeyRange(0.0, 1.0),), "why", 9.0, 3.0, 7)
    payload = msgspec.json.encode(command)
    answer = await bus.request(subjects.SCALE_COMMAND, payload, timeout_s=1.0)
    assert msgspec.json.decode(answer, type=ScaleAnswer) == ScaleAnswer("started")
    assert controller.calls == [("scale_by_command", (command,), {})]

    answer = await bus.request(subjects.SCALE_COMMAND, b"{}", timeout_s=1.0)
    refused = msgspec.json.decode(answer, type=ScaleAnswer)
    assert refused.outcome == "refused"
    assert "unreadable" in refused.detail
