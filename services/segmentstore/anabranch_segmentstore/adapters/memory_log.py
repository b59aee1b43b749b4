"""A log in memory, for tests and simulations: it keeps the promises of the port, not the data.

`MemoryLogStore` is the disk: it survives its owners. `crash` forgets what was not durable, as
a power cut does. With `hold_syncs` the appends wait until `sync` lets them through, one frame
at a time, so a test can stand between the acceptance of an operation and its durability.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from anabranch_segmentstore.ports import (
    Buffer,
    ContainerId,
    Epoch,
    Frame,
    LogError,
    LogFailed,
    LogFenced,
    LogPosition,
)

FRAME_LENGTH_MAX: Final = 32 * 1024 * 1024


@dataclass(slots=True)
class MemoryDisk:
    """What one container's log has on its disk."""

    epoch: int = 0
    frames: dict[int, Frame] = field(default_factory=dict)
    last_position: int = 0


@dataclass(slots=True)
class MemoryLogStore:
    """`hold_syncs` is handed to each log that is opened."""

    disks: dict[int, MemoryDisk] = field(default_factory=dict)
    hold_syncs: bool = False
    frames_in_flight_max: int = 1

    async def open(self, container: ContainerId, *, owner: str) -> MemoryLog:
        disk = self.disks.setdefault(container, MemoryDisk())
        disk.epoch += 1
        return MemoryLog(
            container,
            disk,
            Epoch(disk.epoch),
            hold_syncs=self.hold_syncs,
            frames_in_flight_max=self.frames_in_flight_max,
        )

    async def close(self) -> None:
        """The disks stay; there is nothing to release."""


class MemoryLog:
    def __init__(
        self,
        container: int,
        disk: MemoryDisk,
        epoch: Epoch,
        *,
        hold_syncs: bool,
        frames_in_flight_max: int,
    ) -> None:
        self._container, self._disk, self._epoch = container, disk, epoch
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next_position = disk.last_position + 1
        self._failure: LogError | None = None
        self.hold_syncs = hold_syncs
        self._frames_in_flight_max = frames_in_flight_max

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    @property
    def last_position(self) -> LogPosition:
        return LogPosition(self._disk.last_position)

    @property
    def frame_length_max(self) -> int:
        return FRAME_LENGTH_MAX

    @property
    def frames_in_flight_max(self) -> int:
        return self._frames_in_flight_max

    @property
    def stored_bytes(self) -> int:
        return sum(len(frame.payload) for frame in self._disk.frames.values())

    def check_owner(self) -> None:
        if self._disk.epoch != self._epoch:
            raise LogFenced(self._container, self._epoch, self._disk.epoch)

    async def append(self, parts: Sequence[Buffer], *, snapshot: bool = False) -> LogPosition:
        self._check()
        position = LogPosition(self._next_position)
        self._next_position += 1
        payload = b"".join(parts)
        if self.hold_syncs:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        else:
            await _next_turn()
        self._check()
        self._disk.frames[position] = Frame(position, snapshot, payload)
        self._disk.last_position = position
        return position

    def sync(self) -> bool:
        """Make the oldest waiting frame durable; False when none waits."""
        if not self._waiting:
            return False
        self._waiting.popleft().set_result(None)
        return True

    def crash(self) -> None:
        """The power goes: frames that wait are lost, and this log is of no more use."""
        self.fail("the power went")

    def fail(self, reason: str) -> None:
        self._failure = LogFailed(self._container, reason)
        while self._waiting:
            self._waiting.popleft().set_exception(self._failure)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._disk.epoch != self._epoch:
            raise LogFenced(self._container, self._epoch, self._disk.epoch)

    async def replay(self) -> AsyncIterator[Frame]:
        frames = [self._disk.frames[position] for position in sorted(self._disk.frames)]
        snapshots = [index for index, frame in enumerate(frames) if frame.is_snapshot]
        for frame in frames[snapshots[-1] if snapshots else 0 :]:
            yield frame

    async def read(self, position: LogPosition, start: int, length: int) -> bytes:
        await _next_turn()
        payload = self._disk.frames[position].payload
        assert start + length <= len(payload), "a read beyond its frame"
        return payload[start : start + length]

    async def truncate(self, before: LogPosition) -> None:
        self._check()
        frames = self._disk.frames
        newest = max((at for at, frame in frames.items() if frame.is_snapshot), default=0)
        for position in [at for at in frames if at < before and at != newest]:
            del frames[position]

    async def close(self, *, clean: bool) -> None:
        if self._failure is None:
            self.fail("the log was closed")


async def _next_turn() -> None:
    """Let the loop go on, as a disk would."""
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn
