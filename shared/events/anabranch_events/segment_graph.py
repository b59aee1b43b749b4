"""The segment graph of every stream, rebuilt from the public feed. Pure.

A stream's graph is all of its segments with the epochs in which they lived: the epoch in a
segment's id is its first, and `replaced` is the one whose segments it gave way to. From that
follows who succeeded whom: the segments created in `replaced` that share keys with it. (A
scale seals what overlaps what it creates, so nothing else can.)

`replay` gives the graphs after a run of feed events. Events may come twice, and a run may
begin anywhere: what a stream was before its first `stream.created` or `stream.snapshot` in
the run is not known, so until then it does not appear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from anabranch_events.feed import (
    CloudEvent,
    FeedData,
    SegmentSpan,
    StreamCreated,
    StreamDeleted,
    StreamScaled,
    StreamSealed,
    StreamSnapshot,
    StreamTruncated,
    StreamUpdated,
    data_of,
)
from anabranch_events.model import StreamConfig

SEGMENTS_PER_PART_MAX: Final = 4000
"""Of a snapshot; a part of some 300 KB fits in NATS's default payload limit of 1 MiB."""

ORDINALS_END: Final = 2**31  # above every ordinal of an event in its message


@dataclass(slots=True)
class StreamGraph:
    """`cut` is where the stream begins, empty for its very beginning."""

    scope: str
    stream: str
    config: StreamConfig
    epoch: int
    segments: dict[int, SegmentSpan]
    cut: dict[int, int] = field(default_factory=dict)
    is_sealed: bool = False

    @property
    def open_segments(self) -> tuple[SegmentSpan, ...]:
        """Those that take events now, in order of the key."""
        if self.is_sealed:
            return ()
        spans = [one for one in self.segments.values() if one.replaced is None]
        return tuple(sorted(spans, key=lambda span: span.low))

    def successors(self, segment: int) -> tuple[SegmentSpan, ...]:
        """What follows a segment, in order of the key; empty while it is open.

        Raises KeyError for a segment that the stream never had.
        """
        span = self.segments[segment]
        return self._sharing(
            span, (one for one in self.segments.values() if one.epoch == span.replaced)
        )

    def predecessors(self, segment: int) -> tuple[SegmentSpan, ...]:
        """What a segment follows, in order of the key. Raises KeyError."""
        span = self.segments[segment]
        return self._sharing(
            span, (one for one in self.segments.values() if one.replaced == span.epoch)
        )

    def _sharing(self, span: SegmentSpan, others: Iterable[SegmentSpan]) -> tuple[SegmentSpan, ...]:
        found = [one for one in others if one.low < span.high and span.low < one.high]
        return tuple(sorted(found, key=lambda one: one.low))


class SegmentGraph:
    """Folds what the feed tells, each thing once and in order. Streams are by `scope/stream`."""

    def __init__(self) -> None:
        self.streams: dict[str, StreamGraph] = {}

    def apply(self, data: FeedData) -> None:
        match data:
            case StreamCreated():
                self.streams[f"{data.scope}/{data.stream}"] = StreamGraph(
                    data.scope,
                    data.stream,
                    data.config,
                    epoch=0,
                    segments={
                        one.id: SegmentSpan(one.id, one.low, one.high, None)
                        for one in data.segments
                    },
                )
            case StreamDeleted():
                self.streams.pop(f"{data.scope}/{data.stream}", None)
            case StreamUpdated() | StreamScaled() | StreamTruncated() | StreamSealed():
                graph = self.streams.get(f"{data.scope}/{data.stream}")
                if graph is not None:
                    _change(graph, data)
            case _:
                pass  # snapshots repeat what is known, and the rest changes no graph


