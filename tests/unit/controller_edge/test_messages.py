"""Translation between the gRPC messages and the domain's values."""

from __future__ import annotations

from typing import Any, get_args
from uuid import UUID

import pytest
from anabranch_controller import api
from anabranch_controller.entrypoints import messages
from anabranch_controller.errors import InvalidArgument
from anabranch_events.model import (
    GroupConfig,
    RetentionPolicy,
    ScalingPolicy,
    SegmentRange,
    StreamConfig,
)
from anabranch_rpc import controller_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

OUTCOMES: list[tuple[Any, Any]] = [
    (api.CreateScopeOutcome, pb.CreateScopeStatus.Status),
    (api.DeleteScopeOutcome, pb.DeleteScopeStatus.Status),
    (api.CreateStreamOutcome, pb.CreateStreamStatus.Status),
    (api.UpdateStreamOutcome, pb.UpdateStreamStatus.Status),
    (api.DeleteStreamOutcome, pb.DeleteStreamStatus.Status),
    (api.ListOutcome, pb.StreamsInScopeResponse.Status),
    (api.ListOutcome, pb.KVTablesInScopeResponse.Status),
    (api.ScaleOutcome, pb.ScaleResponse.ScaleStreamStatus),
    (api.ScaleStatus, pb.ScaleStatusResponse.ScaleStatus),
    (api.TransactionOutcome, pb.TxnStatus.Status),
    (api.PingOutcome, pb.PingTxnStatus.Status),
    (api.TransactionStatus, pb.TxnState.State),
    (api.CreateGroupOutcome, pb.CreateReaderGroupResponse.Status),
    (api.GroupOutcome, pb.ReaderGroupConfigResponse.Status),
    (api.GroupOutcome, pb.DeleteReaderGroupStatus.Status),
    (api.UpdateGroupOutcome, pb.UpdateReaderGroupResponse.Status),
    (api.SubscribersOutcome, pb.SubscribersResponse.Status),
    (api.UpdateSubscriberOutcome, pb.UpdateSubscriberStatus.Status),
    (api.CreateTableOutcome, pb.CreateKeyValueTableStatus.Status),
    (api.TableOutcome, pb.KeyValueTableConfigResponse.Status),
    (api.TableOutcome, pb.DeleteKVTableStatus.Status),
    (api.NoteTimestampOutcome, pb.TimestampResponse.Status),
    (api.RemoveWriterOutcome, pb.RemoveWriterResponse.Status),
]


@pytest.mark.parametrize(("outcome", "enum"), OUTCOMES)
def test_every_outcome_is_a_value_of_the_contract(outcome: Any, enum: Any) -> None:
    """An outcome that the enum does not know would turn a plain refusal into INTERNAL."""
    assert set(get_args(outcome)) <= set(enum.keys())


def _config(**changes: Any) -> pb.StreamConfig:
    info = pb.StreamInfo(scope="s", stream="x")
    policy = pb.ScalingPolicy(scaleType=2, targetRate=10, scaleFactor=3, minNumSegments=4)
    return pb.StreamConfig(**{"streamInfo": info, "scalingPolicy": policy} | changes)


def test_stream_configuration_survives_both_ways() -> None:
    """What a user configured must come back as it was sent, tags and limits too."""
    sent = _config(
        retentionPolicy=pb.RetentionPolicy(retentionType=1, retentionParam=5, retentionMax=7),
        tags=pb.Tags(tag=["b", "a", "b"]),
        timestampAggregationTimeout=-5,
        rolloverSizeBytes=9,
    )
    config = messages.stream_config(sent)
    assert config == StreamConfig(
        scaling=ScalingPolicy("events_per_sec", 10, 3, 4),
        retention=RetentionPolicy("time", 5, 7),
        tags=("b", "a"),
        timestamp_aggregation_timeout_ms=-5,
        rollover_size_bytes=9,
    )
    back = messages.stream_configuration("s", "x", config)
    sent.tags.tag[:] = ["b", "a"]
    assert back == sent


def test_retention_of_unknown_type_means_none() -> None:
    """Rust always sends a retention policy; taking it for one would truncate its streams."""
    sent = _config(retentionPolicy=pb.RetentionPolicy(retentionMax=2**63 - 1))
    config = messages.stream_config(sent)
    assert config.retention is None
    assert not messages.stream_configuration("s", "x", config).HasField("retentionPolicy")


def test_reply_with_a_configuration_has_all_embedded_messages() -> None:
    """The Rust client panics without a scaling policy, and Python shows tags as None."""
    message = messages.stream_configuration("s", "x", StreamConfig())
    assert message.HasField("streamInfo")
    assert message.HasField("scalingPolicy")
    assert message.HasField("tags")


