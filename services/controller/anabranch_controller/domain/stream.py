"""A stream: its state, and what each event makes of it.

One *slot* holds the work that changes the stream's segments: a scale, an update, a
truncation or a batch of commits, one at a time. Creating, sealing and deleting are stages
of the stream's life instead; commits that were promised before a seal run in the slot while
the stream is sealing. What is open is thus part of the state, so that any instance can see
it and finish it; `owner` is the instance that wrote last and is expected to go on.

A deleted stream leaves its tombstone: the numbers of a namesake's segments go on above.
"""

from __future__ import annotations

from typing import Literal, assert_never
from uuid import UUID

import msgspec
from anabranch_events.domain import (
    CommitCompleted,
    CommitStarted,
    DeleteStarted,
    EpochAppended,
    RetentionCutRecorded,
    RollingEpochsAppended,
    ScaleCompleted,
    ScaleStarted,
    SealStarted,
    StreamActivated,
    StreamBatch,
    StreamCreated,
    StreamDeleted,
    StreamEvent,
    StreamSealed,
    SubscriberCutUpdated,
    SubscriberRemoved,
    SubscriberSet,
    TruncationCompleted,
    TruncationStarted,
    UpdateCompleted,
    UpdateStarted,
    WorkTakenOver,
    WriterRemoved,
    WritersForgotten,
    WriterTimestampNoted,
)
from anabranch_events.model import SegmentRange, StreamConfig

from anabranch_controller.domain import cuts, retention
from anabranch_controller.domain.history import (
    Epoch,
    Epochs,
    largest_number,
    make_epoch,
    ordered,
)
from anabranch_controller.domain.key_ranges import splits_and_merges
from anabranch_controller.domain.retention import RetentionCut

Stage = Literal["creating", "active", "sealing", "sealed", "deleting", "deleted"]


class OpenScale(msgspec.Struct, frozen=True):
    """`appended`: the new epoch is written, what remains is to seal."""

    started: ScaleStarted
    appended: bool = False


class OpenUpdate(msgspec.Struct, frozen=True):
    config: StreamConfig


class OpenTruncation(msgspec.Struct, frozen=True):
    cut: dict[int, int]
    to_delete: tuple[int, ...]


class OpenCommit(msgspec.Struct, frozen=True):
    """`appended`: the two epochs of a rolling transaction are written."""

    started: CommitStarted
    appended: bool = False


OpenWork = OpenScale | OpenUpdate | OpenTruncation | OpenCommit


class Truncation(msgspec.Struct, frozen=True):
    """Where the stream begins. An empty cut is the very beginning. `bytes_before` is what
    has been cut off so far, `deleted` the segments that are gone."""

    cut: dict[int, int] = {}
    deleted: frozenset[int] = frozenset()
    bytes_before: int = 0


class Subscriber(msgspec.Struct, frozen=True):
    group_id: UUID
    generation: int
    cut: dict[int, int] = {}


class WriterMark(msgspec.Struct, frozen=True):
    timestamp: int
    position: dict[int, int]
    alive: bool = True


class Stream(msgspec.Struct, frozen=True):
    """`current` is the epoch that clients see; the newest one may be ahead of it for a moment.

    `updates_count` and `truncations_count` let a caller see that its own request is through.
    """

    scope: str
    name: str
    incarnation: str
    config: StreamConfig
    stage: Stage
    epochs: Epochs
    created_ms: int
    owner: str
    current: int = 0
    work: OpenWork | None = None
    truncation: Truncation = Truncation()
    last_sizes: dict[int, int] = {}
    subscribers: dict[str, Subscriber] = {}
    retention_cuts: tuple[RetentionCut, ...] = ()
    writers: dict[str, WriterMark] = {}
    updates_count: int = 0
    truncations_count: int = 0
    last_segment_number: int = -1

    @property
    def active_epoch(self) -> Epoch:
        return self.epochs[self.current]

    @property
    def segments(self) -> tuple[SegmentRange, ...]:
        """Open for writers; none once the stream is sealed."""
        return () if self.stage in ("sealed", "deleting") else self.active_epoch.segments

    @property
    def exists(self) -> bool:
        return self.stage != "deleted"

    @property
    def has_open_work(self) -> bool:
        return self.work is not None or self.stage in ("creating", "sealing", "deleting")

    @property
    def head(self) -> dict[int, int]:
        """The cut that the stream begins at, also while a truncation to it is going on."""
        if isinstance(self.work, OpenTruncation):
            return self.work.cut
        return self.truncation.cut or {segment.id: 0 for segment in self.epochs[0].segments}


