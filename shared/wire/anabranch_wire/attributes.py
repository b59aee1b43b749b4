"""Attributes of segments: the fixed ids, how values are updated, and the segment type.

A value is a signed 64-bit number, NULL_ATTRIBUTE means "not set". Ids whose upper half is
0x8000000000000000 are the core attributes; every other id is an extended one, among them the
id of each writer, whose value is the number of its last stored event. Source: Pravega's
`Attributes`, `TableAttributes` and `AttributeUpdateType`.
"""

import enum
from typing import Final
from uuid import UUID

from anabranch_wire.hashing import client_attribute_id

_CORE_HALF: Final = 0x8000_0000_0000_0000
_TABLE_BASE: Final = 0x10_0000


def core_attribute(number: int) -> UUID:
    return UUID(int=_CORE_HALF << 64 | number)


def is_core_attribute(attribute_id: UUID) -> bool:
    return attribute_id.int >> 64 == _CORE_HALF


CREATION_TIME: Final = core_attribute(0)  # ms since 1970
EVENT_COUNT: Final = core_attribute(1)  # grows with each append by what the writer says
SCALE_POLICY_TYPE: Final = core_attribute(2)  # as CreateSegment.scale_type
SCALE_POLICY_RATE: Final = core_attribute(3)
ROLLOVER_SIZE: Final = core_attribute(4)  # bytes; 0 means the server's default
SEGMENT_TYPE: Final = core_attribute(9)  # SegmentType flags
ATTRIBUTE_ID_LENGTH: Final = core_attribute(12)  # key length of a fixed-key table segment
CREATION_EPOCH: Final = core_attribute(15)
INDEX_EVENT_SIZE: Final = core_attribute(16)  # 24 on `#index` segments

TABLE_INDEX_OFFSET: Final = core_attribute(_TABLE_BASE + 0)
TABLE_ENTRY_COUNT: Final = core_attribute(_TABLE_BASE + 1)
TABLE_BUCKET_COUNT: Final = core_attribute(_TABLE_BASE + 2)
TABLE_TOTAL_ENTRY_COUNT: Final = core_attribute(_TABLE_BASE + 3)
TABLE_COMPACTION_OFFSET: Final = core_attribute(_TABLE_BASE + 4)
TABLE_MIN_UTILIZATION: Final = core_attribute(_TABLE_BASE + 5)

REVISION_STREAM_MARK: Final = client_attribute_id("RevisionStreamClientMark")
RUST_INDEX_RECORD_SIZE: Final = UUID("ffffffe8-b789-1801-0000-000000000011")


class UpdateType(enum.IntEnum):
    """How an update treats the value that is there."""

    NONE = 0  # set only if not set yet
    REPLACE = 1
    REPLACE_IF_GREATER = 2  # or not set
    ACCUMULATE = 3  # add, or set
    REPLACE_IF_EQUALS = 4  # compare with the expected value; NULL_ATTRIBUTE means not set


class SegmentType(enum.IntFlag):
    """The value of SEGMENT_TYPE."""

    STREAM = 0
    TABLE = 1
    FIXED_KEY_TABLE = 1 | 4
    INTERNAL = 16
    SYSTEM = 16 | 32
    CRITICAL = 64
    TRANSIENT = 128
