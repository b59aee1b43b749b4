"""A container over a log in memory, and the shortest way to ask it things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from anabranch_segmentstore.adapters.memory_log import MemoryLog, MemoryLogStore
from anabranch_segmentstore.api import Append, AppendOutcome
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.container import Container, ContainerSettings, open_container
from anabranch_segmentstore.ports import ContainerId

WRITER = UUID(int=7)
SEGMENT = "scope/stream/0.#epoch.0"


class ManualClock:
    """Moves only when told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@dataclass
class Rig:
    """One container on one disk; `restart` opens it anew, `crash` loses what was not durable."""

    store: MemoryLogStore
    clock: ManualClock
    container: Container
    cache: BlockCache
    settings: ContainerSettings
    objects: object | None = None
    outcomes: list[AppendOutcome] = field(default_factory=list)

    @property
    def log(self) -> MemoryLog:
        assert isinstance(self.container.log, MemoryLog)
        return self.container.log

    async def create(self, name: str = SEGMENT, *, key_length: int | None = None) -> None:
        await self.container.create_segment(name, attributes={}, table_key_length=key_length)

    def send(
        self,
        data: bytes,
        *,
        after: int,
        number: int,
        segment: str = SEGMENT,
        writer: UUID = WRITER,
        events: int = 1,
        expected_offset: int | None = None,
    ) -> asyncio.Future[AppendOutcome]:
        answer: asyncio.Future[AppendOutcome] = asyncio.get_running_loop().create_future()

        def done(outcome: AppendOutcome) -> None:
            self.outcomes.append(outcome)
            answer.set_result(outcome)

        parts = [memoryview(data)] if data else []
        self.container.append(
            Append(segment, writer, after, number, events, parts, len(data), expected_offset), done
        )
        return answer

    async def append(
        self, data: bytes, *, number: int = 1, segment: str = SEGMENT, writer: UUID = WRITER
    ) -> int:
        """Whatever the writer stored before, `number` comes next."""
        after = await self.container.setup_append(segment, writer)
        outcome = await self.send(
            data, after=after, number=max(number, after + 1), segment=segment, writer=writer
        )
        if isinstance(outcome, Exception):
            raise outcome
        return outcome.end_offset

    async def read_all(self, segment: str = SEGMENT) -> bytes:
        info = await self.container.segment_info(segment)
        pieces: list[bytes] = []
        offset = info.start_offset
        while offset < info.length:
            result = await self.container.read(segment, offset, 2**21)
            assert result.offset == offset
            assert len(result.data) > 0
            pieces.append(bytes(result.data))
            offset += len(result.data)
        return b"".join(pieces)

    async def crash(self) -> None:
        self.log.crash()
        await self.container.stop()
        await self.reopen()

    async def restart(self) -> None:
        await self.container.stop()
        await self.reopen()

    async def reopen(self) -> None:
        self.cache = BlockCache(self.cache.bytes_max)
        log = await self.store.open(ContainerId(0), owner="test")
        self.container = await open_container(
            ContainerId(0),
            log,
            clock=self.clock,
            cache=self.cache,
            objects=self.objects,
            settings=self.settings,
        )


async def open_rig(
    *,
    cache_bytes: int = 1 << 20,
    settings: ContainerSettings | None = None,
    objects: object | None = None,
    frames_in_flight_max: int = 1,
) -> Rig:
    store = MemoryLogStore(frames_in_flight_max=frames_in_flight_max)
    clock = ManualClock()
    cache = BlockCache(cache_bytes)
    settings = settings or ContainerSettings()
    log = await store.open(ContainerId(0), owner="test")
    container = await open_container(
        ContainerId(0), log, clock=clock, cache=cache, objects=objects, settings=settings
    )
    return Rig(store, clock, container, cache, settings, objects)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = await open_rig()
    yield rig
    await rig.container.stop()


@pytest.fixture(name="make_rig")
async def make_rig_fixture() -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    made: list[Rig] = []

    async def make(**arguments: Any) -> Rig:
        made.append(await open_rig(**arguments))
        return made[-1]

    yield make
    for rig in made:
        await rig.container.stop()
