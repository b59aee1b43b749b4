"""The public feed as a projection of the event log.

`FeedProjection` is the rule, without IO: it folds the log's messages and says what the feed
should carry. `FeedProjector` reads the log from its beginning, publishes what the feed does
not have yet, and goes on for ever; one instance at a time, by a lease.

**Where it goes on after a crash.** The id of a feed event is `<sequence>-<ordinal>`: its
place in the log. So the feed itself holds the position, in its newest id, and nothing else
has to be stored. An event can be published twice (a crash between the publication and its
acknowledgement, two projectors for a moment), always under the same id, which JetStream
drops within its duplicate window; it cannot get lost or change its id. An empty feed means
that nothing was published within the time for which the feed is kept, so older events are
not published again.

**Snapshots.** Once an hour each stream is told wholly, so that a listener need not go back to
its creation. They come from the same fold, between the same messages, so a snapshot stands
where it belongs among the events; its id is that of the last event that it includes, with the
number of the hour: `<sequence>-snapshot-<hour>-<part>`.

Streams whose names begin with `_` are internal and do not appear.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

import msgspec
import structlog
from anabranch_events import domain, feed, subjects
from anabranch_events.domain import EpochAppended, StreamBatch, TransactionBatch
from anabranch_events.feed import StreamData
from anabranch_events.model import SegmentRange, StreamConfig
from anabranch_events.segment_graph import SegmentGraph, snapshot
from anabranch_kit.ports.bus import BusUnavailable
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.event_store import EventStore, EventStoreUnavailable, Record
from anabranch_kit.ports.registry import Registry

from anabranch_controller.duty import Duty

LEASE_NAME: Final = "feed"
RETRY_PAUSE_S: Final = 0.5
SNAPSHOT_EVERY_S: Final = 3600.0
KEPT_MS: Final = 7 * 24 * 3600 * 1000  # how long the feed is kept; the adapter's max_age

PROJECTED: Final = (
    feed.StreamCreated,
    feed.StreamUpdated,
    feed.StreamScaled,
    feed.StreamTruncated,
    feed.StreamSealed,
    feed.StreamDeleted,
    feed.TransactionAborted,
)
"""The kinds that come from the event log; others are published by whoever knows of them."""

AbortCause: TypeAlias = Literal["timeout", "request", "stream-sealed"]

log = structlog.stdlib.get_logger("anabranch.feed")


class Position(NamedTuple):
    """The place of a feed event in the event log; positions are ordered."""

    sequence: int
    ordinal: int

    @property
    def event_id(self) -> str:
        return f"{self.sequence}-{self.ordinal}"

    @classmethod
    def of(cls, event_id: str) -> Position:
        """Raises ValueError for an id of another kind."""
        sequence, _, ordinal = event_id.partition("-")
        return cls(int(sequence), int(ordinal))


class FeedLog(Protocol):
    """Where feed events are kept for operators."""

    async def newest(self) -> Position | None:
        """The highest position that the feed holds. Raises BusUnavailable."""
        ...

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        """Store an event, once per id within the duplicate window. Raises BusUnavailable."""
        ...


# --- the rule ----------------------------------------------------------------------------


class Entry(NamedTuple):
    """An event for the feed; `at_ms` is when it happened."""

    data: StreamData
    at_ms: int


@dataclass(slots=True)
class _Stream:
    """What has to be remembered of a stream between the steps of its workflows."""

    scope: str
    name: str
    config: StreamConfig
    segments: tuple[SegmentRange, ...]
    scale: domain.ScaleStarted | None = None
    epochs: tuple[EpochAppended, ...] = ()
    config_to_be: StreamConfig | None = None
    cut: tuple[tuple[int, int], ...] = ()
    commit_started_ms: int = 0


class FeedProjection:
    """Folds the messages of the event log, in their order, into entries of the feed."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._aborting: dict[str, AbortCause] = {}
        self.graph = SegmentGraph()

    def apply(self, subject: str, payload: bytes) -> list[Entry]:
        """What one message adds to the feed. Raises msgspec.DecodeError for a damaged one."""
        entries = self._fold(subject, payload)
        for entry in entries:
            self.graph.apply(entry.data)
        return entries

    def _fold(self, subject: str, payload: bytes) -> list[Entry]:
        match domain.decode_batch(subject, payload):
            case StreamBatch() as batch:
                return [
                    entry
                    for event in batch.events
                    for entry in self._stream_event(subject, event, batch.at_ms)
                ]
            case TransactionBatch() as batch:
                return self._transaction(subject, batch)
            case _:
                return []

    def _stream_event(self, key: str, event: domain.StreamEvent, at_ms: int) -> list[Entry]:
        if isinstance(event, domain.StreamCreated):
            if not event.stream.startswith("_"):
                self._streams[key] = _Stream(
                    event.scope, event.stream, event.config, event.segments
                )
            return []
        stream = self._streams.get(key)
        if stream is None:
            return []
        if isinstance(event, domain.StreamDeleted):
            del self._streams[key]
            return [Entry(feed.StreamDeleted(stream.scope, stream.name), at_ms)]
        return _advance(stream, event, at_ms)

    def _transaction(self, subject: str, batch: TransactionBatch) -> list[Entry]:
        entries = []
        for event in batch.events:
            match event:
                case domain.TransactionAbortRequested():
                    self._aborting[subject] = event.cause
                case domain.TransactionAborted() if subject in self._aborting:
                    *_, scope, stream, transaction = subject.split(".")
                    data = feed.TransactionAborted(
                        scope=subjects.name_of(scope),
                        stream=subjects.name_of(stream),
                        transaction=transaction,
                        cause=self._aborting.pop(subject),
                    )
                    entries.append(Entry(data, event.aborted_ms))
                case _:
                    pass  # the feed tells of transactions that were lost, not of all
        return entries


