"""Watermarks: no reader is told of a time before it has seen all that was written until then."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import msgspec
import pytest
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain import watermarks as rules
from anabranch_controller.domain.key_ranges import overlaps
from anabranch_controller.domain.stream import Stream, WriterMark, fold
from anabranch_controller.domain.watermarks import DamagedWatermark, Watermark, cut_behind, decide
from anabranch_controller.ports import MarkTail, SegmentStoreUnavailable
from anabranch_controller.watermarks import Watermarks
from anabranch_events.bus import KeyRange
from anabranch_events.domain import (
    ScaleCompleted,
    ScaleStarted,
    StreamActivated,
    StreamBatch,
    StreamEvent,
)
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig
from hypothesis import given
from hypothesis import strategies as st

INT64 = st.integers(-(2**63), 2**63 - 1)
MERGED = (1 << 32) | 2


def written(stream: Stream | None, *events: StreamEvent) -> Stream:
    return fold(stream, StreamBatch(id="", by="a", at_ms=0, events=events))


def started(segments_count: int = 2) -> Stream:
    """A stream that may be merged down to one segment."""
    config = StreamConfig(scaling=ScalingPolicy(min_segments=segments_count))
    event = decisions.create(
        None, scope="s", stream="x", incarnation="i", config=config, created_ms=0
    )
    assert event is not None
    stream = written(None, event, StreamActivated())
    return msgspec.structs.replace(
        stream, config=StreamConfig(scaling=ScalingPolicy("kbytes_per_sec", 1, 2, 1))
    )


def scaled(stream: Stream, seal: list[int], *ranges: tuple[float, float]) -> Stream:
    event = decisions.scale(
        stream,
        seal=seal,
        ranges=[KeyRange(low, high) for low, high in ranges],
        requested_ms=0,
        cause="manual",
    )
    assert isinstance(event, ScaleStarted)
    epoch = decisions.scale_epoch(stream, event, created_ms=0)
    return written(stream, event, epoch, ScaleCompleted(event.new_epoch, (), 0))


def noted(stream: Stream, timeout_ms: int = 0, **writers: WriterMark) -> Stream:
    config = msgspec.structs.replace(stream.config, timestamp_aggregation_timeout_ms=timeout_ms)
    return msgspec.structs.replace(stream, writers=writers, config=config)


# --- the encoding ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "encoded"),
    [
        ((), "0000010000000011fffffffffffffffb0000011f71fb04cb00"),
        (
            ((SegmentRange(1, 0.0, 0.5), 1000),),
            "0000010000000039fffffffffffffffb0000011f71fb04cb01"
            "0000010000000018000000000000000100000000000000003fe000000000000000000000000003e8",
        ),
        (
            ((SegmentRange(1, 0.0, 0.5), 1000), (SegmentRange(1 << 32 | 2, 0.5, 1.0), 1001)),
            "0000010000000061fffffffffffffffb0000011f71fb04cb02"
            "0000010000000018000000000000000100000000000000003fe000000000000000000000000003e8"
            "000001000000001800000001000000023fe00000000000003ff000000000000000000000000003e9",
        ),
    ],
)
def test_watermarks_are_written_as_java_reads_them(
    cut: tuple[tuple[SegmentRange, int], ...], encoded: str
) -> None:
    """Readers decode them themselves. The bytes are those of the Java client 0.13.0."""
    watermark = Watermark(-5, 1234567890123, cut)
    assert rules.encode(watermark).hex() == encoded
    assert rules.decode(bytes.fromhex(encoded)) == watermark


watermarks = st.builds(
    Watermark,
    INT64,
    INT64,
    st.lists(
        st.tuples(
            st.builds(SegmentRange, st.integers(0, 2**63 - 1), st.floats(0, 1), st.floats(0, 1)),
            st.integers(0, 2**63 - 1),
        ),
        max_size=200,
    ).map(tuple),
)


@given(st.lists(watermarks, max_size=3), st.integers(0, 2**40))
def test_what_is_written_is_read_again(written_ones: list[Watermark], begin: int) -> None:
    """The next watermark starts from the one before."""
    encoded = [rules.encode(one) for one in written_ones]
    events = b"".join(struct.pack(">ii", 0, len(one)) + one for one in encoded)
    read = list(rules.entries(events, begin))
    assert [entry.watermark for entry in read] == written_ones
    offset = begin
    for entry, one in zip(read, encoded, strict=True):
        assert entry.offset == offset
        offset += rules.EVENT_HEADER_BYTES + len(one)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(noise: bytes) -> None:
    """A user who writes to a mark stream would end the watermarks of all streams."""
    if noise:
        with pytest.raises(DamagedWatermark, match="no watermark at offset"):
            list(rules.entries(noise, 0))


def test_a_watermark_of_many_segments() -> None:
    """The number of segments has three forms."""
    for count in (0x7F, 0x80, 0x3FFF, 0x4000):
        cut = tuple((SegmentRange(index, 0.0, 1.0), index) for index in range(count))
        assert len(rules.decode(rules.encode(Watermark(0, 0, cut))).cut) == count


# --- the decision ------------------------------------------------------------------------


def mark(timestamp: int, offset: int = 0, *, alive: bool = True) -> WriterMark:
    return WriterMark(timestamp, {0: offset, 1: offset}, alive)


BEFORE = Watermark(10, 20, ((SegmentRange(0, 0.0, 0.5), 5), (SegmentRange(1, 0.5, 1.0), 5)))


def test_the_slowest_and_the_fastest_writer_are_the_bounds() -> None:
    """A reader would take a window of time for complete that is not."""
    decided = decide(noted(started(), a=mark(30, 7), b=mark(40, 3)), None, {}, now_s=0.0)
    assert decided.watermark is not None
    assert (decided.watermark.lower, decided.watermark.upper) == (30, 40)
    assert decided.watermark.offsets == {0: 7, 1: 7}


def test_a_silent_writer_is_waited_for_and_then_forgotten() -> None:
    """One dead writer would hold the time for ever, one late writer would be passed over."""
    stream = noted(started(), 1000, a=mark(30), b=mark(10))
    first = decide(stream, BEFORE, {}, now_s=100.0)
    assert (first.watermark, first.forget, first.silent_since_s) == (None, {}, {"b": 100.0})
    second = decide(stream, BEFORE, first.silent_since_s, now_s=100.9)
    assert (second.watermark, second.silent_since_s) == (None, {"b": 100.0})
    third = decide(stream, BEFORE, second.silent_since_s, now_s=101.0)
    assert third.forget.keys() == {"b"}
    assert third.watermark is not None
    assert third.watermark.lower == 30


def test_without_a_timeout_or_once_shut_down_it_is_forgotten_at_once() -> None:
    """The defaults of the client have no timeout."""
    for stream in (
        noted(started(), a=mark(30), b=mark(10)),
        noted(started(), 1000, a=mark(30), b=mark(10, alive=False)),
    ):
        decided = decide(stream, BEFORE, {}, now_s=0.0)
        assert decided.forget.keys() == {"b"}
        assert decided.watermark is not None


def test_nothing_new_makes_no_watermark() -> None:
    """Mark streams would grow while nobody writes."""
    decided = decide(noted(started(), a=mark(10)), BEFORE, {}, now_s=0.0)
    assert (decided.watermark, decided.forget.keys()) == (None, {"a"})


# --- the cut -----------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> Stream:
    stream = started()
    for _ in range(draw(st.integers(0, 5))):
        segments = stream.segments
        index = draw(st.integers(0, len(segments) - 1))
        one = segments[index]
        if index + 1 < len(segments) and draw(st.booleans()):
            other = segments[index + 1]
            stream = scaled(stream, [one.id, other.id], (one.low, other.high))
        else:
            middle = (one.low + one.high) / 2
            stream = scaled(stream, [one.id], (one.low, middle), (middle, one.high))
    return stream


@given(histories(), st.data())
def test_the_cut_is_whole_and_behind_every_position(stream: Stream, data: st.DataObject) -> None:
    """A reader between two writers' positions would be told the time of the faster one."""
    known = [segment for epoch in stream.epochs for segment in epoch.segments]
    position = st.dictionaries(
        st.sampled_from(known).map(lambda segment: segment.id), st.integers(0, 9), max_size=4
    )
    positions = data.draw(st.lists(position, max_size=4))
    cut = cut_behind(stream, positions)

    assert cut[0][0].low == 0.0
    assert cut[-1][0].high == 1.0
    for (one, _), (other, _) in itertools.pairwise(cut):
        assert one.high == other.low
    by_id = {segment.id: segment for segment in known}
    for each in positions:
        for identity, offset in each.items():
            for segment, reached in cut:
                if overlaps(segment, by_id[identity]):
                    assert (segment.id, reached) >= (identity, offset)


