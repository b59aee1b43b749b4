"""The MarkSegments port over the wire protocol."""

from __future__ import annotations

from anabranch_kit.ids import NewId
from anabranch_kit.wire_client import SegmentStoreClient
from anabranch_wire.attributes import REVISION_STREAM_MARK
from anabranch_wire.commands import NULL_ATTRIBUTE

from anabranch_controller.adapters.segment_stores import translated
from anabranch_controller.ports import MarkTail


class WireMarkSegments:
    """MarkSegments over a client whose pool the caller closes."""

    def __init__(self, client: SegmentStoreClient, new_id: NewId) -> None:
        self._client, self._new_id = client, new_id

    async def tail(self, segment: str) -> MarkTail:
        async with translated("read marks of", segment):
            value = await self._client.segment_attribute(segment, REVISION_STREAM_MARK)
            info = await self._client.segment_info(segment)
            mark = None if value == NULL_ATTRIBUTE else value
            begin = max(info.start_offset, 0 if mark is None else mark)
            pieces = [
                bytes(piece)
                async for piece in self._client.read_range(
                    segment, begin, info.write_offset - begin
                )
            ]
            return MarkTail(mark, begin, info.write_offset, b"".join(pieces))

    async def append(self, segment: str, event: bytes, *, expected_offset: int) -> bool:
        async with translated("append to", segment):
            return await self._client.append_event_at(
                segment, self._new_id(), event, expected_offset=expected_offset
            )

    async def move_mark(self, segment: str, mark: int, *, expected: int | None) -> None:
        async with translated("move the mark of", segment):
            await self._client.update_segment_attribute(
                segment,
                REVISION_STREAM_MARK,
                mark,
                expected=NULL_ATTRIBUTE if expected is None else expected,
            )
