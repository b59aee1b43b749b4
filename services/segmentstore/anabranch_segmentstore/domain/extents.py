"""Where the bytes of a segment are: an ordered list of extents.

An extent is a run of the segment's bytes at one *place*: in a frame of the log, or in a chunk
of tier 2. Extents are contiguous from the first one's start to the segment's length; the end of
one is the start of the next. Two appends that lie side by side in one frame share an extent.

A chunk piece is checked by its checksum as a whole, so an extent in tier 2 always starts where
its piece starts. A log extent can be cut anywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple


class LogPlace(NamedTuple):
    """`offset` counts in the payload of the frame at `position`."""

    position: int
    offset: int


class ChunkPlace(NamedTuple):
    """A piece of an object: `length` bytes from `offset`, with their CRC-32C."""

    object_name: str
    offset: int
    length: int
    crc: int


Place = LogPlace | ChunkPlace


class Extent(NamedTuple):
    start: int
    end: int
    place: Place


@dataclass(slots=True)
class Extents:
    """`end` is the segment's length; every change of the segment's bytes goes through here.

    `tiered_end` is a lower bound: no extent below it is in the log.
    """

    end: int = 0
    tiered_end: int = 0
    starts: list[int] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    def append(self, place: LogPlace, length: int) -> None:
        """`length` new bytes at the end of the segment."""
        if self.places:
            last = self.places[-1]
            if (
                type(last) is LogPlace
                and last.position == place.position
                and last.offset + self.end - self.starts[-1] == place.offset
            ):
                self.end += length
                return
        self.starts.append(self.end)
        self.places.append(place)
        self.end += length

    def at(self, offset: int) -> Extent:
        """The extent that holds the byte at `offset`, from its own start."""
        index = bisect_right(self.starts, offset) - 1
        assert index >= 0, "truncated bytes have no extent"
        assert offset < self.end, "no extent lies behind the end"
        return self._extent(index)

    def take(self, source: Extents) -> None:
        """A merge: the source's extents, re-based to the end of this one."""
        base = self.end
        self.starts += [base + start for start in source.starts]
        self.places += source.places
        self.end = base + source.end

    def drop_before(self, offset: int) -> list[Extent]:
        """Truncate; returns what is no longer referenced, a cut part of the log included."""
        count = bisect_right(self.starts, offset) - 1
        if offset >= self.end:
            count = len(self.starts)
        dropped = [self._extent(index) for index in range(count)]
        if count > 0:
            del self.starts[:count]
            del self.places[:count]
        if self.starts and self.starts[0] < offset:
            start, place = self.starts[0], self.places[0]
            if type(place) is LogPlace:
                dropped.append(Extent(start, offset, place))
                self.starts[0] = offset
                self.places[0] = LogPlace(place.position, place.offset + offset - start)
        return dropped

    def log_extents(self, start: int, end: int) -> list[Extent]:
        """The parts of [start, end) that are in the log, in order."""
        found: list[Extent] = []
        index = max(bisect_right(self.starts, start) - 1, 0)
        while index < len(self.starts) and self.starts[index] < end:
            extent = self._extent(index)
            if type(extent.place) is LogPlace and extent.end > start:
                found.append(_cut(extent, max(start, extent.start), min(end, extent.end)))
            index += 1
        return found

    def replace(self, start: int, chunk: ChunkPlace) -> list[Extent]:
        """The chunk now holds the bytes from `start` on; returns the log extents it replaces.

        All of them must be in the log: `log_extents` covers the range without a gap.
        """
        end = start + chunk.length
        replaced = self.log_extents(start, end)
        assert sum(part.end - part.start for part in replaced) == chunk.length, (
            "a chunk replaces bytes that are not in the log"
        )
        first = bisect_right(self.starts, start) - 1
        head, last = self._extent(first), self.at(end - 1)
        after = bisect_right(self.starts, end - 1)
        starts: list[int] = []
        places: list[Place] = []
        for extent in (
            _cut(head, head.start, start),
            Extent(start, end, chunk),
            _cut(last, end, last.end),
        ):
            if extent.start < extent.end:
                starts.append(extent.start)
                places.append(extent.place)
        self.starts[first:after] = starts
        self.places[first:after] = places
        return replaced

    def first_log_offset(self) -> int | None:
        """Where the first byte is that only the log has."""
        index = max(bisect_right(self.starts, self.tiered_end) - 1, 0)
        while index < len(self.starts) and type(self.places[index]) is ChunkPlace:
            index += 1
        if index == len(self.starts):
            self.tiered_end = self.end
            return None
        self.tiered_end = self.starts[index]
        return self.starts[index]

    def all(self) -> list[Extent]:
        return [self._extent(index) for index in range(len(self.starts))]

    def _extent(self, index: int) -> Extent:
        end = self.starts[index + 1] if index + 1 < len(self.starts) else self.end
        return Extent(self.starts[index], end, self.places[index])


def _cut(extent: Extent, start: int, end: int) -> Extent:
    """The part [start, end) of an extent; a chunk is cut to nothing or not at all."""
    place = extent.place
    if type(place) is LogPlace:
        place = LogPlace(place.position, place.offset + start - extent.start)
    else:
        assert start >= end or (start, end) == (extent.start, extent.end), "a chunk is never cut"
    return Extent(start, end, place)
