"""What a frame of the log holds: data first, then the operations, then a footer.

    data region | operations | footer

The data comes first so that the place of an operation's bytes (position of the frame, offset
in it) is known the moment that the operation is accepted, while the frame still grows. The
log's record carries the checksum over all of it; nothing is checked twice here.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from anabranch_segmentstore.domain.operations import (
    Operation,
    OperationsDamaged,
    data_length,
    decode_all,
)

FRAME_VERSION: Final = 1
_FOOTER: Final = struct.Struct(">qIIHH")  # at_ms, operations' length, their count, version, magic
_MAGIC: Final = 0xAB5F
FOOTER_LENGTH: Final = _FOOTER.size


class DecodedFrame(NamedTuple):
    """`data_offsets` has the place of each operation's bytes in `payload`."""

    at_ms: int
    operations: list[Operation]
    data_offsets: list[int]


def encode_footer(*, at_ms: int, operations_length: int, operations_count: int) -> bytes:
    return _FOOTER.pack(at_ms, operations_length, operations_count, FRAME_VERSION, _MAGIC)


def decode_frame(payload: bytes) -> DecodedFrame:
    """Raises OperationsDamaged."""
    if len(payload) < FOOTER_LENGTH:
        raise OperationsDamaged(f"a frame of {len(payload)} bytes has no footer")
    at_ms, region_length, count, version, magic = _FOOTER.unpack_from(
        payload, len(payload) - FOOTER_LENGTH
    )
    if magic != _MAGIC:
        raise OperationsDamaged("the footer is not that of a frame")
    if version != FRAME_VERSION:
        raise OperationsDamaged(f"frame version {version}; this release reads {FRAME_VERSION}")
    region_end = len(payload) - FOOTER_LENGTH
    region_start = region_end - region_length
    if region_start < 0:
        raise OperationsDamaged("the operations are longer than their frame")
    operations = decode_all(memoryview(payload)[region_start:region_end], count)
    offsets: list[int] = []
    offset = 0
    for operation in operations:
        offsets.append(offset)
        offset += data_length(operation)
    if offset != region_start:
        raise OperationsDamaged(f"operations own {offset} bytes of data, the frame {region_start}")
    return DecodedFrame(at_ms, operations, offsets)
