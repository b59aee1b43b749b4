"""Reads of what the cache cannot hold (found by seed 153 of the simulation)."""

from __future__ import annotations

import google_crc32c
from anabranch_segmentstore.adapters.memory_log import MemoryLogStore
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.domain.extents import ChunkPlace
from anabranch_segmentstore.domain.state import Segment
from anabranch_segmentstore.ports import ContainerId
from anabranch_segmentstore.reads import SegmentReader
from anabranch_testkit.fakes import MemoryObjectStore


async def test_a_read_past_the_cache_ends_where_it_was_told_to() -> None:
    """A table's value would come back with the bytes of the next entry behind it."""
    data = bytes(range(200))
    objects = MemoryObjectStore()
    await objects.create("chunk", [data])
    segment = Segment(1, "scope/table", {}, None, durable_length=len(data))
    segment.extents.starts, segment.extents.end = [0], len(data)
    segment.extents.places = [ChunkPlace("chunk", 0, len(data), google_crc32c.value(data))]
    log = await MemoryLogStore().open(ContainerId(0), owner="test")
    reader = SegmentReader(0, log, objects, BlockCache(10))

    assert await reader.read_exactly(segment, 20, 50) == data[20:50]
