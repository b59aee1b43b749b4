"""Segments of a stream: which there are, which follow, where they are."""

from __future__ import annotations

from collections.abc import Mapping

from anabranch_events.model import SegmentRange

from anabranch_controller.api import (
    GET_URI_LIMIT_S,
    Endpoint,
    SegmentOffset,
    StreamCut,
    Successor,
)
from anabranch_controller.domain import cuts, history
from anabranch_controller.domain.stream import Stream
from anabranch_controller.errors import IllegalState, InvalidArgument, NotFound, Unavailable
from anabranch_controller.handlers.base import Handlers
from anabranch_controller.keys import StreamKey
from anabranch_controller.ports import SegmentStoreUnavailable


class SegmentHandlers(Handlers):
    async def current_segments(self, scope: str, stream: str) -> tuple[SegmentRange, ...]:
        found = await self._need_stream(scope, stream)
        if found.stage == "creating":
            raise IllegalState(f"stream {scope}/{stream}", "creating", "wait until it is made")
        return found.segments

    async def epoch_segments(self, scope: str, stream: str, epoch: int) -> tuple[SegmentRange, ...]:
        if epoch < 0:
            raise InvalidArgument("epoch", f"{epoch} is negative")
        found = await self._need_stream(scope, stream)
        if epoch >= len(found.epochs):
            raise NotFound("epoch", f"{epoch} of stream {scope}/{stream}")
        return found.epochs[epoch].segments

    async def head_segments(self, scope: str, stream: str) -> tuple[SegmentOffset, ...]:
        found = await self._need_stream(scope, stream)
        return tuple(SegmentOffset(*entry) for entry in sorted(found.head.items()))

    async def successors(self, scope: str, stream: str, segment_id: int) -> tuple[Successor, ...]:
        found = await self._need_stream(scope, stream)
        following = history.successors(found.epochs, segment_id)
        if not following:
            # Empty means "sealed" to a writer: only a quorum may say so.
            await self._ctx.log.pass_barrier()
            now = self._stream(StreamKey(scope, stream))
            if now is None:
                raise NotFound("stream", f"{scope}/{stream}")
            following = history.successors(now.epochs, segment_id)
        return tuple(Successor(one.segment, one.predecessors) for one in following)

    async def segments_between(
        self, scope: str, stream: str, start: StreamCut, end: StreamCut
    ) -> tuple[int, ...]:
        if not start and not end:
            raise InvalidArgument("stream cuts", "one of them must not be empty")
        found = await self._need_stream(scope, stream)
        try:
            if start and end and not cuts.equal_or_after(found.epochs, end, start):
                raise InvalidArgument("stream cuts", "the second must not be before the first")
            return tuple(sorted(cuts.between(found.epochs, found.current, start, end)))
        except cuts.UnknownSegment as error:
            raise InvalidArgument("stream cuts", str(error)) from error

    async def is_segment_valid(self, scope: str, stream: str, segment_id: int) -> bool:
        found = await self._need_stream(scope, stream)
        return any(segment.id == segment_id for segment in found.segments)

    async def is_stream_cut_valid(self, scope: str, stream: str, cut: StreamCut) -> bool:
        if not cut:
            raise InvalidArgument("stream cut", "must not be empty")
        found = await self._need_stream(scope, stream)
        return cut_is_valid(found, cut)

    async def get_uri(self, scope: str, stream: str, segment_id: int) -> Endpoint:
        number, epoch = segment_id & 0xFFFFFFFF, segment_id >> 32
        segment = f"{scope}/{stream}/{number}.#epoch.{epoch}"
        try:
            return await self._ctx.locator.locate(segment, wait_s=GET_URI_LIMIT_S)
        except SegmentStoreUnavailable as error:
            raise Unavailable(segment, error.reason) from error


def cut_is_valid(stream: Stream, cut: Mapping[int, int]) -> bool:
    """Raises InvalidArgument for a segment that the stream never had, and for a cut of
    segments of the future only."""
    try:
        if all(offset < 0 for offset in cut.values()):
            cuts.segments_of(stream.epochs, cut)
            raise InvalidArgument("stream cut", "all of its segments lie in the future")
        return cuts.is_valid(stream.epochs, cut)
    except cuts.UnknownSegment as error:
        raise InvalidArgument("stream cut", str(error)) from error
