"""The state of a container, and how operations change it. Pure: no IO, no clock, no asyncio.

Everything here is the *accepted* state: conditions are judged against it in log order. What
readers may see is `durable_length`, `is_durably_sealed` and `is_durably_created` of a segment,
which `settle` of the shell moves once the frame is durable; replies wait for their frame
(container.py). One object per segment holds both, so nothing is kept twice.

The live container and the replay of its log call the same `apply`, with the same arguments:
the operation, the position of its frame, the place of its bytes in it, and the frame's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from anabranch_segmentstore.api import NO_EVENT, NULL_ATTRIBUTE
from anabranch_segmentstore.domain.attributes import EVENT_COUNT, AttributeId, assign
from anabranch_segmentstore.domain.chunks import ChunkLedger
from anabranch_segmentstore.domain.errors import NoSuchSegment
from anabranch_segmentstore.domain.extents import ChunkPlace, Extent, Extents, LogPlace
from anabranch_segmentstore.domain.names import is_user_stream_segment
from anabranch_segmentstore.domain.operations import (
    AttributesUpdated,
    ChunkIntended,
    ChunkJournalled,
    ChunkVoided,
    EventsAppended,
    LogCut,
    ObjectsReleased,
    Operation,
    SegmentCreated,
    SegmentDeleted,
    SegmentId,
    SegmentMerged,
    SegmentSealed,
    SegmentTruncated,
    TableChanged,
    TableKeysRemoved,
)
from anabranch_segmentstore.domain.tables import TableIndex

MERGED_SOURCES_MAX: Final = 10_000
"""Merged sources that a container remembers, so that a repeated merge counts as done. A
controller repeats within seconds; ten thousand transactions are minutes at the highest rate."""


@dataclass(slots=True, eq=False)
class Segment:
    """`length` is that of the extents. `position`: the newest frame that changed the segment."""

    id: SegmentId
    name: str
    attributes: dict[AttributeId, int]
    table: TableIndex | None
    start_offset: int = 0
    is_sealed: bool = False
    is_deleted: bool = False
    last_modified_ms: int = 0
    extents: Extents = field(default_factory=Extents)
    position: int = 0
    untiered_bytes: int = 0
    durable_length: int = 0
    is_durably_created: bool = False
    is_durably_sealed: bool = False
    is_user_stream: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_user_stream = self.table is None and is_user_stream_segment(self.name)

    @property
    def length(self) -> int:
        return self.extents.end

    def last_event(self, writer: AttributeId) -> int:
        return self.attributes.get(writer, NO_EVENT)

    def attribute(self, attribute: AttributeId) -> int:
        return self.attributes.get(attribute, NULL_ATTRIBUTE)


@dataclass(slots=True)
class ContainerState:
    segments: dict[str, Segment] = field(default_factory=dict)
    segments_by_id: dict[SegmentId, Segment] = field(default_factory=dict)
    next_segment_id: SegmentId = 1
    merged: dict[str, SegmentId] = field(default_factory=dict)
    ledger: ChunkLedger = field(default_factory=ChunkLedger)
    log_cut_before: int = 0
    untiered_bytes: int = 0
    untiered_segments: dict[SegmentId, None] = field(default_factory=dict)  # an ordered set
    _untiered: dict[int, int] = field(default_factory=dict)  # frame -> bytes that only it has
    _untiered_frames: deque[int] = field(default_factory=deque)  # ascending, emptied lazily

    def find(self, name: str) -> Segment:
        """Raises NoSuchSegment."""
        segment = self.segments.get(name)
        if segment is None:
            raise NoSuchSegment(name)
        return segment

    def oldest_untiered_frame(self) -> int | None:
        """The oldest frame that holds bytes which are nowhere else."""
        frames = self._untiered_frames
        while frames and frames[0] not in self._untiered:
            frames.popleft()
        return frames[0] if frames else None

    def append_events(
        self,
        segment: Segment,
        writer: AttributeId,
        number: int,
        events_count: int,
        length: int,
        position: int,
        data_offset: int,
        at_ms: int,
    ) -> None:
        """`apply` of EventsAppended, without the object: the hot path."""
        attributes = segment.attributes
        attributes[writer] = number
        attributes[EVENT_COUNT] = attributes.get(EVENT_COUNT, 0) + events_count
        segment.position = position
        segment.last_modified_ms = at_ms
        if length:
            self._add_data(segment, length, position, data_offset)

    def apply(
        self,
        operation: Operation,
        *,
        position: int,
        data_offset: int,
        at_ms: int,
        data: bytes | memoryview = b"",
    ) -> None:
        """`data` are the operation's bytes; only those of tables are looked at."""
        match operation:
            case EventsAppended():
                segment = self.segments_by_id[operation.segment]
                assert not segment.is_sealed, "events behind a seal"
                self.append_events(
                    segment, *operation[1:], position=position, data_offset=data_offset, at_ms=at_ms
                )
                return
            case SegmentCreated():
                segment = self._create(operation)
            case SegmentSealed():
                segment = self.segments_by_id[operation.segment]
                segment.is_sealed = True
            case SegmentTruncated():
                segment = self.segments_by_id[operation.segment]
                self._truncate(segment, operation.offset)
            case SegmentDeleted():
                segment = self.segments_by_id[operation.segment]
                self._drop(segment, segment.extents.all())
                self._forget(segment)
            case SegmentMerged():
                segment = self._merge(operation, position)
            case AttributesUpdated():
                segment = self.segments_by_id[operation.segment]
                assign(segment.attributes, operation.attributes)
            case TableChanged():
                segment = self.segments_by_id[operation.segment]
                assert segment.table is not None, "entries for what is no table"
                segment.table.apply_records(segment.length, data)
                self._add_data(segment, operation.data_length, position, data_offset)
            case TableKeysRemoved():
                segment = self.segments_by_id[operation.segment]
                assert segment.table is not None, "keys of what is no table"
                for key in operation.keys:
                    segment.table.remove(key)
            case ChunkIntended():
                self.ledger.intend(operation)
                return
            case ChunkJournalled():
                self._journal_chunk(operation)
                return
            case ChunkVoided():
                self.ledger.void(operation.object_name, is_ours=operation.is_ours)
                return
            case ObjectsReleased():
                self.ledger.release(operation.object_names)
                return
            case LogCut():
                self.log_cut_before = max(self.log_cut_before, operation.before)
                return
            case _:
                assert_never(operation)
        segment.position = position
        segment.last_modified_ms = at_ms

    def settle_all(self) -> None:
        """After a replay everything is durable."""
        for segment in self.segments.values():
            segment.durable_length = segment.length
            segment.is_durably_created = True
            segment.is_durably_sealed = segment.is_sealed

    def restore_segment(self, segment: Segment) -> None:
        """Take a segment from a snapshot; in the order of their ids."""
        self.segments[segment.name] = segment
        self.segments_by_id[segment.id] = segment
        for extent in segment.extents.all():
            if type(extent.place) is LogPlace:
                length = extent.end - extent.start
                position = extent.place.position
                self._untiered[position] = self._untiered.get(position, 0) + length
                self._count_untiered(segment, length)
            elif type(extent.place) is ChunkPlace:
                self.ledger.refer(extent.place.object_name)

    def finish_restore(self) -> None:
        """All segments of a snapshot are there; frames were counted in any order."""
        self._untiered_frames = deque(sorted(self._untiered))

    # --- single operations ---

    def _create(self, operation: SegmentCreated) -> Segment:
        assert operation.name not in self.segments, "created twice"
        assert operation.segment >= self.next_segment_id, "a segment number used twice"
        self.next_segment_id = operation.segment + 1
        self.merged.pop(operation.name, None)
        key_length = operation.table_key_length
        table = None if key_length is None else TableIndex(key_length)
        segment = Segment(operation.segment, operation.name, dict(operation.attributes), table)
        self.segments[segment.name] = segment
        self.segments_by_id[segment.id] = segment
        return segment

    def _truncate(self, segment: Segment, offset: int) -> None:
        assert segment.start_offset <= offset <= segment.length, "truncated outside of the segment"
        segment.start_offset = offset
        self._drop(segment, segment.extents.drop_before(offset))

    def _merge(self, operation: SegmentMerged, position: int) -> Segment:
        target = self.segments_by_id[operation.target]
        source = self.segments_by_id[operation.source]
        assert source.start_offset == 0, "a truncated segment has no beginning to merge"
        assign(target.attributes, operation.attributes)
        if source.length > 0:
            # No byte moves: the places of the source's bytes are now those of the target's.
            target.extents.take(source.extents)
            if source.untiered_bytes:
                target.untiered_bytes += source.untiered_bytes
                self.untiered_segments[target.id] = None
            self._remember_merged(source.name, target.id)
        source.position = position
        self._forget(source)
        return target

    def _remember_merged(self, name: str, target: SegmentId) -> None:
        self.merged[name] = target
        if len(self.merged) > MERGED_SOURCES_MAX:
            del self.merged[next(iter(self.merged))]

    def _forget(self, segment: Segment) -> None:
        segment.is_deleted = True
        del self.segments[segment.name]
        del self.segments_by_id[segment.id]
        self.untiered_segments.pop(segment.id, None)

    def _journal_chunk(self, operation: ChunkJournalled) -> None:
        """Ranges that were truncated, deleted or merged away meanwhile are passed over."""
        intended = self.ledger.journal(operation.object_name)
        offset = 0
        for part, crc in zip(intended.ranges, operation.crcs, strict=True):
            segment = self.segments_by_id.get(part.segment)
            if segment is not None and covers(segment, part.offset, part.length):
                chunk = ChunkPlace(operation.object_name, offset, part.length, crc)
                for extent in segment.extents.replace(part.offset, chunk):
                    self._release_log(segment, extent)
                self.ledger.refer(operation.object_name)
            offset += part.length
        self.ledger.condemn_if_unused(operation.object_name)

    # --- bytes ---

    def _add_data(self, segment: Segment, length: int, position: int, data_offset: int) -> None:
        segment.extents.append(LogPlace(position, data_offset), length)
        self._count_untiered(segment, length)
        untiered = self._untiered
        if position in untiered:
            untiered[position] += length
        else:
            untiered[position] = length
            self._untiered_frames.append(position)

    def _count_untiered(self, segment: Segment, length: int) -> None:
        if not segment.untiered_bytes:
            self.untiered_segments[segment.id] = None
        segment.untiered_bytes += length
        self.untiered_bytes += length

    def _release_log(self, segment: Segment, extent: Extent) -> None:
        place = extent.place
        assert type(place) is LogPlace, "only the log is released"
        length = extent.end - extent.start
        self.untiered_bytes -= length
        segment.untiered_bytes -= length
        assert segment.untiered_bytes >= 0, "more bytes of a segment left the log than it had"
        if not segment.untiered_bytes:
            self.untiered_segments.pop(segment.id, None)
        remaining = self._untiered[place.position] - length
        assert remaining >= 0, "more bytes left a frame than it held"
        if remaining:
            self._untiered[place.position] = remaining
        else:
            del self._untiered[place.position]

    def _drop(self, segment: Segment, extents: Sequence[Extent]) -> None:
        for extent in extents:
            if type(extent.place) is ChunkPlace:
                self.ledger.drop(extent.place.object_name)
            else:
                self._release_log(segment, extent)


def covers(segment: Segment, offset: int, length: int) -> bool:
    """Are all these bytes still the segment's, and only in the log?"""
    end = offset + length
    if end > segment.length:
        return False
    parts = segment.extents.log_extents(offset, end)
    return sum(part.end - part.start for part in parts) == length