def fold(stream: Stream | None, batch: StreamBatch) -> Stream:
    """The state after all events of one message."""
    for event in batch.events:
        stream = evolve(stream, event, by=batch.by)
    assert stream is not None, "a message holds at least one event"
    return stream


def evolve(stream: Stream | None, event: StreamEvent, *, by: str) -> Stream:
    if isinstance(event, StreamCreated):
        return _created(stream, event, by)
    assert stream is not None, "the first event of a stream creates it"
    match event:
        case SubscriberSet() | SubscriberRemoved() | SubscriberCutUpdated():
            return msgspec.structs.replace(stream, subscribers=_subscribers(stream, event))
        case WriterTimestampNoted() | WriterRemoved() | WritersForgotten():
            return msgspec.structs.replace(stream, writers=_writers(stream, event))
        case RetentionCutRecorded(cut=cut, recorded_ms=recorded_ms, size_bytes=size):
            new = RetentionCut(dict(cut), recorded_ms, size)
            recorded = retention.added(stream.retention_cuts, new)
            return msgspec.structs.replace(stream, retention_cuts=recorded)
        case _:
            return msgspec.structs.replace(_changed(stream, event), owner=by)


_Change = (
    StreamActivated
    | ScaleStarted
    | EpochAppended
    | ScaleCompleted
    | UpdateStarted
    | UpdateCompleted
    | TruncationStarted
    | TruncationCompleted
    | CommitStarted
    | RollingEpochsAppended
    | CommitCompleted
    | SealStarted
    | StreamSealed
    | DeleteStarted
    | StreamDeleted
    | WorkTakenOver
)


def _changed(stream: Stream, event: _Change) -> Stream:
    replace = msgspec.structs.replace
    match event:
        case StreamActivated():
            return replace(stream, stage="active")
        case ScaleStarted():
            return replace(stream, work=OpenScale(event))
        case EpochAppended():
            assert isinstance(stream.work, OpenScale), "only a scale appends one epoch"
            work = OpenScale(stream.work.started, appended=True)
            return replace(stream, epochs=with_epoch(stream.epochs, event), work=work)
        case ScaleCompleted(epoch=epoch, sealed_sizes=sizes):
            epochs = _with_sizes(stream.epochs, epoch, dict(sizes))
            return replace(stream, epochs=epochs, current=epoch, work=None)
        case UpdateStarted(config=config):
            return replace(stream, work=OpenUpdate(config))
        case UpdateCompleted():
            assert isinstance(stream.work, OpenUpdate), "only an open update completes"
            return _updated(stream, stream.work.config)
        case TruncationStarted(cut=cut, to_delete=to_delete):
            return replace(stream, work=OpenTruncation(dict(cut), to_delete))
        case TruncationCompleted():
            return _truncated(stream)
        case CommitStarted():
            return replace(stream, work=OpenCommit(event))
        case RollingEpochsAppended(transaction_epoch_copy=first, active_epoch_copy=second):
            assert isinstance(stream.work, OpenCommit), "only a commit appends two epochs"
            epochs = with_epoch(with_epoch(stream.epochs, first), second)
            return replace(stream, epochs=epochs, work=OpenCommit(stream.work.started, True))
        case CommitCompleted(sealed_sizes=sizes):
            return _committed(stream, dict(sizes))
        case SealStarted():
            return replace(stream, stage="sealing")
        case StreamSealed(sealed_sizes=sizes):
            return replace(stream, stage="sealed", last_sizes=dict(sizes))
        case DeleteStarted():
            return replace(stream, stage="deleting", work=None)
        case StreamDeleted(last_segment_number=last):
            return _tombstone(stream, last)
        case WorkTakenOver():
            return stream
        case _:
            assert_never(event)


def _created(before: Stream | None, event: StreamCreated, by: str) -> Stream:
    assert before is None or not before.exists, "a stream is created once"
    return Stream(
        scope=event.scope,
        name=event.stream,
        incarnation=event.incarnation,
        config=event.config,
        stage="creating",
        epochs=(make_epoch(0, 0, event.segments, event.created_ms),),
        created_ms=event.created_ms,
        owner=by,
    )


def _tombstone(stream: Stream, last_segment_number: int) -> Stream:
    return Stream(
        scope=stream.scope,
        name=stream.name,
        incarnation=stream.incarnation,
        config=StreamConfig(),
        stage="deleted",
        epochs=(),
        created_ms=stream.created_ms,
        owner=stream.owner,
        last_segment_number=last_segment_number,
    )


