"""What may happen to a stream now: commands in, events or a refusal out.

`Busy` says that the slot is taken, and that the same question may be asked again when it is
free. All refusals that a caller sees are literals of the api's outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from anabranch_events.bus import KeyRange
from anabranch_events.domain import (
    CommitStarted,
    DeleteStarted,
    EpochAppended,
    RollingEpochsAppended,
    ScaleStarted,
    SealStarted,
    StreamCreated,
    TruncationStarted,
    UpdateStarted,
)
from anabranch_events.feed import ScaleCause
from anabranch_events.model import SegmentRange, StreamConfig

from anabranch_controller.domain import cuts
from anabranch_controller.domain.history import copied, renumbered
from anabranch_controller.domain.key_ranges import equal_ranges, same_cover
from anabranch_controller.domain.stream import (
    OpenCommit,
    OpenScale,
    Stream,
    next_numbers_start,
)

SEGMENTS_MAX = 10_000
"""Of one stream: the four lists of a rolling transaction fit into one message, compressed."""

TAGS_MAX = 127  # as the Java client has it (reference, 2.4)
TAG_LENGTH_MAX = 255
SEGMENT_NUMBER_MAX = 2**31 - 1


class Busy(NamedTuple):
    """Other work holds the slot."""

    work: str


class BadConfig(Exception):
    """A configuration that no stream can have."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field, self.why = field, why


# --- configuration and creation -------------------------------------------------------------


def checked_config(config: StreamConfig) -> StreamConfig:
    """The configuration with its tags sorted and each once. Raises BadConfig."""
    scaling = config.scaling
    if not 1 <= scaling.min_segments <= SEGMENTS_MAX:
        raise BadConfig(
            "minNumSegments", f"{scaling.min_segments} segments, must be 1 to {SEGMENTS_MAX}"
        )
    if scaling.target_rate < 0 or scaling.scale_factor < 0:
        raise BadConfig("scalingPolicy", "target rate and scale factor must not be negative")
    if config.rollover_size_bytes < 0:
        raise BadConfig("rolloverSizeBytes", f"{config.rollover_size_bytes} is negative")
    tags = tuple(sorted(set(config.tags)))
    if len(tags) > TAGS_MAX:
        raise BadConfig("tags", f"{len(tags)} tags, at most {TAGS_MAX}")
    if any(not tag or len(tag) > TAG_LENGTH_MAX for tag in tags):
        raise BadConfig("tags", f"a tag has 1 to {TAG_LENGTH_MAX} characters")
    return StreamConfig(
        scaling=scaling,
        retention=config.retention,
        tags=tags,
        timestamp_aggregation_timeout_ms=config.timestamp_aggregation_timeout_ms,
        rollover_size_bytes=config.rollover_size_bytes,
    )


def create(
    before: Stream | None,
    *,
    scope: str,
    stream: str,
    incarnation: str,
    config: StreamConfig,
    created_ms: int,
) -> StreamCreated | None:
    """None when the reservation was followed already, or its name is not free again yet."""
    if before is not None and (before.exists or before.incarnation == incarnation):
        return None
    first = 0 if before is None else before.last_segment_number + 1
    return StreamCreated(
        scope=scope,
        stream=stream,
        incarnation=incarnation,
        config=config,
        segments=first_segments(config.scaling.min_segments, first),
        created_ms=created_ms,
    )


def first_segments(count: int, first_number: int) -> tuple[SegmentRange, ...]:
    """Equal parts of the key space, all of epoch 0."""
    return tuple(
        SegmentRange(first_number + index, part.low, part.high)
        for index, part in enumerate(equal_ranges(count))
    )


# --- scaling ---------------------------------------------------------------------------------

ScaleRefusal = Literal["FAILURE", "PRECONDITION_FAILED"]


class ScaleRefused(NamedTuple):
    outcome: ScaleRefusal
    why: str


class ScaleUnderWay(NamedTuple):
    """The very same scale is in the slot already."""

    started: ScaleStarted


