"""Several controllers over one event log in memory, in virtual time, with stores that are fakes.

A `Fuse` cuts an instance off at its n-th touch of the outside: from then on none of its
calls returns, which is what `kill -9` looks like from the outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar
from uuid import UUID

import pytest
from anabranch_controller.api import Endpoint
from anabranch_controller.core import ControllerCore
from anabranch_controller.ports import SegmentInfo, SegmentMissing, SegmentStoreUnavailable
from anabranch_events.model import ScaleType
from anabranch_kit.ports.event_store import Record
from anabranch_testkit.fakes import FakeClock, MemoryEventStore

T = TypeVar("T")
CALL_STEPS_MAX = 4000


class Fuse:
    """Counts the moments before and after each touch of the outside; blows at `cut_at`."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.cut_at = cut_at
        self.moments_count = 0
        self._mended = asyncio.Event()

    @property
    def blown(self) -> bool:
        return self.cut_at is not None and self.moments_count >= self.cut_at

    async def moment(self) -> None:
        self.moments_count += 1
        if self.blown:
            await self._mended.wait()

    def mend(self) -> None:
        """The instance goes on where it was cut: it was paused, not killed."""
        self.cut_at = None
        self._mended.set()

    async def pause(self) -> None:
        if self.blown:
            await self._mended.wait()


@dataclass
class FakeSegment:
    content: list[str] = field(default_factory=list)
    sealed: bool = False
    start_offset: int = 0
    scale_type: str = "fixed"
    target_rate: int = 0


class FakeSegmentStores:
    """One byte of a segment is one entry of its content. `history` is what was asked, in order."""

    def __init__(self) -> None:
        self.segments: dict[str, FakeSegment] = {}
        self.tables: dict[str, int] = {}
        self.history: list[tuple[str, str]] = []
        self.failures: dict[str, int] = {}

    def _note(self, operation: str, segment: str) -> None:
        if self.failures.get(operation, 0):
            self.failures[operation] -= 1
            raise SegmentStoreUnavailable(operation, segment, "told to fail")
        self.history.append((operation, segment))

    def _find(self, operation: str, segment: str) -> FakeSegment:
        if segment not in self.segments:
            raise SegmentMissing(operation, segment)
        return self.segments[segment]

    async def create_segment(
        self, segment: str, *, scale_type: ScaleType, target_rate: int, rollover_size_bytes: int
    ) -> None:
        self._note("create", segment)
        made = FakeSegment(scale_type=scale_type, target_rate=target_rate)
        self.segments.setdefault(segment, made)

    async def seal(self, segment: str) -> None:
        self._note("seal", segment)
        self._find("seal", segment).sealed = True

    async def delete(self, segment: str) -> None:
        self._note("delete", segment)
        self.segments.pop(segment, None)

    async def truncate(self, segment: str, offset: int) -> None:
        self._note("truncate", segment)
        found = self._find("truncate", segment)
        assert offset <= len(found.content), "a store refuses an offset beyond the end"
        found.start_offset = max(found.start_offset, offset)

    async def merge_batch(self, target: str, sources: Sequence[str]) -> tuple[int, ...]:
        self._note("merge", target)
        found = self._find("merge", target)
        assert not found.sealed, "a store refuses to merge into a sealed segment"
        lengths = []
        for source in sources:
            merged = self.segments.pop(source, None)
            if merged is not None:
                found.content += merged.content
            lengths.append(len(found.content))
        return tuple(lengths)

    async def update_policy(self, segment: str, *, scale_type: ScaleType, target_rate: int) -> None:
        self._note("policy", segment)
        found = self._find("policy", segment)
        found.scale_type, found.target_rate = scale_type, target_rate

    async def info(self, segment: str) -> SegmentInfo:
        found = self._find("info", segment)
        return SegmentInfo(len(found.content), found.start_offset, found.sealed)

    async def create_table_segment(
        self, segment: str, *, key_length: int, rollover_size_bytes: int
    ) -> None:
        self._note("create table", segment)
        self.tables.setdefault(segment, key_length)

    async def delete_table_segment(self, segment: str) -> None:
        self._note("delete table", segment)
        self.tables.pop(segment, None)

    def append(self, segment: str, *events: str) -> None:
        """What a writer does."""
        found = self.segments[segment]
        assert not found.sealed, "a writer cannot write to a sealed segment"
        found.content += events


class _Fused:
    """Everything that an instance reaches, behind its fuse."""

    def __init__(self, inner: object, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._inner, name)

        async def call(*args: object, **kwargs: object) -> object:
            await self._fuse.moment()
            result: object = await method(*args, **kwargs)
            await self._fuse.moment()
            return result

        return call


class _FusedStore(_Fused):
    async def follow(self, *, after: int = 0, subject: str = "") -> AsyncIterator[Record]:
        assert isinstance(self._inner, MemoryEventStore)
        async for record in self._inner.follow(after=after, subject=subject):
            await self._fuse.pause()
            yield record


class FakeLocator:
    async def locate(self, segment: str, *, wait_s: float) -> Endpoint:
        return Endpoint("127.0.0.1", 12345)


class Cluster:
    """`live` are the instances that the registry knows."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.events = MemoryEventStore()
        self.stores = FakeSegmentStores()
        self.live: set[str] | None = set()
        self._ids = 0
        self._running: dict[str, asyncio.Task[None]] = {}

    async def live_instances(self) -> frozenset[str] | None:
        return None if self.live is None else frozenset(self.live)

    def new_id(self) -> UUID:
        self._ids += 1
        return UUID(int=self._ids)

    async def start(self, name: str, fuse: Fuse | None = None) -> ControllerCore:
        """A new instance, ready unless its fuse blows before."""
        fuse = fuse or Fuse()
        controller = ControllerCore(
            _FusedStore(self.events, fuse),  # type: ignore[arg-type]
            stores=_Fused(self.stores, fuse),  # type: ignore[arg-type]
            locator=FakeLocator(),
            members=self,
            clock=self.clock,
            random=Random(name),
            new_id=self.new_id,
            instance=name,
        )
        if self.live is not None:
            self.live.add(name)
        self._running[name] = asyncio.create_task(controller.run())
        if fuse.cut_at is None:
            await self.finish(controller.ready.wait())
        return controller

    async def kill(self, name: str) -> None:
        task = self._running.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self.live is not None:
            self.live.discard(name)

    async def finish(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call, moving the clock while it waits."""
        task = asyncio.create_task(call)
        await self.run_until(task.done)
        return task.result()

    async def run_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(CALL_STEPS_MAX):
            for _ in range(50):
                await asyncio.sleep(0)
                if condition():
                    return
            self.check()
            await self.clock.advance(0.1)
        raise AssertionError("it does not come to an end")

    def check(self) -> None:
        """A controller that ended has failed."""
        for task in self._running.values():
            if task.done():
                task.result()

    async def close(self) -> None:
        for name in list(self._running):
            await self.kill(name)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    yield made
    await made.close()


@pytest.fixture
def make_cluster() -> Callable[[], Cluster]:
    return Cluster


@pytest.fixture
def make_fuse() -> Callable[[int | None], Fuse]:
    return Fuse
