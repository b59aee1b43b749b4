"""Domain events: the controller's only truth, one subject per aggregate.

All events of one decision travel as one message (an EventBatch), which makes them atomic.
Classes are never edited once released, only added to; a new member has a default. The tag
of an event is its class name.

Stream life, in the order in which a workflow records its steps:

    StreamCreated ─▶ StreamActivated
    ScaleStarted ─▶ EpochAppended ─▶ ScaleCompleted          (create, metadata, seal, switch)
    UpdateStarted ─▶ UpdateCompleted
    TruncationStarted ─▶ TruncationCompleted
    CommitStarted ─▶ [RollingEpochsAppended] ─▶ CommitCompleted
    SealStarted ─▶ StreamSealed ─▶ DeleteStarted ─▶ StreamDeleted

A scope is a directory: a name is reserved there (StreamReserved, ...) before the thing is
created and released after it is deleted, and a reservation says all that it takes to create
the thing, so that anybody can finish what its author began.

    TransactionBegun ─▶ TransactionPinged* ─▶ TransactionCommitRequested
                                           ╰▶ TransactionAbortRequested ─▶ TransactionAborted

A transaction is committed by the CommitCompleted of its stream that names it, and by nothing
else: one message settles a whole batch. Commits are ordered by the sequence of their
TransactionCommitRequested.
"""

from __future__ import annotations

from typing import Final, Literal
from uuid import UUID

import msgspec

from anabranch_events.feed import ScaleCause
from anabranch_events.model import GroupConfig, SegmentRange, StreamConfig, TableConfig

BATCH_VERSION: Final = 1
"""Of the messages as a whole. New kinds of events and new members do not change it."""


class DomainEvent(msgspec.Struct, frozen=True, tag=True):
    """Base of all domain events."""


# --- cluster -----------------------------------------------------------------------------


class ClusterCreated(DomainEvent, frozen=True, tag=True):
    """Facts that are fixed for the life of a cluster."""

    cluster_id: str
    containers_count: int


# --- stream (subject: stream_events(scope, stream)) --------------------------------------


class StreamCreated(DomainEvent, frozen=True, tag=True):
    """`segments` are those of epoch 0. Numbers go on above those of a deleted namesake."""

    scope: str
    stream: str
    incarnation: str
    config: StreamConfig
    segments: tuple[SegmentRange, ...]
    created_ms: int


class StreamActivated(DomainEvent, frozen=True, tag=True):
    """All segments exist on their stores; from here on clients may use the stream."""


class ScaleStarted(DomainEvent, frozen=True, tag=True):
    """Accepted: `sealed` gives way to `created` (ids of the new epoch, in request order)."""

    new_epoch: int
    sealed: tuple[SegmentRange, ...]
    created: tuple[SegmentRange, ...]
    cause: ScaleCause
    reason: str
    observed_rate: float
    target_rate: float
    requested_ms: int


class EpochAppended(DomainEvent, frozen=True, tag=True):
    """The new segments exist on their stores; successors are answered from here on,
    before any old segment is sealed (controller.md 4.7, a trap when reversed)."""

    epoch: int
    reference_epoch: int
    segments: tuple[SegmentRange, ...]
    sealed: tuple[SegmentRange, ...]
    created_ms: int


class ScaleCompleted(DomainEvent, frozen=True, tag=True):
    """The old segments are sealed and the new epoch is the current one.

    `sealed_sizes` has the final length in bytes of each sealed segment, by id.
    """

    epoch: int
    sealed_sizes: tuple[tuple[int, int], ...]
    completed_ms: int


class UpdateStarted(DomainEvent, frozen=True, tag=True):
    config: StreamConfig


class UpdateCompleted(DomainEvent, frozen=True, tag=True):
    pass


class TruncationStarted(DomainEvent, frozen=True, tag=True):
    """`cut`: (segment id, offset) pairs; `to_delete`: segments wholly before it."""

    cut: tuple[tuple[int, int], ...]
    to_delete: tuple[int, ...]


class TruncationCompleted(DomainEvent, frozen=True, tag=True):
    pass


class CommitStarted(DomainEvent, frozen=True, tag=True):
    """One batch of transactions of one epoch, in commit order (ids as 32 hex digits)."""

    transaction_epoch: int
    transactions: tuple[str, ...]
    rolling: bool
    active_epoch: int


class RollingEpochsAppended(DomainEvent, frozen=True, tag=True):
    """The two epochs of a rolling transaction (controller.md 7.6)."""

    transaction_epoch_copy: EpochAppended
    active_epoch_copy: EpochAppended


class CommitCompleted(DomainEvent, frozen=True, tag=True):
    transactions: tuple[str, ...]
    sealed_sizes: tuple[tuple[int, int], ...]
    completed_ms: int


class SealStarted(DomainEvent, frozen=True, tag=True):
    pass


class StreamSealed(DomainEvent, frozen=True, tag=True):
    sealed_sizes: tuple[tuple[int, int], ...]