def scale(
    stream: Stream,
    *,
    seal: Sequence[int],
    ranges: Sequence[KeyRange],
    requested_ms: int,
    cause: ScaleCause,
    reason: str = "",
    observed_rate: float = 0.0,
    target_rate: float = 0.0,
) -> ScaleStarted | ScaleUnderWay | ScaleRefused | Busy:
    """Ranges must have low < high and different lows; the caller has seen to that."""
    if stream.stage != "active":
        return ScaleRefused("FAILURE", f"the stream is {stream.stage}")
    if isinstance(stream.work, OpenScale):
        if _same_scale(stream.work.started, seal, ranges):
            return ScaleUnderWay(stream.work.started)
        return ScaleRefused("FAILURE", "another scale is going on")
    if stream.work is not None:
        return Busy(type(stream.work).__name__)
    if not seal or not ranges or len(set(seal)) != len(seal):
        return ScaleRefused("FAILURE", "name each segment to seal once, and the new ranges")
    current = {segment.id: segment for segment in stream.active_epoch.segments}
    if not all(identity in current for identity in seal):
        return ScaleRefused("PRECONDITION_FAILED", "a segment to seal is not open")
    sealed = tuple(current[identity] for identity in seal)
    if not same_cover(sealed, ranges):
        return ScaleRefused("FAILURE", "the new ranges are not exactly the sealed ones")
    remaining = len(current) - len(seal) + len(ranges)
    if remaining < stream.config.scaling.min_segments:
        return ScaleRefused(
            "PRECONDITION_FAILED",
            f"{remaining} segments would remain, the minimum is"
            f" {stream.config.scaling.min_segments}",
        )
    first = next_numbers_start(stream)
    if remaining > SEGMENTS_MAX or first + len(ranges) > SEGMENT_NUMBER_MAX:
        return ScaleRefused("FAILURE", f"a stream has at most {SEGMENTS_MAX} segments")
    return ScaleStarted(
        new_epoch=stream.current + 1,
        sealed=sealed,
        created=_new_segments(stream.current + 1, first, ranges),
        cause=cause,
        reason=reason,
        observed_rate=observed_rate,
        target_rate=target_rate,
        requested_ms=requested_ms,
    )


def policy_scale(stream: Stream, config: StreamConfig, *, requested_ms: int) -> ScaleStarted | None:
    """The scale to equal parts that an updated configuration asks for, if it does."""
    current = stream.active_epoch.segments
    wanted = config.scaling.min_segments
    if len(current) >= wanted and config.scaling.scale_type != "fixed":
        return None
    if len(current) == wanted:
        return None
    ranges = equal_ranges(wanted)
    return ScaleStarted(
        new_epoch=stream.current + 1,
        sealed=current,
        created=_new_segments(stream.current + 1, next_numbers_start(stream), ranges),
        cause="policy",
        reason=f"the policy asks for {wanted} segments, there were {len(current)}",
        observed_rate=0.0,
        target_rate=float(config.scaling.target_rate),
        requested_ms=requested_ms,
    )


def scale_epoch(stream: Stream, started: ScaleStarted, *, created_ms: int) -> EpochAppended:
    gone = {segment.id for segment in started.sealed}
    kept = [segment for segment in stream.active_epoch.segments if segment.id not in gone]
    return EpochAppended(
        epoch=started.new_epoch,
        reference_epoch=started.new_epoch,
        segments=tuple(sorted([*kept, *started.created], key=lambda segment: segment.low)),
        sealed=started.sealed,
        created_ms=max(created_ms, stream.active_epoch.created_ms + 1),
    )


def _new_segments(
    epoch: int, first_number: int, ranges: Sequence[KeyRange]
) -> tuple[SegmentRange, ...]:
    return tuple(
        SegmentRange(epoch << 32 | first_number + index, part.low, part.high)
        for index, part in enumerate(ranges)
    )


def _same_scale(started: ScaleStarted, seal: Sequence[int], ranges: Sequence[KeyRange]) -> bool:
    wanted = [(part.low, part.high) for part in ranges]
    return {segment.id for segment in started.sealed} == set(seal) and wanted == [
        (segment.low, segment.high) for segment in started.created
    ]


# --- update, truncate, seal, delete ----------------------------------------------------------