def _advance(stream: _Stream, event: domain.StreamEvent, at_ms: int) -> list[Entry]:
    """One step of a stream's workflows: remember its beginning, report its end."""
    scope, name = stream.scope, stream.name
    match event:
        case domain.StreamActivated():
            data = feed.StreamCreated(scope, name, stream.config, stream.segments)
            return [Entry(data, at_ms)]
        case domain.ScaleStarted():
            # Clients may leave out when they asked; then it counts from when it was accepted.
            stream.scale = msgspec.structs.replace(event, requested_ms=event.requested_ms or at_ms)
        case domain.EpochAppended():
            stream.epochs = (event,)
        case domain.ScaleCompleted():
            return _scaled(stream, event.completed_ms)
        case domain.CommitStarted():
            stream.commit_started_ms = at_ms
        case domain.RollingEpochsAppended():
            stream.epochs = (event.transaction_epoch_copy, event.active_epoch_copy)
        case domain.CommitCompleted():
            return _rolled(stream, event.completed_ms)
        case domain.UpdateStarted():
            stream.config_to_be = event.config
        case domain.UpdateCompleted() if stream.config_to_be is not None:
            stream.config, stream.config_to_be = stream.config_to_be, None
            return [Entry(feed.StreamUpdated(scope, name, stream.config), at_ms)]
        case domain.TruncationStarted():
            stream.cut = event.cut
        case domain.TruncationCompleted():
            cut = {str(segment): offset for segment, offset in stream.cut}
            return [Entry(feed.StreamTruncated(scope, name, cut), at_ms)]
        case domain.StreamSealed():
            return [Entry(feed.StreamSealed(scope, name), at_ms)]
        case _:
            pass  # subscribers, writers' times and take-overs are not for the feed
    return []


def _scaled(stream: _Stream, completed_ms: int) -> list[Entry]:
    scale, stream.scale = stream.scale, None
    epochs, stream.epochs = stream.epochs, ()
    if scale is None or not epochs:
        return []
    stream.segments = epochs[-1].segments
    data = _scale_of(
        stream,
        epoch=scale.new_epoch,
        cause=scale.cause,
        reason=scale.reason,
        observed_rate=scale.observed_rate,
        target_rate=scale.target_rate,
        sealed=scale.sealed,
        created=scale.created,
        requested_ms=scale.requested_ms,
        at_ms=completed_ms,
    )
    return [Entry(data, completed_ms)]


def _rolled(stream: _Stream, completed_ms: int) -> list[Entry]:
    """A rolling transaction adds two epochs: its own copy, then one of what was active."""
    entries = []
    epochs, stream.epochs = stream.epochs, ()
    for epoch in epochs:
        sealed, stream.segments = stream.segments, epoch.segments
        data = _scale_of(
            stream,
            epoch=epoch.epoch,
            cause="transaction",
            reason="transactions were committed that began before a scale",
            observed_rate=0.0,
            target_rate=0.0,
            sealed=sealed,
            created=epoch.segments,
            requested_ms=stream.commit_started_ms,
            at_ms=completed_ms,
        )
        entries.append(Entry(data, completed_ms))
    return entries


def _scale_of(
    stream: _Stream,
    *,
    epoch: int,
    cause: feed.ScaleCause,
    reason: str,
    observed_rate: float,
    target_rate: float,
    sealed: tuple[SegmentRange, ...],
    created: tuple[SegmentRange, ...],
    requested_ms: int,
    at_ms: int,
) -> feed.StreamScaled:
    return feed.StreamScaled(
        scope=stream.scope,
        stream=stream.name,
        epoch=epoch,
        cause=cause,
        reason=reason,
        observed_rate=observed_rate,
        target_rate=target_rate,
        sealed=sealed,
        created=created,
        splits=_overlapped_by_several(sealed, created),
        merges=_overlapped_by_several(created, sealed),
        segments_count=len(stream.segments),
        requested_ms=requested_ms,
        at_ms=at_ms,
        # Both are wall times, possibly of two hosts: a step back of a clock is no duration.
        duration_ms=max(0, at_ms - requested_ms),
    )