class DeleteStarted(DomainEvent, frozen=True, tag=True):
    pass


class StreamDeleted(DomainEvent, frozen=True, tag=True):
    """`last_segment_number` keeps a namesake's segments apart from this one's."""

    last_segment_number: int


class SubscriberSet(DomainEvent, frozen=True, tag=True):
    """A reader group counts for retention from here on, or counts with a new generation.

    `subscriber` is "scope/group". A new generation keeps the cut that was reported before.
    """

    subscriber: str
    group_id: UUID
    generation: int


class SubscriberRemoved(DomainEvent, frozen=True, tag=True):
    subscriber: str
    group_id: UUID


class SubscriberCutUpdated(DomainEvent, frozen=True, tag=True):
    """The group has read up to `cut` and does not need what is before it."""

    subscriber: str
    cut: tuple[tuple[int, int], ...]
    updated_ms: int


class RetentionCutRecorded(DomainEvent, frozen=True, tag=True):
    """The tail of a stream that has a retention policy, once a period. `size_bytes` is all
    that was ever written before it."""

    cut: tuple[tuple[int, int], ...]
    recorded_ms: int
    size_bytes: int


class WriterTimestampNoted(DomainEvent, frozen=True, tag=True):
    """`timestamp` is the writer's own time, in whatever unit it likes."""

    writer: str
    timestamp: int
    position: tuple[tuple[int, int], ...]


class WriterRemoved(DomainEvent, frozen=True, tag=True):
    """The writer is shut down; its last time still counts until the next watermark."""

    writer: str


class WritersForgotten(DomainEvent, frozen=True, tag=True):
    """They noted no time for longer than the stream waits; the next note brings them back."""

    writers: tuple[str, ...]


class WorkTakenOver(DomainEvent, frozen=True, tag=True):
    """The writer of this batch now owns the open workflow; `silent` owned it before.

    Also in the other aggregates that have workflows."""

    silent: str


StreamEvent = (
    StreamCreated
    | StreamActivated
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
    | SubscriberSet
    | SubscriberRemoved
    | SubscriberCutUpdated
    | RetentionCutRecorded
    | WriterTimestampNoted
    | WriterRemoved
    | WritersForgotten
    | WorkTakenOver
)


class StreamBatch(msgspec.Struct, frozen=True):
    """One message of a stream's subject. `id` is drawn by the writer, `by` is its instance,
    `at_ms` is the wall time at which it decided."""

    id: str
    by: str
    at_ms: int
    events: tuple[StreamEvent, ...]
    version: int = BATCH_VERSION


# --- scope (subject: scope_events(scope)) ------------------------------------------------


class ScopeCreated(DomainEvent, frozen=True, tag=True):
    scope: str
    incarnation: str
    created_ms: int


class StreamReserved(DomainEvent, frozen=True, tag=True):
    """The name is taken, and whoever comes by creates the stream as it is written here."""

    stream: str
    incarnation: str
    config: StreamConfig
    created_ms: int


class StreamReleased(DomainEvent, frozen=True, tag=True):
    stream: str
    incarnation: str


class GroupReserved(DomainEvent, frozen=True, tag=True):
    group: str
    incarnation: str
    config: GroupConfig
    created_ms: int


class GroupReleased(DomainEvent, frozen=True, tag=True):
    group: str
    incarnation: str


class TableReserved(DomainEvent, frozen=True, tag=True):
    table: str
    incarnation: str
    config: TableConfig
    created_ms: int


class TableReleased(DomainEvent, frozen=True, tag=True):
    table: str
    incarnation: str


class ScopeDeletionStarted(DomainEvent, frozen=True, tag=True):
    """A recursive delete: nothing can be reserved any more, and everything goes."""


class ScopeDeleted(DomainEvent, frozen=True, tag=True):
    pass


ScopeEvent = (
    ScopeCreated
    | StreamReserved
    | StreamReleased
    | GroupReserved
    | GroupReleased
    | TableReserved
    | TableReleased
    | ScopeDeletionStarted
    | ScopeDeleted
    | WorkTakenOver
)


class ScopeBatch(msgspec.Struct, frozen=True):
    """One message of a scope's subject; members as in StreamBatch."""

    id: str
    by: str
    at_ms: int
    events: tuple[ScopeEvent, ...]
    version: int = BATCH_VERSION


# --- transaction (subject: transaction_events(scope, stream, transaction)) -----------------


class TransactionBegun(DomainEvent, frozen=True, tag=True):
    """Written before its segments exist. `transaction` is the id as 32 hex digits, and
    `ends_at_most_ms` is the wall time beyond which no ping extends the lease."""

    scope: str
    stream: str
    transaction: str
    lease_ms: int
    begun_ms: int
    ends_at_most_ms: int


class TransactionPinged(DomainEvent, frozen=True, tag=True):
    """The lease starts anew now, with this length."""

    lease_ms: int


