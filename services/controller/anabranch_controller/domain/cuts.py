"""Stream cuts: a position in every part of the key space at once.

A cut maps segment ids to offsets. An offset below zero says that the segment lies in the
future of the others: it belongs to the cut, but nothing of it does. Such a segment fills
the hole that an already finished predecessor leaves beside one that is still being read.

The *span* maps each segment of a cut to the highest epoch, between the lowest and the
highest creation epoch in the cut, that still has that segment (reference, 4.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from anabranch_events.bus import KeyRange
from anabranch_events.model import SegmentRange

from anabranch_controller.domain.history import (
    Epochs,
    final_size,
    find_segment,
    ordered,
    replaced_in,
    successors,
)
from anabranch_controller.domain.key_ranges import holes, overlapping, overlaps

Cut = Mapping[int, int]
Span = dict[int, int]


class UnknownSegment(Exception):
    """The stream never had a segment that the cut names."""

    def __init__(self, identity: int) -> None:
        super().__init__(f"the stream never had segment {identity >> 32}/{identity & 0xFFFFFFFF}")
        self.identity = identity


def segments_of(epochs: Epochs, cut: Cut) -> list[SegmentRange]:
    """Raises UnknownSegment."""
    found: list[SegmentRange] = []
    for identity in cut:
        segment = find_segment(epochs, identity)
        if segment is None:
            raise UnknownSegment(identity)
        found.append(segment)
    return found


def span(epochs: Epochs, cut: Cut) -> Span:
    """Raises UnknownSegment. The cut must not be empty."""
    segments = segments_of(epochs, cut)
    highest = max(segment.epoch for segment in segments)
    result: Span = {}
    for segment in segments:
        replaced = replaced_in(epochs, segment)
        result[segment.id] = highest if replaced is None else min(highest, replaced - 1)
    return result


def is_valid(epochs: Epochs, cut: Cut) -> bool:
    """Is this a position that a reader of the whole key space can be at?

    Offsets are not compared with lengths. Raises UnknownSegment.
    """
    segments = segments_of(epochs, cut)
    present = ordered(segment for segment in segments if cut[segment.id] >= 0)
    future = [segment for segment in segments if cut[segment.id] < 0]
    free = holes(present)
    if not present or free is None:
        return False
    if any(now.id > ahead.id for ahead in future for now in overlapping(present, ahead)):
        return False
    lowest = min(segment.epoch for segment in segments)
    return all(_filled(epochs, hole, lowest, present, future) for hole in free)


def _filled(
    epochs: Epochs,
    hole: KeyRange,
    lowest: int,
    present: Sequence[SegmentRange],
    future: list[SegmentRange],
) -> bool:
    """Does every way through the hole's past end in a segment of the future?

    A segment on the way must not be a successor of one that is still being read, or a
    reader would have had to read it before.
    """
    goals = {segment.id for segment in future}
    seen: set[int] = set()
    ways = list(overlapping(epochs[lowest].segments, hole))
    while ways:
        segment = ways.pop()
        if segment.id in goals or segment.id in seen:
            continue
        seen.add(segment.id)
        if any(now.id < segment.id for now in overlapping(present, segment)):
            return False
        onward = [
            follower.segment
            for follower in successors(epochs, segment.id)
            if overlaps(follower.segment, hole)
        ]
        if not onward:
            return False
        ways += onward
    return True


def equal_or_after(epochs: Epochs, later: Cut, earlier: Cut) -> bool:
    """Is no part of `later` before `earlier`? Raises UnknownSegment.

    A segment of the future counts only in the holes that it fills: beside a segment that is
    still being read it says nothing about where the cut is. (Pravega counts it everywhere,
    and so refuses to truncate a second time within such a cut.)
    """
    later_span, earlier_span = span(epochs, later), span(epochs, earlier)
    earlier_pieces = _pieces(epochs, earlier)
    for one in _pieces(epochs, later).ordered:
        for other in earlier_pieces.touching(one):
            if one.id == other.id:
                if later[one.id] < earlier[other.id]:
                    return False
            elif later_span[one.id] < earlier_span[other.id]:
                return False
    return True


class _Pieces(NamedTuple):
    """`disjoint` is false for a cut that no reader can be at; it is then searched slowly."""

    ordered: tuple[SegmentRange, ...]
    disjoint: bool

    def touching(self, segment: SegmentRange) -> Sequence[SegmentRange]:
        if self.disjoint:
            return overlapping(self.ordered, segment)
        return [piece for piece in self.ordered if overlaps(piece, segment)]


def _pieces(epochs: Epochs, cut: Cut) -> _Pieces:
    """The key space as the cut divides it: what is being read, and in the holes the future.

    Of several segments of the future in one place, the earliest comes next.
    """
    segments = segments_of(epochs, cut)
    pieces = [segment for segment in segments if cut[segment.id] >= 0]
    free = holes(pieces)
    future = sorted(
        (segment for segment in segments if cut[segment.id] < 0), key=lambda one: one.id
    )
    for segment in future if free else ():
        taken = [
            SegmentRange(segment.id, max(segment.low, hole.low), min(segment.high, hole.high))
            for hole in free or ()
            if overlaps(segment, hole)
        ]
        if taken:
            pieces += taken
            free = holes(pieces)
    return _Pieces(ordered(pieces), free is not None)


def compare(
    epochs: Epochs, one: Cut, other: Cut
) -> Literal["before", "equal-or-after", "overlaps"]:
    """Where `one` lies as seen from `other`. Raises UnknownSegment."""
    before = after = False
    others = segments_of(epochs, other)
    for mine in segments_of(epochs, one):
        for theirs in others:
            if not overlaps(mine, theirs):
                continue
            if mine.id == theirs.id:
                left, right = one[mine.id], other[theirs.id]
            else:
                left, right = mine.id, theirs.id
            before |= left < right
            after |= left > right
    if before and after:
        return "overlaps"
    return "before" if before else "equal-or-after"


def lowest(epochs: Epochs, positions: Iterable[Cut]) -> dict[int, int]:
    """The earliest of several positions, key by key; empty when there is none.

    Raises UnknownSegment. Valid positions give a valid one.
    """
    divided = [(cut, _pieces(epochs, cut).ordered) for cut in positions if cut]
    borders = sorted({piece.low for _, pieces in divided for piece in pieces})
    places = [0] * len(divided)
    result: dict[int, int] = {}
    for low in borders:
        here: list[tuple[int, int]] = []
        for index, (cut, pieces) in enumerate(divided):
            while pieces[places[index]].high <= low:
                places[index] += 1
            identity = pieces[places[index]].id
            here.append((identity, cut[identity]))
        identity, offset = min(here)
        result[identity] = min(offset, result.get(identity, offset))
    return result


def between(epochs: Epochs, current: int, start: Cut, end: Cut) -> dict[int, SegmentRange]:
    """Every segment on or between two cuts, by id. An empty `start` is the beginning of the
    stream, an empty `end` its epoch `current`. Raises UnknownSegment."""
    starts = start or {segment.id: 0 for segment in epochs[0].segments}
    ends = end or {segment.id: 0 for segment in epochs[current].segments}
    start_span = span(epochs, start) if start else dict.fromkeys(starts, 0)
    end_span = span(epochs, end) if end else dict.fromkeys(ends, current)
    start_pieces, end_pieces = _pieces(epochs, starts), _pieces(epochs, ends)
    whole_from, whole_to = max(start_span.values()), min(end_span.values())
    on_cuts = (*segments_of(epochs, starts), *segments_of(epochs, ends))
    found = {segment.id: segment for segment in on_cuts}
    for epoch in range(min(start_span.values()), max(end_span.values()) + 1):
        for segment in epochs[epoch].segments:
            if segment.id in found:
                continue
            if whole_from <= epoch <= whole_to or (
                all(segment.id >= cut.id for cut in start_pieces.touching(segment))
                and all(segment.id <= cut.id for cut in end_pieces.touching(segment))
            ):
                found[segment.id] = segment
    return found


def size_between(
    epochs: Epochs,
    last_sizes: dict[int, int],
    segments: Mapping[int, SegmentRange],
    start: Cut,
    end: Cut,
) -> int:
    """Bytes between two cuts; `segments` are those between them."""
    total = 0
    for identity in segments:
        begin = max(start.get(identity, 0), 0)
        if identity in end:
            total += max(end[identity], 0) - begin
        else:
            total += final_size(epochs, last_sizes, identity) - begin
    return total