def _overlapped_by_several(ones: tuple[SegmentRange, ...], others: tuple[SegmentRange, ...]) -> int:
    """How many of `ones` share keys with two or more of `others`."""
    return sum(
        sum(one.low < other.high and other.low < one.high for other in others) > 1 for one in ones
    )


# --- the shell ---------------------------------------------------------------------------


class FeedProjector:
    """Publishes the feed while this instance holds the lease."""

    def __init__(
        self,
        store: EventStore,
        feed_log: FeedLog,
        registry: Registry,
        *,
        holder: str,
        source: str,
        clock: Clock,
        snapshot_every_s: float = SNAPSHOT_EVERY_S,
    ) -> None:
        """`source` is the CloudEvents source: which cluster says this."""
        self._store, self._feed_log, self._source, self._clock = store, feed_log, source, clock
        self._snapshot_every_ms = round(snapshot_every_s * 1000)
        # Two projectors for a moment only repeat each other's ids.
        self._duty = Duty(LEASE_NAME, self._project_for_ever, registry, holder=holder, clock=clock)

    async def run(self) -> None:
        """Project whenever the lease is ours, until cancelled; then give it back."""
        await self._duty.run()

    async def _project_for_ever(self) -> None:
        while True:
            try:
                await self._project()
            except* (EventStoreUnavailable, BusUnavailable) as errors:
                log.warning("feed.interrupted", error="; ".join(map(str, errors.exceptions)))
            await self._clock.sleep(RETRY_PAUSE_S)

    async def _project(self) -> None:
        published = await self._feed_log.newest() or Position(0, -1)
        fold = _Fold(caught_up_at=await self._store.end())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(fold, published))
            group.create_task(self._take_snapshots(fold))

    async def _follow(self, fold: _Fold, published: Position) -> None:
        oldest_ms = self._clock.now_ms() - KEPT_MS
        async for record in self._store.follow():
            async with fold.turn:
                for ordinal, entry in enumerate(fold.entries(record)):
                    position = Position(record.sequence, ordinal)
                    if position > published and entry.at_ms >= oldest_ms:
                        await self._publish(position.event_id, entry.data, entry.at_ms)
                fold.passed(record.sequence)

    async def _take_snapshots(self, fold: _Fold) -> None:
        """At every full interval of the wall clock, so that a restart takes no more of them."""
        await fold.caught_up.wait()
        while True:
            now_ms = self._clock.now_ms()
            number = now_ms // self._snapshot_every_ms + 1
            await self._clock.sleep((number * self._snapshot_every_ms - now_ms) / 1000)
            for name in list(fold.projection.graph.streams):
                async with fold.turn:
                    await self._snapshot(fold, name, number)

    async def _snapshot(self, fold: _Fold, name: str, number: int) -> None:
        graph = fold.projection.graph.streams.get(name)
        if graph is None:
            return  # deleted while it waited for its turn
        sequence = fold.told[name]
        for data in snapshot(graph, sequence=sequence):
            event_id = f"{sequence}-snapshot-{number}-{data.part}"
            await self._publish(event_id, data, self._clock.now_ms())

    async def _publish(self, event_id: str, data: StreamData, at_ms: int) -> None:
        event = feed.cloud_event(data, event_id=event_id, source=self._source, at_ms=at_ms)
        payload = msgspec.json.encode(event)
        await self._feed_log.publish(feed.nats_subject(data), payload, event_id=event_id)


class _Fold:
    """What the projector's two tasks share; each changes or reads it in its `turn` only, so
    that a snapshot never falls between the events of one message."""

    def __init__(self, *, caught_up_at: int) -> None:
        self.projection = FeedProjection()
        self.turn = asyncio.Lock()
        self.caught_up = asyncio.Event()
        self.told: dict[str, int] = {}  # the last message that changed each stream's graph
        self._caught_up_at = caught_up_at
        self.passed(0)

    def entries(self, record: Record) -> list[Entry]:
        entries = _entries(self.projection, record)
        for entry in entries:
            name = f"{entry.data.scope}/{entry.data.stream}"
            if name in self.projection.graph.streams:
                self.told[name] = record.sequence
            else:
                self.told.pop(name, None)
        return entries

    def passed(self, sequence: int) -> None:
        if sequence >= self._caught_up_at:
            self.caught_up.set()


def _entries(projection: FeedProjection, record: Record) -> list[Entry]:
    try:
        return projection.apply(record.subject, record.payload)
    except msgspec.DecodeError:
        # The controllers themselves judge the log; the feed must not stop over one message.
        log.exception("feed.message_skipped", sequence=record.sequence, subject=record.subject)
        return []
