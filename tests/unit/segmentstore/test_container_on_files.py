"""The container on the real log and the file-system tier 2, stopped without warning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from uuid import UUID

import google_crc32c
import pytest
from anabranch_events.bus import ChunkReport, DeleteOrder, FlushOrder
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.api import NO_EVENT, Append, Appended, AppendOutcome
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.container import Container, ContainerSettings, open_container
from anabranch_segmentstore.domain.flushing import FlushRules
from anabranch_segmentstore.ports import ContainerId, DurableLog
from anabranch_segmentstore.tiering import TieringSettings
from anabranch_testkit.fakes.object_store import MemoryObjectStore
from anabranch_testkit.waiting import eventually

SEGMENTS = ["scope/stream/0.#epoch.0", "scope/stream/1.#epoch.0"]
WRITER = UUID(int=1)


class Tierer:
    """Does every order at once."""

    def __init__(self, objects: MemoryObjectStore) -> None:
        self.objects = objects
        self.container: Container
        self.tasks: set[asyncio.Task[None]] = set()

    async def order_flush(self, order: FlushOrder) -> None:
        task = asyncio.ensure_future(self.work(order))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def order_deletion(self, order: DeleteOrder) -> None:
        for name in order.object_names:
            await self.objects.delete(name)

    async def work(self, order: FlushOrder) -> None:
        container = self.container
        pieces: list[bytes] = []
        for one in order.ranges:
            piece = b""
            while len(piece) < one.length:
                at = one.offset + len(piece)
                result = await container.read(one.segment, at, one.length - len(piece))
                piece += result.data
            pieces.append(piece)
        if order.object_name not in self.objects.objects:
            await self.objects.create(order.object_name, pieces)
        crcs = tuple(google_crc32c.value(piece) for piece in pieces)
        await container.chunk_report(
            ChunkReport(0, order.object_name, "written", sum(map(len, pieces)), crcs, "test")
        )


class Files:
    def __init__(self, folder: Path) -> None:
        self.random = Random(3)
        self.store = FileLogStore(
            folder / "wal",
            new_id=lambda: UUID(int=self.random.getrandbits(128)),
            file_bytes=256 * 1024,
        )
        self.objects = MemoryObjectStore()
        self.tierer = Tierer(self.objects)
        self.container: Container
        self.log: DurableLog
        self.running: asyncio.Task[Exception]

    async def open(self) -> None:
        self.log = await self.store.open(ContainerId(0), owner="test")
        self.container = await open_container(
            ContainerId(0),
            self.log,
            clock=SystemClock(),
            cache=BlockCache(200_000),
            objects=self.objects,
            settings=ContainerSettings(snapshot_after_bytes=300_000),
        )
        self.tierer.container = self.container
        rules = FlushRules(segment_bytes=50_000, age_s=0.1, object_bytes=2**20)
        self.container.start_tiering(self.tierer, TieringSettings(rules=rules))
        self.running = asyncio.ensure_future(self.container.run())

    async def drop(self) -> None:
        """The process is gone; what the log was handed, it may or may not have written."""
        self.container.fail(RuntimeError("killed"))
        await self.container.stop()
        await self.running
        await self.log.close(clean=False)

    async def append(self, segment: str, after: int, data: bytes) -> int:
        answer: asyncio.Future[AppendOutcome] = asyncio.get_running_loop().create_future()
        number = after + 1 if after != NO_EVENT else 1
        self.container.append(
            Append(segment, WRITER, after, number, 1, [data], len(data)), answer.set_result
        )
        assert isinstance(await answer, Appended)
        return number

    async def read_all(self, segment: str) -> bytes:
        info = await self.container.segment_info(segment)
        data = b""
        while len(data) < info.length:
            data += (await self.container.read(segment, len(data), 2**21)).data
        return data


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    files = Files(tmp_path)
    await files.open()
    yield files
    await files.drop()
    await files.store.close()


async def test_everything_acknowledged_is_there_after_many_ends(files: Files) -> None:
    """A restart of the store would lose events, or bring some twice."""
    expected = dict.fromkeys(SEGMENTS, b"")
    for segment in SEGMENTS:
        await files.container.create_segment(segment, attributes={})
    for _ in range(6):
        for segment in SEGMENTS:
            after = await files.container.setup_append(segment, WRITER)
            for _ in range(20):
                data = files.random.randbytes(files.random.randrange(1, 20_000))
                after = await files.append(segment, after, data)
                expected[segment] += data
        await files.drop()
        await files.open()
        for segment in SEGMENTS:
            assert await files.read_all(segment) == expected[segment]


async def test_the_disk_of_tier_one_stays_small(files: Files) -> None:
    """The log would grow with everything that was ever written."""
    segment = SEGMENTS[0]
    await files.container.create_segment(segment, attributes={})
    after, written = NO_EVENT, 0
    while written < 5_000_000:
        after = await files.append(segment, after, files.random.randbytes(50_000))
        written += 50_000
    await eventually(lambda: not files.container.state.untiered_bytes, 30)
    await eventually(lambda: files.log.stored_bytes < 1_500_000, 30)
    assert len(await files.read_all(segment)) == written
    await files.drop()
    await files.open()
    assert len(await files.read_all(segment)) == written
