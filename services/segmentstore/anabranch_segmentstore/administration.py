"""The two requests of the administrative port (wire-protocol.md 4.16).

Operators' tools ask for them: FlushToStorage waits until everything that a container had
accepted is in tier 2; ListStorageChunks tells in which objects a segment's bytes are. The port
takes ordinary requests too, but no appends: whoever reaches it cannot write events.

What has no reply closes the connection: an unknown container, a missing segment, a container
that ends meanwhile.
"""

from __future__ import annotations

from typing import Final, Protocol, assert_never

import structlog
from anabranch_wire import commands as c

from anabranch_segmentstore.api import SegmentContainer, StoredChunk
from anabranch_segmentstore.domain import errors
from anabranch_segmentstore.requests import STORAGE_TROUBLE

CHUNKS_LISTED_MAX: Final = 20_000  # 27 bytes and a name of at most 512 each: within one frame

Command = c.FlushToStorage | c.ListStorageChunks
log = structlog.stdlib.get_logger("anabranch.administration")


class Site(Protocol):
    """What administrative requests need of the store."""

    async def container_of(self, segment: str) -> SegmentContainer: ...

    async def container_numbered(self, number: int) -> SegmentContainer:
        """A container by its number, once it is ready. Raises ContainerStopped when it does not
        run here."""
        ...


async def answer(site: Site, command: Command) -> c.Reply | None:
    """The reply to a request; None: close the connection."""
    try:
        match command:
            case c.FlushToStorage():
                return await _flush(site, command)
            case c.ListStorageChunks():
                return await _list_chunks(site, command)
            case _:
                assert_never(command)
    except errors.Refusal as refusal:
        log.info("administration.refused", command=type(command).__name__, reason=str(refusal))
        return None
    except STORAGE_TROUBLE as trouble:
        log.error("administration.storage_trouble", reason=str(trouble))  # noqa: TRY400
        return None


async def _flush(site: Site, command: c.FlushToStorage) -> c.Reply:
    container = await site.container_numbered(command.container_id)
    await container.flush_to_storage()
    return c.StorageFlushed(command.request_id)


async def _list_chunks(site: Site, command: c.ListStorageChunks) -> c.Reply:
    container = await site.container_of(command.segment)
    chunks = await container.stored_chunks(command.segment)
    listed = tuple(map(_wire_chunk, chunks[:CHUNKS_LISTED_MAX]))
    return c.StorageChunksListed(command.request_id, listed)


def _wire_chunk(chunk: StoredChunk) -> c.StorageChunk:
    return c.StorageChunk(
        chunk.length,
        chunk.stored_length or 0,
        chunk.start_offset,
        chunk.object_name,
        chunk.stored_length is not None,
    )
