"""What the tierer needs besides the kit's ports: the bytes of a segment."""

from __future__ import annotations

from typing import Protocol


class OwnerUnreachable(Exception):
    """No segment store serves the container now, or it did not answer. Try again."""

    def __init__(self, container: int, reason: str) -> None:
        super().__init__(f"container {container}: {reason}")
        self.container, self.reason = container, reason


class RangeGone(Exception):
    """The segment was deleted, merged away or truncated beyond the range."""

    def __init__(self, segment: str, offset: int, reason: str) -> None:
        super().__init__(f"{segment} at {offset}: {reason}")
        self.segment, self.offset, self.reason = segment, offset, reason


class SegmentReader(Protocol):
    async def read(self, container: int, segment: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes (at most READ_BYTES_MAX) from the container's owner.

        Raises OwnerUnreachable, RangeGone.
        """
        ...
