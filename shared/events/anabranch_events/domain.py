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
"""

from __future__ import annotations

import msgspec

from anabranch_events.feed import ScaleCause
from anabranch_events.model import SegmentRange, StreamConfig


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
)


class StreamBatch(msgspec.Struct, frozen=True):
    """One message of a stream's subject. `id` is drawn by the writer, `by` is its instance."""

    id: str
    by: str
    at_ms: int
    events: tuple[StreamEvent, ...]