class TransactionCommitRequested(DomainEvent, frozen=True, tag=True):
    """Promised: it will be committed. `timestamp` is for watermarks, -2^63 for none."""

    writer: str
    timestamp: int


class TransactionAbortRequested(DomainEvent, frozen=True, tag=True):
    cause: Literal["timeout", "request", "stream-sealed"]


class TransactionAborted(DomainEvent, frozen=True, tag=True):
    """Its segments are gone."""

    aborted_ms: int


TransactionEvent = (
    TransactionBegun
    | TransactionPinged
    | TransactionCommitRequested
    | TransactionAbortRequested
    | TransactionAborted
    | WorkTakenOver
)


class TransactionBatch(msgspec.Struct, frozen=True):
    """One message of a transaction's subject; members as in StreamBatch."""

    id: str
    by: str
    at_ms: int
    events: tuple[TransactionEvent, ...]
    version: int = BATCH_VERSION


# --- reader group (subject: reader_group_events(scope, group)) ------------------------------


class GroupCreated(DomainEvent, frozen=True, tag=True):
    scope: str
    group: str
    incarnation: str
    config: GroupConfig


class GroupActivated(DomainEvent, frozen=True, tag=True):
    """Its stream exists and its subscriptions are in place."""


class GroupUpdateStarted(DomainEvent, frozen=True, tag=True):
    """`config` has the new generation; `unsubscribed` are the streams that it leaves."""

    config: GroupConfig
    unsubscribed: tuple[str, ...]


class GroupUpdateCompleted(DomainEvent, frozen=True, tag=True):
    pass


class GroupDeletionStarted(DomainEvent, frozen=True, tag=True):
    pass


class GroupDeleted(DomainEvent, frozen=True, tag=True):
    pass


GroupEvent = (
    GroupCreated
    | GroupActivated
    | GroupUpdateStarted
    | GroupUpdateCompleted
    | GroupDeletionStarted
    | GroupDeleted
    | WorkTakenOver
)


class GroupBatch(msgspec.Struct, frozen=True):
    """One message of a reader group's subject; members as in StreamBatch."""

    id: str
    by: str
    at_ms: int
    events: tuple[GroupEvent, ...]
    version: int = BATCH_VERSION


# --- key-value table (subject: table_events(scope, table)) ----------------------------------


class TableCreated(DomainEvent, frozen=True, tag=True):
    """Segment numbers go on above those of a deleted namesake."""

    scope: str
    table: str
    incarnation: str
    config: TableConfig
    segments: tuple[SegmentRange, ...]
    created_ms: int


class TableActivated(DomainEvent, frozen=True, tag=True):
    pass


class TableDeletionStarted(DomainEvent, frozen=True, tag=True):
    pass


class TableDeleted(DomainEvent, frozen=True, tag=True):
    last_segment_number: int


TableEvent = TableCreated | TableActivated | TableDeletionStarted | TableDeleted | WorkTakenOver


class TableBatch(msgspec.Struct, frozen=True):
    """One message of a table's subject; members as in StreamBatch."""

    id: str
    by: str
    at_ms: int
    events: tuple[TableEvent, ...]
    version: int = BATCH_VERSION


# --- transaction ids (subject: TRANSACTION_IDS) ---------------------------------------------


class TransactionIdsReserved(DomainEvent, frozen=True, tag=True):
    """The counter values from `first` to before `end` belong to the writer of the batch."""

    first: int
    end: int


class TransactionIdsBatch(msgspec.Struct, frozen=True):
    """One message of the counter's subject; members as in StreamBatch."""

    id: str
    by: str
    at_ms: int
    events: tuple[TransactionIdsReserved, ...]
    version: int = BATCH_VERSION


# --- reading a message ----------------------------------------------------------------------

Batch = StreamBatch | ScopeBatch | TransactionBatch | GroupBatch | TableBatch | TransactionIdsBatch

_DECODERS: Final[dict[str, msgspec.json.Decoder[Batch]]] = {
    "stream": msgspec.json.Decoder(StreamBatch),
    "scope": msgspec.json.Decoder(ScopeBatch),
    "transaction": msgspec.json.Decoder(TransactionBatch),
    "group": msgspec.json.Decoder(GroupBatch),
    "table": msgspec.json.Decoder(TableBatch),
    "transaction-ids": msgspec.json.Decoder(TransactionIdsBatch),
}


class NewerVersion(Exception):
    """The message was written by a later release, in a form that this one does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it has version {version}, this release reads up to {BATCH_VERSION}")
        self.version = version


def decode_batch(subject: str, payload: bytes) -> Batch | None:
    """The message of an aggregate, None for a subject that is none (barriers, the cluster).

    Raises msgspec.DecodeError for bytes that are no such message, and NewerVersion.
    """
    decoder = _DECODERS.get(subject.split(".")[2])
    if decoder is None:
        return None
    batch = decoder.decode(payload)
    if batch.version > BATCH_VERSION:
        raise NewerVersion(batch.version)
    return batch
