"""The rules of a flush order: what to read, what an existing object means, when to let go.

An order names byte ranges of a container's segments and the object that shall hold them, one
after the other. It may be delivered again at any moment, to this worker or to another, before
or after the first worker wrote the object and reported it. So:

* an object that exists already is not an error but a question: are these the bytes?
* a report is repeated until the container's owner has answered it;
* the order is let go of once the owner has answered, whatever the answer to a *known* name.

Pure: no IO, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, assert_never

from anabranch_events.bus import ChunkAnswer, ChunkReport, FlushOrder

# The most that one answer to ReadSegment holds (wire-protocol.md 4.5).
READ_BYTES_MAX: Final = 2_097_152
# An order is held in memory while it is worked on; a segment store sends far smaller ones.
ORDER_BYTES_MAX: Final = 128 * 1024 * 1024
ORDER_RANGES_MAX: Final = 100_000
# The owner is between two processes; it is back within seconds.
OWNER_MOVING_PAUSE_S: Final = 1.0


class OrderRefused(Exception):
    """The order can never be done as it stands; its sender has a bug or is of another version."""

    def __init__(self, object_name: str, reason: str) -> None:
        super().__init__(f"order for {object_name}: {reason}")
        self.object_name, self.reason = object_name, reason


class Read(NamedTuple):
    """`length` bytes of a segment from `offset`; part of range number `range_index`."""

    range_index: int
    segment: str
    offset: int
    length: int


class Content(NamedTuple):
    """What an object holds or should hold, as far as it can be compared."""

    length_bytes: int
    crc32c: int


class Done(NamedTuple):
    """The owner knows. Acknowledge the order."""


class Dropped(NamedTuple):
    """Nobody can do or needs this order any more. Take it off the queue."""

    reason: str


class Again(NamedTuple):
    """Something is away. Deliver the order again after the delay."""

    reason: str
    delay_s: float


Settlement = Done | Dropped | Again


def plan_reads(order: FlushOrder) -> Sequence[Read]:
    """The reads that make up the object, in its order. Raises OrderRefused."""
    _check(order)
    return [
        read
        for index, one in enumerate(order.ranges)
        for read in _pieces(index, one.segment, one.offset, one.length)
    ]


def _check(order: FlushOrder) -> None:
    def refuse_if(wrong: bool, reason: str) -> None:
        if wrong:
            raise OrderRefused(order.object_name, reason)

    refuse_if(not order.ranges, "it has no ranges")
    refuse_if(len(order.ranges) > ORDER_RANGES_MAX, f"more than {ORDER_RANGES_MAX} ranges")
    for one in order.ranges:
        refuse_if(not one.segment, "a range without a segment")
        refuse_if(
            one.offset < 0 or one.length <= 0,
            f"{one.segment} {one.offset}+{one.length} is no range",
        )
    length = sum(one.length for one in order.ranges)
    refuse_if(length > ORDER_BYTES_MAX, f"{length} bytes, more than {ORDER_BYTES_MAX}")


def _pieces(index: int, segment: str, offset: int, length: int) -> Iterator[Read]:
    end = offset + length
    while offset < end:
        piece = min(READ_BYTES_MAX, end - offset)
        yield Read(index, segment, offset, piece)
        offset += piece


def is_same_object(wanted: Content, present: Content) -> bool:
    """Whether the object under the name is the one that this order would have made."""
    return wanted == present


def written_report(
    order: FlushOrder, *, content: Content, crcs: Sequence[int], worker: str
) -> ChunkReport:
    assert len(crcs) == len(order.ranges), "one checksum per range"
    assert content.length_bytes == sum(one.length for one in order.ranges), "a range came short"
    return ChunkReport(
        container=order.container,
        object_name=order.object_name,
        outcome="written",
        length_bytes=content.length_bytes,
        crcs=tuple(crcs),
        worker=worker,
    )


def name_taken_report(order: FlushOrder, *, worker: str) -> ChunkReport:
    return ChunkReport(
        container=order.container,
        object_name=order.object_name,
        outcome="name-taken",
        length_bytes=0,
        crcs=(),
        worker=worker,
    )


def settle(answer: ChunkAnswer) -> Settlement:
    """What the owner's answer means for the order."""
    match answer.outcome:
        case "accepted":
            return Done()
        case "unknown":
            # Journalled by an earlier delivery, or voided. The object is not touched: it may
            # be the one that the log refers to. If it is not, the collector finds it.
            return Dropped(answer.detail or "the owner does not wait for this object")
        case "not-owner":
            return Again(answer.detail or "the container is moving", OWNER_MOVING_PAUSE_S)
        case _:
            assert_never(answer.outcome)
