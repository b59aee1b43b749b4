"""Tier 2: orders, reports, reads behind the cut, and what happens when bytes vanish meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import google_crc32c
import pytest
from anabranch_events.bus import ChunkReport, DeleteOrder, FlushOrder
from anabranch_kit.ports.bus import BusUnavailable
from anabranch_segmentstore.api import NO_EVENT, Appended, TableEntry
from anabranch_segmentstore.container import ContainerSettings
from anabranch_segmentstore.domain.errors import NoSuchSegment, SegmentTruncated
from anabranch_segmentstore.domain.extents import ChunkPlace
from anabranch_segmentstore.domain.flushing import FlushRules
from anabranch_segmentstore.reads import ChunkDamaged
from anabranch_segmentstore.tiering import TieringSettings
from anabranch_testkit.fakes.object_store import MemoryObjectStore

SEGMENT = "scope/stream/0.#epoch.0"
OTHER = "scope/stream/1.#epoch.0"
EAGER = TieringSettings(rules=FlushRules(age_s=0.0), untiered_bytes_max=1000)


@dataclass
class Worker:
    """The bus and a tierer in one: keeps orders until told to do them."""

    rig: object
    objects: MemoryObjectStore
    orders: list[FlushOrder] = field(default_factory=list)
    deletions: list[DeleteOrder] = field(default_factory=list)
    is_away: bool = False

    async def order_flush(self, order: FlushOrder) -> None:
        if self.is_away:
            raise BusUnavailable("orders", "away")
        self.orders.append(order)

    async def order_deletion(self, order: DeleteOrder) -> None:
        if self.is_away:
            raise BusUnavailable("deletions", "away")
        self.deletions.append(order)

    async def write(self, order: FlushOrder) -> ChunkReport:
        pieces = [
            bytes(await self.rig.container.reader.read_exactly(*self.range_of(one)))
            for one in order.ranges
        ]
        info = await self.objects.create(order.object_name, pieces)
        crcs = tuple(google_crc32c.value(piece) for piece in pieces)
        return ChunkReport(
            order.container, order.object_name, "written", info.length_bytes, crcs, "test"
        )

    def range_of(self, one):
        segment = self.rig.container.state.find(one.segment)
        return segment, one.offset, one.offset + one.length

    async def do_all(self) -> None:
        orders, self.orders = self.orders, []
        for order in orders:
            answer = await self.rig.container.chunk_report(await self.write(order))
            assert answer.outcome == "accepted", answer


async def make_tiered(make_rig, *, settings: ContainerSettings | None = None):
    objects = MemoryObjectStore()
    rig = await make_rig(objects=objects, settings=settings)
    worker = Worker(rig, objects)
    rig.container.start_tiering(worker, EAGER)
    return rig, worker


async def tick(rig) -> None:
    await rig.container.upkeep.tick(rig.container.tiering)


async def flush(rig, worker: Worker) -> None:
    await tick(rig)
    await worker.do_all()


async def cut(rig) -> None:
    """A snapshot, and the log cut as far as it goes."""
    rig.container.upkeep.snapshot()
    await rig.container.barrier()
    await tick(rig)


async def test_tiered_bytes_are_read_after_the_log_was_cut(make_rig) -> None:
    """A long stream would fill the disk of tier 1, or lose its head."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.create(OTHER)
    for number in range(1, 30):
        await rig.append(bytes([number]) * 100, segment=SEGMENT)
        await rig.append(bytes([100 + number]) * 50, segment=OTHER)
    await flush(rig, worker)
    await cut(rig)
    assert len(worker.objects.objects) == 1, "one object for many segments"
    assert rig.container.state.untiered_bytes == 0
    assert min(rig.store.disks[0].frames) == rig.container.upkeep._snapshot_position
    for _ in range(2):
        rig.cache.drop_container(0)
        expected = b"".join(bytes([number]) * 100 for number in range(1, 30))
        assert await rig.read_all(SEGMENT) == expected
        expected = b"".join(bytes([100 + number]) * 50 for number in range(1, 30))
        assert await rig.read_all(OTHER) == expected
        await rig.restart()


