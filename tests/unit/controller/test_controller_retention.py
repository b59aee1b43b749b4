"""Retention: what a policy protects is never cut off, and what it gives up goes."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from anabranch_controller.domain import cuts
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.retention import (
    CUTS_MAX,
    RetentionCut,
    added,
    after_truncation,
    truncation_cut,
)
from anabranch_controller.domain.stream import Stream, bytes_before, fold
from anabranch_controller.retention import Retention, chosen_cut
from anabranch_events.bus import KeyRange
from anabranch_events.domain import (
    ScaleCompleted,
    ScaleStarted,
    StreamActivated,
    StreamBatch,
    StreamEvent,
    SubscriberCutUpdated,
    SubscriberSet,
)
from anabranch_events.model import RetentionPolicy, ScalingPolicy, StreamConfig
from hypothesis import given
from hypothesis import strategies as st

GROUP = UUID(int=7)
SIZE_IN_SEGMENT = 100
UNLIMITED = 2**63 - 1


def written(stream: Stream | None, *events: StreamEvent) -> Stream:
    return fold(stream, StreamBatch(id="", by="a", at_ms=0, events=events))


def started(segments_count: int = 2, policy: RetentionPolicy | None = None) -> Stream:
    """A stream that may be merged down to one segment."""
    config = StreamConfig(scaling=ScalingPolicy(min_segments=segments_count), retention=policy)
    event = decisions.create(
        None, scope="s", stream="x", incarnation="i", config=config, created_ms=0
    )
    assert event is not None
    stream = written(None, event, StreamActivated())
    scaling = ScalingPolicy("kbytes_per_sec", 1, 2, 1)
    return msgspec.structs.replace(stream, config=StreamConfig(scaling, policy))


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
    sizes = tuple((segment.id, SIZE_IN_SEGMENT) for segment in event.sealed)
    return written(stream, event, epoch, ScaleCompleted(event.new_epoch, sizes, 0))


@st.composite
def histories(draw: st.DrawFn) -> Stream:
    """Streams after a few splits and merges; each sealed segment has SIZE_IN_SEGMENT bytes."""
    stream = started()
    for _ in range(draw(st.integers(0, 4))):
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


class Walk(NamedTuple):
    stream: Stream
    positions: list[dict[int, int]]


@st.composite
def walks(draw: st.DrawFn) -> Walk:
    """Positions that a reader of a stream takes one after another, some within an epoch."""
    stream = draw(histories())
    return Walk(stream, draw(st.lists(position_in(stream), min_size=1, max_size=4)))


@st.composite
def position_in(draw: st.DrawFn, stream: Stream) -> dict[int, int]:
    epoch = stream.epochs[draw(st.integers(0, len(stream.epochs) - 1))]
    return {
        segment.id: draw(st.integers(0, SIZE_IN_SEGMENT), label=f"offset in {segment}")
        for segment in epoch.segments
    }


@given(walks())
def test_the_lowest_position_holds_back_for_every_reader(walk: Walk) -> None:
    """A slower group would find its events gone."""
    epochs = walk.stream.epochs
    lowest = cuts.lowest(epochs, walk.positions)
    assert cuts.is_valid(epochs, lowest)
    for position in walk.positions:
        assert cuts.equal_or_after(epochs, position, lowest)
    assert cuts.lowest(epochs, [lowest, *walk.positions]) == lowest
    assert cuts.lowest(epochs, walk.positions[:1]) == walk.positions[0]


def test_the_lowest_position_takes_the_successor_only_where_all_are_there() -> None:
    """A merge: one reader has passed half of what the other still reads."""
    stream = scaled(started(), [0, 1], (0.0, 1.0))
    merged = (1 << 32) | 2
    half = {0: 5, merged: -1}
    assert cuts.lowest(stream.epochs, [{merged: 9}, half]) == half
    assert cuts.lowest(stream.epochs, [{}, {merged: 9}]) == {merged: 9}
    assert cuts.lowest(stream.epochs, []) == {}


def recorded(*entries: tuple[int, int]) -> tuple[RetentionCut, ...]:
    """Of one segment: (time, offset)."""
    return tuple(RetentionCut({0: offset}, at_ms, offset) for at_ms, offset in entries)


ONE = started(1)
ENTRIES = recorded((0, 100), (10, 200), (20, 300), (30, 400))


def choose(
    kind: str, minimum: int, maximum: int = UNLIMITED, bound: int | None = None, now_ms: int = 30
) -> int | None:
    """The offset at which a stream of one segment is truncated."""
    policy = RetentionPolicy(kind, minimum, maximum)  # type: ignore[arg-type]
    cut = truncation_cut(
        policy,
        ONE.epochs,
        ENTRIES,
        bound={} if bound is None else {0: bound},
        bound_size_bytes=bound or 0,
        now_ms=now_ms,
    )
    return None if cut is None else cut[0]


@pytest.mark.parametrize(
    ("minimum", "maximum", "bound", "expected"),
    [
        (150, UNLIMITED, None, 200),  # the newest that retains 150
        (200, UNLIMITED, None, 200),
        (301, UNLIMITED, None, None),  # there is not that much
        (150, 200, None, 200),  # without subscribers the maximum means nothing
        (150, UNLIMITED, 350, 200),  # all was read, the minimum holds
        (100, UNLIMITED, 250, 250),  # what is read goes
        (100, UNLIMITED, 50, 50),
        (100, 250, 50, 200),  # too much: goes though unread
        (100, 150, 50, 300),
        (301, UNLIMITED, 350, None),
    ],
)
def test_by_size(minimum: int, maximum: int, bound: int | None, expected: int | None) -> None:
    """Too little would be kept, or a disk would fill."""
    assert choose("size", minimum, maximum, bound) == expected


@pytest.mark.parametrize(
    ("minimum", "maximum", "bound", "expected"),
    [
        (15, UNLIMITED, None, 200),  # recorded 20 ms ago
        (10, UNLIMITED, None, 300),
        (31, UNLIMITED, None, None),
        (10, UNLIMITED, 350, 300),  # all was read, the minimum holds
        (10, UNLIMITED, 250, 250),
        (10, 20, 150, 200),  # older than the maximum: goes though unread
        (10, 20, 250, 250),
        (31, UNLIMITED, 50, None),
    ],
)
def test_by_time(minimum: int, maximum: int, bound: int | None, expected: int | None) -> None:
    """Events would vanish before their time, or stay for ever."""
    assert choose("time", minimum, maximum, bound) == expected


@given(
    st.sampled_from(["size", "time"]),
    st.integers(1, 500),
    st.integers(0, 500),
    st.none() | st.integers(0, 400),
)
def test_the_minimum_is_always_kept(kind: str, minimum: int, more: int, bound: int | None) -> None:
    """A policy promises a minimum, whatever readers have read."""
    chosen = choose(kind, minimum, minimum + more, bound)
    if chosen is None:
        return
    if kind == "size":
        assert ENTRIES[-1].size_bytes - chosen >= minimum
    else:
        old_enough = [one.size_bytes for one in ENTRIES if 30 - one.recorded_ms >= minimum]
        assert chosen <= max(old_enough)


def test_a_stream_whose_cuts_are_never_used_does_not_grow_without_end() -> None:
    """A policy of a hundred years would fill the controller's memory."""
    cuts_so_far: tuple[RetentionCut, ...] = ()
    for number in range(3 * CUTS_MAX):
        cuts_so_far = added(cuts_so_far, RetentionCut({0: number}, number, number))
    assert len(cuts_so_far) <= CUTS_MAX
    assert cuts_so_far[-1].cut == {0: 3 * CUTS_MAX - 1}
    assert cuts_so_far[0].cut == {0: 0}


