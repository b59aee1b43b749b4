"""Frames, operations, records and snapshots as bytes: what goes in comes out, or is refused."""

from __future__ import annotations

import contextlib

import pytest
from anabranch_segmentstore.domain.extents import ChunkPlace, LogPlace
from anabranch_segmentstore.domain.frames import decode_frame, encode_footer
from anabranch_segmentstore.domain.operations import (
    AttributesUpdated,
    ChunkIntended,
    ChunkJournalled,
    ChunkVoided,
    EventsAppended,
    IntendedRange,
    LogCut,
    ObjectsReleased,
    Operation,
    OperationsDamaged,
    SegmentCreated,
    SegmentDeleted,
    SegmentMerged,
    SegmentSealed,
    SegmentTruncated,
    TableChanged,
    TableKeysRemoved,
    data_length,
    encode,
)
from anabranch_segmentstore.domain.snapshot import decode_snapshot, encode_snapshot
from anabranch_segmentstore.domain.state import ContainerState
from anabranch_segmentstore.domain.tables import (
    Record,
    RecordsDamaged,
    encode_put,
    encode_removal,
    records,
)
from hypothesis import given
from hypothesis import strategies as st

WRITER = bytes(range(16))
EVERY_OPERATION: list[Operation] = [
    SegmentCreated(1, "scope/stream/0.#epoch.0", {WRITER: -(2**63)}, None),
    SegmentCreated(2, "scope/é/0", {}, 16),
    EventsAppended(1, WRITER, -1, -(2**31), 5),
    TableChanged(2, 7),
    TableKeysRemoved(2, [b"key"]),
    AttributesUpdated(1, {WRITER: 2**63 - 1}),
    SegmentTruncated(1, 2**62),
    SegmentSealed(1),
    SegmentMerged(1, 2, {WRITER: 3}),
    SegmentDeleted(1),
    ChunkIntended("segments/0/1/1", [IntendedRange(1, 0, 5)]),
    ChunkJournalled("segments/0/1/1", [2**32 - 1]),
    ChunkVoided("segments/0/1/2", is_ours=True),
    ObjectsReleased(["segments/0/1/1"]),
    LogCut(77),
]


def frame(operations: list[Operation], data: bytes) -> bytes:
    region = b"".join(map(encode, operations))
    footer = encode_footer(
        at_ms=1_700_000_000_000, operations_length=len(region), operations_count=len(operations)
    )
    return data + region + footer


def test_every_operation_comes_back() -> None:
    """A restart would forget what the operation did."""
    lengths = [data_length(operation) for operation in EVERY_OPERATION]
    decoded = decode_frame(frame(EVERY_OPERATION, b"d" * sum(lengths)))
    assert decoded.operations == EVERY_OPERATION
    assert decoded.at_ms == 1_700_000_000_000
    assert decoded.data_offsets == [sum(lengths[:at]) for at in range(len(lengths))]


@given(st.data())
def test_a_damaged_frame_is_refused_by_name(data: st.DataObject) -> None:
    """A container would end with an error that tells an operator nothing."""
    whole = frame(EVERY_OPERATION, b"d" * 12)
    cut = whole[data.draw(st.integers(0, 3)) : data.draw(st.integers(0, len(whole)))]
    damaged = bytearray(cut or b"\0")
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(OperationsDamaged):
        decode_frame(bytes(damaged))


def test_another_version_is_named() -> None:
    """An older release would misread the log of a newer one."""
    payload = bytearray(frame([], b""))
    payload[-3] = 9
    with pytest.raises(OperationsDamaged, match="version 9"):
        decode_frame(bytes(payload))
    snapshot = bytearray(encode_snapshot(ContainerState()))
    snapshot[5] = 7
    with pytest.raises(OperationsDamaged, match="version 7"):
        decode_snapshot(bytes(snapshot))


def a_state() -> ContainerState:
    state = ContainerState()
    put = encode_put(b"key", b"value") + encode_removal(b"other")
    steps: list[tuple[Operation, bytes]] = [
        (SegmentCreated(1, "plain", {WRITER: 1}, None), b""),
        (SegmentCreated(2, "table", {}, 0), b""),
        (SegmentCreated(3, "source", {}, None), b""),
        (EventsAppended(1, WRITER, 5, 1, 100), b"x" * 100),
        (EventsAppended(3, WRITER, 5, 1, 10), b"y" * 10),
        (TableChanged(2, len(put)), put),
        (ChunkIntended("object", [IntendedRange(1, 20, 30), IntendedRange(2, 0, 5)]), b""),
        (ChunkJournalled("object", [1, 2]), b""),
        (SegmentMerged(1, 3, {}), b""),
        (ChunkIntended("open", [IntendedRange(1, 50, 50)]), b""),
        (SegmentTruncated(1, 10), b""),
    ]
    offset = 0
    for operation, data in steps:
        state.apply(operation, position=4, data_offset=offset, at_ms=9, data=data)
        offset += len(data)
    state.settle_all()
    return state


def test_a_snapshot_holds_everything() -> None:
    """A restart from a snapshot would differ from one without."""
    state = a_state()
    again = decode_snapshot(encode_snapshot(state))
    again.settle_all()
    assert again == _comparable(state, again)
    extents = again.segments["plain"].extents
    assert extents.places == [
        LogPlace(4, 10),
        ChunkPlace("object", 0, 30, 1),
        LogPlace(4, 50),
        LogPlace(4, 100),
    ]
    assert extents.starts == [10, 20, 50, 100]
    assert again.oldest_untiered_frame() == 4
    assert again.merged == {"source": 1}


def _comparable(state: ContainerState, again: ContainerState) -> ContainerState:
    """Segments compare by identity: check their fields here, then leave them out."""
    for name, segment in state.segments.items():
        for field in type(segment).__slots__:
            assert getattr(again.segments[name], field) == getattr(segment, field), (name, field)
    state.segments, state.segments_by_id = again.segments, again.segments_by_id
    return state


@given(st.data())
def test_a_damaged_snapshot_is_refused_by_name(data: st.DataObject) -> None:
    """As above, for the largest thing in the log."""
    whole = encode_snapshot(a_state())
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] or b"\0")
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(OperationsDamaged):
        decode_snapshot(bytes(damaged))


def test_records_of_a_table() -> None:
    """A synchronizer would read values that were never put."""
    data = encode_put(b"k1", b"v1") + encode_removal(b"k2")
    assert list(records(data, 100)) == [
        Record(100, b"k1", 2, 121),
        Record(121, b"k2", None, 140),
    ]
    assert list(records(data[:-1], 100, cut=True)) == [Record(100, b"k1", 2, 121)]
    with pytest.raises(RecordsDamaged):
        list(records(data[:-1], 100))
    with pytest.raises(RecordsDamaged):
        list(records(data[1:], 100))
