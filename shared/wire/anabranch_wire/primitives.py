"""How a single field is written and read.

Integers are big-endian and signed. A `Kind` knows two things: `read(payload, offset)` gives the
value and the offset behind it, or raises FieldError; `write(parts, value)` appends the bytes.

Reading slices the payload. A slice of `bytes` is a copy, a slice of a memoryview is a window
into the frame; which of the two a consumer gets is decided where frames are cut (`framing.py`).
Keys, values and continuation tokens are always `bytes`, because they end up in dictionaries.

Strings are Java's modified UTF-8: U+0000 is `c0 80`, and a character beyond U+FFFF is two
surrogates of three bytes each. Both that and standard UTF-8 are read; the Java form is written.
Within U+0001 to U+FFFF they are the same, and all names are there.

An empty table key is refused in both directions. Java writes and reads it without the version
that its length claims, Rust with it, so that either reading loses step with one of them.
"""

from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple
from uuid import UUID

from anabranch_wire.commands import (
    ConditionalAttributeUpdate,
    Data,
    MergedSource,
    StorageChunk,
    TableEntry,
    TableKey,
)
from anabranch_wire.constants import EVENT_HEADER_BYTES, STRING_BYTES_MAX

UUID_CACHE_COUNT_MAX: Final = 4096  # making a UUID costs a microsecond, and writers repeat theirs

Parts = list[Data]


class FieldError(ValueError):
    """A field is cut short, or says what cannot be. `codec.py` adds which field it was."""


class EmptyKeyError(FieldError):
    """A table key has no bytes."""


class Kind(NamedTuple):
    """How one sort of field is read and written. `write` takes what `read` gives."""

    name: str
    read: Callable[[Data, int], tuple[object, int]]
    write: Callable[[Parts, Any], None]  # each kind has its own type of value


# --- Numbers ---------------------------------------------------------------------------------


def _number(name: str, form: str) -> Kind:
    packer = Struct(form)
    size, pack, unpack = packer.size, packer.pack, packer.unpack_from

    def read(payload: Data, offset: int) -> tuple[int, int]:
        return unpack(payload, offset)[0], offset + size

    def write(parts: Parts, value: int) -> None:
        parts.append(pack(value))

    return Kind(name, read, write)


INT8: Final = _number("i8", ">b")
INT32: Final = _number("i32", ">i")
INT64: Final = _number("i64", ">q")
BOOL: Final = _number("bool", ">?")

_INT32 = Struct(">i")
_INT64 = Struct(">q")
_TWO_INT32 = Struct(">ii")
_UINT16 = Struct(">H")


def take(payload: Data, offset: int, length: int) -> Data:
    """`length` bytes of the payload from `offset` on; raises FieldError when there are fewer."""
    end = offset + length
    if length < 0 or end > len(payload):
        raise FieldError(f"has {length} bytes, but {len(payload) - offset} are left")
    return payload[offset:end]


# --- UUIDs and strings -------------------------------------------------------------------------


@lru_cache(maxsize=UUID_CACHE_COUNT_MAX)
def uuid_from_bytes(digits: bytes) -> UUID:
    return UUID(bytes=digits)


def _read_uuid(payload: Data, offset: int) -> tuple[UUID, int]:
    return uuid_from_bytes(bytes(take(payload, offset, 16))), offset + 16


def _write_uuid(parts: Parts, value: UUID) -> None:
    parts.append(value.bytes)


UUID128: Final = Kind("uuid", _read_uuid, _write_uuid)


def decode_string(encoded: Data) -> str:
    """Standard or modified UTF-8 to text; raises FieldError for what is neither."""
    try:
        return str(encoded, "utf-8")
    except UnicodeDecodeError:
        pass
    # `c0 80` cannot be a part of another character: c0 never occurs in standard UTF-8.
    with_nul = bytes(encoded).replace(b"\xc0\x80", b"\x00")
    try:
        surrogates = with_nul.decode("utf-8", "surrogatepass")
        return surrogates.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise FieldError("is not UTF-8 text") from error


