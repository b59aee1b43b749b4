"""Which objects of tier 2 hold the bytes of a segment, as operators see them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from anabranch_kit.ports.object_store import ObjectDamaged, ObjectNotFound, ObjectStore

from anabranch_segmentstore.api import StoredChunk
from anabranch_segmentstore.domain.extents import ChunkPlace, Extent

LOOKS_AT_ONCE: Final = 16  # objects asked for together


async def stored_chunks(
    extents: Iterable[Extent], objects: ObjectStore | None
) -> Sequence[StoredChunk]:
    """The runs of the extents that are in tier 2, each with what its object has of it.

    Raises ObjectStoreUnavailable."""
    runs = _runs(extents)
    slots = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def look(run: StoredChunk, end_in_object: int) -> StoredChunk:
        if objects is None:
            return run
        async with slots:
            try:
                length = (await objects.head(run.object_name)).length_bytes
            except ObjectNotFound:
                return run
            except ObjectDamaged:
                length = 0
        missing = max(end_in_object - length, 0)
        return run._replace(stored_length=max(run.length - missing, 0))

    return await asyncio.gather(*(look(*run) for run in runs))


def _runs(extents: Iterable[Extent]) -> list[tuple[StoredChunk, int]]:
    """Pieces that follow each other in one object, joined; with the end of each in its object."""
    runs: list[tuple[StoredChunk, int]] = []
    for extent in extents:
        place = extent.place
        if type(place) is not ChunkPlace:
            continue
        if runs:
            before, end_in_object = runs[-1]
            is_next = before.start_offset + before.length == extent.start
            if (before.object_name, end_in_object) == (place.object_name, place.offset) and is_next:
                joined = before._replace(length=before.length + place.length)
                runs[-1] = joined, end_in_object + place.length
                continue
        chunk = StoredChunk(place.object_name, extent.start, place.length, None)
        runs.append((chunk, place.offset + place.length))
    return runs
