"""Who listens to the feed can rebuild the segment graph of every stream, exactly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
from anabranch_controller.domain import history
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.stream import OpenCommit, OpenScale, Stream, fold
from anabranch_controller.feed import FeedProjection
from anabranch_events import domain, feed, segment_graph, subjects
from anabranch_events.bus import KeyRange
from anabranch_events.feed import CloudEvent, SegmentSpan
from anabranch_events.model import ScalingPolicy, StreamConfig
from anabranch_events.segment_graph import StreamGraph, replay
from hypothesis import given, settings
from hypothesis import strategies as st

SUBJECT = subjects.stream_events("s", "x")
NAME = "s/x"


def graph_of(stream: Stream | None) -> StreamGraph | None:
    """What clients can see of a stream, as the controller itself knows it."""
    if stream is None or stream.stage in ("creating", "deleted"):
        return None
    epochs = stream.epochs[: stream.current + 1]
    spans = (
        SegmentSpan(one.id, one.low, one.high, history.replaced_in(epochs, one))
        for one in history.all_segments(epochs)
    )
    return StreamGraph(
        stream.scope,
        stream.name,
        stream.config,
        epoch=stream.current,
        segments={span.id: span for span in spans},
        cut=dict(stream.truncation.cut),
        is_sealed=stream.stage in ("sealed", "deleting"),
    )


class Life:
    """A stream that decides as a controller does; keeps its feed and its state at each event."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.projection = FeedProjection()
        self.sequence = 0
        self.events: list[CloudEvent] = []
        self.graphs: list[StreamGraph | None] = []

    def write(self, *events: domain.StreamEvent) -> Stream:
        batch = domain.StreamBatch(id="", by="a", at_ms=self.sequence, events=events)
        self.stream = fold(self.stream, batch)
        self.sequence += 1
        entries = self.projection.apply(SUBJECT, msgspec.json.encode(batch))
        for ordinal, entry in enumerate(entries):
            self._tell(f"{self.sequence}-{ordinal}", entry.data)
        if entries:
            self.told = self.sequence
        return self.stream

    def _tell(self, event_id: str, data: feed.FeedData) -> None:
        event = feed.cloud_event(data, event_id=event_id, source="t", at_ms=0)
        # As it arrives: through JSON.
        self.events.append(msgspec.json.decode(msgspec.json.encode(event), type=CloudEvent))
        self.graphs.append(graph_of(self.stream))

    def take_snapshot(self, number: int) -> None:
        graph = self.projection.graph.streams.get(NAME)
        if graph is not None:
            for data in segment_graph.snapshot(graph, sequence=self.told):
                self._tell(f"{self.told}-snapshot-{number}-{data.part}", data)

    def create(self, count: int) -> None:
        event = decisions.create(
            self.stream,
            scope="s",
            stream="x",
            incarnation=f"i{self.sequence}",
            config=StreamConfig(scaling=ScalingPolicy("kbytes_per_sec", 1, 2, 1)),
            created_ms=5,
        )
        assert event is not None
        segments = decisions.first_segments(count, event.segments[0].number)
        self.write(msgspec.structs.replace(event, segments=segments))
        self.write(domain.StreamActivated())

    def scale(self, seal: list[int], ranges: list[KeyRange]) -> None:
        assert self.stream is not None
        started = decisions.scale(
            self.stream, seal=seal, ranges=ranges, requested_ms=0, cause="manual"
        )
        assert isinstance(started, domain.ScaleStarted), started
        stream = self.write(started)
        assert isinstance(stream.work, OpenScale)
        self.write(decisions.scale_epoch(stream, started, created_ms=0))
        sizes = tuple((segment.id, 10) for segment in started.sealed)
        self.write(domain.ScaleCompleted(started.new_epoch, sizes, 0))

    def commit(self, epoch: int) -> None:
        assert self.stream is not None
        started = decisions.commit(self.stream, transaction_epoch=epoch, transactions=("t",))
        assert isinstance(started, domain.CommitStarted)
        stream = self.write(started)
        if started.rolling:
            assert isinstance(stream.work, OpenCommit)
            self.write(decisions.rolling_epochs(stream, stream.work, created_ms=0))
        self.write(domain.CommitCompleted(("t",), (), 0))

    def truncate(self, offset: int) -> None:
        """To the tail, which is always a valid place."""
        assert self.stream is not None
        cut = tuple((segment.id, offset) for segment in self.stream.active_epoch.segments)
        self.write(domain.TruncationStarted(cut, ()))
        self.write(domain.TruncationCompleted())

    def update(self, tag: str) -> None:
        assert self.stream is not None
        config = msgspec.structs.replace(self.stream.config, tags=(tag,))
        self.write(domain.UpdateStarted(config))
        self.write(domain.UpdateCompleted())

    def seal(self) -> None:
        self.write(domain.SealStarted())
        self.write(domain.StreamSealed(()))

    def delete(self) -> None:
        self.write(domain.DeleteStarted())
        stream = self.stream
        assert stream is not None
        self.write(domain.StreamDeleted(decisions.next_numbers_start(stream) - 1))


