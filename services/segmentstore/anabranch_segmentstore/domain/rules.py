"""What a container accepts: requests judged against the accepted state. Pure.

Each function returns the operation that a request becomes, or raises the Refusal that it is
answered with. Nothing is changed here; the shell records the operation (container.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from anabranch_segmentstore.api import Append, AttributeUpdate
from anabranch_segmentstore.domain.attributes import CORE_PREFIX, AttributeId, evaluate
from anabranch_segmentstore.domain.errors import (
    IsATable,
    Misuse,
    NoSuchSegment,
    OperationUnsupported,
    Refusal,
    SegmentExists,
    SegmentSealed,
    SegmentTruncated,
    StaleWriter,
    TableNotEmpty,
    WrongOffset,
)
from anabranch_segmentstore.domain.operations import (
    AttributesUpdated,
    SegmentCreated,
    SegmentDeleted,
    SegmentMerged,
)
from anabranch_segmentstore.domain.operations import SegmentSealed as Sealed
from anabranch_segmentstore.domain.operations import SegmentTruncated as Truncated
from anabranch_segmentstore.domain.state import ContainerState, Segment
from anabranch_segmentstore.domain.tables import FIXED_KEY_LENGTH_MAX


def judge_append(state: ContainerState, append: Append, writer: AttributeId) -> Segment:
    """The segment that takes the append.

    In the order of wire-protocol.md 3.8, sealed outranks the writer's number, and that outranks
    the offset; but for a connection that does not know what an older one of its writer stored
    here after its own set-up. Told that the segment is sealed it would send that again to the
    successors. So it is told to ask anew, and hears of the seal then (faults F1).
    """
    name = append.segment
    segment = state.segments.get(name)
    if segment is None:
        raise NoSuchSegment(name)
    stored = segment.last_event(writer)
    if segment.is_sealed and append.after >= stored:
        raise SegmentSealed(name)
    if segment.table is not None:
        raise IsATable(name)
    # Equal, not "greater": a resent block can reach past what a dying connection just stored.
    if append.after != stored or append.number <= stored or writer.startswith(CORE_PREFIX):
        raise StaleWriter(name, append.after, append.number, stored)
    expected = append.expected_offset
    if expected is not None and expected >= 0 and expected != segment.length:
        raise WrongOffset(name, expected, segment.length)
    return segment


def create(
    state: ContainerState, name: str, attributes: Mapping[UUID, int], table_key_length: int | None
) -> SegmentCreated:
    if not name:
        raise Misuse(name, "a segment needs a name")
    if table_key_length is not None and table_key_length > FIXED_KEY_LENGTH_MAX:
        raise Misuse(name, f"keys have at most {FIXED_KEY_LENGTH_MAX} bytes")
    if name in state.segments:
        raise SegmentExists(name)
    values = {attribute.bytes: value for attribute, value in attributes.items()}
    # A negative length is a hash table too (wire-protocol.md 7.1).
    key_length = None if table_key_length is None else max(table_key_length, 0)
    return SegmentCreated(state.next_segment_id, name, values, key_length)


def seal(state: ContainerState, name: str) -> Sealed:
    segment = state.find(name)
    if segment.is_sealed:
        raise SegmentSealed(name)
    return Sealed(segment.id)


def truncate(state: ContainerState, name: str, offset: int) -> Truncated | None:
    """None when the segment starts there already."""
    segment = state.find(name)
    if offset < 0:
        raise Misuse(name, f"truncation at the negative offset {offset}")
    if not segment.start_offset <= offset <= segment.length:
        raise SegmentTruncated(name, segment.start_offset, offset)
    if segment.table is not None:
        raise IsATable(name)
    return Truncated(segment.id, offset) if offset > segment.start_offset else None


def delete(state: ContainerState, name: str, *, must_be_empty: bool) -> SegmentDeleted:
    segment = state.find(name)
    if must_be_empty and segment.table is not None:
        if not segment.table.is_hash:
            raise OperationUnsupported(name, "deleteTableSegment")
        if segment.table.entries:
            raise TableNotEmpty(name)
    return SegmentDeleted(segment.id)


def update_attributes(
    state: ContainerState, name: str, updates: Sequence[AttributeUpdate]
) -> AttributesUpdated:
    segment = state.find(name)
    if segment.is_sealed:
        raise SegmentSealed(name)
    return AttributesUpdated(segment.id, evaluate(name, segment.attributes, updates))


class Merge(NamedTuple):
    """The source is sealed even if the merge is then refused (wire-protocol.md 4.10).

    `seal` None: it is sealed already. `merged` is the operation, or why not.
    """

    source: Segment
    target: Segment
    seal: Sealed | None
    merged: SegmentMerged | Refusal


def merged_before(state: ContainerState, target: str, source: str) -> Segment | None:
    """The target, if the container remembers that the source went into it."""
    remembered = state.merged.get(source)
    into = state.segments.get(target)
    is_done = source not in state.segments and into is not None and remembered == into.id
    return into if is_done else None


def merge(
    state: ContainerState, target: str, source: str, updates: Sequence[AttributeUpdate]
) -> Merge:
    what, into = state.find(source), state.find(target)
    if what.table is not None or into.table is not None:
        raise IsATable(source if what.table is not None else target)
    seals = None if what.is_sealed else Sealed(what.id)
    merged: SegmentMerged | Refusal
    if into.is_sealed or into is what:
        merged = SegmentSealed(target)
    elif what.start_offset > 0:
        merged = Misuse(source, "a truncated segment cannot be merged")
    else:
        try:
            merged = SegmentMerged(into.id, what.id, evaluate(target, into.attributes, updates))
        except Refusal as refusal:
            merged = refusal
    return Merge(what, into, seals, merged)