async def test_the_log_keeps_what_is_not_tiered(make_rig) -> None:
    """Bytes would be lost between the tiers."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"first")
    await flush(rig, worker)
    await rig.append(b"second")
    await cut(rig)
    await rig.append(b"third")
    await cut(rig)
    rig.cache.drop_container(0)
    assert await rig.read_all() == b"firstsecondthird"
    await rig.restart()
    assert await rig.read_all() == b"firstsecondthird"


async def test_a_name_is_intended_before_its_order_is_sent(make_rig) -> None:
    """A crash in between would leave an object that nobody knows."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"data")
    await tick(rig)
    [order] = worker.orders
    await rig.crash()
    rig.container.start_tiering(worker, EAGER)
    worker.orders.clear()
    await tick(rig)
    assert [again.object_name for again in worker.orders] == [order.object_name]
    assert worker.orders[0].ranges == order.ranges
    await worker.do_all()
    assert rig.container.state.untiered_bytes == 0


async def test_a_report_that_comes_twice_is_accepted_twice(make_rig) -> None:
    """A redelivered order would be retried for ever."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"data")
    await tick(rig)
    report = await worker.write(worker.orders[0])
    assert (await rig.container.chunk_report(report)).outcome == "accepted"
    assert (await rig.container.chunk_report(report)).outcome == "accepted"
    stray = ChunkReport(0, "segments/0/9/9", "written", 4, (1,), "test")
    assert (await rig.container.chunk_report(stray)).outcome == "unknown"


async def test_a_taken_name_is_given_up_and_another_one_ordered(make_rig) -> None:
    """Somebody else's bytes would be served as the segment's."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"data")
    await tick(rig)
    taken = ChunkReport(0, worker.orders[0].object_name, "name-taken", 0, (), "test")
    assert (await rig.container.chunk_report(taken)).outcome == "unknown"
    first = worker.orders.pop().object_name
    await flush(rig, worker)
    [name] = worker.objects.objects
    assert name != first
    assert worker.deletions == []
    assert rig.container.state.untiered_bytes == 0


async def test_bytes_that_vanish_under_an_order_void_it(make_rig) -> None:
    """An order that can never be done would stop the tiering of its neighbours."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.create(OTHER)
    await rig.append(b"data", segment=SEGMENT)
    await rig.append(b"more", segment=OTHER)
    await tick(rig)
    await rig.container.delete_segment(OTHER)
    report = await worker.write(
        FlushOrder(0, 1, worker.orders[0].object_name, worker.orders[0].ranges[:1])
    )
    await tick(rig)
    assert (await rig.container.chunk_report(report)).outcome == "unknown"
    assert worker.deletions[0].object_names == (worker.orders[0].object_name,)
    await worker.objects.delete(worker.deletions[0].object_names[0])
    del worker.orders[0]
    await flush(rig, worker)
    rig.cache.drop_container(0)
    assert await rig.read_all() == b"data"


async def test_a_merge_rebases_chunks_and_log_alike(make_rig) -> None:
    """A committed transaction would be copied, or point to another segment's bytes."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.create(OTHER)
    await rig.append(b"tiered source", segment=OTHER)
    await flush(rig, worker)
    await rig.append(b" and more", segment=OTHER)
    await rig.append(b"target ", segment=SEGMENT)
    await rig.container.merge_segment(SEGMENT, OTHER)
    for _ in range(2):
        rig.cache.drop_container(0)
        assert await rig.read_all() == b"target tiered source and more"
        await flush(rig, worker)
        await cut(rig)
    assert rig.container.state.untiered_bytes == 0
    await rig.restart()
    assert await rig.read_all() == b"target tiered source and more"


async def test_objects_go_when_nothing_refers_to_them(make_rig) -> None:
    """Deleted streams would fill tier 2, or living ones lose their bytes."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.create(OTHER)
    await rig.append(b"aaaa", segment=SEGMENT)
    await rig.append(b"bbbb", segment=OTHER)
    await flush(rig, worker)
    await rig.container.truncate_segment(SEGMENT, 4)
    await tick(rig)
    assert worker.deletions == []
    await rig.container.delete_segment(OTHER)
    await tick(rig)
    [deletion] = worker.deletions
    assert set(deletion.object_names) == set(worker.objects.objects)
    await tick(rig)
    assert len(worker.deletions) == 1
    await rig.restart()
    assert rig.container.state.ledger.condemned == {}


async def test_a_damaged_chunk_is_refused(make_rig) -> None:
    """A flipped bit in tier 2 would be served as an event."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"precious")
    await flush(rig, worker)
    [name] = worker.objects.objects
    worker.objects.objects[name] = b"precioux"
    rig.cache.drop_container(0)
    with pytest.raises(ChunkDamaged):
        await rig.container.read(SEGMENT, 0, 100)