def encode_string(text: str) -> bytes:
    """Text to modified UTF-8, without the length; raises FieldError for a lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text.encode("ascii")
    encoded = bytearray()
    for character in text:
        if character == "\0":
            encoded += b"\xc0\x80"
        elif character <= "\uffff":
            try:
                encoded += character.encode("utf-8")
            except UnicodeEncodeError as error:
                raise FieldError("holds half of a surrogate pair") from error
        else:
            above = ord(character) - 0x10000
            pair = chr(0xD800 + (above >> 10)) + chr(0xDC00 + (above & 0x3FF))
            encoded += pair.encode("utf-8", "surrogatepass")
    return bytes(encoded)


def _read_string(payload: Data, offset: int) -> tuple[str, int]:
    start = offset + 2
    (length,) = _UINT16.unpack_from(payload, offset)
    return decode_string(take(payload, start, length)), start + length


def _write_string(parts: Parts, value: str) -> None:
    encoded = encode_string(value)
    if len(encoded) > STRING_BYTES_MAX:
        raise FieldError(f"has {len(encoded)} bytes of text, the limit is {STRING_BYTES_MAX}")
    parts.append(_UINT16.pack(len(encoded)))
    parts.append(encoded)


STRING: Final = Kind("utf", _read_string, _write_string)


# --- Bytes -----------------------------------------------------------------------------------


def _read_data(payload: Data, offset: int) -> tuple[Data, int]:
    start = offset + 4
    (length,) = _INT32.unpack_from(payload, offset)
    return take(payload, start, length), start + length


def _write_data(parts: Parts, value: Data) -> None:
    parts.append(_INT32.pack(len(value)))
    parts.append(value)


def _read_token(payload: Data, offset: int) -> tuple[bytes, int]:
    data, end = _read_data(payload, offset)
    return bytes(data), end


def _read_rest(payload: Data, offset: int) -> tuple[Data, int]:
    return payload[offset:], len(payload)


def _write_rest(parts: Parts, value: Data) -> None:
    parts.append(value)


def _read_zeros(payload: Data, offset: int) -> tuple[int, int]:
    return len(payload) - offset, len(payload)


def _write_zeros(parts: Parts, length: int) -> None:
    parts.append(bytes(length))


def _read_event(payload: Data, offset: int) -> tuple[Data, int]:
    kind, length = _TWO_INT32.unpack_from(payload, offset)
    if kind != 0:
        raise FieldError(f"is a frame of type {kind}, not an event")
    start = offset + EVENT_HEADER_BYTES
    return take(payload, start, length), start + length


def _write_event(parts: Parts, value: Data) -> None:
    parts.append(_TWO_INT32.pack(0, len(value)))
    parts.append(value)


DATA: Final = Kind("buf", _read_data, _write_data)
BUFFER: Final = Kind("buf", _read_token, _write_data)
RAW: Final = Kind("raw", _read_rest, _write_rest)
ZEROS: Final = Kind("zeros", _read_zeros, _write_zeros)
EVENT: Final = Kind("event", _read_event, _write_event)


# --- Lists -----------------------------------------------------------------------------------


def _list(name: str, element: Kind, least_bytes: int) -> Kind:
    """A count and that many elements, of which each has at least `least_bytes` bytes."""
    read_element, write_element = element.read, element.write

    def read(payload: Data, offset: int) -> tuple[tuple[object, ...], int]:
        (count,) = _INT32.unpack_from(payload, offset)
        offset += 4
        if count < 0 or count * least_bytes > len(payload) - offset:
            raise FieldError(f"claims {count} elements in {len(payload) - offset} bytes")
        elements = []
        for _ in range(count):
            value, offset = read_element(payload, offset)
            elements.append(value)
        return tuple(elements), offset

    def write(parts: Parts, values: tuple[object, ...]) -> None:
        parts.append(_INT32.pack(len(values)))
        for value in values:
            write_element(parts, value)

    return Kind(f"list<{name}>", read, write)


def _record(name: str, record: Callable[..., object], *kinds: Kind) -> Kind:
    """Fields one behind the other, which make a named tuple."""

    def read(payload: Data, offset: int) -> tuple[object, int]:
        values = []
        for kind in kinds:
            value, offset = kind.read(payload, offset)
            values.append(value)
        return record(*values), offset

    def write(parts: Parts, value: tuple[object, ...]) -> None:
        for kind, part in zip(kinds, value, strict=True):
            kind.write(parts, part)

    return Kind(name, read, write)


def _read_key(payload: Data, offset: int) -> tuple[TableKey, int]:
    total, length = _TWO_INT32.unpack_from(payload, offset)
    if not 4 <= total <= len(payload) - offset - 4:
        raise FieldError(f"has {total} bytes, but {len(payload) - offset - 4} are left")
    if length == 0:
        raise EmptyKeyError("is empty")
    start = offset + 8
    key = bytes(take(payload, start, length))
    (version,) = _INT64.unpack_from(payload, start + length)
    return TableKey(key, version), start + length + 8


def _write_key(parts: Parts, key: TableKey) -> None:
    length = len(key.key)
    if length == 0:
        raise EmptyKeyError("is empty")
    parts.append(_TWO_INT32.pack(4 + length + 8, length))
    parts.append(key.key)
    parts.append(_INT64.pack(key.version))


def _read_value(payload: Data, offset: int) -> tuple[bytes, int]:
    total, length = _TWO_INT32.unpack_from(payload, offset)
    if not 4 <= total <= len(payload) - offset - 4:
        raise FieldError(f"has {total} bytes, but {len(payload) - offset - 4} are left")
    start = offset + 8
    return bytes(take(payload, start, length)), start + length


def _write_value(parts: Parts, value: bytes) -> None:
    parts.append(_TWO_INT32.pack(4 + len(value), len(value)))
    parts.append(value)


KEY: Final = Kind("TableKey", _read_key, _write_key)
VALUE: Final = Kind("TableValue", _read_value, _write_value)

STRINGS: Final = _list("utf", STRING, 2)
INT64S: Final = _list("i64", INT64, 8)
KEYS: Final = _list("TableKey", KEY, 8)
ENTRIES: Final = _list("TableEntry", _record("TableEntry", TableEntry, KEY, VALUE), 16)
ATTRIBUTE_UPDATES: Final = _list(
    "ConditionalAttributeUpdate",
    _record("update", ConditionalAttributeUpdate, UUID128, INT8, INT64, INT64),
    33,
)
MERGED_SOURCES: Final = _list("MergedSource", _record("source", MergedSource, STRING, INT64), 10)
CHUNKS: Final = _list(
    "StorageChunk", _record("chunk", StorageChunk, INT64, INT64, INT64, STRING, BOOL), 27
)
