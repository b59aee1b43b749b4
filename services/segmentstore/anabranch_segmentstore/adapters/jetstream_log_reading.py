"""Reading a JetStreamLog: one range of a frame, or everything from the newest snapshot on."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

from anabranch_kit.ports.clock import Clock

from anabranch_segmentstore.adapters.jetstream_log_format import (
    FRAMES,
    Assembler,
    Broken,
    Region,
    Stamp,
    StreamDamaged,
    check,
    decode,
)
from anabranch_segmentstore.adapters.jetstream_log_places import MessageCache, Places
from anabranch_segmentstore.adapters.jetstream_log_stream import ContainerStream, StreamUnavailable
from anabranch_segmentstore.ports import Frame, LogFailed

READ_WAIT_S: Final = 30.0  # rides out a restart of the server
RETRY_PAUSE_S: Final = 0.1

Result = TypeVar("Result")


class Reader:
    """Reads what is durable. `kept_from` is the place below which everything was given up."""

    def __init__(
        self, stream: ContainerStream, clock: Clock, places: Places, *, kept_from: int
    ) -> None:
        self._stream, self._clock, self._places = stream, clock, places
        self._cache = MessageCache()
        self._under_way: dict[int, asyncio.Task[bytes | None]] = {}
        self.kept_from = kept_from

    def give_up(self, position: int, place: int) -> None:
        """The frames below `position`, which begins at `place`, are not wanted any more."""
        self.kept_from = max(self.kept_from, place)
        self._places.drop_before(position)
        self._cache.drop_before(place)

    async def read(
        self, regions: Sequence[Region], position: int, start: int, length: int
    ) -> bytes:
        """Raises KeyError for a frame that is not there (any more), LogDamaged, LogFailed."""
        region, place = await self.locate(regions, position)
        stamp, body = await self._message(region, place)
        if start >= len(body) and not stamp.is_last:
            # All messages of a frame but the last one are equally long.
            place += start // len(body)
            stamp, body = await self._message(region, place)
        pieces: list[memoryview] = []
        while length > 0:
            if stamp.position != position or stamp.offset > start:
                raise self._damaged(place, f"it does not continue frame {position}")
            piece = body[start - stamp.offset : start - stamp.offset + length]
            assert len(piece) > 0, "a read beyond its frame"
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
            if length > 0:
                place += 1
                stamp, body = await self._message(region, place)
        return b"".join(pieces)

    async def locate(self, regions: Sequence[Region], position: int) -> tuple[Region, int]:
        """Where the frame begins. Raises KeyError."""
        index = bisect_left(regions, position, key=lambda region: region.position)
        if position < 1 or index == len(regions):
            raise KeyError(position)
        region = regions[index]
        first, last = max(region.first, self.kept_from), region.last
        if first > last:
            raise KeyError(position)
        low, high = self._places.find(position, first=first, last=last)
        if low == high and low >= first:
            return region, low
        while low < high:
            middle = (low + high) // 2
            stamp, _ = await self._message(region, middle)
            low, high = (low, middle) if stamp.position >= position else (middle + 1, high)
        stamp, _ = await self._message(region, low)
        if stamp.kind not in FRAMES or stamp.position != position or stamp.part != 0:
            raise KeyError(position)
        self._places.note(position, low)
        return region, low

    async def replay(
        self, regions: Sequence[Region], *, first: int, position: int
    ) -> AsyncIterator[Frame]:
        """Every frame from place `first` on, which is that of the frame `position`."""
        assembler = Assembler(expected=position)
        for region in regions:
            place = max(region.first, first)
            async for sequence, message in self._range(place, region.last):
                stamp, body = self._checked(region, sequence, message)
                try:
                    done = assembler.feed(stamp, body)
                except Broken as broken:
                    raise self._damaged(sequence, str(broken)) from broken
                if done is not None:
                    frame, began_at = done
                    self._places.note(frame.position, began_at)
                    yield frame

    async def _range(self, first: int, last: int) -> AsyncIterator[tuple[int, bytes]]:
        """The messages of [first, last], the next batch on its way while one is worked off."""
        coming: asyncio.Task[list[tuple[int, bytes]]] | None = None
        try:
            while first <= last:
                batch = await (coming or self._batch(first, last))
                first, coming = batch[-1][0] + 1, None
                if first <= last:
                    coming = asyncio.create_task(self._batch(first, last))
                for one in batch:
                    yield one
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait([coming])

    async def _batch(self, first: int, last: int) -> list[tuple[int, bytes]]:
        try:
            return await self.retried(lambda: self._stream.fetch_range(first, last))
        except LookupError:
            raise self._damaged(first, "it is missing") from None

    async def _message(self, region: Region, place: int) -> tuple[Stamp, memoryview]:
        """An intact message of the region; raises KeyError when it was given up."""
        message = self._cache.get(place)
        if message is None:
            message = await self._fetch_once(place)
        if message is None:
            if place < self.kept_from:
                raise KeyError(place)
            raise self._damaged(place, "it is missing")
        checked = self._checked(region, place, message)
        self._cache.put(place, message)
        return checked

    async def _fetch_once(self, place: int) -> bytes | None:
        """Readers that want the same message at the same time share the way."""
        task = self._under_way.get(place)
        if task is None:
            task = asyncio.create_task(self.retried(lambda: self._stream.fetch(place)))
            self._under_way[place] = task
            task.add_done_callback(lambda _: self._under_way.pop(place, None))
        return await asyncio.shield(task)

    def _checked(self, region: Region, place: int, message: bytes) -> tuple[Stamp, memoryview]:
        try:
            stamp, body = decode(message)
            check(stamp, container=self._stream.container, place=place, epoch=region.epoch)
        except Broken as broken:
            raise self._damaged(place, str(broken)) from broken
        return stamp, body

    async def retried(self, action: Callable[[], Awaitable[Result]]) -> Result:
        """Until the server answers. Raises LogFailed after READ_WAIT_S."""
        deadline = self._clock.monotonic() + READ_WAIT_S
        while True:
            try:
                return await action()
            except StreamUnavailable as error:
                if self._clock.monotonic() >= deadline:
                    reason = f"NATS stream {self._stream.name} cannot be read: {error}"
                    raise LogFailed(self._stream.container, reason) from error
                await self._clock.sleep(RETRY_PAUSE_S)

    async def close(self) -> None:
        for task in list(self._under_way.values()):
            task.cancel()
        if self._under_way:
            await asyncio.wait(list(self._under_way.values()))

    def _damaged(self, place: int, reason: str) -> StreamDamaged:
        return StreamDamaged(self._stream.container, self._stream.name, place, reason)
