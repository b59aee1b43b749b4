"""What a controller does with the registry: placing, locating, keeping members announced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from anabranch_controller.api import Endpoint
from anabranch_controller.locator import Locator
from anabranch_controller.placement import Placement
from anabranch_controller.ports import SegmentStoreUnavailable
from anabranch_kit.membership import keep_announced
from anabranch_kit.ports.registry import Assignment, ClusterInfo, Member, Serving
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.fakes.registry import MemoryRegistry
from anabranch_testkit.waiting import eventually
from anabranch_wire.hashing import container_of

CLUSTER = ClusterInfo("c", containers_count=4)
SEGMENT = "city/rides/0.#epoch.0"


def _store(name: str, incarnation: str = "1") -> Member:
    return Member(name, incarnation, "segmentstore", "127.0.0.1", 12345, started_ms=0)


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def registry(fake_clock: FakeClock) -> MemoryRegistry:
    return MemoryRegistry(fake_clock)


def _placement(registry: MemoryRegistry, clock: FakeClock, holder: str = "a") -> Placement:
    return Placement(registry, CLUSTER, holder=holder, clock=clock)


async def _owners(registry: MemoryRegistry) -> dict[int, str]:
    return {n: one.member for n, one in (await registry.assignments()).items()}


async def test_new_store_gets_its_share(registry: MemoryRegistry, fake_clock: FakeClock) -> None:
    """A cluster that has grown must use its new store without anybody asking."""
    placement = _placement(registry, fake_clock)
    await registry.announce(_store("store-0"), lease_ms=60_000)
    await placement.round()
    assert set((await _owners(registry)).values()) == {"store-0"}
    assert await registry.cluster() == CLUSTER
    before = await registry.assignments()

    await registry.announce(_store("store-1"), lease_ms=60_000)
    await placement.round()
    after = await registry.assignments()
    assert sorted(one.member for one in after.values()) == ["store-0"] * 2 + ["store-1"] * 2
    moved = [n for n in after if after[n].member != before[n].member]
    assert all(after[n].generation > before[n].generation for n in moved)
    assert all(after[n] == before[n] for n in after if n not in moved)


async def test_without_the_lease_nothing_is_written(
    registry: MemoryRegistry, fake_clock: FakeClock
) -> None:
    """Two instances that place at once could give one container to two stores in turns."""
    await registry.announce(_store("store-0"), lease_ms=60_000)
    assert await registry.acquire_lease("placement", "other", lease_ms=60_000)
    await _placement(registry, fake_clock).round()
    assert await registry.assignments() == {}


async def test_wiped_registry_gets_the_same_assignments_back(
    registry: MemoryRegistry, fake_clock: FakeClock
) -> None:
    """After a wipe the stores return one by one; containers must not chase the first one."""
    placement = _placement(registry, fake_clock)
    for name in ("store-0", "store-1"):
        await registry.announce(_store(name), lease_ms=60_000)
    await placement.round()
    before = await _owners(registry)

    registry.wipe()
    await registry.announce(_store("store-1"), lease_ms=60_000)
    await placement.round()
    assert await _owners(registry) == before
    assert await registry.cluster() == CLUSTER

    await fake_clock.advance(1.0)
    await registry.announce(_store("store-0"), lease_ms=60_000)
    await fake_clock.advance(3.0)
    await placement.round()
    assert await _owners(registry) == before


async def test_store_that_stays_away_after_a_wipe_loses_its_containers(
    registry: MemoryRegistry, fake_clock: FakeClock
) -> None:
    """The patience after a wipe must end, or its containers stay unserved."""
    placement = _placement(registry, fake_clock)
    for name in ("store-0", "store-1"):
        await registry.announce(_store(name), lease_ms=60_000)
    await placement.round()
    registry.wipe()
    await registry.announce(_store("store-1"), lease_ms=60_000)
    await placement.round()
    await fake_clock.advance(4.0)
    await placement.round()
    assert set((await _owners(registry)).values()) == {"store-1"}


async def test_stopping_instance_gives_the_lease_back(
    registry: MemoryRegistry, fake_clock: FakeClock
) -> None:
    """A rolling restart must not leave containers unplaced for a lease each time."""
    async with _running(_placement(registry, fake_clock).run()):
        await eventually(lambda: registry.cluster())
    assert await registry.acquire_lease("placement", "next", lease_ms=1_000)


def _serving(container: int, host: str = "10.0.0.1") -> Serving:
    return Serving(container, "store-0", "1", host, 12345, epoch=1)


async def test_location_is_held_until_the_container_is_served(
    registry: MemoryRegistry, fake_clock: FakeClock
) -> None:
    """A client that is refused comes back after eleven seconds; a held one works at once."""
    await registry.announce(_store("store-0"), lease_ms=60_000)
    locator = Locator(registry, containers_count=4)
    async with _running(locator.run()):
        asked = asyncio.create_task(locator.locate(SEGMENT, wait_s=10.0))
        for container in range(4):
            if container != container_of(SEGMENT, 4):
                await registry.set_serving(_serving(container))
        await fake_clock.advance(1.0)
        assert not asked.done()
        await registry.set_serving(_serving(container_of(SEGMENT, 4), "10.0.0.9"))
        assert await asked == Endpoint("10.0.0.9", 12345)


async def test_location_of_a_container_that_moves_is_held_until_it_has_moved(
    registry: MemoryRegistry, fake_clock: FakeClock
) -> None:
    """A client would be sent to the old store, refused, and come back after eleven seconds."""
    number = container_of(SEGMENT, 4)
    await registry.announce(_store("store-0"), lease_ms=60_000)
    await registry.announce(_store("store-1"), lease_ms=60_000)
    await registry.set_serving(_serving(number))
    await registry.assign([Assignment(number, "store-1", 2)])
    locator = Locator(registry, containers_count=4)
    async with _running(locator.run()):
        asked = asyncio.create_task(locator.locate(SEGMENT, wait_s=10.0))
        await fake_clock.advance(1.0)
        assert not asked.done()
        await registry.set_serving(Serving(number, "store-1", "1", "10.0.0.9", 12345, epoch=2))
        assert await asked == Endpoint("10.0.0.9", 12345)


async def test_location_of_an_unserved_container_says_what_to_look_for(
    registry: MemoryRegistry,
) -> None:
    """Holding must end, and name the container and the likely cause."""
    locator = Locator(registry, containers_count=4)
    async with _running(locator.run()):
        with pytest.raises(SegmentStoreUnavailable, match=r"container \d .* is one running"):
            await locator.locate(SEGMENT, wait_s=0.01)


async def test_host_name_with_an_underscore_becomes_an_address(
    registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Rust client cuts a name at its underscore and connects to nowhere."""
    await registry.announce(_store("store-0"), lease_ms=60_000)
    await registry.set_serving(_serving(container_of(SEGMENT, 4), "segment_store_1"))

    async def resolve(host: str, *_: object, **__: object) -> list[Any]:
        assert host == "segment_store_1"
        return [(None, None, None, "", ("172.18.0.5", 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    locator = Locator(registry, containers_count=4)
    async with _running(locator.run()):
        assert await locator.locate(SEGMENT, wait_s=5.0) == Endpoint("172.18.0.5", 12345)


async def test_member_is_announced_again_after_a_wipe_and_struck_off_at_the_end(
    registry: MemoryRegistry, fake_clock: FakeClock
) -> None:
    """A wiped registry must fill by itself, and a clean stop must not wait for a lease."""
    member = _store("store-0")
    async with _running(keep_announced(registry, member, clock=fake_clock)):
        await eventually(lambda: registry.members())
        registry.wipe()
        await fake_clock.advance(1.0)
        assert await registry.members() == [member]
        await fake_clock.advance(30.0)
        assert await registry.members() == [member]
    assert await registry.members() == []