def update(
    stream: Stream, config: StreamConfig
) -> UpdateStarted | Literal["STREAM_NOT_FOUND", "STREAM_SEALED"] | Busy:
    if stream.stage in ("deleting", "deleted"):
        return "STREAM_NOT_FOUND"
    if stream.stage in ("sealing", "sealed"):
        return "STREAM_SEALED"
    if stream.stage == "creating" or stream.work is not None:
        return Busy(stream.stage)
    return UpdateStarted(config)


def truncate(
    stream: Stream, cut: cuts.Cut
) -> TruncationStarted | Literal["STREAM_NOT_FOUND", "STREAM_SEALED", "FAILURE"] | Busy:
    if stream.stage in ("deleting", "deleted"):
        return "STREAM_NOT_FOUND"
    if stream.stage in ("sealing", "sealed"):
        return "STREAM_SEALED"
    if stream.stage == "creating" or stream.work is not None:
        return Busy(stream.stage)
    if not cut:
        return "FAILURE"
    try:
        if not cuts.is_valid(stream.epochs, cut):
            return "FAILURE"
    except cuts.UnknownSegment:
        return "FAILURE"
    before = stream.truncation.cut
    if before and not cuts.equal_or_after(stream.epochs, cut, before):
        return "FAILURE"
    passed = cuts.between(stream.epochs, stream.current, before, cut)
    gone = stream.truncation.deleted
    to_delete = tuple(sorted(key for key in passed if key not in cut and key not in gone))
    return TruncationStarted(cut=tuple(sorted(cut.items())), to_delete=to_delete)


def seal(
    stream: Stream,
) -> SealStarted | Literal["STREAM_NOT_FOUND", "SUCCESS", "sealing"] | Busy:
    match stream.stage:
        case "deleting" | "deleted":
            return "STREAM_NOT_FOUND"
        case "sealed":
            return "SUCCESS"
        case "sealing":
            return "sealing"
        case "creating" | "active":
            if stream.stage == "creating" or stream.work is not None:
                return Busy(stream.stage)
            return SealStarted()


def delete(
    stream: Stream,
) -> DeleteStarted | Literal["STREAM_NOT_FOUND", "STREAM_NOT_SEALED", "deleting"] | Busy:
    match stream.stage:
        case "deleted":
            return "STREAM_NOT_FOUND"
        case "deleting":
            return "deleting"
        case "sealed":
            return DeleteStarted()
        case "creating":
            return Busy(stream.stage)
        case "active" | "sealing":
            return "STREAM_NOT_SEALED"


# --- commits -----------------------------------------------------------------------------------


def commit(
    stream: Stream, *, transaction_epoch: int, transactions: tuple[str, ...]
) -> CommitStarted | Busy:
    """`transactions` are of one epoch, in commit order."""
    if stream.work is not None or stream.stage not in ("active", "sealing"):
        return Busy(stream.stage)
    active = stream.active_epoch
    return CommitStarted(
        transaction_epoch=transaction_epoch,
        transactions=transactions,
        rolling=active.reference != stream.epochs[transaction_epoch].reference,
        active_epoch=active.number,
    )


def rolling_epochs(stream: Stream, work: OpenCommit, *, created_ms: int) -> RollingEpochsAppended:
    """The copy of the transactions' epoch and, after it, the copy of the active one."""
    active = stream.epochs[work.started.active_epoch]
    begun_in = stream.epochs[work.started.transaction_epoch]
    first, second = active.number + 1, active.number + 2
    at_ms = max(created_ms, active.created_ms + 1)
    for_transactions = copied(begun_in, first)
    return RollingEpochsAppended(
        transaction_epoch_copy=EpochAppended(
            epoch=first,
            reference_epoch=begun_in.reference,
            segments=for_transactions,
            sealed=active.segments,
            created_ms=at_ms,
        ),
        active_epoch_copy=EpochAppended(
            epoch=second,
            reference_epoch=active.reference,
            segments=copied(active, second),
            sealed=for_transactions,
            created_ms=at_ms + 1,
        ),
    )


def transaction_segments(stream: Stream, epoch: int) -> tuple[SegmentRange, ...]:
    """The segments that a transaction of this epoch writes to: the numbers of that epoch, all
    with the transaction's epoch in their ids (reference, 7.3)."""
    return tuple(
        SegmentRange(renumbered(segment, epoch), segment.low, segment.high)
        for segment in stream.epochs[epoch].segments
    )