def test_cuts_that_were_passed_are_forgotten() -> None:
    """The stream would be truncated at the same place for ever."""
    assert after_truncation(ONE.epochs, ENTRIES, {0: 250}) == ENTRIES[2:]
    assert after_truncation(ONE.epochs, ENTRIES, {0: 50}) == ENTRIES
    assert after_truncation(ONE.epochs, ENTRIES, {0: 400}) == ()


def test_a_group_that_has_published_nothing_holds_nothing_back() -> None:
    """A group that was never started would keep a stream for ever."""
    policy = RetentionPolicy("size", 100)
    stream = msgspec.structs.replace(started(1, policy), retention_cuts=ENTRIES)
    waiting = written(stream, SubscriberSet("s/g", GROUP, 0))
    assert chosen_cut(waiting, now_ms=30) == {0: 300}
    published = written(waiting, SubscriberCutUpdated("s/g", ((0, 120),), 0))
    assert chosen_cut(published, now_ms=30) == {0: 120}


@given(histories())
def test_bytes_before_the_tail_are_all_that_was_written(stream: Stream) -> None:
    """A policy by size would count wrongly after a scale."""
    tail = {segment.id: 3 for segment in stream.segments}
    ever = {segment.id for epoch in stream.epochs for segment in epoch.segments}
    sealed_count = len(ever) - len(tail)
    assert bytes_before(stream, tail) == sealed_count * SIZE_IN_SEGMENT + 3 * len(tail)


async def test_rounds_truncate_a_stream(cluster: Any) -> None:
    """A stream with a policy would grow for ever."""
    controller = await cluster.start("a")
    policy = RetentionPolicy("size", 3)
    config = StreamConfig(scaling=ScalingPolicy(min_segments=1), retention=policy)
    await cluster.finish(controller.create_scope("s"))
    await cluster.finish(controller.create_stream("s", "x", config))
    retention = Retention(controller.context, period_s=60.0)
    for _ in range(5):
        cluster.stores.append("s/x/0.#epoch.0", "a", "b")
        await cluster.finish(retention.round())
    await cluster.run_until(lambda: not controller.projection.open_work)
    segment = cluster.stores.segments["s/x/0.#epoch.0"]
    assert (segment.start_offset, len(segment.content)) == (6, 10)
    position = controller.projection.position
    await cluster.finish(retention.round())
    assert controller.projection.position == position, "nothing new, so nothing is recorded"


async def test_a_stream_that_is_away_does_not_stop_the_others(cluster: Any) -> None:
    """One dead segment store would end retention everywhere."""
    controller = await cluster.start("a")
    config = StreamConfig(retention=RetentionPolicy("time", 1))
    await cluster.finish(controller.create_scope("s"))
    for name in ("gone", "here"):
        await cluster.finish(controller.create_stream("s", name, config))
    cluster.stores.append("s/here/0.#epoch.0", "a")
    del cluster.stores.segments["s/gone/0.#epoch.0"]
    retention = Retention(controller.context, period_s=60.0)
    await cluster.finish(retention.round())
    await cluster.clock.advance(1.0)
    await cluster.finish(retention.round())
    await cluster.run_until(lambda: not controller.projection.open_work)
    assert cluster.stores.segments["s/here/0.#epoch.0"].start_offset == 1
