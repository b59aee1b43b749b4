"""What the Python package lacks, called through the stubs: scale, truncate, segments."""

from __future__ import annotations

import time
from types import TracebackType
from typing import NamedTuple, Self

import grpc
from anabranch_rpc import controller_pb2 as pb
from anabranch_rpc import controller_pb2_grpc as rpc

CALL_LIMIT_S = 30.0
SCALE_LIMIT_S = 30.0


class Segment(NamedTuple):
    id: int
    low: float
    high: float

    @property
    def number(self) -> int:
        return self.id & 0xFFFFFFFF

    @property
    def epoch(self) -> int:
        return self.id >> 32


class Control:
    def __init__(self, controller: str) -> None:
        self._channel = grpc.insecure_channel(controller.removeprefix("tcp://"))
        self.stub = rpc.ControllerServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._channel.close()

    def segments(self, scope: str, stream: str, *, patient: bool = False) -> list[Segment]:
        """The current segments, by key; `patient` waits for a controller that is away."""
        reply = self.stub.getCurrentSegments(
            _info(scope, stream), timeout=CALL_LIMIT_S, wait_for_ready=patient
        )
        found = [_segment(entry) for entry in reply.segmentRanges]
        return sorted(found, key=lambda segment: segment.low)

    def successors(self, scope: str, stream: str, segment: int) -> dict[int, list[int]]:
        """What follows a segment, each with all of its predecessors."""
        request = pb.SegmentId(streamInfo=_info(scope, stream), segmentId=segment)
        reply = self.stub.getSegmentsImmediatelyFollowing(request, timeout=CALL_LIMIT_S)
        return {_segment(entry.segment).id: list(entry.value) for entry in reply.segments}

    def start_scale(
        self, scope: str, stream: str, seal: list[int], ranges: list[tuple[float, float]]
    ) -> pb.ScaleResponse:
        return self.stub.scale(
            pb.ScaleRequest(
                streamInfo=_info(scope, stream),
                sealedSegments=seal,
                newKeyRanges=[pb.ScaleRequest.KeyRangeEntry(start=a, end=b) for a, b in ranges],
                scaleTimestamp=0,
            ),
            timeout=CALL_LIMIT_S,
        )

    def scale(
        self, scope: str, stream: str, seal: list[int], ranges: list[tuple[float, float]]
    ) -> list[Segment]:
        """Scale and wait for the end of it; the new segments."""
        reply = self.start_scale(scope, stream, seal, ranges)
        assert reply.status == pb.ScaleResponse.STARTED, pb.ScaleResponse.ScaleStreamStatus.Name(
            reply.status
        )
        deadline = time.monotonic() + SCALE_LIMIT_S
        request = pb.ScaleStatusRequest(streamInfo=_info(scope, stream), epoch=reply.epoch)
        while True:
            status = self.stub.checkScale(request, timeout=CALL_LIMIT_S).status
            if status == pb.ScaleStatusResponse.SUCCESS:
                return [_segment(entry) for entry in reply.segments]
            assert status == pb.ScaleStatusResponse.IN_PROGRESS, status
            assert time.monotonic() < deadline, "the scale did not end"
            time.sleep(0.02)

    def truncate(self, scope: str, stream: str, cut: dict[int, int]) -> None:
        reply = self.stub.truncateStream(
            pb.StreamCut(streamInfo=_info(scope, stream), cut=cut), timeout=CALL_LIMIT_S
        )
        assert reply.status == pb.UpdateStreamStatus.SUCCESS, reply.status

    def transaction_state(self, scope: str, stream: str, number: int) -> str:
        """`number` is what `get_txn_id` gives."""
        request = pb.TxnRequest(
            streamInfo=_info(scope, stream),
            txnId=pb.TxnId(highBits=number >> 64, lowBits=number & (2**64 - 1)),
        )
        reply = self.stub.checkTransactionState(request, timeout=CALL_LIMIT_S)
        return pb.TxnState.State.Name(reply.state)

    def head(self, scope: str, stream: str) -> dict[int, int]:
        """Segments and offsets at which a new reader begins."""
        reply = self.stub.getSegments(
            pb.GetSegmentsRequest(streamInfo=_info(scope, stream), timestamp=0),
            timeout=CALL_LIMIT_S,
        )
        return {entry.segmentId.segmentId: entry.offset for entry in reply.segments}


def assert_covers_key_space(segments: list[Segment]) -> None:
    """[0, 1) without gap or overlap."""
    edges = [edge for segment in segments for edge in (segment.low, segment.high)]
    assert edges[0] == 0.0, segments
    assert edges[-1] == 1.0, segments
    assert edges[1:-1:2] == edges[2::2], segments


def _info(scope: str, stream: str) -> pb.StreamInfo:
    return pb.StreamInfo(scope=scope, stream=stream)


def _segment(entry: pb.SegmentRange) -> Segment:
    return Segment(entry.segmentId.segmentId, entry.minKey, entry.maxKey)
