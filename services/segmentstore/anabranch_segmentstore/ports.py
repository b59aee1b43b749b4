"""What a container needs from outside: its write-ahead log.

The log of a container is a sequence of *frames*; a frame is one group commit and holds many
operations. A *position* is the ordinal of a frame: dense, growing over all epochs, never
used again. The log knows nothing of what is inside a frame.

Epochs are minted in the log itself, by an operation that only one opener can win
(architecture, "Tier 1"): whoever opens a log fences every earlier opener.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, NewType, Protocol

from anabranch_events.bus import DeleteOrder, FlushOrder

LogPosition = NewType("LogPosition", int)
Epoch = NewType("Epoch", int)
ContainerId = NewType("ContainerId", int)
Buffer = bytes | bytearray | memoryview

NOTHING_LOGGED = LogPosition(0)  # the first frame of a log has position 1


class Frame(NamedTuple):
    """A durable frame as found by `replay`."""

    position: LogPosition
    is_snapshot: bool
    payload: bytes


class LogError(Exception):
    """Base of what can go wrong with a log; ends the container, not the process."""


class LogFenced(LogError):
    """A newer epoch exists: another store owns the container. Acknowledge nothing, stop."""

    def __init__(self, container: int, epoch: int, newer_epoch: int) -> None:
        super().__init__(
            f"container {container}: epoch {epoch} is fenced by epoch {newer_epoch}; "
            "another segment store has taken the container over"
        )
        self.container, self.epoch, self.newer_epoch = container, epoch, newer_epoch


class LogFailed(LogError):
    """A write or sync failed; this log acknowledges nothing more and must be opened anew."""

    def __init__(self, container: int, reason: str) -> None:
        super().__init__(f"container {container}: the log failed for good: {reason}")
        self.container, self.reason = container, reason


class LogDamaged(LogError):
    """Bytes that had been acknowledged are not what was written. Nothing is deleted."""

    def __init__(self, container: int, file: str, offset: int, reason: str) -> None:
        super().__init__(
            f"container {container}: damaged log: {file} at byte {offset}: {reason}. "
            "Nothing was changed. Restore the file from a copy, or move the container's "
            "log directory away to give up what is not in tier 2 yet."
        )
        self.container, self.file, self.offset, self.reason = container, file, offset, reason


class DurableLog(Protocol):
    """One container's log, opened for one epoch by one owner."""

    @property
    def epoch(self) -> Epoch: ...

    @property
    def last_position(self) -> LogPosition:
        """The newest durable frame; after opening, that of the predecessor's end."""
        ...

    @property
    def frame_length_max(self) -> int:
        """Bytes that one frame may hold (a snapshot may be longer)."""
        ...

    @property
    def frames_in_flight_max(self) -> int:
        """How many `append` calls may be under way at once; they complete in call order."""
        ...

    @property
    def stored_bytes(self) -> int:
        """What the log occupies in tier 1 now, truncated files not counted."""
        ...

    def check_owner(self) -> None:
        """Raise LogFenced when a newer epoch exists (with some logs: when it cannot be ruled
        out), LogFailed when that cannot be found out. Cheap and without waiting: the store asks
        before it sends replies that no append has confirmed."""
        ...

    async def append(self, parts: Sequence[Buffer], *, snapshot: bool = False) -> LogPosition:
        """Write one frame; on return it is durable *and* this epoch was not fenced.

        While the disk is full it waits (and says so once in the log events). Raises
        LogFenced, LogFailed. The buffers must not change until it returns.
        """
        ...

    def replay(self) -> AsyncIterator[Frame]:
        """The newest snapshot (if any) and every durable frame after it, in order.

        Raises LogDamaged at the first acknowledged frame that is not intact.
        """
        ...

    async def read(self, position: LogPosition, start: int, length: int) -> bytes:
        """`length` bytes of a frame's payload from `start`; checks that they are intact as
        far as checksums reach. Raises LogDamaged, KeyError when the frame was truncated."""
        ...

    async def truncate(self, before: LogPosition) -> None:
        """Give up the frames below `before`; the newest snapshot is always kept."""
        ...

    async def close(self, *, clean: bool) -> None:
        """Release the log; a clean close writes a closing record first. Idempotent."""
        ...


class LogStore(Protocol):
    """All container logs that this process can reach."""

    async def open(self, container: ContainerId, *, owner: str) -> DurableLog:
        """Mint the next epoch, fence the earlier ones, and return the log ready to replay.

        Raises LogDamaged when the end of the predecessor cannot be told from damage.
        """
        ...

    async def close(self) -> None: ...


class TieringBus(Protocol):
    """How a container reaches the tierers. Raises BusUnavailable; the container asks again."""

    async def order_flush(self, order: FlushOrder) -> None: ...

    async def order_deletion(self, order: DeleteOrder) -> None: ...
