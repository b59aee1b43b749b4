"""Orders against fakes: each thing that can be away, doubled or gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import google_crc32c
import msgspec
import pytest
from anabranch_events import subjects
from anabranch_events.bus import ChunkAnswer, ChunkReport, DeleteOrder, FlushOrder, FlushRange
from anabranch_kit.ports.object_store import ObjectStoreUnavailable
from anabranch_testkit.fakes import FakeClock, MemoryBus, MemoryObjectStore
from anabranch_tierer.domain.orders import READ_BYTES_MAX, Again, Done, Dropped
from anabranch_tierer.handlers import READS_AT_ONCE_MAX, Tierer
from anabranch_tierer.ports import OwnerUnreachable, RangeGone

CONTAINER = 3
BIG = bytes(range(251)) * 20_000  # 5 MB: three reads
SEGMENTS = {"s/t/0": b"0123456789", "s/t/1": b"abcdefghij", "s/t/big": BIG}
ORDER = FlushOrder(
    CONTAINER,
    1,
    "container-3/1-1",
    (FlushRange("s/t/0", 2, 4), FlushRange("s/t/big", 0, len(BIG)), FlushRange("s/t/1", 0, 10)),
)
CONTENT = b"2345" + BIG + b"abcdefghij"


@dataclass
class FakeReader:
    segments: dict[str, bytes] = field(default_factory=lambda: dict(SEGMENTS))
    failures: list[Exception] = field(default_factory=list)
    reads: int = 0
    at_once: int = 0
    at_once_max: int = 0

    async def read(self, container: int, segment: str, offset: int, length: int) -> bytes:
        assert container == CONTAINER
        assert length <= READ_BYTES_MAX
        self.reads += 1
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        try:
            await asyncio.sleep(0)
            if self.failures:
                raise self.failures.pop(0)
            return self.segments[segment][offset : offset + length]
        finally:
            self.at_once -= 1


@dataclass
class World:
    clock: FakeClock = field(default_factory=FakeClock)
    reader: FakeReader = field(default_factory=FakeReader)
    objects: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    bus: MemoryBus = field(default_factory=MemoryBus)
    reports: list[ChunkReport] = field(default_factory=list)
    answer: ChunkAnswer = field(default_factory=lambda: ChunkAnswer("accepted"))

    def __post_init__(self) -> None:
        self.tierer = Tierer(
            reader=self.reader,
            objects=self.objects,
            bus=self.bus,
            clock=self.clock,
            worker="tierer-0",
        )

    async def owner(self) -> None:
        async def journal(payload: bytes) -> bytes:
            self.reports.append(msgspec.json.decode(payload, type=ChunkReport))
            return msgspec.json.encode(self.answer)

        await self.bus.serve(subjects.chunk_reports(CONTAINER), journal)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.owner()
    return world


async def test_ranges_become_one_object_in_their_order(world: World) -> None:
    """A reader of tiered data would get other bytes than were written."""
    assert await world.tierer.flush(ORDER) == Done()
    assert world.objects.objects == {ORDER.object_name: CONTENT}
    [report] = world.reports
    assert report.outcome == "written"
    assert report.length_bytes == len(CONTENT)
    assert report.crcs == tuple(google_crc32c.value(part) for part in (b"2345", BIG, b"abcdefghij"))
    assert report.worker == "tierer-0"


async def test_reads_of_one_order_are_bounded(world: World) -> None:
    """An order of many quiet segments would take all connections of a store."""
    segments = {f"s/t/{number}": b"x" for number in range(100)}
    world.reader.segments.update(segments)
    ranges = tuple(FlushRange(name, 0, 1) for name in segments)
    assert await world.tierer.flush(FlushOrder(CONTAINER, 1, "c/many", ranges)) == Done()
    assert world.reader.reads == 100
    assert 1 < world.reader.at_once_max <= READS_AT_ONCE_MAX


async def test_redelivered_order_changes_nothing(world: World) -> None:
    """A second delivery would overwrite or double a chunk (faults F22)."""
    assert await world.tierer.flush(ORDER) == Done()
    another = World(reader=world.reader, objects=world.objects, bus=world.bus)
    world.answer = ChunkAnswer("unknown", "journalled already")
    assert await another.tierer.flush(ORDER) == Dropped("journalled already")
    assert world.reports[0] == world.reports[1]
    assert world.objects.objects == {ORDER.object_name: CONTENT}


async def test_copies_of_an_order_cost_no_reads(world: World) -> None:
    """After an outage the copies in the queue would load the segment stores for nothing."""
    assert await world.tierer.flush(ORDER) == Done()
    reads = world.reader.reads
    for _ in range(5):
        assert await world.tierer.flush(ORDER) == Done()
    assert world.reader.reads == reads
    assert len({msgspec.json.encode(report) for report in world.reports}) == 1
    # The same name with other ranges is another question.
    await world.tierer.flush(msgspec.structs.replace(ORDER, ranges=ORDER.ranges[:1]))
    assert world.reports[-1].outcome == "name-taken"


async def test_name_with_other_bytes_is_reported_and_not_touched(world: World) -> None:
    """Bytes that a container's log points to would be replaced."""
    world.objects.objects[ORDER.object_name] = CONTENT[:-1] + b"!"
    assert await world.tierer.flush(ORDER) == Done()
    assert [report.outcome for report in world.reports] == ["name-taken"]
    assert world.objects.objects[ORDER.object_name] == CONTENT[:-1] + b"!"