def with_epoch(epochs: Epochs, event: EpochAppended) -> Epochs:
    before = epochs[-1]
    assert event.epoch == before.number + 1, "epochs have no gap"
    created = [segment for segment in event.segments if segment.epoch == event.epoch]
    splits, merges = splits_and_merges(ordered(event.sealed), created)
    kept = {segment.id: segment for segment in before.segments}  # one object, in many epochs
    appended = make_epoch(
        event.epoch,
        event.reference_epoch,
        [kept.get(segment.id, segment) for segment in event.segments],
        max(event.created_ms, before.created_ms + 1),
        splits=before.splits + splits,
        merges=before.merges + merges,
    )
    return (*epochs, appended)


def _with_sizes(epochs: Epochs, number: int, sizes: dict[int, int]) -> Epochs:
    epoch = msgspec.structs.replace(epochs[number], sealed_sizes=sizes)
    return (*epochs[:number], epoch, *epochs[number + 1 :])


def _committed(stream: Stream, sizes: dict[int, int]) -> Stream:
    assert isinstance(stream.work, OpenCommit), "only an open commit completes"
    if not stream.work.appended:
        return msgspec.structs.replace(stream, work=None)
    newest = len(stream.epochs) - 1
    old = {s.id for s in stream.active_epoch.segments}
    epochs = _with_sizes(
        stream.epochs, newest - 1, {key: size for key, size in sizes.items() if key in old}
    )
    copies = {key: size for key, size in sizes.items() if key not in old}
    epochs = _with_sizes(epochs, newest, copies)
    return msgspec.structs.replace(stream, epochs=epochs, current=newest, work=None)


def _updated(stream: Stream, config: StreamConfig) -> Stream:
    """Without a retention policy no cut is recorded, and old ones would soon lie."""
    kept = stream.retention_cuts if config.retention is not None else ()
    return msgspec.structs.replace(
        stream,
        config=config,
        work=None,
        updates_count=stream.updates_count + 1,
        retention_cuts=kept,
    )


def _truncated(stream: Stream) -> Stream:
    work = stream.work
    assert isinstance(work, OpenTruncation), "only an open truncation completes"
    before = stream.truncation
    passed = cuts.between(stream.epochs, stream.current, before.cut, work.cut)
    size = cuts.size_between(stream.epochs, stream.last_sizes, passed, before.cut, work.cut)
    truncation = Truncation(
        cut=work.cut,
        deleted=before.deleted | frozenset(work.to_delete),
        bytes_before=before.bytes_before + size,
    )
    return msgspec.structs.replace(
        stream,
        truncation=truncation,
        work=None,
        truncations_count=stream.truncations_count + 1,
        retention_cuts=retention.after_truncation(stream.epochs, stream.retention_cuts, work.cut),
    )


def _subscribers(
    stream: Stream, event: SubscriberSet | SubscriberRemoved | SubscriberCutUpdated
) -> dict[str, Subscriber]:
    subscribers = dict(stream.subscribers)
    match event:
        case SubscriberSet(subscriber=name, group_id=group_id, generation=generation):
            before = subscribers.get(name)
            kept = before.cut if before is not None and before.group_id == group_id else {}
            subscribers[name] = Subscriber(group_id, generation, kept)
        case SubscriberRemoved(subscriber=name):
            subscribers.pop(name, None)
        case SubscriberCutUpdated(subscriber=name, cut=cut):
            before = subscribers[name]
            subscribers[name] = msgspec.structs.replace(before, cut=dict(cut))
        case _:
            assert_never(event)
    return subscribers


def _writers(
    stream: Stream, event: WriterTimestampNoted | WriterRemoved | WritersForgotten
) -> dict[str, WriterMark]:
    writers = dict(stream.writers)
    match event:
        case WriterTimestampNoted(writer=writer, timestamp=timestamp, position=position):
            writers[writer] = WriterMark(timestamp, dict(position))
        case WriterRemoved(writer=writer):
            writers[writer] = msgspec.structs.replace(writers[writer], alive=False)
        case WritersForgotten(writers=names):
            for name in names:
                writers.pop(name, None)
        case _:
            assert_never(event)
    return writers


def bytes_before(stream: Stream, cut: cuts.Cut) -> int:
    """What lies before a cut that the stream has not been truncated beyond."""
    passed = stream.truncation
    between = cuts.between(stream.epochs, stream.current, passed.cut, cut)
    size = cuts.size_between(stream.epochs, stream.last_sizes, between, passed.cut, cut)
    return passed.bytes_before + size


def next_numbers_start(stream: Stream) -> int:
    """The number of the first segment of the next epoch."""
    return largest_number(stream.epochs[-1]) + 1
