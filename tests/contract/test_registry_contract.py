"""One suite for every registry: what a service may rely on, whichever one it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import pytest
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.registry import (
    Assignment,
    ClusterInfo,
    Member,
    Registry,
    RegistryUnavailable,
    Serving,
)
from anabranch_testkit.fakes import FakeClock, MemoryRegistry
from anabranch_testkit.servers import ExternalServer, Server, valkey_server
from anabranch_testkit.waiting import eventually

LEASE_MS = 300


@dataclass
class Subject:
    registry: Registry
    wipe: Callable[[], Awaitable[None]]
    go_away: Callable[[], Awaitable[None]]
    come_back: Callable[[], Awaitable[None]]
    pass_time: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["memory", "redis"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield _memory()
        return
    async with valkey_server() as server:
        if isinstance(server, ExternalServer):
            pytest.skip("the server is not ours to wipe and kill")
        registry = RedisRegistry(server.url, clock=SystemClock())
        try:
            yield _redis(registry, server)
        finally:
            await registry.close()


def _memory() -> Subject:
    clock = FakeClock()
    registry = MemoryRegistry(clock)

    async def wipe() -> None:
        registry.wipe()

    async def go_away() -> None:
        registry.away = True

    async def come_back() -> None:
        registry.away = False

    return Subject(registry, wipe, go_away, come_back, clock.advance)


def _redis(registry: RedisRegistry, server: Server) -> Subject:
    async def wipe() -> None:
        await registry._redis.flushall()

    async def pass_time(seconds: float) -> None:
        await asyncio.sleep(seconds)  # the lease is the server's own; nothing to wait for

    return Subject(registry, wipe, server.kill, server.start, pass_time)


def member(incarnation: str = "first", name: str = "segmentstore-0") -> Member:
    return Member(name, incarnation, "segmentstore", "127.0.0.1", 12345, started_ms=1, pid=7)


def serving(container: int, epoch: int = 1, incarnation: str = "first") -> Serving:
    return Serving(container, "segmentstore-0", incarnation, "127.0.0.1", 12345, epoch)


async def test_members_are_listed_by_role(subject: Subject) -> None:
    """Clients would be sent to a process that is no segment store."""
    controller = Member("controller-0", "x", "controller", "127.0.0.1", 9090, started_ms=1)
    await subject.registry.announce(member(), lease_ms=60_000)
    await subject.registry.announce(controller, lease_ms=60_000)
    assert await subject.registry.members("controller") == [controller]
    assert {one.id for one in await subject.registry.members()} == {
        "controller-0",
        "segmentstore-0",
    }


async def test_member_expires_with_what_it_serves(subject: Subject) -> None:
    """A dead store would be given to clients for ever."""
    await subject.registry.announce(member(), lease_ms=LEASE_MS)
    await subject.registry.set_serving(serving(0))
    assert await subject.registry.serving() == {0: serving(0)}
    await subject.pass_time(LEASE_MS / 1000 + 0.1)
    assert await subject.registry.members() == []
    assert await subject.registry.serving() == {}


async def test_heartbeat_keeps_a_member(subject: Subject) -> None:
    """A living store would drop out of the cluster."""
    for _ in range(4):
        await subject.registry.announce(member(), lease_ms=LEASE_MS)
        await subject.pass_time(LEASE_MS / 2000)
    assert await subject.registry.members() == [member()]


async def test_withdraw_removes_a_member_and_its_serving_records(subject: Subject) -> None:
    """A stopped store would be handed out until its lease is over."""
    await subject.registry.announce(member(), lease_ms=60_000)
    await subject.registry.set_serving(serving(0))
    await subject.registry.set_serving(serving(3))
    await subject.registry.withdraw(member())
    assert await subject.registry.members() == []
    assert await subject.registry.serving() == {}


async def test_withdraw_of_an_old_incarnation_spares_the_new_one(subject: Subject) -> None:
    """A late clean-up would strike off the store that was just restarted."""
    await subject.registry.announce(member("second"), lease_ms=60_000)
    await subject.registry.set_serving(serving(0, epoch=2, incarnation="second"))
    await subject.registry.withdraw(member("first"))
    assert await subject.registry.members() == [member("second")]
    assert await subject.registry.serving() == {0: serving(0, 2, "second")}


async def test_serving_of_an_older_incarnation_is_not_shown(subject: Subject) -> None:
    """Clients would reach a restarted store before it has recovered the container."""
    await subject.registry.announce(member("first"), lease_ms=60_000)
    await subject.registry.set_serving(serving(0))
    await subject.registry.announce(member("second"), lease_ms=60_000)
    assert await subject.registry.serving() == {}


async def test_older_epoch_does_not_replace_a_living_owner(subject: Subject) -> None:
    """A paused store that wakes up would draw clients away from the new owner."""
    other = Member("segmentstore-1", "other", "segmentstore", "127.0.0.1", 12346, started_ms=1)
    newer = Serving(0, "segmentstore-1", "other", "127.0.0.1", 12346, epoch=5)
    await subject.registry.announce(member(), lease_ms=60_000)
    await subject.registry.announce(other, lease_ms=60_000)
    await subject.registry.set_serving(newer)
    await subject.registry.set_serving(serving(0, epoch=4))
    assert await subject.registry.serving() == {0: newer}
    await subject.registry.withdraw(other)
    await subject.registry.set_serving(serving(0, epoch=4))
    assert await subject.registry.serving() == {0: serving(0, epoch=4)}


async def test_clear_serving_is_for_the_own_incarnation(subject: Subject) -> None:
    """A container that moved on would vanish from the map."""
    await subject.registry.announce(member(), lease_ms=60_000)
    await subject.registry.set_serving(serving(1))
    await subject.registry.clear_serving(1, incarnation="somebody-else")
    assert await subject.registry.serving() == {1: serving(1)}
    await subject.registry.clear_serving(1, incarnation="first")
    assert await subject.registry.serving() == {}


async def test_assignments_replace_those_named(subject: Subject) -> None:
    """A rebalance would lose the containers that did not move."""
    first = [Assignment(number, "segmentstore-0", 1) for number in range(4)]
    await subject.registry.assign(first)
    await subject.registry.assign([Assignment(2, "segmentstore-1", 2)])
    await subject.registry.assign([])
    found = await subject.registry.assignments()
    assert found[2] == Assignment(2, "segmentstore-1", 2)
    assert [found[number] for number in (0, 1, 3)] == [first[0], first[1], first[3]]


async def test_cluster_info_is_kept(subject: Subject) -> None:
    """Segments could not be located from the registry alone."""
    assert await subject.registry.cluster() is None
    await subject.registry.set_cluster(ClusterInfo("one", 4))
    assert await subject.registry.cluster() == ClusterInfo("one", 4)


async def test_lease_has_one_holder_until_released_or_expired(subject: Subject) -> None:
    """Two controllers would spread the containers at the same time."""
    acquire = subject.registry.acquire_lease
    assert await acquire("placement", "a", lease_ms=LEASE_MS)
    assert not await acquire("placement", "b", lease_ms=LEASE_MS)
    assert await acquire("placement", "a", lease_ms=LEASE_MS)
    await subject.registry.release_lease("placement", "b")
    assert not await acquire("placement", "b", lease_ms=LEASE_MS)
    await subject.registry.release_lease("placement", "a")
    assert await acquire("placement", "b", lease_ms=LEASE_MS)
    await subject.pass_time(LEASE_MS / 1000 + 0.1)
    assert await acquire("placement", "c", lease_ms=LEASE_MS)


async def test_wiped_registry_is_filled_again(subject: Subject) -> None:
    """A lost Redis would stop the cluster for good (faults F13)."""
    await subject.registry.announce(member(), lease_ms=60_000)
    await subject.registry.set_serving(serving(0, epoch=9))
    await subject.registry.assign([Assignment(0, "segmentstore-0", 3)])
    await subject.wipe()
    assert await subject.registry.members() == []
    assert await subject.registry.assignments() == {}
    await subject.registry.announce(member(), lease_ms=60_000)
    await subject.registry.set_serving(serving(0, epoch=9))
    await subject.registry.assign([Assignment(0, "segmentstore-0", 1)])
    assert await subject.registry.serving() == {0: serving(0, epoch=9)}
    assert await subject.registry.assignments() == {0: Assignment(0, "segmentstore-0", 1)}


async def test_changes_are_noticed(subject: Subject) -> None:
    """A new owner of a container would be seen only at the next poll."""
    looks = 0
    async with aclosing(subject.registry.changes(poll_s=60)) as changes:  # type: ignore[type-var]
        await asyncio.wait_for(anext(changes), 5)
        for action in (
            lambda: subject.registry.announce(member(), lease_ms=60_000),
            lambda: subject.registry.set_serving(serving(0)),
            lambda: subject.registry.assign([Assignment(0, "segmentstore-0", 1)]),
            lambda: subject.registry.withdraw(member()),
        ):
            await action()
            await asyncio.wait_for(anext(changes), 5)
            looks += 1
    assert looks == 4


async def test_outage_is_an_error_and_its_end_a_change(subject: Subject) -> None:
    """A service would work on stale knowledge after the registry was away."""
    await subject.registry.announce(member(), lease_ms=60_000)
    items = 0

    async def watch() -> None:
        nonlocal items
        async for _ in subject.registry.changes(poll_s=0.05):
            items += 1

    watcher = asyncio.create_task(watch())
    try:
        await eventually(lambda: items >= 1)
        await subject.go_away()
        with pytest.raises(RegistryUnavailable):
            await subject.registry.members()
        before = items
        await subject.come_back()

        async def seen() -> bool:
            await subject.pass_time(0.05)
            return items > before

        await eventually(seen)
        await subject.registry.announce(member("second"), lease_ms=60_000)
        assert await subject.registry.members() == [member("second")]
    finally:
        watcher.cancel()


async def test_silent_server_is_an_error_and_not_a_hang(valkey_server: Server) -> None:
    """A service would stand still with a registry that takes calls and never answers."""
    if isinstance(valkey_server, ExternalServer):
        pytest.skip("the server is not ours to pause")
    registry = RedisRegistry(valkey_server.url, clock=SystemClock())
    await registry.announce(member(), lease_ms=60_000)
    valkey_server.pause()
    try:
        async with asyncio.timeout(10):
            with pytest.raises(RegistryUnavailable, match=valkey_server.url):
                await registry.members()
    finally:
        valkey_server.resume()
    assert await registry.members() == [member()]
    await registry.close()
