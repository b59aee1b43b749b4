"""The auditor knows what was acknowledged and what was read, and compares it with what is there.

Events carry their writer and their number. In the end each writer's events are found exactly
once, n + 1 after n, from the first to at least the last acknowledged one, and each acknowledged
block ends where its acknowledgement said. What one reader saw at an offset, all others see.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c
from anabranch_segmentstore.domain.extents import ChunkPlace

if TYPE_CHECKING:
    from anabranch_segmentstore.container import Container

EVENT = struct.Struct(">4sHIH")  # magic, writer, number, length of the rest
MAGIC = b"EVNT"


def encode_event(writer: int, number: int, length: int) -> bytes:
    return EVENT.pack(MAGIC, writer, number, length) + _filling(writer, number, length)


def _filling(writer: int, number: int, length: int) -> bytes:
    return bytes([(writer * 31 + number * 7) % 251]) * length


class Found(NamedTuple):
    writer: int
    number: int
    end: int


class Violation(Exception):
    """A promise was broken."""


@dataclass(slots=True)
class SegmentTruth:
    """Bytes that some reader has seen, by offset; `None` where nobody looked."""

    seen: bytearray = field(default_factory=bytearray)
    truncated_to: int = 0
    truncations: set[int] = field(default_factory=lambda: {0})


@dataclass(slots=True)
class Auditor:
    segments: dict[str, SegmentTruth] = field(default_factory=dict)
    acknowledged: dict[int, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    ends: dict[tuple[str, int, int], int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    events_count: int = 0

    def blame(self, what: str) -> None:
        self.violations.append(what)

    # --- What clients tell ---

    def acknowledge(self, segment: str, writer: int, number: int, end_offset: int) -> None:
        self.acknowledged[writer] = max(self.acknowledged.get(writer, 0), number)
        if number > self.sent.get(writer, 0):
            self.blame(f"{segment}: event {number} of writer {writer} acknowledged, never sent")
        if end_offset >= 0:
            self.ends[segment, writer, number] = end_offset

    def observe(self, segment: str, offset: int, data: bytes) -> None:
        """A reader got these bytes."""
        truth = self.segments.setdefault(segment, SegmentTruth())
        seen = truth.seen
        known = bytes(seen[offset : offset + len(data)])
        if known != data[: len(known)]:
            self.blame(f"{segment}: bytes at {offset} differ from what was read before")
        if offset > len(seen):
            self.blame(f"{segment}: a reader skipped bytes {len(seen)} to {offset}")
        seen.extend(data[len(known) :])

    # --- In the end ---

    def check_segment(self, segment: str, start: int, length: int) -> None:
        """All of [start, length) was observed."""
        truth = self.segments.setdefault(segment, SegmentTruth())
        if len(truth.seen) != length:
            self.blame(f"{segment}: {length} bytes long, but {len(truth.seen)} were read")
        if start not in truth.truncations:
            self.blame(f"{segment}: begins at {start}, where nobody truncated it")

    def check_events(self, writers: dict[int, Sequence[str]]) -> None:
        """`writers`: the segments that each wrote to, in order."""
        found: dict[int, list[int]] = {writer: [] for writer in writers}
        positions: dict[tuple[str, int, int], int] = {}
        for segment in self.segments:
            for event in self._events(segment):
                positions[segment, event.writer, event.number] = event.end
        for writer, segments in writers.items():
            for segment in segments:
                found[writer] += [n for (s, w, n) in positions if s == segment and w == writer]
        for writer, numbers in found.items():
            self._check_numbers(writer, numbers)
        for key, end in self.ends.items():
            if key in positions and positions[key] != end:
                self.blame(f"{key}: acknowledged with end {end}, found at {positions[key]}")

    def _check_numbers(self, writer: int, numbers: list[int]) -> None:
        self.events_count += len(numbers)
        for index, number in enumerate(numbers):
            if number != index + 1:
                what = "again" if number <= index else f"where {index + 1} should be"
                self.blame(f"writer {writer}: event {number} found {what}")
                return
        acknowledged, sent = self.acknowledged.get(writer, 0), self.sent.get(writer, 0)
        if len(numbers) < acknowledged:
            lost = f"{len(numbers) + 1} to {acknowledged}"
            self.blame(f"writer {writer}: events {lost} were acknowledged and are lost")
        if len(numbers) > sent:
            self.blame(f"writer {writer}: {len(numbers)} events found, {sent} sent")

    def _events(self, segment: str) -> Iterator[Found]:
        data, offset = bytes(self.segments[segment].seen), 0
        seen: set[tuple[int, int]] = set()
        while offset < len(data):
            if offset + EVENT.size > len(data):
                self.blame(f"{segment}: {len(data) - offset} bytes of an event at the end")
                return
            magic, writer, number, length = EVENT.unpack_from(data, offset)
            end = offset + EVENT.size + length
            if magic != MAGIC or data[offset + EVENT.size : end] != _filling(
                writer, number, length
            ):
                self.blame(f"{segment}: no event at {offset}")
                return
            if (writer, number) in seen:
                self.blame(f"{segment}: event {number} of writer {writer} is stored twice")
            seen.add((writer, number))
            yield Found(writer, number, end)
            offset = end

    def check_storage(self, container: Container, objects: dict[str, bytes]) -> None:
        """Chunk lists, objects, lengths and checksums agree; no hole, no overlap."""
        for segment in container.state.segments.values():
            position = segment.start_offset
            for extent in segment.extents.all():
                if extent.start > position:
                    self.blame(f"{segment.name}: hole from {position} to {extent.start}")
                position = extent.end
                place = extent.place
                if isinstance(place, ChunkPlace):
                    self._check_chunk(segment.name, place, objects)
            if position != segment.length and segment.length > segment.start_offset:
                self.blame(f"{segment.name}: extents end at {position} of {segment.length}")

    def _check_chunk(self, segment: str, place: ChunkPlace, objects: dict[str, bytes]) -> None:
        data = objects.get(place.object_name)
        if data is None:
            self.blame(f"{segment}: object {place.object_name} is journalled and missing")
            return
        piece = data[place.offset : place.offset + place.length]
        if len(piece) != place.length or google_crc32c.value(piece) != place.crc:
            self.blame(f"{segment}: object {place.object_name} is not what was journalled")
