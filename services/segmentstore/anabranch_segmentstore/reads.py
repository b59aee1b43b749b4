"""Bytes of a segment, from the cache, else the log, else tier 2.

The places of the bytes may change while a read waits: data moves to tier 2 and its frames are
cut, a merge re-bases it, a delete drops it (faults F23). So a read that fails to find bytes at
the place it had looked up looks the place up again, and fails only when the place is still the
same.
"""

from __future__ import annotations

import asyncio
from typing import Final

import google_crc32c
from anabranch_kit.ports.object_store import ObjectNotFound, ObjectStore

from anabranch_segmentstore.cache import BlockCache, SegmentKey
from anabranch_segmentstore.domain.extents import ChunkPlace, Extent, LogPlace
from anabranch_segmentstore.domain.state import Segment
from anabranch_segmentstore.ports import DurableLog, LogPosition

FETCHES_AT_ONCE: Final = 32  # extents that one read fetches together
LOG_READ_LENGTH_MAX: Final = 1024 * 1024


class SegmentVanished(Exception):
    """The segment was deleted, merged away or truncated while a read was under way."""


class ChunkDamaged(Exception):
    """Tier 2 gave bytes that are not what was written; they are not served."""

    def __init__(self, place: ChunkPlace) -> None:
        super().__init__(
            f"tier 2: object {place.object_name}, {place.length} bytes from {place.offset}: the "
            "checksum does not match what was journalled. Restore the object from a copy."
        )
        self.place = place


class NoTierTwo(Exception):
    """The container has chunks in tier 2, and this store was started without one."""


class SegmentReader:
    """Reads durable bytes of the segments of one container."""

    def __init__(
        self, container: int, log: DurableLog, objects: ObjectStore | None, cache: BlockCache
    ) -> None:
        self._container, self._log, self._objects, self._cache = container, log, objects, cache

    def key(self, segment: Segment) -> SegmentKey:
        return self._container, segment.id

    def cached(self, segment: Segment, start: int, end: int) -> bytes | memoryview:
        """What the cache has from `start` on, up to `end`; nothing if it has no such block."""
        key = self.key(segment)
        found = self._cache.get(key, start)
        if found is None:
            return b""
        block_start, block = found
        block_end = block_start + len(block)
        if block_end >= end:
            if block_start == start and block_end == end:
                return block
            return memoryview(block)[start - block_start : end - block_start]
        pieces = [memoryview(block)[start - block_start :]]
        position = block_end
        while position < end and (found := self._cache.get(key, position)) is not None:
            block_start, block = found
            piece = memoryview(block)[position - block_start : end - block_start]
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self, segment: Segment, start: int, end: int) -> bytes | memoryview:
        """At least one byte from `start` on, at most up to `end`, which is durable.

        Raises SegmentVanished, ChunkDamaged, and what the log and the object store raise.
        """
        assert start < end <= segment.durable_length, "only what is durable is read"
        data = self.cached(segment, start, end)
        while not data:
            await self._fetch(segment, start, end)
            if _is_gone(segment, start):
                raise SegmentVanished
            data = self.cached(segment, start, end)
            if not data:
                # A cache smaller than what was fetched: read past it.
                data = await self._fetch_one(segment, start, end)
        return data

    async def read_exactly(self, segment: Segment, start: int, end: int) -> bytes:
        """All of [start, end)."""
        first = await self.read(segment, start, end)
        if len(first) == end - start:
            return bytes(first)
        pieces = [first]
        position = start + len(first)
        while position < end:
            piece = await self.read(segment, position, end)
            pieces.append(piece)
            position += len(piece)
        return b"".join(pieces)

    async def _fetch(self, segment: Segment, start: int, end: int) -> None:
        """Bring the first extents of [start, end) into the cache, several at once."""
        extents: list[Extent] = []
        position = start
        while position < end and len(extents) < FETCHES_AT_ONCE:
            if _is_gone(segment, position):
                return
            extent = segment.extents.at(position)
            extents.append(extent)
            position = extent.end
            if type(extent.place) is ChunkPlace or len(self.cached(segment, position, end)) > 0:
                break
        if len(extents) == 1:
            await self._fetch_one(segment, start, end)
        else:
            await asyncio.gather(
                *(
                    self._fetch_one(segment, max(start, extent.start), extent.end)
                    for extent in extents
                )
            )

    async def _fetch_one(self, segment: Segment, start: int, end: int) -> bytes:
        """Bytes from `start` on out of one extent, put into the cache on the way.

        Empty when the segment vanished meanwhile.
        """
        looked_up: tuple[int, Extent] | None = None
        while True:
            if _is_gone(segment, start):
                return b""
            extent = segment.extents.at(start)
            try:
                if type(extent.place) is ChunkPlace:
                    block, block_start = await self._read_chunk(extent.place), extent.start
                else:
                    block_start = max(start, extent.start)
                    block = await self._read_log(extent, block_start, end)
            except (KeyError, ObjectNotFound):
                if looked_up == (segment.id, extent):
                    raise
                looked_up = segment.id, extent
                continue
            if _is_gone(segment, start):
                return b""
            self._cache.put(self.key(segment), block_start, block, around=start)
            return block[start - block_start : end - block_start]

    async def _read_log(self, extent: Extent, start: int, end: int) -> bytes:
        place = extent.place
        assert type(place) is LogPlace
        length = min(end, extent.end, start + LOG_READ_LENGTH_MAX) - start
        return await self._log.read(
            LogPosition(place.position), place.offset + start - extent.start, length
        )

    async def _read_chunk(self, place: ChunkPlace) -> bytes:
        """The whole piece, since its checksum is of the whole: that is the read-ahead too."""
        if self._objects is None:
            raise NoTierTwo(f"tier 2 object {place.object_name} is needed; name its place")
        data = await self._objects.read(place.object_name, place.offset, place.length)
        if len(data) != place.length or google_crc32c.value(data) != place.crc:
            raise ChunkDamaged(place)
        return data


def _is_gone(segment: Segment, offset: int) -> bool:
    """Asked again after every wait."""
    return segment.is_deleted or offset < segment.start_offset
