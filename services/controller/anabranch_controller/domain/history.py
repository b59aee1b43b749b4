"""The epochs of a stream: which segments it had when, and what gave way to what.

Epoch n is at index n. A segment lives in an unbroken run of epochs that begins with the
epoch in its id; the epoch after that run is the one that *replaced* it. It is known before
the segment is sealed on its store, which is what makes writers find their successors.

The copies that a rolling transaction makes (reference, 7.6) have the reference epoch of
what they copy: same numbers, same ranges, other ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from anabranch_events.model import SegmentRange
from anabranch_wire.names import Epoch as EpochNumber
from anabranch_wire.names import SegmentNumber, segment_id

from anabranch_controller.domain.key_ranges import overlapping


class Epoch(msgspec.Struct, frozen=True):
    """`segments` are in order of the key and cover it, `created` are those that began here,
    by id. `sealed_sizes` are the final lengths in bytes of the segments that gave way to this
    epoch, by id. `splits` and `merges` count from the beginning of the stream."""

    number: int
    reference: int
    segments: tuple[SegmentRange, ...]
    created: dict[int, SegmentRange]
    created_ms: int
    splits: int = 0
    merges: int = 0
    sealed_sizes: dict[int, int] = {}


def make_epoch(
    number: int,
    reference: int,
    segments: Iterable[SegmentRange],
    created_ms: int,
    *,
    splits: int = 0,
    merges: int = 0,
) -> Epoch:
    """`segments` in any order."""
    by_key = ordered(segments)
    return Epoch(
        number=number,
        reference=reference,
        segments=by_key,
        created={segment.id: segment for segment in by_key if segment.epoch == number},
        created_ms=created_ms,
        splits=splits,
        merges=merges,
    )


class Successors(msgspec.Struct, frozen=True):
    segment: SegmentRange
    predecessors: tuple[int, ...]


Epochs = tuple[Epoch, ...]


def ordered(segments: Iterable[SegmentRange]) -> tuple[SegmentRange, ...]:
    return tuple(sorted(segments, key=lambda segment: segment.low))


def find_segment(epochs: Epochs, identity: int) -> SegmentRange | None:
    """The segment with this id, None when the stream never had it."""
    creation = identity >> 32
    if identity < 0 or creation >= len(epochs):
        return None
    return epochs[creation].created.get(identity)


def replaced_in(epochs: Epochs, segment: SegmentRange) -> int | None:
    """The epoch that the segment gave way to; None while it is in the newest one."""
    present, absent = segment.epoch, len(epochs)
    while absent - present > 1:
        middle = (present + absent) // 2
        if _contains(epochs[middle], segment):
            present = middle
        else:
            absent = middle
    return None if absent == len(epochs) else absent


def successors(epochs: Epochs, identity: int) -> tuple[Successors, ...]:
    """What follows the segment, each with all of its predecessors; empty when nothing does."""
    segment = find_segment(epochs, identity)
    if segment is None:
        return ()
    replaced = replaced_in(epochs, segment)
    if replaced is None:
        return ()
    before = epochs[replaced - 1].segments
    return tuple(
        Successors(follower, tuple(old.id for old in overlapping(before, follower)))
        for follower in overlapping(epochs[replaced].segments, segment)
    )


def final_size(epochs: Epochs, last_sizes: dict[int, int], identity: int) -> int:
    """The length of a sealed segment in bytes, 0 when it is not known."""
    segment = find_segment(epochs, identity)
    if segment is None:
        return 0
    replaced = replaced_in(epochs, segment)
    sizes = last_sizes if replaced is None else epochs[replaced].sealed_sizes
    return sizes.get(identity, 0)


def all_segments(epochs: Epochs) -> Iterator[SegmentRange]:
    """Every segment that the stream ever had, once, in order of creation."""
    for epoch in epochs:
        yield from epoch.created.values()


def largest_number(epoch: Epoch) -> int:
    """New segments are the largest of their epoch, so the newest epoch has the largest of all."""
    return max(segment.number for segment in epoch.segments)


def copied(source: Epoch, number: int) -> tuple[SegmentRange, ...]:
    """The segments of an epoch again, as those of epoch `number`."""
    return tuple(
        SegmentRange(renumbered(segment, number), segment.low, segment.high)
        for segment in source.segments
    )


def renumbered(segment: SegmentRange, epoch: int) -> int:
    """The id of a segment with the same number in another epoch."""
    return segment_id(EpochNumber(epoch), SegmentNumber(segment.number))


def _contains(epoch: Epoch, segment: SegmentRange) -> bool:
    return any(found.id == segment.id for found in overlapping(epoch.segments, segment))
