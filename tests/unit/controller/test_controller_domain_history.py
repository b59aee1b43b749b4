"""Whatever is scaled and committed, the key space stays whole and readers find their way."""

from __future__ import annotations

import itertools

import msgspec
from anabranch_controller.domain import cuts, history
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.key_ranges import equal_ranges, holes, overlaps, same_cover
from anabranch_controller.domain.stream import OpenCommit, OpenScale, Stream, fold
from anabranch_controller.domain.transaction import (
    Transaction,
    id_text,
    make_id,
    next_batch,
    parse_id,
)
from anabranch_events.bus import KeyRange
from anabranch_events.domain import (
    CommitCompleted,
    CommitStarted,
    ScaleCompleted,
    ScaleStarted,
    StreamActivated,
    StreamBatch,
    StreamEvent,
)
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig
from hypothesis import given, settings
from hypothesis import strategies as st


def written(stream: Stream | None, *events: StreamEvent) -> Stream:
    return fold(stream, StreamBatch(id="", by="a", at_ms=0, events=events))


def created(count: int, first_number: int = 0) -> Stream:
    tomb = None if not first_number else _tombstone(first_number - 1)
    event = decisions.create(
        tomb,
        scope="s",
        stream="x",
        incarnation="i",
        config=StreamConfig(scaling=ScalingPolicy(min_segments=count)),
        created_ms=5,
    )
    assert event is not None
    return written(written(None, event), StreamActivated())


def _tombstone(last_number: int) -> Stream:
    return Stream(
        scope="s",
        name="x",
        incarnation="before",
        config=StreamConfig(),
        stage="deleted",
        epochs=(),
        created_ms=0,
        owner="a",
        last_segment_number=last_number,
    )


def unlimited(stream: Stream) -> Stream:
    """Without a minimum, so that merges are allowed down to one segment."""
    return msgspec.structs.replace(
        stream, config=StreamConfig(scaling=ScalingPolicy("kbytes_per_sec", 1, 2, 1))
    )


def scaled(stream: Stream, seal: list[int], ranges: list[KeyRange]) -> Stream:
    started = decisions.scale(stream, seal=seal, ranges=ranges, requested_ms=0, cause="manual")
    assert isinstance(started, ScaleStarted), started
    stream = written(stream, started)
    assert isinstance(stream.work, OpenScale)
    stream = written(stream, decisions.scale_epoch(stream, started, created_ms=0))
    sizes = tuple((segment.id, 10) for segment in started.sealed)
    return written(stream, ScaleCompleted(started.new_epoch, sizes, 0))


def rolled(stream: Stream, epoch: int) -> Stream:
    """Commit a transaction of this reference epoch."""
    started = decisions.commit(stream, transaction_epoch=epoch, transactions=("t",))
    assert isinstance(started, CommitStarted)
    stream = written(stream, started)
    if started.rolling:
        assert isinstance(stream.work, OpenCommit)
        stream = written(stream, decisions.rolling_epochs(stream, stream.work, created_ms=0))
    return written(stream, CommitCompleted(("t",), (), 0))


@st.composite
def lives(draw: st.DrawFn) -> Stream:
    """A stream after some scales and rolling transactions."""
    stream = unlimited(created(draw(st.integers(1, 5)), draw(st.integers(0, 3))))
    for _ in range(draw(st.integers(0, 7))):
        segments = stream.active_epoch.segments
        if draw(st.booleans()):
            first = draw(st.integers(0, len(segments) - 1))
            last = draw(st.integers(first, min(first + 2, len(segments) - 1)))
            chosen = segments[first : last + 1]
            low, high = chosen[0].low, chosen[-1].high
            inner = draw(
                st.lists(st.floats(low, high, exclude_min=True, exclude_max=True), max_size=3)
                if low < high and (low + high) / 2 not in (low, high)
                else st.just([])
            )
            bounds = [low, *sorted(set(inner)), high]
            ranges = [KeyRange(*pair) for pair in itertools.pairwise(bounds)]
            order = draw(st.permutations(ranges))
            stream = scaled(stream, [one.id for one in chosen], order)
        else:
            references = sorted({epoch.reference for epoch in stream.epochs})
            stream = rolled(stream, draw(st.sampled_from(references)))
    return stream


