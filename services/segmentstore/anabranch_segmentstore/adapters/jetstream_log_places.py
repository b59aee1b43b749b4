"""Where frames lie in the stream, as far as memory allows.

A frame takes at least one message and marks lie between frames, so a position does not tell a
place. Every frame is noted when it is written or replayed; when there are too many, every other
note goes. A frame without a note lies between two that have one and is found by bisection, which
reads a few messages.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import Final, NamedTuple

NOTES_MAX: Final = 131_072  # 16 bytes each
CACHED_BYTES_MAX: Final = 24 * 1024 * 1024  # per log: some two dozen of the longest messages


class Between(NamedTuple):
    """A frame begins in one of the places `first` to `last`."""

    first: int
    last: int


class Places:
    """Positions and the sequences of their first messages, in order, thinned when full."""

    def __init__(self, notes_max: int = NOTES_MAX) -> None:
        self._notes_max = notes_max
        self._positions, self._sequences = array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._positions)

    def note(self, position: int, sequence: int) -> None:
        index = bisect_left(self._positions, position)
        if self._positions[index : index + 1] == array("Q", [position]):
            return
        self._positions.insert(index, position)
        self._sequences.insert(index, sequence)
        if len(self._positions) > self._notes_max:
            self._positions, self._sequences = self._positions[::2], self._sequences[::2]

    def drop_before(self, position: int) -> None:
        index = bisect_left(self._positions, position)
        del self._positions[:index]
        del self._sequences[:index]

    def find(self, position: int, *, first: int, last: int) -> Between:
        """Where the frame begins, given that it begins in [first, last]."""
        index = bisect_right(self._positions, position)
        if index:
            behind = position - self._positions[index - 1]
            if behind == 0:
                return Between(self._sequences[index - 1], self._sequences[index - 1])
            first = max(first, self._sequences[index - 1] + behind)
        if index < len(self._positions):
            ahead = self._positions[index] - position
            last = min(last, self._sequences[index] - ahead)
        return Between(first, last)


class MessageCache:
    """The messages that were read last: small reads in a row want the same long message."""

    def __init__(self, bytes_max: int = CACHED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._messages: OrderedDict[int, bytes] = OrderedDict()

    def get(self, sequence: int) -> bytes | None:
        message = self._messages.get(sequence)
        if message is not None:
            self._messages.move_to_end(sequence)
        return message

    def put(self, sequence: int, message: bytes) -> None:
        if len(message) > self._bytes_max or sequence in self._messages:
            return
        self._messages[sequence] = message
        self._bytes += len(message)
        while self._bytes > self._bytes_max:
            _, dropped = self._messages.popitem(last=False)
            self._bytes -= len(dropped)

    def drop_before(self, sequence: int) -> None:
        for old in [one for one in self._messages if one < sequence]:
            self._bytes -= len(self._messages.pop(old))