async def test_a_read_at_the_border_finds_bytes_that_just_moved(make_rig) -> None:
    """A reader would be told that bytes are gone which are in tier 2."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    for number in range(1, 6):
        await rig.append(bytes([number]) * 10)
    await tick(rig)
    reports = [await worker.write(order) for order in worker.orders]
    rig.cache.drop_container(0)
    read = asyncio.ensure_future(rig.container.read(SEGMENT, 0, 100))
    await asyncio.sleep(0)  # the read waits for the log now
    for position in [at for at, frame in rig.store.disks[0].frames.items() if at > 1]:
        del rig.store.disks[0].frames[position]
    for report in reports:
        assert (await rig.container.chunk_report(report)).outcome == "accepted"
    result = await read
    assert bytes(result.data)[:10] == b"\x01" * 10
    assert isinstance(rig.container.state.find(SEGMENT).extents.places[0], ChunkPlace)


async def test_a_read_under_way_when_its_bytes_are_deleted_is_answered(make_rig) -> None:
    """A reader would hang, or its container end."""
    rig, worker = await make_tiered(make_rig)
    for name in (SEGMENT, OTHER):
        await rig.create(name)
        await rig.append(b"data", segment=name)
    await flush(rig, worker)
    rig.cache.drop_container(0)
    deleted = asyncio.ensure_future(rig.container.read(SEGMENT, 0, 100))
    truncated = asyncio.ensure_future(rig.container.read(OTHER, 0, 100))
    gone = asyncio.ensure_future(rig.container.delete_segment(SEGMENT))
    cut_off = asyncio.ensure_future(rig.container.truncate_segment(OTHER, 2))
    for read in (deleted, truncated):
        with contextlib.suppress(NoSuchSegment, SegmentTruncated):
            assert bytes((await read).data) == b"data"
    await gone
    await cut_off


async def test_too_much_for_tier_two_slows_writers_and_loses_nothing(make_rig) -> None:
    """An outage of tier 2 would fill the disk, or drop data."""
    rig, worker = await make_tiered(make_rig)
    worker.is_away = True
    await rig.create(SEGMENT)
    await rig.append(b"x" * 2000)
    await tick(rig)
    assert rig.container.is_busy
    assert rig.container.tiering.bus_failure is not None
    idle = asyncio.Event()
    rig.container.when_idle(idle.set)
    worker.is_away = False
    await flush(rig, worker)
    await tick(rig)
    await asyncio.sleep(0)
    assert idle.is_set()
    assert await rig.read_all() == b"x" * 2000


async def test_large_segments_are_cut_into_short_ranges(make_rig) -> None:
    """A cold read of one event would fetch an object of many megabytes."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    data = bytes(range(256)) * 4096 * 5 + b"end"
    outcome = await rig.send(data, after=NO_EVENT, number=1)
    assert isinstance(outcome, Appended)
    await tick(rig)
    [order] = worker.orders
    assert max(one.length for one in order.ranges) == 1024 * 1024
    assert len(order.ranges) == 6
    await worker.do_all()
    rig.cache.drop_container(0)
    assert await rig.read_all() == data


async def test_tables_are_tiered_and_recovered_like_any_segment(make_rig) -> None:
    """A reader group's state would not survive the cut of the log."""
    rig, worker = await make_tiered(make_rig)
    table = "scope/rg_kvtable/0.#epoch.0"
    await rig.create(table, key_length=0)
    for number in range(50):
        await rig.container.table_update(
            table, [TableEntry(b"k%d" % (number % 7), b"v%d" % number)], expected_length=None
        )
    await flush(rig, worker)
    await cut(rig)
    await rig.restart()
    found = await rig.container.table_get(table, [b"k0", b"k6"])
    assert [entry.value for entry in found] == [b"v49", b"v48"]
    delta = await rig.container.table_delta(table, position=0, count=100)
    assert {entry.key: entry.value for entry in delta.entries}[b"k1"] == b"v43"