@given(lives())
@settings(max_examples=150, deadline=None)
def test_key_space_is_whole_in_every_epoch(stream: Stream) -> None:
    """Some keys would have no segment, or two, and clients would refuse the stream."""
    for epoch in stream.epochs:
        assert holes(epoch.segments) == []
        assert epoch.segments[0].low == 0.0
        assert epoch.segments[-1].high == 1.0
        for one, other in itertools.pairwise(epoch.segments):
            assert one.high == other.low
    ids = [segment.id for segment in history.all_segments(stream.epochs)]
    assert len(ids) == len(set(ids))


@given(lives())
@settings(max_examples=150, deadline=None)
def test_successors_and_predecessors_agree(stream: Stream) -> None:
    """Readers would wait for ever, or read an event before the one that came first."""
    for segment in history.all_segments(stream.epochs):
        replaced = history.replaced_in(stream.epochs, segment)
        following = history.successors(stream.epochs, segment.id)
        if replaced is None:
            assert following == ()
            assert segment in stream.active_epoch.segments
            continue
        covered = [one.segment for one in following]
        assert min(one.low for one in covered) <= segment.low
        assert max(one.high for one in covered) >= segment.high
        if all(one.predecessors == (segment.id,) for one in following):
            assert same_cover(covered, [segment])
        before = stream.epochs[replaced - 1].segments
        for one in following:
            assert one.segment.epoch == replaced
            assert segment.id in one.predecessors
            assert set(one.predecessors) == {old.id for old in before if overlaps(old, one.segment)}
            for predecessor in one.predecessors:
                back = history.successors(stream.epochs, predecessor)
                assert one.segment.id in [other.segment.id for other in back]