def test_the_cut_of_a_merge() -> None:
    """One writer has gone over to the merged segment, the other has not."""
    stream = scaled(started(), [0, 1], (0.0, 1.0))
    assert [(s.id, at) for s, at in cut_behind(stream, [{0: 9, 1: 9}, {MERGED: 4}])] == [
        (MERGED, 4)
    ]
    assert [(s.id, at) for s, at in cut_behind(stream, [{0: 9}])] == [(0, 9), (1, 0)]
    assert [(s.id, at) for s, at in cut_behind(stream, [{77: 9}, {}])] == [(MERGED, 0)]


# --- the rounds --------------------------------------------------------------------------


class FakeMarks:
    """Mark segments in memory."""

    def __init__(self) -> None:
        self.events: dict[str, bytes] = {}
        self.marks: dict[str, int] = {}
        self.away = False

    async def tail(self, segment: str) -> MarkTail:
        if self.away:
            raise SegmentStoreUnavailable("read", segment, "told to fail")
        events, found = self.events.get(segment, b""), self.marks.get(segment)
        return MarkTail(found, found or 0, len(events), events[found or 0 :])

    async def append(self, segment: str, event: bytes, *, expected_offset: int) -> bool:
        before = self.events.get(segment, b"")
        if len(before) != expected_offset:
            return False
        self.events[segment] = before + struct.pack(">ii", 0, len(event)) + event
        return True

    async def move_mark(self, segment: str, mark: int, *, expected: int | None) -> None:
        if self.marks.get(segment) == expected:
            self.marks[segment] = mark

    def bounds(self, segment: str) -> list[tuple[int, int]]:
        entries = rules.entries(self.events.get(segment, b""), 0)
        return [(one.watermark.lower, one.watermark.upper) for one in entries]


