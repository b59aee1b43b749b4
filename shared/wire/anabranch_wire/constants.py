"""Limits of a frame and of what is inside, and the wire versions of this implementation."""

from typing import Final

WIRE_VERSION_HIGH: Final = 17  # the first version with LocateOffset
WIRE_VERSION_LOW: Final = 5  # the oldest one that any current client accepts

FRAME_HEADER_BYTES: Final = 8  # type code and payload length, both signed 32-bit
FRAME_BYTES_MAX: Final = 0x00FF_FFFF  # header included; Pravega's MAX_WIRECOMMAND_SIZE
PAYLOAD_BYTES_MAX: Final = FRAME_BYTES_MAX - FRAME_HEADER_BYTES

EVENT_HEADER_BYTES: Final = 8  # i32 0 and i32 length, stored in the segment before each event
EVENT_BYTES_MAX: Final = 8 * 1024 * 1024  # payload of one event, without its header
STRING_BYTES_MAX: Final = 65_535  # encoded; the length is an unsigned 16-bit number

READ_BYTES_MAX: Final = 2 * 1024 * 1024  # what a server gives at most in one SegmentRead
READ_BYTES_MIN: Final = EVENT_HEADER_BYTES  # and what it takes a smaller wish for

assert PAYLOAD_BYTES_MAX == 16_777_207
assert EVENT_BYTES_MAX + EVENT_HEADER_BYTES < PAYLOAD_BYTES_MAX
