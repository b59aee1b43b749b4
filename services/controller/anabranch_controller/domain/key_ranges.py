"""Shares of the key space [0, 1), compared by exact doubles and by nothing else.

Clients check that ranges meet without gap by comparing doubles for equality, so a boundary
keeps its bits for ever: a split takes the outer bounds over from the segment that it splits,
and the last bound of a stream is exactly 1.0 (reference, 1.10, 3.10 and 4.3).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

from anabranch_events.bus import KeyRange
from anabranch_events.model import SegmentRange


class Ranged(Protocol):
    """Anything with bounds; the lower one belongs to it, the upper one does not."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


R = TypeVar("R", bound=Ranged)


def equal_ranges(count: int) -> tuple[KeyRange, ...]:
    """The key space in `count` equal parts; boundaries are i * (1 / count), as Pravega's are."""
    assert count > 0, "a stream has at least one segment"
    width = 1.0 / count
    bounds = [i * width for i in range(count)] + [1.0]
    return tuple(KeyRange(low, high) for low, high in pairwise(bounds))


def overlaps(one: Ranged, other: Ranged) -> bool:
    return one.low < other.high and other.low < one.high


def overlapping(ordered: Sequence[R], wanted: Ranged) -> Sequence[R]:
    """Those that overlap `wanted`, of ranges in order of the key that do not overlap."""
    first = max(bisect_right(ordered, wanted.low, key=_low) - 1, 0)
    end = first
    while end < len(ordered) and ordered[end].low < wanted.high:
        end += 1
    return [found for found in ordered[first:end] if overlaps(found, wanted)]


def joined(ranges: Iterable[Ranged]) -> list[tuple[float, float]]:
    """The ranges in order, neighbours that meet in equal doubles made into one."""
    result: list[tuple[float, float]] = []
    for low, high in sorted((found.low, found.high) for found in ranges):
        if result and result[-1][1] == low:
            result[-1] = (result[-1][0], high)
        else:
            result.append((low, high))
    return result


def same_cover(ones: Iterable[Ranged], others: Iterable[Ranged]) -> bool:
    """Do both cover the same keys, each key as often?"""
    return joined(ones) == joined(others)


def holes(ranges: Iterable[Ranged]) -> list[KeyRange] | None:
    """What the ranges leave free of [0, 1); None when two of them overlap."""
    result: list[KeyRange] = []
    reached = 0.0
    for low, high in sorted((found.low, found.high) for found in ranges):
        if low < reached:
            return None
        if low > reached:
            result.append(KeyRange(reached, low))
        reached = high
    if reached < 1.0:
        result.append(KeyRange(reached, 1.0))
    return result


def splits_and_merges(
    sealed: Sequence[SegmentRange], created: Sequence[SegmentRange]
) -> tuple[int, int]:
    """How many sealed segments were split, and how many created ones were merged; both in
    order of the key."""
    splits = sum(len(overlapping(created, old)) > 1 for old in sealed)
    merges = sum(len(overlapping(sealed, new)) > 1 for new in created)
    return splits, merges


def _low(found: Ranged) -> float:
    return found.low
