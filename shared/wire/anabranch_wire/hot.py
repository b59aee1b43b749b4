"""Shorter paths for the commands that are made once per append or per read.

Each does what the loops of `codec.py` do with the same layout, in a third of the time, and
returns None for what is not the plain case (fields missing, too long): the loops know the
defaults and the messages. A test holds each path against the loop.
"""

from collections.abc import Callable
from struct import Struct
from typing import Final

from anabranch_wire import commands as c
from anabranch_wire.constants import PAYLOAD_BYTES_MAX, STRING_BYTES_MAX
from anabranch_wire.primitives import Parts, encode_string, uuid_from_bytes

_BLOCK_END_HEAD = Struct(">16sii")
_BLOCK_END_TAIL = Struct(">iqq")
_BLOCK_END_START = Struct(">ii16sii")
_DATA_APPENDED = Struct(">ii16sqqqq")
_DATA_APPENDED_BODY = Struct(">16sqqqq")
_UINT16 = Struct(">H")
_READ_FIXED = Struct(">qiH")
_READ_START = Struct(">iiH")
_READ_MIDDLE = Struct(">q??i")
_INT64 = Struct(">q")


# --- Decoding --------------------------------------------------------------------------------


def _decode_append_block(payload: c.Data) -> c.Command | None:
    if len(payload) < 16:
        return None
    return c.AppendBlock(uuid_from_bytes(bytes(payload[:16])), payload[16:])


def _decode_append_block_end(payload: c.Data) -> c.Command | None:
    if len(payload) < 24:
        return None
    writer, size_bytes, length = _BLOCK_END_HEAD.unpack_from(payload)
    end = 24 + length
    if length < 0 or len(payload) < end + 20:
        return None
    count, number, request_id = _BLOCK_END_TAIL.unpack_from(payload, end)
    return c.AppendBlockEnd(
        uuid_from_bytes(writer), size_bytes, payload[24:end], count, number, request_id
    )


def _decode_data_appended(payload: c.Data) -> c.Command | None:
    if len(payload) < 48:
        return None
    writer, number, previous, request_id, offset = _DATA_APPENDED_BODY.unpack_from(payload)
    return c.DataAppended(uuid_from_bytes(writer), number, previous, request_id, offset)


def _decode_read_segment(payload: c.Data) -> c.Command | None:
    left = len(payload)
    if left < 2:
        return None
    fixed = 2 + _UINT16.unpack_from(payload)[0]
    if left < fixed + 14:
        return None
    offset, length, token_length = _READ_FIXED.unpack_from(payload, fixed)
    end = fixed + 14 + token_length
    if left < end + 8:
        return None
    try:
        segment = str(payload[2:fixed], "ascii")
        token = str(payload[fixed + 14 : end], "ascii")
    except UnicodeDecodeError:
        return None
    return c.ReadSegment(segment, offset, length, token, _INT64.unpack_from(payload, end)[0])


DECODERS: Final[dict[int, Callable[[c.Data], c.Command | None]]] = {
    3: _decode_append_block,
    4: _decode_append_block_end,
    7: _decode_data_appended,
    9: _decode_read_segment,
}


# --- Encoding --------------------------------------------------------------------------------


def encode_quickly(command: c.Command) -> Parts | None:
    """The parts of the frame; None if `codec.py` has to do it."""
    if isinstance(command, c.DataAppended):
        writer, number, previous, request_id, offset = command
        return [_DATA_APPENDED.pack(7, 48, writer.bytes, number, previous, request_id, offset)]
    if isinstance(command, c.SegmentRead):
        return _encode_segment_read(command)
    if isinstance(command, c.AppendBlockEnd):
        return _encode_append_block_end(command)
    return None


def _encode_segment_read(command: c.SegmentRead) -> Parts | None:
    segment, offset, at_tail, end_of_segment, data, request_id = command
    name = encode_string(segment)
    length = 24 + len(name) + len(data)
    if length > PAYLOAD_BYTES_MAX or len(name) > STRING_BYTES_MAX:
        return None
    head = _READ_START.pack(10, length, len(name)) + name
    middle = _READ_MIDDLE.pack(offset, at_tail, end_of_segment, len(data))
    return [head + middle, data, _INT64.pack(request_id)]


def _encode_append_block_end(command: c.AppendBlockEnd) -> Parts | None:
    writer, size_bytes, data, count, number, request_id = command
    length = 44 + len(data)
    if length > PAYLOAD_BYTES_MAX:
        return None
    head = _BLOCK_END_START.pack(4, length, writer.bytes, size_bytes, len(data))
    return [head, data, _BLOCK_END_TAIL.pack(count, number, request_id)]