async def test_create_that_timed_out_but_happened_ends_well(world: World) -> None:
    """A put whose answer was lost would leave the order undone for ever (faults F22)."""
    lost = [True]

    def fault(moment: str, name: str) -> None:
        if moment == "after create" and lost:
            lost.clear()
            raise ObjectStoreUnavailable("create", name, "timed out")

    world.objects.fault = fault
    first = await world.tierer.flush(ORDER)
    assert isinstance(first, Again)
    await world.clock.advance(first.delay_s)
    assert await world.tierer.flush(ORDER) == Done()
    assert [report.outcome for report in world.reports] == ["written"]


async def test_while_tier2_is_away_segments_are_left_alone(world: World) -> None:
    """An outage of tier 2 would load the segment stores with useless reads (faults F24)."""
    away = [True]

    def fault(moment: str, name: str) -> None:
        if away and moment == "before create":
            raise ObjectStoreUnavailable("create", name, "no answer")

    world.objects.fault = fault
    pauses: list[float] = []
    for _ in range(4):
        settlement = await world.tierer.flush(ORDER)
        assert isinstance(settlement, Again)
        pauses.append(settlement.delay_s)
        reads = world.reader.reads
        again = await world.tierer.flush(ORDER)
        assert isinstance(again, Again)
        assert world.reader.reads == reads
        await world.clock.advance(settlement.delay_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]
    assert world.tierer.tier2_is_down
    away.clear()
    assert await world.tierer.flush(ORDER) == Done()
    assert not world.tierer.tier2_is_down


async def test_owner_away_means_later(world: World) -> None:
    """An order would be lost while a container moves."""
    world.reader.failures = [OwnerUnreachable(CONTAINER, "moving")]
    assert isinstance(await world.tierer.flush(ORDER), Again)
    world.answer = ChunkAnswer("not-owner")
    assert isinstance(await world.tierer.flush(ORDER), Again)


async def test_report_without_an_answer_is_repeated(world: World) -> None:
    """A chunk would be written and never journalled: the log could not be cut."""
    nobody = World()
    settlement = await nobody.tierer.flush(ORDER)
    assert isinstance(settlement, Again)
    assert "nobody serves" in settlement.reason
    await nobody.owner()
    assert await nobody.tierer.flush(ORDER) == Done()


async def test_range_that_is_gone_drops_the_order(world: World) -> None:
    """The order of a deleted segment would come back for ever."""
    world.reader.failures = [
        OwnerUnreachable(CONTAINER, "moving"),
        RangeGone("s/t/1", 0, "NoSuchSegment"),
    ]
    settlement = await world.tierer.flush(ORDER)
    assert isinstance(settlement, Dropped)
    assert "NoSuchSegment" in settlement.reason
    assert world.objects.objects == {}
    assert world.reports == []


async def test_impossible_order_is_dropped(world: World) -> None:
    """A wrong order would be tried for ever."""
    assert isinstance(await world.tierer.flush(FlushOrder(CONTAINER, 1, "c/none", ())), Dropped)


async def test_answer_that_cannot_be_read_is_no_answer(world: World) -> None:
    """An owner of another version would end the worker."""
    other = World()

    async def babble(_: bytes) -> bytes:
        return b'{"outcome": "perhaps"}'

    await other.bus.serve(subjects.chunk_reports(CONTAINER), babble)
    settlement = await other.tierer.flush(ORDER)
    assert isinstance(settlement, Again)
    assert "cannot be read" in settlement.reason


async def test_deletes_are_repeated_until_done(world: World) -> None:
    """Deleted segments would keep their space, or a second delivery would fail."""
    world.objects.objects = {"c/1": b"1", "c/2": b"2", "c/3": b"3"}

    def fault(moment: str, name: str) -> None:
        if name == "c/2" and world.clock.monotonic() == 0:
            raise ObjectStoreUnavailable("delete", name, "no answer")

    world.objects.fault = fault
    order = DeleteOrder(CONTAINER, ("c/1", "c/2"))
    settlement = await world.tierer.delete(order)
    assert isinstance(settlement, Again)
    await world.clock.advance(settlement.delay_s)
    assert await world.tierer.delete(order) == Done()
    assert await world.tierer.delete(order) == Done()
    assert world.objects.objects == {"c/3": b"3"}
