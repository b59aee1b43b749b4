"""The controller's SegmentStores port over the wire protocol.

The kit's client looks the owner up, retries what may pass, and tells refusals from failures;
this adapter gives both the port's names. What the first attempt of a workflow left behind
counts as success: a sealed target whose sources are gone was merged before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from anabranch_events.model import ScaleType
from anabranch_kit.wire_client import (
    Refused,
    SegmentNotLocated,
    SegmentStoreClient,
    SegmentStoreError,
)
from anabranch_wire import commands as c

from anabranch_controller.ports import (
    SegmentInfo,
    SegmentLocator,
    SegmentMissing,
    SegmentStoreUnavailable,
)

LOCATE_WAIT_S: Final = 20.0  # of one attempt; the client's own deadline bounds all of them
SCALE_TYPE_CODES: Final[dict[ScaleType, int]] = {
    "fixed": 0,
    "kbytes_per_sec": 1,
    "events_per_sec": 2,
}


class LocateForClient:
    """The locator in the form in which the wire client asks for it."""

    def __init__(self, locator: SegmentLocator) -> None:
        self._locator = locator

    async def __call__(self, segment: str) -> tuple[str, int]:
        try:
            return await self._locator.locate(segment, wait_s=LOCATE_WAIT_S)
        except SegmentStoreUnavailable as error:
            raise SegmentNotLocated(segment, error.reason) from error


class WireSegmentStores:
    """SegmentStores over a client whose pool the caller closes."""

    def __init__(self, client: SegmentStoreClient) -> None:
        self._client = client

    async def create_segment(
        self, segment: str, *, scale_type: ScaleType, target_rate: int, rollover_size_bytes: int
    ) -> None:
        async with translated("create", segment):
            await self._client.create_segment(
                segment,
                scale_type=SCALE_TYPE_CODES[scale_type],
                target_rate=target_rate if scale_type != "fixed" else 0,
                rollover_size_bytes=rollover_size_bytes,
            )

    async def seal(self, segment: str) -> None:
        async with translated("seal", segment):
            await self._client.seal_segment(segment)

    async def delete(self, segment: str) -> None:
        async with translated("delete", segment):
            await self._client.delete_segment(segment)

    async def truncate(self, segment: str, offset: int) -> None:
        async with translated("truncate", segment):
            await self._client.truncate_segment(segment, offset)

    async def merge_batch(self, target: str, sources: Sequence[str]) -> tuple[int, ...]:
        async with translated("merge into", target):
            try:
                merged = await self._client.merge_segments_batch(target, sources)
            except Refused as refused:
                if not isinstance(refused.reply, c.SegmentIsSealed) or await self._any(sources):
                    raise
                length = (await self._client.segment_info(target)).write_offset
                return (length,) * len(sources)
            return tuple(one.new_target_write_offset for one in merged)

    async def update_policy(self, segment: str, *, scale_type: ScaleType, target_rate: int) -> None:
        async with translated("update policy of", segment):
            try:
                await self._client.update_segment_policy(
                    segment,
                    scale_type=SCALE_TYPE_CODES[scale_type],
                    target_rate=target_rate if scale_type != "fixed" else 0,
                )
            except Refused as refused:
                # A sealed segment takes no more data, so its policy matters to nobody.
                if not isinstance(refused.reply, c.SegmentIsSealed):
                    raise

    async def info(self, segment: str) -> SegmentInfo:
        async with translated("info of", segment):
            info = await self._client.segment_info(segment)
            return SegmentInfo(info.write_offset, info.start_offset, info.is_sealed)

    async def create_table_segment(
        self, segment: str, *, key_length: int, rollover_size_bytes: int
    ) -> None:
        async with translated("create table", segment):
            await self._client.create_table_segment(
                segment, key_length=key_length, rollover_size_bytes=rollover_size_bytes
            )

    async def delete_table_segment(self, segment: str) -> None:
        async with translated("delete table", segment):
            await self._client.delete_table_segment(segment, must_be_empty=False)

    async def _any(self, segments: Sequence[str]) -> bool:
        """Whether one of the segments still exists."""
        for segment in segments:
            try:
                await self._client.segment_info(segment)
            except Refused as refused:
                if not isinstance(refused.reply, c.NoSuchSegment):
                    raise
            else:
                return True
        return False


@asynccontextmanager
async def translated(operation: str, segment: str) -> AsyncIterator[None]:
    """The wire client's errors as the port's."""
    try:
        yield
    except Refused as refused:
        if isinstance(refused.reply, c.NoSuchSegment):
            raise SegmentMissing(operation, segment) from refused
        raise SegmentStoreUnavailable(operation, segment, str(refused)) from refused
    except SegmentStoreError as error:
        raise SegmentStoreUnavailable(operation, segment, str(error)) from error