def test_unknown_types_are_bad_arguments() -> None:
    """A newer client's policy must be refused, not stored as another one."""
    with pytest.raises(InvalidArgument, match="unknown type 9"):
        messages.stream_config(_config(scalingPolicy=pb.ScalingPolicy(scaleType=9)))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="unknown type 5"):
        messages.stream_config(_config(retentionPolicy=pb.RetentionPolicy(retentionType=5)))  # type: ignore[arg-type]


def test_missing_scaling_policy_asks_for_no_segments() -> None:
    """The controller refuses zero segments; a default of one would create what nobody asked for."""
    config = messages.stream_config(pb.StreamConfig(streamInfo=_config().streamInfo))
    assert config.scaling.min_segments == 0


def test_names_left_out_are_refused() -> None:
    """An empty name must not reach the event log, where it has no subject."""
    with pytest.raises(InvalidArgument, match="scope"):
        messages.stream_of(pb.StreamInfo(stream="x"))
    with pytest.raises(InvalidArgument, match="stream"):
        messages.stream_of(pb.StreamInfo(scope="s"))


def test_successors_carry_ranges_ids_and_all_predecessors() -> None:
    """A reader waits for every listed predecessor; one less and it reads out of order."""
    found = [api.Successor(SegmentRange(1 << 32 | 2, 0.25, 1.0), (0, 1))]
    message = messages.successors("s", "x", found)
    entry = message.segments[0]
    assert entry.segment.segmentId.segmentId == 4294967298
    assert entry.segment.segmentId.streamInfo == pb.StreamInfo(scope="s", stream="x")
    assert (entry.segment.minKey, entry.segment.maxKey) == (0.25, 1.0)
    assert list(entry.value) == [0, 1]


def _group(**changes: Any) -> pb.ReaderGroupConfiguration:
    info = pb.StreamInfo(scope="s", stream="x")
    return pb.ReaderGroupConfiguration(
        **{
            "scope": "s",
            "readerGroupName": "g",
            "groupRefreshTimeMillis": 3000,
            "automaticCheckpointIntervalMillis": 30000,
            "maxOutstandingCheckpointRequest": 3,
            "retentionType": 2,
            "readerGroupId": "33333333-3333-3333-3333-333333333333",
            "startingStreamCuts": [pb.StreamCut(streamInfo=info, cut={0: 5})],
        }
        | changes
    )


def test_reader_group_is_echoed() -> None:
    """Java compares the echo with what it asked for and refuses a group that differs."""
    config = messages.group_config(_group())
    assert config.id == UUID("33333333-3333-3333-3333-333333333333")
    assert config.retention == "automatic"
    assert config.starting_cuts == {"s/x": {0: 5}}
    assert config.ending_cuts == {}
    assert messages.group_configuration("s", "g", config) == _group()


@pytest.mark.parametrize("change", [{"retentionType": 9}, {"readerGroupId": "hello"}])
def test_reader_group_with_senseless_fields_is_refused(change: dict[str, Any]) -> None:
    """Stored as it is, it could never be compared or retained by."""
    with pytest.raises(InvalidArgument):
        messages.group_config(_group(**change))


INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text("abcXYZ019.-", min_size=1, max_size=20)
CUTS = st.dictionaries(
    st.tuples(NAMES, NAMES).map("/".join), st.dictionaries(INT64, INT64, max_size=3), max_size=3
)
CONFIGS = st.builds(
    StreamConfig,
    scaling=st.builds(
        ScalingPolicy,
        scale_type=st.sampled_from(["fixed", "kbytes_per_sec", "events_per_sec"]),
        target_rate=INT32,
        scale_factor=INT32,
        min_segments=INT32,
    ),
    retention=st.none()
    | st.builds(
        RetentionPolicy,
        retention_type=st.sampled_from(["time", "size"]),
        minimum=INT64,
        maximum=INT64,
    ),
    tags=st.lists(st.text(max_size=10), unique=True, max_size=4).map(tuple),
    timestamp_aggregation_timeout_ms=INT64,
    rollover_size_bytes=INT64,
)
GROUPS = st.builds(
    GroupConfig,
    refresh_ms=INT64,
    checkpoint_interval_ms=INT64,
    outstanding_checkpoints_max=INT32,
    retention=st.sampled_from(["none", "manual", "automatic"]),
    id=st.uuids(),
    generation=INT64,
    starting_cuts=CUTS,
    ending_cuts=CUTS,
)


@given(config=CONFIGS)
def test_any_stream_configuration_comes_back_over_the_wire(config: StreamConfig) -> None:
    """A member that is lost on the way changes a stream at its next update."""
    message = messages.stream_configuration("s", "x", config)
    sent = pb.StreamConfig.FromString(message.SerializeToString())
    assert messages.stream_config(sent) == config


@given(config=GROUPS)
def test_any_reader_group_comes_back_over_the_wire(config: GroupConfig) -> None:
    """Java compares the echo member by member."""
    message = messages.group_configuration("s", "g", config)
    sent = pb.ReaderGroupConfiguration.FromString(message.SerializeToString())
    assert messages.group_config(sent) == config
