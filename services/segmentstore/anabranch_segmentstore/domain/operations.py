"""One operation per change of a container, and their bytes.

Operations say what *was decided*, never what was asked: applying them needs no condition, no
clock and no randomness, so that replaying a log gives the state that its writer had. Segments
are named by a number that the container gives out once; only `SegmentCreated` carries the name.

`EventsAppended` and `TableChanged` own bytes in the data region of their frame (frames.py);
`data_length` says how many.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

SegmentId = int


class EventsAppended(NamedTuple):
    """The hot one: a block of a writer, up to event `number`."""

    segment: SegmentId
    writer: bytes
    number: int
    events_count: int
    data_length: int


class _Struct(msgspec.Struct, frozen=True, array_like=True):
    pass


class SegmentCreated(_Struct, frozen=True, tag=1):
    """`table_key_length`: None = plain segment, 0 = hash table, > 0 = fixed-key table."""

    segment: SegmentId
    name: str
    attributes: dict[bytes, int]
    table_key_length: int | None


class SegmentSealed(_Struct, frozen=True, tag=2):
    segment: SegmentId


class SegmentTruncated(_Struct, frozen=True, tag=3):
    segment: SegmentId
    offset: int


class SegmentDeleted(_Struct, frozen=True, tag=4):
    segment: SegmentId


class SegmentMerged(_Struct, frozen=True, tag=5):
    """All of `source` is now the end of `target`, and `source` is gone.

    `attributes` are new values of the target's attributes.
    """

    target: SegmentId
    source: SegmentId
    attributes: dict[bytes, int]


class AttributesUpdated(_Struct, frozen=True, tag=6):
    segment: SegmentId
    attributes: dict[bytes, int]


class TableChanged(_Struct, frozen=True, tag=7):
    """Entries (puts, and in hash tables removals) were appended to a table segment."""

    segment: SegmentId
    data_length: int


class TableKeysRemoved(_Struct, frozen=True, tag=8):
    """Keys left a fixed-key table, whose removals leave no trace in the segment's bytes."""

    segment: SegmentId
    keys: list[bytes]


class IntendedRange(_Struct, frozen=True):
    segment: SegmentId
    offset: int
    length: int


class ChunkIntended(_Struct, frozen=True, tag=9):
    """A worker may write these ranges, in this order, into one object of this name."""

    object_name: str
    ranges: list[IntendedRange]


class ChunkJournalled(_Struct, frozen=True, tag=10):
    """The object is durable in tier 2; `crcs` has the CRC-32C of each intended range."""

    object_name: str
    crcs: list[int]


class ChunkVoided(_Struct, frozen=True, tag=11):
    """The name is intended no more: what is there, or comes to be there, counts for nothing.

    `is_ours` False: somebody else's bytes are under that name, which are not ours to delete.
    """

    object_name: str
    is_ours: bool


class ObjectsReleased(_Struct, frozen=True, tag=12):
    """The deletion of these unreferenced objects is in the hands of the bus."""

    object_names: list[str]


class LogCut(_Struct, frozen=True, tag=13):
    """The frames below `before` are needed no more, and the log was told so after this."""

    before: int


RareOperation = (
    SegmentCreated
    | SegmentSealed
    | SegmentTruncated
    | SegmentDeleted
    | SegmentMerged
    | AttributesUpdated
    | TableChanged
    | TableKeysRemoved
    | ChunkIntended
    | ChunkJournalled
    | ChunkVoided
    | ObjectsReleased
    | LogCut
)
Operation = EventsAppended | RareOperation

KIND_EVENTS: Final = 1
KIND_RARE: Final = 2
APPENDED: Final = struct.Struct(">BI16sqiI")  # kind, segment, writer, number, events, length
RARE_HEADER: Final = struct.Struct(">BI")  # kind, length of the MessagePack that follows

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RareOperation)


class OperationsDamaged(Exception):
    """Bytes that passed the log's checksum are not operations: another version, or a bug."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"operations cannot be decoded: {reason}")
        self.reason = reason


def encode(operation: Operation) -> bytes:
    if isinstance(operation, EventsAppended):
        return APPENDED.pack(KIND_EVENTS, *operation)
    body = _encoder.encode(operation)
    return RARE_HEADER.pack(KIND_RARE, len(body)) + body


def decode_all(region: bytes | memoryview, count: int) -> list[Operation]:
    """The `count` operations that fill `region`. Raises OperationsDamaged."""
    operations: list[Operation] = []
    position = 0
    try:
        for _ in range(count):
            if region[position] == KIND_EVENTS:
                _, segment, writer, number, events_count, length = APPENDED.unpack_from(
                    region, position
                )
                operations.append(EventsAppended(segment, writer, number, events_count, length))
                position += APPENDED.size
            else:
                kind, length = RARE_HEADER.unpack_from(region, position)
                if kind != KIND_RARE:
                    raise OperationsDamaged(f"unknown kind {kind} at byte {position}")
                position += RARE_HEADER.size
                operations.append(_decoder.decode(region[position : position + length]))
                position += length
    except (IndexError, struct.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationsDamaged(f"at byte {position} of {len(region)}: {error}") from error
    if position != len(region):
        raise OperationsDamaged(f"{len(region) - position} bytes behind the last operation")
    return operations


def data_length(operation: Operation) -> int:
    """Bytes of the frame's data region that belong to the operation."""
    if isinstance(operation, EventsAppended | TableChanged):
        return operation.data_length
    return 0