class Reader:
    """Reads a stream in any order that the successors allow."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.at = {segment.id: 0 for segment in stream.epochs[0].segments}
        self.done: set[int] = set()

    def step(self, choice: int, ends: bool) -> None:
        identity = sorted(self.at)[choice % len(self.at)]
        following = history.successors(self.stream.epochs, identity)
        if not ends or not following:
            self.at[identity] += 1
            return
        del self.at[identity]
        self.done.add(identity)
        for one in following:
            if self.done.issuperset(one.predecessors):
                self.at[one.segment.id] = 0

    def cut(self) -> dict[int, int]:
        """What is being read, and what waits for others to end."""
        waiting = {
            one.segment.id: -1
            for identity in self.done
            for one in history.successors(self.stream.epochs, identity)
            if not self.done.issuperset(one.predecessors)
        }
        return {**waiting, **self.at}


@given(lives(), st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=40))
@settings(max_examples=200, deadline=None)
def test_where_a_reader_is_is_a_valid_cut(stream: Stream, steps: list[tuple[int, bool]]) -> None:
    """A reader group could not store, or not truncate to, the place that it has reached."""
    reader = Reader(stream)
    passed = [reader.cut()]
    for choice, ends in steps:
        reader.step(choice, ends)
        passed.append(reader.cut())
    for cut in passed:
        assert cuts.is_valid(stream.epochs, cut)
        assert cuts.equal_or_after(stream.epochs, cut, passed[0])
        assert cuts.equal_or_after(stream.epochs, passed[-1], cut)
        assert set(cut) <= set(cuts.between(stream.epochs, stream.current, cut, {}))
    done = reader.done.difference(passed[-1])
    rest = cuts.between(stream.epochs, stream.current, passed[-1], {})
    assert done.isdisjoint(rest), "what is read to its end is before the cut"
    read = cuts.between(stream.epochs, stream.current, {}, passed[-1])
    assert done <= set(read)
    whole = {segment.id for segment in history.all_segments(stream.epochs)}
    assert set(read) | set(rest) == whole, "nothing lies on neither side of a cut"


def test_cuts_that_nobody_can_be_at_are_refused() -> None:
    """A truncation to a wrong cut would lose data or block the stream."""
    stream = scaled(unlimited(created(2)), [0], [KeyRange(0.0, 0.25), KeyRange(0.25, 0.5)])
    low, high = 1 << 32 | 2, 1 << 32 | 3
    valid = lambda cut: cuts.is_valid(stream.epochs, cut)  # noqa: E731
    assert valid({0: 500, low: -1, high: -1, 1: 100})
    assert valid({0: 0, 1: 0})
    assert not valid({0: 0})
    assert not valid({low: 0, 1: 0})
    assert not valid({0: 0, low: 0, 1: 0})
    assert not valid({low: -1, high: -1, 1: -1})
    after = {0: 600, low: -1, high: -1, 1: 100}
    assert cuts.equal_or_after(stream.epochs, after, {0: 500, low: -1, high: -1, 1: 100})
    assert not cuts.equal_or_after(stream.epochs, {0: 600, 1: 100}, {low: 0, high: 0, 1: 0})
    assert cuts.compare(stream.epochs, {0: 1, 1: 5}, {0: 1, 1: 7}) == "before"
    assert cuts.compare(stream.epochs, {0: 2, 1: 5}, {0: 1, 1: 7}) == "overlaps"
    assert cuts.compare(stream.epochs, {low: 0, high: 0, 1: 7}, {0: 1, 1: 7}) == "equal-or-after"


def test_size_between_cuts_uses_final_sizes() -> None:
    """Retention by size would keep too much or too little."""
    stream = scaled(unlimited(created(2)), [0], [KeyRange(0.0, 0.5)])
    new = 1 << 32 | 2
    start, end = {0: 4, 1: 1}, {new: 3, 1: 8}
    passed = cuts.between(stream.epochs, stream.current, start, end)
    assert sorted(passed) == [0, 1, new]
    size = cuts.size_between(stream.epochs, stream.last_sizes, passed, start, end)
    assert size == (10 - 4) + 3 + (8 - 1)


def test_last_bound_is_exactly_one() -> None:
    """The Rust client panics when the last segment does not end at 1.0."""
    for count in (*range(1, 200), 1000):
        ranges = equal_ranges(count)
        assert ranges[-1].high == 1.0
        assert len(ranges) == count
        assert holes(ranges) == []


def test_numbers_go_on_above_a_deleted_namesake() -> None:
    """A stream made anew would read the old one's data."""
    stream = created(2, first_number=7)
    assert stream.active_epoch.segments == (SegmentRange(7, 0.0, 0.5), SegmentRange(8, 0.5, 1.0))


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**95 - 1))
def test_transaction_ids_keep_their_signs(epoch: int, counter: int) -> None:
    """The Rust client destroys the high half of an id whose low half is negative."""
    identity = make_id(epoch=epoch, counter=counter)
    assert 0 <= identity.high < 2**63
    assert 0 <= identity.low < 2**63
    assert identity.high >> 32 == epoch
    text = id_text(identity)
    assert text is not None
    assert parse_id(text) == identity


def test_a_batch_holds_the_lowest_epoch_in_commit_order() -> None:
    """Transactions would be committed in another order than was asked for."""
    waiting = [
        Transaction("s", "x", f"{epoch:08x}{number:024x}", "COMMITTING", 0, 0, "a", position)
        for number, (epoch, position) in enumerate([(1, 1), (0, 9), (0, 3), (1, 2), (0, 5)])
    ]
    assert [one.position for one in next_batch(waiting)] == [3, 5, 9]
    assert next_batch([]) == ()