SEGMENT = "s/_MARKx/0.#epoch.0"


async def test_rounds_of_two_instances_write_one_row_of_watermarks(cluster: Any) -> None:
    """Two controllers at once would write a time twice, or backwards."""
    one, two = await cluster.start("a"), await cluster.start("b")
    config = StreamConfig(timestamp_aggregation_timeout_ms=60_000)
    await cluster.finish(one.create_scope("s"))
    await cluster.finish(one.create_stream("s", "x", config))
    marks = FakeMarks()
    services = [Watermarks(core.context, marks, period_s=1.0) for core in (one, two)]
    for time in (10, 20, 30):
        for writer, ahead in (("w1", 0), ("w2", 5)):
            await cluster.finish(
                one.note_timestamp_from_writer(
                    "s", "x", writer=writer, timestamp=time + ahead, position={0: time}
                )
            )
        await cluster.finish(two.context.log.load_all())
        for service in services:
            await cluster.finish(service.round())
    assert marks.bounds(SEGMENT) == [(10, 15), (20, 25), (30, 35)]
    newest_two = list(rules.entries(marks.events[SEGMENT], 0))[-2:]
    assert marks.marks[SEGMENT] == newest_two[0].offset, "a new reader begins with two"


async def test_a_forgotten_writer_comes_back_and_an_outage_is_ridden_out(cluster: Any) -> None:
    """A failed round would lose the time of a stream for good."""
    core = await cluster.start("a")
    await cluster.finish(core.create_scope("s"))
    await cluster.finish(core.create_stream("s", "x", StreamConfig()))
    marks = FakeMarks()
    service = Watermarks(core.context, marks, period_s=1.0)

    async def note(time: int) -> None:
        await cluster.finish(
            core.note_timestamp_from_writer("s", "x", writer="w", timestamp=time, position={0: 1})
        )

    await note(10)
    marks.away = True
    await cluster.finish(service.round())
    marks.away = False
    for _ in range(3):
        await cluster.finish(service.round())
    assert marks.bounds(SEGMENT) == [(10, 10)]
    (stream,) = (s for s in core.projection.streams.values() if s.name == "x")
    assert stream.writers == {}
    await note(20)
    await cluster.finish(service.round())
    assert marks.bounds(SEGMENT) == [(10, 10), (20, 20)]