def _change(
    graph: StreamGraph, data: StreamUpdated | StreamScaled | StreamTruncated | StreamSealed
) -> None:
    match data:
        case StreamUpdated(config=config):
            graph.config = config
        case StreamTruncated(cut=cut):
            graph.cut = {int(segment): offset for segment, offset in cut.items()}
        case StreamSealed():
            graph.is_sealed = True
        case StreamScaled(epoch=epoch):
            graph.epoch = epoch
            for one in data.sealed:
                graph.segments[one.id] = SegmentSpan(one.id, one.low, one.high, epoch)
            for one in data.created:
                graph.segments[one.id] = SegmentSpan(one.id, one.low, one.high, None)


# --- snapshots ---------------------------------------------------------------------------


def snapshot(graph: StreamGraph, *, sequence: int) -> list[StreamSnapshot]:
    """The parts that tell all of a stream, as it is after `sequence` of the event log."""
    spans = sorted(graph.segments.values(), key=lambda span: span.id)
    starts = range(0, len(spans), SEGMENTS_PER_PART_MAX)
    return [
        StreamSnapshot(
            scope=graph.scope,
            stream=graph.stream,
            sequence=sequence,
            epoch=graph.epoch,
            config=graph.config,
            is_sealed=graph.is_sealed,
            cut={str(segment): offset for segment, offset in graph.cut.items()},
            segments=tuple(spans[start : start + SEGMENTS_PER_PART_MAX]),
            part=part,
            parts_count=len(starts),
        )
        for part, start in enumerate(starts)
    ]


def _restored(parts: Iterable[StreamSnapshot]) -> StreamGraph:
    spans = {span.id: span for part in parts for span in part.segments}
    last = next(iter(parts))
    return StreamGraph(
        last.scope,
        last.stream,
        last.config,
        epoch=last.epoch,
        segments=spans,
        cut={int(segment): offset for segment, offset in last.cut.items()},
        is_sealed=last.is_sealed,
    )


# --- replay ------------------------------------------------------------------------------


class Place(NamedTuple):
    """Of an event in the event log: what the `id` of a projected event says."""

    sequence: int
    ordinal: int


class Replay:
    """Folds events as they arrive: with repetitions, and beginning anywhere."""

    def __init__(self) -> None:
        self._graph = SegmentGraph()
        self._places: dict[str, Place] = {}
        self._parts: dict[str, dict[int, StreamSnapshot]] = {}

    @property
    def streams(self) -> dict[str, StreamGraph]:
        return self._graph.streams

    def apply(self, event: CloudEvent) -> None:
        """Raises ValueError for an event that is damaged."""
        match data_of(event):
            case StreamSnapshot() as data:
                self._snapshot(data)
            case (
                StreamCreated()
                | StreamUpdated()
                | StreamScaled()
                | StreamTruncated()
                | StreamSealed()
                | StreamDeleted()
            ) as data:
                sequence, _, ordinal = event.id.partition("-")
                place = Place(int(sequence), int(ordinal))
                name = f"{data.scope}/{data.stream}"
                if place > self._places.get(name, Place(-1, 0)):
                    self._places[name] = place
                    self._graph.apply(data)
            case _:
                pass

    def _snapshot(self, data: StreamSnapshot) -> None:
        name = f"{data.scope}/{data.stream}"
        seen = self._places.get(name)
        if seen is not None and data.sequence < seen.sequence:
            return  # from a projector that had fallen behind
        parts = self._parts.setdefault(name, {})
        if any(part.sequence != data.sequence for part in parts.values()):
            parts.clear()
        parts[data.part] = data
        if len(parts) == data.parts_count:
            del self._parts[name]
            self._graph.streams[name] = _restored(list(parts.values()))
            # It includes all events of that message.
            self._places[name] = Place(data.sequence, ORDINALS_END)


def replay(events: Iterable[CloudEvent]) -> dict[str, StreamGraph]:
    """The graphs, by `scope/stream`, after these events. Raises ValueError for a damaged one."""
    run = Replay()
    for event in events:
        run.apply(event)
    return run.streams
