"""Containers that move between stores: handed over when that is possible, taken when it is not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.registry import Assignment, ClusterInfo, Member, Serving
from anabranch_segmentstore.adapters.memory_log import MemoryLogStore
from anabranch_segmentstore.api import Append, AppendOutcome
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.container import Container, open_container
from anabranch_segmentstore.hosting import OWNER_CHECK_S, ContainerHost
from anabranch_segmentstore.ports import ContainerId, DurableLog, LogFenced
from anabranch_segmentstore.store import HANDOVER_WAIT_S, SegmentStore
from anabranch_testkit.fakes.bus import MemoryBus
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.fakes.registry import MemoryRegistry
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from structlog.testing import capture_logs

SEGMENT = "scope/stream/0.#epoch.0"
ME = Member("me", "my-run", "segmentstore", "127.0.0.1", 1, 0)
OTHER = Member("other", "its-run", "segmentstore", "127.0.0.1", 2, 0)
FOR_EVER_MS = 1_000_000_000


class Rig:
    """A store over logs in memory and a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.registry = MemoryRegistry(self.clock)
        self.logs = MemoryLogStore()
        self.store = SegmentStore(
            registry=self.registry, make_host=self._make_host, clock=self.clock, new_id=uuid.uuid4
        )

    def _make_host(self, number: ContainerId, on_change: Callable[[], None]) -> ContainerHost:
        return ContainerHost(
            number,
            owner="me",
            logs=self.logs,
            open_container=self._open,
            bus=MemoryBus(),
            clock=self.clock,
            on_change=on_change,
        )

    async def _open(self, number: ContainerId, opened: DurableLog) -> Container:
        return await open_container(number, opened, clock=self.clock, cache=BlockCache(1_000_000))

    async def assign(self, member: Member, generation: int) -> None:
        await self.registry.assign([Assignment(0, member.id, generation)])


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.registry.set_cluster(ClusterInfo("test", 1))
    await rig.registry.announce(ME, lease_ms=FOR_EVER_MS)
    running = asyncio.ensure_future(rig.store.run(ME))
    yield rig
    running.cancel()
    await asyncio.wait([running])


async def test_a_new_owner_waits_for_the_old_one_to_hand_over(rig: Rig) -> None:
    """Appends under way would be cut off by the new epoch and sent again, at each move."""
    await rig.registry.announce(OTHER, lease_ms=FOR_EVER_MS)
    await rig.registry.set_serving(Serving(0, "other", "its-run", "127.0.0.1", 2, 7))
    await rig.assign(ME, 1)
    await rig.clock.advance(HANDOVER_WAIT_S / 2)
    assert not rig.logs.disks, "the log was opened while the old owner held it"
    await rig.registry.clear_serving(0, incarnation="its-run")
    await eventually(lambda: rig.store.serving)


async def test_an_old_owner_that_hands_nothing_over_is_fenced(rig: Rig) -> None:
    """A store that hangs on a dead disk would keep its containers for ever."""
    await rig.registry.announce(OTHER, lease_ms=FOR_EVER_MS)
    await rig.registry.set_serving(Serving(0, "other", "its-run", "127.0.0.1", 2, 0))
    await rig.assign(ME, 1)
    await rig.clock.advance(HANDOVER_WAIT_S / 2)
    assert not rig.logs.disks
    await rig.clock.advance(HANDOVER_WAIT_S)
    await eventually(lambda: rig.store.serving)


async def test_an_old_owner_that_is_no_member_any_more_is_not_waited_for(rig: Rig) -> None:
    """Each crash would cost the wait for a handover that nobody makes."""
    await rig.registry.set_serving(Serving(0, "other", "its-run", "127.0.0.1", 2, 7))
    await rig.assign(ME, 1)
    await eventually(lambda: rig.store.serving)
    assert rig.clock.monotonic() < HANDOVER_WAIT_S


async def test_a_container_that_moved_leaves_no_serving_record(rig: Rig) -> None:
    """Clients would be sent to the old store until the new one serves, and refused there."""
    await rig.assign(ME, 1)

    async def is_known() -> bool:
        return 0 in await rig.registry.serving()

    await eventually(is_known)
    await rig.assign(OTHER, 2)

    async def is_cleared() -> bool:
        return not await rig.registry.serving()

    await eventually(is_cleared)
    assert not rig.store.serving