async def test_snapshots_bound_the_replay(make_rig) -> None:
    """A start would take longer with every day of running."""
    settings = ContainerSettings(snapshot_after_frames=10)
    rig, worker = await make_tiered(make_rig, settings=settings)
    await rig.create(SEGMENT)
    for number in range(1, 100):
        await rig.append(b"%d," % number)
        await flush(rig, worker)
    await rig.container.barrier()
    replayed = [frame async for frame in rig.log.replay()]
    assert replayed[0].is_snapshot
    assert len(replayed) < 30
    assert len(rig.store.disks[0].frames) < 60
    expected = b"".join(b"%d," % number for number in range(1, 100))
    await rig.restart()
    assert await rig.read_all() == expected


async def test_the_log_is_cut_only_when_the_reason_is_durable(make_rig) -> None:
    """A crash would take a truncation back, and the bytes would be gone all the same."""
    rig, _ = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"precious")
    rig.container.upkeep.snapshot()
    await rig.container.barrier()
    rig.log.hold_syncs = True
    truncation = asyncio.ensure_future(rig.container.truncate_segment(SEGMENT, 8))
    await asyncio.sleep(0)
    cutting = asyncio.ensure_future(rig.container.upkeep.tick(None))
    for _ in range(20):
        await asyncio.sleep(0)
    await rig.crash()
    await asyncio.gather(truncation, cutting, return_exceptions=True)
    assert await rig.read_all() == b"precious"


async def test_a_report_of_bytes_that_were_truncated_meanwhile(make_rig) -> None:
    """One truncation at the wrong moment would end the container."""
    rig, worker = await make_tiered(make_rig)
    for name in (SEGMENT, OTHER):
        await rig.create(name)
        await rig.append(b"0123456789", segment=name)
    await tick(rig)
    report = await worker.write(worker.orders.pop())
    await rig.container.truncate_segment(SEGMENT, 5)
    assert (await rig.container.chunk_report(report)).outcome == "accepted"
    rig.cache.drop_container(0)
    assert await rig.read_all(SEGMENT) == b"56789"
    assert await rig.read_all(OTHER) == b"0123456789"
    assert rig.container.state.untiered_bytes == 5
    await flush(rig, worker)
    assert rig.container.state.untiered_bytes == 0
    await cut(rig)
    rig.cache.drop_container(0)
    assert await rig.read_all(SEGMENT) == b"56789"


async def test_a_tiered_target_of_a_merge_has_bytes_to_flush_again(make_rig) -> None:
    """A committed transaction would stay in the log for ever, and pin it."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"tiered", segment=SEGMENT)
    await flush(rig, worker)
    await rig.create(OTHER)
    await rig.append(b"merged", segment=OTHER)
    await rig.container.merge_segment(SEGMENT, OTHER)
    await flush(rig, worker)
    assert rig.container.state.untiered_bytes == 0
    await rig.append(b"and on")
    await flush(rig, worker)
    assert rig.container.state.untiered_bytes == 0
    await cut(rig)
    rig.cache.drop_container(0)
    assert await rig.read_all() == b"tieredmergedand on"


async def test_only_durable_bytes_are_ordered(make_rig) -> None:
    """A worker would wait for bytes that a crash takes back, or tier them."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    await rig.append(b"durable")
    rig.log.hold_syncs = True
    waiting = rig.send(b"not yet", after=1, number=2)
    await asyncio.sleep(0)
    ticking = asyncio.ensure_future(tick(rig))
    while not ticking.done():
        rig.log.sync()
        await asyncio.sleep(0)
    await waiting
    assert [one.length for one in worker.orders[0].ranges] == [7]


async def test_ranges_of_a_segment_with_gaps(make_rig) -> None:
    """Bytes between two chunks would never be tiered, or tiered twice."""
    rig, worker = await make_tiered(make_rig)
    await rig.create(SEGMENT)
    for turn in range(4):
        name = f"scope/stream/{turn + 10}.#epoch.0"
        await rig.create(name)
        await rig.append(b"source%d " % turn, segment=name)
        if turn % 2:
            await flush(rig, worker)
        await rig.container.merge_segment(SEGMENT, name)
        await rig.append(b"plain%d " % turn)
    await flush(rig, worker)
    assert rig.container.state.untiered_bytes == 0
    await cut(rig)
    rig.cache.drop_container(0)
    expected = b"".join(b"source%d plain%d " % (turn, turn) for turn in range(4))
    assert await rig.read_all() == expected
