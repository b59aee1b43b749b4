"""What the controller needs from outside, besides the ports of the kit.

All operations on segments are idempotent: a workflow repeats them after a crash, and the
replies that only say "that is so already" count as success (wire-protocol.md, 5.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from anabranch_events.model import ScaleType

from anabranch_controller.api import Endpoint


class SegmentStoreUnavailable(Exception):
    """The owner of the segment did not answer or refused; whether it acted is unknown."""

    def __init__(self, operation: str, segment: str, reason: str) -> None:
        super().__init__(f"segment store: {operation} {segment}: {reason}")
        self.operation, self.segment, self.reason = operation, segment, reason


class SegmentMissing(Exception):
    """The segment that an operation needs does not exist."""

    def __init__(self, operation: str, segment: str) -> None:
        super().__init__(f"segment store: {operation}: no segment {segment}")
        self.operation, self.segment = operation, segment


class SegmentInfo(NamedTuple):
    """`length_bytes` is the offset of the next byte; it does not shrink by truncation."""

    length_bytes: int
    start_offset: int
    sealed: bool


class SegmentStores(Protocol):
    """All segment stores of the cluster, seen as one; names are full segment names.

    An adapter looks the owner up, connects, and retries a moved container and a lost
    connection a few times. Every method raises SegmentStoreUnavailable after that.
    """

    async def create_segment(
        self, segment: str, *, scale_type: ScaleType, target_rate: int, rollover_size_bytes: int
    ) -> None:
        """Success: created, or existed already. "fixed" travels as no scaling."""
        ...

    async def seal(self, segment: str) -> None:
        """Success: sealed now or before. Raises SegmentMissing."""
        ...

    async def delete(self, segment: str) -> None:
        """Success: deleted, or there was none."""
        ...

    async def truncate(self, segment: str, offset: int) -> None:
        """Success: truncated, now or further already. Raises SegmentMissing."""
        ...

    async def merge_batch(self, target: str, sources: Sequence[str]) -> tuple[int, ...]:
        """Append the sources to the target in this order; a missing source was merged before.

        Returns the length of the target in bytes after each source. Raises SegmentMissing
        when the target is missing.
        """
        ...

    async def update_policy(self, segment: str, *, scale_type: ScaleType, target_rate: int) -> None:
        """Raises SegmentMissing."""
        ...

    async def info(self, segment: str) -> SegmentInfo:
        """Raises SegmentMissing."""
        ...

    async def create_table_segment(
        self, segment: str, *, key_length: int, rollover_size_bytes: int
    ) -> None: ...

    async def delete_table_segment(self, segment: str) -> None: ...


class MarkTail(NamedTuple):
    """`events` are the bytes from `begin` to `end`; they begin at the mark when there is one."""

    mark: int | None
    begin: int
    end: int
    events: bytes


class MarkSegments(Protocol):
    """The segments that hold watermarks. All methods raise SegmentMissing and
    SegmentStoreUnavailable."""

    async def tail(self, segment: str) -> MarkTail: ...

    async def append(self, segment: str, event: bytes, *, expected_offset: int) -> bool:
        """Store the event, with the header of events, where the segment ends; False when it
        ends elsewhere."""
        ...

    async def move_mark(self, segment: str, mark: int, *, expected: int | None) -> None:
        """Nothing happens when the mark is not where it is expected."""
        ...


class SegmentLocator(Protocol):
    async def locate(self, segment: str, *, wait_s: float) -> Endpoint:
        """Where the segment's container is served; waits until it is, at most `wait_s`, then
        raises SegmentStoreUnavailable. Does not ask whether the segment exists."""
        ...


class ControllerMembers(Protocol):
    async def live_instances(self) -> frozenset[str] | None:
        """The incarnations of the controllers that are alive now, None when nobody can say."""
        ...