async def test_a_quiet_store_notices_that_it_lost_its_container(rig: Rig) -> None:
    """Readers that wait at a tail would wait at a store that hears of no event any more."""
    await rig.assign(ME, 1)
    await eventually(lambda: rig.store.serving)
    (host,) = rig.store.serving
    container = host.container
    assert container is not None
    await container.create_segment(SEGMENT, attributes={})
    held = asyncio.ensure_future(container.read(SEGMENT, 0, 100))
    await rig.assign(OTHER, 2)
    rig.registry.away = True  # it hears of the other owner from its log alone
    await rig.logs.open(ContainerId(0), owner="other")
    with capture_logs() as logged:
        await rig.clock.advance(OWNER_CHECK_S)
        await eventually(lambda: not rig.store.serving)
    rig.registry.away = False
    assert "container.fenced" in {one["event"] for one in logged}
    assert (await held).data == b""


async def test_a_refusal_is_not_decided_by_a_store_that_lost_its_container() -> None:
    """A conditional writer would be told that its offset is wrong, by a store that knows none."""
    logs, clock = MemoryLogStore(), FakeClock()
    opened = await logs.open(ContainerId(0), owner="old")
    container = await open_container(
        ContainerId(0), opened, clock=clock, cache=BlockCache(1_000_000)
    )
    await container.create_segment(SEGMENT, attributes={})
    await logs.open(ContainerId(0), owner="new")
    outcomes: list[AppendOutcome] = []
    append = Append(SEGMENT, uuid.uuid4(), -(2**63), 1, 1, [b"event"], 5, 99)
    container.append(append, outcomes.append)
    await eventually(lambda: outcomes)
    assert isinstance(outcomes[0], LogFenced)
    await container.stop()


async def test_two_stores_pass_a_container_on_without_a_lost_append(
    tmp_path: Path, support: ModuleType, peers: Any, block: Any
) -> None:
    """A move would look like a crash: a recovery, and appends that are sent again."""
    registry = MemoryRegistry(SystemClock())
    with capture_logs() as logged:
        async with support.faked_store(tmp_path, registry=registry) as old:
            writer = await peers.connect(old)
            await writer.create(SEGMENT)
            await writer.set_up(SEGMENT)
            writer.send(*(block(number, b"event") for number in range(1, 51)))
            replies = [await writer.reply()]
            new_store = support.faked_store(tmp_path, registry=registry, member_id="segmentstore-1")
            async with new_store as new:
                replies += await writer.closed()
                acknowledged = max(one.event_number for one in replies)
                successor = await peers.connect(new)
                assert await successor.set_up(SEGMENT) == acknowledged == 50
                reader = await peers.connect(old)
                told = await reader.ask(c.GetStreamSegmentInfo(1, SEGMENT))
                assert told == c.WrongHost(1, SEGMENT)
    names = [one["event"] for one in logged]
    second = [index for index, name in enumerate(names) if name == "log.opened"][1]
    assert names.index("container.stopped") < second
    assert "container.fenced" not in names


async def test_a_table_request_reaches_a_table_that_moved(
    tmp_path: Path, support: ModuleType, peers: Any
) -> None:
    """Readers of the Rust and Python clients would stand still for ever after a move: their
    tables never ask where the container is."""
    table = "scope/group_kvtable/0.#epoch.0"
    registry = MemoryRegistry(SystemClock())
    async with support.faked_store(tmp_path, registry=registry) as old:
        client = await peers.connect(old)
        created = await client.ask(c.CreateTableSegment(1, table))
        assert isinstance(created, c.SegmentCreated), created
        new_store = support.faked_store(tmp_path, registry=registry, member_id="segmentstore-1")
        async with new_store:
            again = await peers.connect(old)
            told = await again.ask(c.GetTableSegmentInfo(77, table))
            assert (type(told), told.request_id) == (c.TableSegmentInfo, 77)
            missing = await again.ask(c.GetTableSegmentInfo(78, "scope/no_kvtable/0.#epoch.0"))
            assert (type(missing), missing.request_id) == (c.NoSuchSegment, 78)
