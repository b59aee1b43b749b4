"""The administrative port: what it takes, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import google_crc32c
import msgspec
import pytest
from anabranch_events.bus import ChunkReport, FlushOrder
from anabranch_kit.ports.object_store import ObjectStoreUnavailable
from anabranch_segmentstore.connection import Connection
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c

SEGMENT = "scope/stream/0.#epoch.0"


class AdminPort:
    """Where `Peers` can connect to."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port


@pytest.fixture
async def admin_port(faked: Any) -> AsyncIterator[AdminPort]:
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(faked.store, is_admin=True), "127.0.0.1", 0
    )
    yield AdminPort(*server.sockets[0].getsockname())
    server.close()


@pytest.fixture
async def admin(admin_port: AdminPort, peers: Any) -> Any:
    return await peers.connect(admin_port)


def container_of(faked: Any) -> Any:
    number = faked.store.container_number(SEGMENT)
    (host,) = (one for one in faked.store.serving if one.number == number)
    return host.container


async def write_ordered(faked: Any) -> int:
    """A tierer: do each order that is queued, and report it; how many there were."""
    done = 0
    while faked.bus.queued:
        _, payload = faked.bus.queued.pop(0)
        order = msgspec.json.decode(payload, type=FlushOrder)
        container = container_of(faked)
        pieces = []
        for one in order.ranges:
            segment = container.state.find(one.segment)
            end = one.offset + one.length
            pieces.append(await container.reader.read_exactly(segment, one.offset, end))
        info = await container.objects.create(order.object_name, pieces)
        crcs = tuple(google_crc32c.value(piece) for piece in pieces)
        report = ChunkReport(
            order.container, order.object_name, "written", info.length_bytes, crcs, "test"
        )
        assert (await container.chunk_report(report)).outcome == "accepted"
        done += 1
    return done


async def append(faked: Any, peers: Any, block: Any, data: bytes) -> None:
    writer = await peers.connect(faked)
    await writer.create(SEGMENT)
    await writer.set_up(SEGMENT)
    assert isinstance(await writer.ask(block(1, data)), c.DataAppended)


async def test_ordinary_requests_are_taken(admin: Any) -> None:
    """An operator's tool would need two connections."""
    assert await admin.ask(c.Hello(16, 5)) == c.Hello(17, 5)
    await admin.create(SEGMENT)
    assert (await admin.ask(c.GetStreamSegmentInfo(4, SEGMENT))).exists
    assert await admin.is_silent()


async def test_appends_are_not_taken(admin: Any, block: Any) -> None:
    """Who may look after a cluster could write events into it."""
    await admin.create(SEGMENT)
    admin.send(c.SetupAppend(1, block(1, b"x").writer_id, SEGMENT))
    assert await admin.closed() == []


async def test_administrative_requests_are_refused_by_the_ordinary_port(peer: Any) -> None:
    """Any client could have everything flushed, again and again."""
    peer.send(c.FlushToStorage(0, "", 1))
    assert await peer.closed() == []


async def test_a_flush_waits_until_the_bytes_are_stored(
    faked: Any, peers: Any, admin: Any, block: Any
) -> None:
    """A backup of tier 2 taken after the answer would lack acknowledged events."""
    await append(faked, peers, block, b"hello")
    admin.send(c.FlushToStorage(faked.store.container_number(SEGMENT), "", 7))
    await eventually(lambda: bool(faked.bus.queued))
    assert await admin.is_silent()
    assert container_of(faked).state.untiered_bytes == 5
    assert await write_ordered(faked) == 1
    assert await admin.reply() == c.StorageFlushed(7)
    assert container_of(faked).state.untiered_bytes == 0


async def test_chunks_are_listed_with_what_is_stored(
    faked: Any, peers: Any, admin: Any, block: Any
) -> None:
    """An operator could not find out where a segment's bytes are, nor that an object is lost."""
    length = 2 * 1024 * 1024 + 1  # three ranges, one object
    await append(faked, peers, block, bytes(length))
    assert (await admin.ask(c.ListStorageChunks(SEGMENT, "", 6))).chunks == ()
    admin.send(c.FlushToStorage(faked.store.container_number(SEGMENT), "", 7))
    await eventually(lambda: bool(faked.bus.queued))
    await write_ordered(faked)
    assert await admin.reply() == c.StorageFlushed(7)
    (chunk,) = (await admin.ask(c.ListStorageChunks(SEGMENT, "", 8))).chunks
    assert chunk == c.StorageChunk(length, length, 0, chunk.chunk_name, exists_in_storage=True)

    await container_of(faked).objects.delete(chunk.chunk_name)
    (lost,) = (await admin.ask(c.ListStorageChunks(SEGMENT, "", 9))).chunks
    assert lost == c.StorageChunk(length, 0, 0, chunk.chunk_name, exists_in_storage=False)


@pytest.mark.parametrize(
    "asked", [c.FlushToStorage(99, "", 1), c.ListStorageChunks("a/b/0", "", 1)]
)
async def test_what_is_not_there_closes_the_connection(admin: Any, asked: c.Command) -> None:
    """An operator who mistypes would wait for ever."""
    admin.send(asked)
    assert await admin.closed() == []


async def test_a_store_without_objects_closes_the_connection(
    faked: Any, peers: Any, admin: Any, block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trouble of tier 2 would look like a bug of ours, or hang an operator's tool."""
    await append(faked, peers, block, b"hello")
    admin.send(c.FlushToStorage(faked.store.container_number(SEGMENT), "", 7))
    await eventually(lambda: bool(faked.bus.queued))
    await write_ordered(faked)
    await admin.reply()

    async def head(name: str) -> None:
        raise ObjectStoreUnavailable("head", name, "away")

    monkeypatch.setattr(container_of(faked).objects, "head", head)
    admin.send(c.ListStorageChunks(SEGMENT, "", 8))
    assert await admin.closed() == []


async def test_a_flush_ends_with_its_container(
    faked: Any, peers: Any, admin: Any, block: Any
) -> None:
    """An operator's tool would wait for a container that has moved to another store."""
    await append(faked, peers, block, b"hello")
    admin.send(c.FlushToStorage(faked.store.container_number(SEGMENT), "", 7))
    await eventually(lambda: bool(faked.bus.queued))
    container_of(faked).fail(RuntimeError("in a test"))
    assert await admin.closed() == []
