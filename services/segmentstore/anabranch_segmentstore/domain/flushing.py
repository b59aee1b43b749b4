"""Which bytes go to tier 2 next: a pure decision over the container's state.

A segment is due when enough of its bytes wait, when the oldest have waited long enough, or when
the container as a whole holds too many. One object takes ranges of many segments, so that a
hundred thousand quiet segments do not become as many tiny objects. A range is read, checked and
cached as a whole later on, so ranges are short and objects are long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from anabranch_segmentstore.domain.operations import IntendedRange, SegmentId
from anabranch_segmentstore.domain.state import ContainerState, Segment

RANGE_LENGTH_MAX: Final = 1024 * 1024
"""What a cold read fetches and checks at least; half of the longest answer to a read."""
RANGES_PER_OBJECT_MAX: Final = 1000
"""An order is one message on the bus, whose limit may be 1 MB: names of 250 characters fit."""


@dataclass(frozen=True, slots=True)
class FlushRules:
    """When to flush, and how large objects become. `container_bytes` overrides size and age."""

    segment_bytes: int = 8 * 1024 * 1024
    age_s: float = 10.0
    container_bytes: int = 64 * 1024 * 1024
    object_bytes: int = 32 * 1024 * 1024


def plan(
    state: ContainerState,
    rules: FlushRules,
    *,
    waiting_s: Mapping[SegmentId, float],
    busy: frozenset[SegmentId] | set[SegmentId],
    objects_max: int,
) -> list[list[IntendedRange]]:
    """The ranges of up to `objects_max` new objects.

    `waiting_s`: for how long each segment has had bytes that wait. `busy`: segments with ranges
    in an object that is under way; they have their turn when it is done.
    """
    is_full = state.untiered_bytes >= rules.container_bytes
    due = [
        segment
        for segment in map(state.segments_by_id.__getitem__, state.untiered_segments)
        if segment.id not in busy
        and (
            is_full
            or segment.untiered_bytes >= rules.segment_bytes
            or waiting_s.get(segment.id, 0.0) >= rules.age_s
        )
    ]
    due.sort(key=lambda segment: -segment.untiered_bytes)
    return _pack(due, rules, objects_max)


def _pack(due: Iterable[Segment], rules: FlushRules, objects_max: int) -> list[list[IntendedRange]]:
    """All of a segment's ranges go into one object, as far as they fit."""
    objects: list[list[IntendedRange]] = []
    ranges: list[IntendedRange] = []
    length = 0
    for segment in due:
        if len(objects) >= objects_max:
            return objects
        for one in untiered_ranges(segment, rules.object_bytes):
            if length + one.length > rules.object_bytes or len(ranges) >= RANGES_PER_OBJECT_MAX:
                break
            ranges.append(one)
            length += one.length
        if length + RANGE_LENGTH_MAX > rules.object_bytes or len(ranges) >= RANGES_PER_OBJECT_MAX:
            objects.append(ranges)
            ranges, length = [], 0
    if ranges and len(objects) < objects_max:
        objects.append(ranges)
    return objects


def untiered_ranges(segment: Segment, length_max: int) -> list[IntendedRange]:
    """Durable bytes that only the log has, from the first one on, cut into short ranges."""
    ranges: list[IntendedRange] = []
    start = segment.extents.first_log_offset()
    if start is None:
        return ranges
    run_start = run_end = start
    end = min(segment.durable_length, start + length_max)
    for extent in segment.extents.log_extents(start, end):
        if extent.start != run_end:
            ranges += _cut_run(segment.id, run_start, run_end)
            run_start = extent.start
        run_end = extent.end
    return ranges + _cut_run(segment.id, run_start, run_end)


def _cut_run(segment: SegmentId, start: int, end: int) -> list[IntendedRange]:
    return [
        IntendedRange(segment, offset, min(RANGE_LENGTH_MAX, end - offset))
        for offset in range(start, end, RANGE_LENGTH_MAX)
    ]


def is_alive(state: ContainerState, ranges: Iterable[IntendedRange]) -> bool:
    """Can a worker still read all of these bytes under the names that it was given?"""
    for one in ranges:
        segment = state.segments_by_id.get(one.segment)
        if segment is None or segment.start_offset > one.offset:
            return False
    return True
