"""A whole container as bytes: what replay starts from.

    magic "ABSN" | u16 version | MessagePack of `_Container`

Object names are written once and referred to by index. Extents are written as flat lists, five
numbers each, so that 100,000 segments take well under a second.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from anabranch_segmentstore.domain.chunks import ChunkLedger
from anabranch_segmentstore.domain.extents import ChunkPlace, Extents, LogPlace, Place
from anabranch_segmentstore.domain.operations import ChunkIntended, OperationsDamaged
from anabranch_segmentstore.domain.state import ContainerState, Segment
from anabranch_segmentstore.domain.tables import TableIndex, restore_index

SNAPSHOT_VERSION: Final = 1
_HEADER: Final = struct.Struct(">4sH")
_MAGIC: Final = b"ABSN"


class _Table(msgspec.Struct, array_like=True):
    key_length: int
    entries: dict[bytes, tuple[int, int]]


class _Segment(msgspec.Struct, array_like=True):
    """`extents`: start, then for the log -1, position, offset, 0, 0; for tier 2 the object's
    index, offset, length, crc, 0."""

    id: int
    name: str
    attributes: dict[bytes, int]
    length: int
    start_offset: int
    is_sealed: bool
    last_modified_ms: int
    position: int
    extents: list[int]
    table: _Table | None


class _Container(msgspec.Struct, array_like=True):
    next_segment_id: int
    log_cut_before: int
    merged: dict[str, int]
    intended: list[ChunkIntended]
    condemned: list[str]
    object_names: list[str]
    segments: list[_Segment]


_EXTENT_FIELDS: Final = 5
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Container)


def encode_snapshot(state: ContainerState) -> bytes:
    names: dict[str, int] = {}
    segments = [_encode_segment(segment, names) for segment in state.segments_by_id.values()]
    container = _Container(
        state.next_segment_id,
        state.log_cut_before,
        state.merged,
        list(state.ledger.intended.values()),
        list(state.ledger.condemned),
        list(names),
        segments,
    )
    return _HEADER.pack(_MAGIC, SNAPSHOT_VERSION) + _encoder.encode(container)


def _encode_segment(segment: Segment, names: dict[str, int]) -> _Segment:
    extents: list[int] = []
    for start, place in zip(segment.extents.starts, segment.extents.places, strict=True):
        if type(place) is LogPlace:
            extents += (start, -1, place.position, place.offset, 0)
        else:
            assert type(place) is ChunkPlace
            index = names.setdefault(place.object_name, len(names))
            extents += (start, index, place.offset, place.length, place.crc)
    table = segment.table
    encoded = None if table is None else _Table(table.key_length, dict(table.entries))
    return _Segment(
        segment.id,
        segment.name,
        segment.attributes,
        segment.length,
        segment.start_offset,
        segment.is_sealed,
        segment.last_modified_ms,
        segment.position,
        extents,
        encoded,
    )


def decode_snapshot(payload: bytes) -> ContainerState:
    """Raises OperationsDamaged."""
    try:
        magic, version = _HEADER.unpack_from(payload)
        if magic != _MAGIC:
            raise OperationsDamaged("this frame is no snapshot")
        if version != SNAPSHOT_VERSION:
            raise OperationsDamaged(
                f"snapshot version {version}; this release reads {SNAPSHOT_VERSION}"
            )
        container = _decoder.decode(memoryview(payload)[_HEADER.size :])
    except (struct.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationsDamaged(f"snapshot: {error}") from error
    try:
        return _restore(container)
    except (IndexError, ValueError) as error:
        raise OperationsDamaged(f"snapshot: its parts do not fit together: {error}") from error


def _restore(container: _Container) -> ContainerState:
    state = ContainerState(
        next_segment_id=container.next_segment_id,
        log_cut_before=container.log_cut_before,
        merged=container.merged,
        ledger=ChunkLedger(
            intended={intended.object_name: intended for intended in container.intended},
            condemned=dict.fromkeys(container.condemned),
        ),
    )
    for encoded in container.segments:
        state.restore_segment(_decode_segment(encoded, container.object_names))
    state.finish_restore()
    return state


def _decode_segment(encoded: _Segment, names: list[str]) -> Segment:
    fields = encoded.extents
    starts: list[int] = []
    places: list[Place] = []
    for at in range(0, len(fields), _EXTENT_FIELDS):
        start, index, first, second, third = fields[at : at + _EXTENT_FIELDS]
        starts.append(start)
        if index < 0:
            places.append(LogPlace(first, second))
        else:
            places.append(ChunkPlace(names[index], first, second, third))
    table: TableIndex | None = None
    if encoded.table is not None:
        table = restore_index(encoded.table.key_length, encoded.table.entries)
    return Segment(
        encoded.id,
        encoded.name,
        encoded.attributes,
        table,
        start_offset=encoded.start_offset,
        is_sealed=encoded.is_sealed,
        last_modified_ms=encoded.last_modified_ms,
        extents=Extents(encoded.length, starts=starts, places=places),
        position=encoded.position,
    )
