"""Between the gRPC messages and the domain's values. Pure functions, both ways.

Two rules come from the clients (reference controller.md, 1.10). Every embedded message is
set in a reply, since the Rust client unwraps without asking. And a request with its names
left out is refused before anything is looked up.

Outcomes are spelled like the contract's enum values, so `Status.Value(outcome)` maps them,
and a test walks all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal
from uuid import UUID

from anabranch_events.bus import KeyRange
from anabranch_events.model import (
    GroupConfig,
    RetentionPolicy,
    ScaleType,
    ScalingPolicy,
    SegmentRange,
    StreamConfig,
    TableConfig,
)
from anabranch_rpc import controller_pb2 as pb

from anabranch_controller.api import (
    CompletedTransaction,
    SegmentOffset,
    Successor,
    TransactionId,
)
from anabranch_controller.errors import InvalidArgument

GroupRetention = Literal["none", "manual", "automatic"]

NO_TOKEN: Final = ""  # the delegation token while authorisation is off: empty in every reply

SCALE_NUMBERS: Final[dict[ScaleType, pb.ScalingPolicy.ScalingPolicyType.ValueType]] = {
    "fixed": pb.ScalingPolicy.FIXED_NUM_SEGMENTS,
    "kbytes_per_sec": pb.ScalingPolicy.BY_RATE_IN_KBYTES_PER_SEC,
    "events_per_sec": pb.ScalingPolicy.BY_RATE_IN_EVENTS_PER_SEC,
}
SCALE_TYPES: Final = {int(number): name for name, number in SCALE_NUMBERS.items()}
RETENTION_NUMBERS: Final = {"time": pb.RetentionPolicy.TIME, "size": pb.RetentionPolicy.SIZE}
GROUP_RETENTIONS: Final[dict[int, GroupRetention]] = {0: "none", 1: "manual", 2: "automatic"}
GROUP_RETENTION_NUMBERS: Final = {name: number for number, name in GROUP_RETENTIONS.items()}


# --- requests: names ---------------------------------------------------------------------


def required(value: str, what: str) -> str:
    """A name that a call cannot do without."""
    if not value:
        raise InvalidArgument(what, "is missing or empty")
    return value


def stream_of(info: pb.StreamInfo) -> tuple[str, str]:
    return required(info.scope, "scope"), required(info.stream, "stream")


def table_of(info: pb.KeyValueTableInfo) -> tuple[str, str]:
    return required(info.scope, "scope"), required(info.kvtName, "key-value table")


def group_of(info: pb.ReaderGroupInfo) -> tuple[str, str]:
    return required(info.scope, "scope"), required(info.readerGroup, "reader group")


def uuid_of(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidArgument(what, f"{text!r} is no UUID") from None


# --- requests: values --------------------------------------------------------------------


def stream_config(message: pb.StreamConfig) -> StreamConfig:
    """Raises InvalidArgument for enum values that the contract does not know.

    A missing scaling policy becomes one of no segments, which the controller refuses.
    """
    return StreamConfig(
        scaling=_scaling(message.scalingPolicy),
        retention=_retention(message.retentionPolicy),
        tags=tuple(dict.fromkeys(message.tags.tag)),
        timestamp_aggregation_timeout_ms=message.timestampAggregationTimeout,
        rollover_size_bytes=message.rolloverSizeBytes,
    )


def _scaling(policy: pb.ScalingPolicy) -> ScalingPolicy:
    scale_type = SCALE_TYPES.get(policy.scaleType)
    if scale_type is None:
        raise InvalidArgument("scaling policy", f"unknown type {policy.scaleType}")
    return ScalingPolicy(
        scale_type=scale_type,
        target_rate=policy.targetRate,
        scale_factor=policy.scaleFactor,
        min_segments=policy.minNumSegments,
    )


def _retention(policy: pb.RetentionPolicy) -> RetentionPolicy | None:
    match policy.retentionType:
        case pb.RetentionPolicy.UNKNOWN:  # Rust always sends a policy, with this type for none
            return None
        case pb.RetentionPolicy.TIME:
            return RetentionPolicy("time", policy.retentionParam, policy.retentionMax)
        case pb.RetentionPolicy.SIZE:
            return RetentionPolicy("size", policy.retentionParam, policy.retentionMax)
        case other:
            raise InvalidArgument("retention policy", f"unknown type {other}")


def key_ranges(entries: Iterable[pb.ScaleRequest.KeyRangeEntry]) -> tuple[KeyRange, ...]:
    return tuple(KeyRange(entry.start, entry.end) for entry in entries)


def transaction_id(message: pb.TxnId) -> TransactionId:
    return TransactionId(message.highBits, message.lowBits)


def group_config(message: pb.ReaderGroupConfiguration) -> GroupConfig:
    """Raises InvalidArgument for an id that is no UUID and an unknown retention type.

    The rollover size is not taken: a group's stream always has its own, as recorded.
    """
    retention = GROUP_RETENTIONS.get(message.retentionType)
    if retention is None:
        raise InvalidArgument("reader group", f"unknown retention type {message.retentionType}")
    return GroupConfig(
        refresh_ms=message.groupRefreshTimeMillis,
        checkpoint_interval_ms=message.automaticCheckpointIntervalMillis,
        outstanding_checkpoints_max=message.maxOutstandingCheckpointRequest,
        retention=retention,
        id=uuid_of(message.readerGroupId, "reader group id"),
        generation=message.generation,
        starting_cuts=_group_cuts(message.startingStreamCuts),
        ending_cuts=_group_cuts(message.endingStreamCuts),
    )


def _group_cuts(cuts: Iterable[pb.StreamCut]) -> dict[str, dict[int, int]]:
    return {"/".join(stream_of(cut.streamInfo)): dict(cut.cut) for cut in cuts}


def table_config(message: pb.KeyValueTableConfig) -> TableConfig:
    return TableConfig(
        partitions_count=message.partitionCount,
        primary_key_length=message.primaryKeyLength,
        secondary_key_length=message.secondaryKeyLength,
        rollover_size_bytes=message.rolloverSizeBytes,
    )


# --- replies -----------------------------------------------------------------------------


def stream_info(scope: str, stream: str) -> pb.StreamInfo:
    return pb.StreamInfo(scope=scope, stream=stream)


def segment_id(scope: str, stream: str, number: int) -> pb.SegmentId:
    return pb.SegmentId(streamInfo=stream_info(scope, stream), segmentId=number)


def segment_range(scope: str, stream: str, segment: SegmentRange) -> pb.SegmentRange:
    return pb.SegmentRange(
        segmentId=segment_id(scope, stream, segment.id), minKey=segment.low, maxKey=segment.high
    )


def segment_ranges(scope: str, stream: str, segments: Iterable[SegmentRange]) -> pb.SegmentRanges:
    return pb.SegmentRanges(
        segmentRanges=[segment_range(scope, stream, segment) for segment in segments],
        delegationToken=NO_TOKEN,
    )


def segments_at_time(scope: str, stream: str, head: Iterable[SegmentOffset]) -> pb.SegmentsAtTime:
    return pb.SegmentsAtTime(
        segments=[
            pb.SegmentsAtTime.SegmentLocation(
                segmentId=segment_id(scope, stream, place.id), offset=place.offset
            )
            for place in head
        ],
        delegationToken=NO_TOKEN,
    )


def successors(scope: str, stream: str, found: Iterable[Successor]) -> pb.SuccessorResponse:
    return pb.SuccessorResponse(
        segments=[
            pb.SuccessorResponse.SegmentEntry(
                segment=segment_range(scope, stream, successor.segment),
                value=successor.predecessors,
            )
            for successor in found
        ],
        delegationToken=NO_TOKEN,
    )


def stream_configuration(scope: str, stream: str, config: StreamConfig) -> pb.StreamConfig:
    """`scalingPolicy` and `tags` are always there, `retentionPolicy` only when there is one."""
    scaling = config.scaling
    return pb.StreamConfig(
        streamInfo=stream_info(scope, stream),
        scalingPolicy=pb.ScalingPolicy(
            scaleType=SCALE_NUMBERS[scaling.scale_type],
            targetRate=scaling.target_rate,
            scaleFactor=scaling.scale_factor,
            minNumSegments=scaling.min_segments,
        ),
        retentionPolicy=_retention_policy(config.retention),
        tags=pb.Tags(tag=config.tags),
        timestampAggregationTimeout=config.timestamp_aggregation_timeout_ms,
        rolloverSizeBytes=config.rollover_size_bytes,
    )


def _retention_policy(retention: RetentionPolicy | None) -> pb.RetentionPolicy | None:
    if retention is None:
        return None
    return pb.RetentionPolicy(
        retentionType=RETENTION_NUMBERS[retention.retention_type],
        retentionParam=retention.minimum,
        retentionMax=retention.maximum,
    )


def transaction_message(transaction: TransactionId) -> pb.TxnId:
    return pb.TxnId(highBits=transaction.high, lowBits=transaction.low)


def completed_transactions(
    completed: Iterable[CompletedTransaction],
) -> pb.ListCompletedTxnResponse:
    return pb.ListCompletedTxnResponse(
        response=[
            pb.TxnResponse(
                txnId=transaction_message(one.id),
                status=pb.TxnResponse.Status.Value(one.outcome),
            )
            for one in completed
        ]
    )


def group_configuration(scope: str, group: str, config: GroupConfig) -> pb.ReaderGroupConfiguration:
    """Echoes all that the Java client compares with what it asked for."""
    return pb.ReaderGroupConfiguration(
        scope=scope,
        readerGroupName=group,
        groupRefreshTimeMillis=config.refresh_ms,
        automaticCheckpointIntervalMillis=config.checkpoint_interval_ms,
        maxOutstandingCheckpointRequest=config.outstanding_checkpoints_max,
        retentionType=GROUP_RETENTION_NUMBERS[config.retention],
        generation=config.generation,
        readerGroupId=str(config.id),
        startingStreamCuts=_cut_messages(config.starting_cuts),
        endingStreamCuts=_cut_messages(config.ending_cuts),
        rolloverSizeBytes=config.rollover_size_bytes,
    )


def _cut_messages(cuts: Mapping[str, Mapping[int, int]]) -> list[pb.StreamCut]:
    return [
        pb.StreamCut(streamInfo=stream_info(*name.split("/", 1)), cut=cut)
        for name, cut in cuts.items()
    ]


def table_configuration(scope: str, table: str, config: TableConfig) -> pb.KeyValueTableConfig:
    return pb.KeyValueTableConfig(
        scope=scope,
        kvtName=table,
        partitionCount=config.partitions_count,
        primaryKeyLength=config.primary_key_length,
        secondaryKeyLength=config.secondary_key_length,
        rolloverSizeBytes=config.rollover_size_bytes,
    )