@st.composite
def lives(draw: st.DrawFn) -> Life:
    life = Life()
    life.create(draw(st.integers(1, 4)))
    for number in range(draw(st.integers(0, 9))):
        stream = life.stream
        assert stream is not None
        act = draw(st.sampled_from(("scale", "scale", "commit", "truncate", "update", "delete")))
        match act:
            case "scale":
                life.scale(*draw(scales(stream)))
            case "commit":
                references = sorted({epoch.reference for epoch in stream.epochs})
                life.commit(draw(st.sampled_from(references)))
            case "truncate":
                life.truncate(draw(st.integers(0, 9)))
            case "update":
                life.update(f"t{number}")
            case _:
                life.seal()
                if draw(st.booleans()):
                    life.take_snapshot(number)
                life.delete()
                if draw(st.booleans()):
                    life.take_snapshot(number)
                life.create(draw(st.integers(1, 3)))
        if draw(st.booleans()):
            life.take_snapshot(number)
    match draw(st.sampled_from(("active", "sealed", "sealed and told", "deleted"))):
        case "sealed":
            life.seal()
        case "sealed and told":
            life.seal()
            life.take_snapshot(99)
        case "deleted":
            life.seal()
            life.delete()
        case _:
            pass
    return life


@st.composite
def scales(draw: st.DrawFn, stream: Stream) -> tuple[list[int], list[KeyRange]]:
    segments = stream.active_epoch.segments
    first = draw(st.integers(0, len(segments) - 1))
    last = draw(st.integers(first, min(first + 2, len(segments) - 1)))
    chosen = segments[first : last + 1]
    low, high = chosen[0].low, chosen[-1].high
    inner = (
        draw(st.lists(st.floats(low, high, exclude_min=True, exclude_max=True), max_size=3))
        if (low + high) / 2 not in (low, high)
        else []
    )
    bounds = [low, *sorted(set(inner)), high]
    return [one.id for one in chosen], [KeyRange(*pair) for pair in itertools.pairwise(bounds)]


def expected(graph: StreamGraph | None) -> dict[str, StreamGraph]:
    return {} if graph is None else {NAME: graph}


def ends(life: Life) -> Iterator[tuple[int, dict[str, StreamGraph]]]:
    """After each event whose message is wholly told: how many there were, and the graph then."""
    events = [*life.events, None]
    for count, (one, following) in enumerate(itertools.pairwise(events), start=1):
        if following is None or one.id.partition("-")[0] != following.id.partition("-")[0]:
            yield count, expected(life.graphs[count - 1])


@given(lives())
@settings(max_examples=200, deadline=None)
def test_the_feed_replayed_is_the_segment_graph_at_every_moment(life: Life) -> None:
    """A dashboard or a consumer that follows the feed would draw, or read, another stream."""
    for count, graph in ends(life):
        assert replay(life.events[:count]) == graph


@given(lives(), st.data())
@settings(max_examples=200, deadline=None)
def test_repetitions_and_a_late_start_change_nothing(life: Life, data: st.DataObject) -> None:
    """A projector's crash, or a feed whose beginning has expired, would twist the graph."""
    wanted = expected(life.graphs[-1])
    events = list(life.events)
    for _ in range(data.draw(st.integers(0, 5))):
        index = data.draw(st.integers(0, len(events) - 1))
        later = data.draw(st.integers(index, len(events)))
        events.insert(later, events[index])
    assert replay(events) == wanted
    whole = ("io.anabranch.stream.snapshot", "io.anabranch.stream.created")
    starts = [index for index, event in enumerate(life.events) if event.type in whole]
    begin = data.draw(st.integers(0, starts[-1]))
    assert replay(life.events[begin:]) == wanted


@given(lives())
@settings(max_examples=100, deadline=None)
def test_successors_from_the_feed_are_those_that_readers_are_given(life: Life) -> None:
    """A consumer would read an event before the one that came first."""
    stream = life.stream
    assert stream is not None
    graph = replay(life.events).get(NAME)
    if graph is None:
        return
    for segment in history.all_segments(stream.epochs):
        wanted = history.successors(stream.epochs, segment.id)
        assert [one.id for one in graph.successors(segment.id)] == [
            one.segment.id for one in wanted
        ]
        for one in wanted:
            found = graph.predecessors(one.segment.id)
            assert tuple(before.id for before in found) == one.predecessors
    assert [one.id for one in graph.open_segments] == [one.id for one in stream.segments]


def test_a_stream_of_ten_thousand_segments_is_told_in_parts() -> None:
    """Its snapshot would be longer than NATS takes, and the feed would stand still."""
    life = Life()
    life.create(10_000)
    life.take_snapshot(1)
    parts = life.events[1:]
    assert [msgspec.json.decode(one.data)["part"] for one in parts] == [0, 1, 2]
    assert max(len(msgspec.json.encode(part)) for part in parts) < 1_000_000
    assert replay(parts) == expected(life.graphs[-1])
    assert replay(parts[1:]) == {}, "two of three parts are no stream"
