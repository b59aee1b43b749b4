"""The index of a table segment: which entry is the current one of each key.

A table is a segment whose bytes are entry records, one after the other (wire-protocol.md 7.4):

    i8 0 | i32 key length | i32 value length (-1 = removal) | i64 -2^63 | key | value

The version of a key is the offset at which its current record starts. The index holds keys,
offsets and value lengths, and no values: those are read from the segment's bytes. It is
rebuilt from the records on replay and travels in snapshots.

Issue of scale: the index lives in memory, about 150 bytes and the key for each entry. A table
of many millions of entries needs an ordered store behind this class.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

from anabranch_segmentstore.api import NO_VERSION, NOT_EXISTS, TableEntry, TableKey
from anabranch_segmentstore.domain.errors import (
    BadArgument,
    Misuse,
    TableKeyBadVersion,
    TableKeyMissing,
)

KEY_LENGTH_MAX: Final = 8192  # wire-protocol.md 7.3
ENTRY_LENGTH_MAX: Final = 1_048_576  # a whole record, header included; 7.3
FIXED_KEY_LENGTH_MAX: Final = 256  # 7.1
PAGE_BYTES_MAX: Final = 2 * 1024 * 1024  # 7.6, 7.7
FIXED_KEY_PAGE: Final = 64  # keys that a page of a fixed-key table may hold beyond the count
_HEADER: Final = struct.Struct(">biiq")
HEADER_LENGTH: Final = _HEADER.size
_REMOVAL: Final = -1
_HASH_TOKEN_PREFIX: Final = bytes.fromhex("0000010000000010")
_FIXED_TOKEN_PREFIX: Final = bytes.fromhex("00000100")
_SORT_LONG_MIN: Final = -(2**63)
_SORT_LONG_MAX: Final = 2**63 - 1


class Located(NamedTuple):
    """Where the current record of a key starts, and how long its value is."""

    offset: int
    value_length: int


class Record(NamedTuple):
    """A record found in a table's bytes; `value_length` None is a removal."""

    offset: int
    key: bytes
    value_length: int | None
    end: int


@dataclass(slots=True)
class TableIndex:
    """`key_length` 0 is a hash table, else the length of every key."""

    key_length: int
    entries: dict[bytes, Located] = field(default_factory=dict)
    order: list[tuple[bytes, bytes]] | None = None  # (sort key, key); made when first iterated

    @property
    def is_hash(self) -> bool:
        return self.key_length == 0

    def put(self, key: bytes, located: Located) -> None:
        if self.order is not None and key not in self.entries:
            insort(self.order, (self._sort_key(key), key))
        self.entries[key] = located

    def remove(self, key: bytes) -> None:
        if self.entries.pop(key, None) is not None and self.order is not None:
            del self.order[bisect_left(self.order, (self._sort_key(key), key))]

    def apply_records(self, base: int, data: bytes | memoryview) -> None:
        """Records were appended to the segment at offset `base`."""
        for record in records(data, base):
            if record.value_length is None:
                self.remove(record.key)
            else:
                self.put(record.key, Located(record.offset, record.value_length))

    def keys_after(self, token: bytes, low: bytes, high: bytes) -> Iterator[bytes]:
        """Keys in the table's order, from behind `token` (or from `low` on, up to `high`)."""
        if self.order is None:
            self.order = sorted((self._sort_key(key), key) for key in self.entries)
        start = 0
        if self.is_hash:
            if token:
                # All keys with the token's hash were given (wire-protocol.md 7.6: one bucket).
                start = bisect_right(self.order, token, key=lambda entry: entry[0])
        elif low:
            start = bisect_left(self.order, (low, b""))
        for index in range(start, len(self.order)):
            key = self.order[index][1]
            if high and key > high:
                return
            yield key

    def _sort_key(self, key: bytes) -> bytes:
        return hash_order(key) if self.is_hash else key

    def check_keys(self, segment: str, keys: Sequence[bytes]) -> None:
        """Raises BadArgument for a key that the table can never hold."""
        for key in keys:
            if self.is_hash:
                if not 1 <= len(key) <= KEY_LENGTH_MAX:
                    raise BadArgument(
                        segment, f"a key of {len(key)} bytes; allowed are 1 to {KEY_LENGTH_MAX}"
                    )
            elif len(key) != self.key_length:
                raise BadArgument(
                    segment, f"a key of {len(key)} bytes; this table's have {self.key_length}"
                )

    def check_versions(self, segment: str, keys: Sequence[TableKey | TableEntry]) -> None:
        """All conditions of a batch against the state before it (wire-protocol.md 7.2)."""
        bad_version = False
        for key in keys:
            expected = key.version
            if expected == NO_VERSION:
                continue
            located = self.entries.get(key.key)
            if located is None:
                if expected == NOT_EXISTS:
                    continue
                if self.is_hash:
                    raise TableKeyMissing(segment)
                bad_version = True
            elif located.offset != expected:
                bad_version = True
        if bad_version:
            raise TableKeyBadVersion(segment)


def check_version_numbers(segment: str, keys: Sequence[TableKey | TableEntry]) -> None:
    for key in keys:
        if key.version < 0 and key.version not in (NO_VERSION, NOT_EXISTS):
            raise Misuse(segment, f"{key.version} is no version")


def check_entry_lengths(segment: str, entries: Sequence[TableEntry]) -> None:
    for entry in entries:
        length = HEADER_LENGTH + len(entry.key) + len(entry.value)
        if length > ENTRY_LENGTH_MAX:
            raise BadArgument(
                segment, f"an entry of {length} bytes; the limit is {ENTRY_LENGTH_MAX}"
            )


def encode_put(key: bytes, value: bytes) -> bytes:
    return _HEADER.pack(0, len(key), len(value), NO_VERSION) + key + value


def encode_removal(key: bytes) -> bytes:
    return _HEADER.pack(0, len(key), _REMOVAL, NO_VERSION) + key


class RecordsDamaged(Exception):
    """A table's bytes are not records from this offset on."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no table record at offset {offset}")
        self.offset = offset


def records(data: bytes | memoryview, base: int, *, cut: bool = False) -> Iterator[Record]:
    """The records that fill `data`, which starts at the segment's offset `base`.

    `cut`: the last record may be incomplete, and is then left out. Raises RecordsDamaged.
    """
    position = 0
    while position < len(data):
        if len(data) - position < HEADER_LENGTH:
            if cut:
                return
            raise RecordsDamaged(base + position)
        kind, key_length, value_length, version = _HEADER.unpack_from(data, position)
        is_record = kind == 0 and version == NO_VERSION
        if not is_record or not 1 <= key_length <= KEY_LENGTH_MAX or value_length < _REMOVAL:
            raise RecordsDamaged(base + position)
        key_start = position + HEADER_LENGTH
        end = key_start + key_length + max(value_length, 0)
        if end > len(data):
            if cut:
                return
            raise RecordsDamaged(base + position)
        key = bytes(data[key_start : key_start + key_length])
        length = None if value_length == _REMOVAL else value_length
        yield Record(base + position, key, length, base + end)
        position = end


def value_start(record_offset: int, key: bytes) -> int:
    return record_offset + HEADER_LENGTH + len(key)


def hash_order(key: bytes) -> bytes:
    """Sorts as the signed 128-bit hash of wire-protocol.md 7.6 (sign bits flipped)."""
    digest = sha256(key).digest()
    high, low = struct.unpack_from(">qq", digest)
    if high == _SORT_LONG_MIN:
        high += 1
    elif high == _SORT_LONG_MAX:
        high -= 1
    return struct.pack(">QQ", high - _SORT_LONG_MIN, low - _SORT_LONG_MIN)


def hash_token(key: bytes) -> bytes:
    high, low = struct.unpack(">QQ", hash_order(key))
    return _HASH_TOKEN_PREFIX + struct.pack(">qq", high + _SORT_LONG_MIN, low + _SORT_LONG_MIN)


def parse_hash_token(segment: str, token: bytes) -> bytes:
    """The sort key that a token stands for. Raises Misuse when it is no token of ours."""
    if not token:
        return b""
    if len(token) != len(_HASH_TOKEN_PREFIX) + 16 or not token.startswith(_HASH_TOKEN_PREFIX):
        raise Misuse(segment, "not a continuation token")
    high, low = struct.unpack_from(">qq", token, len(_HASH_TOKEN_PREFIX))
    return struct.pack(">QQ", high - _SORT_LONG_MIN, low - _SORT_LONG_MIN)


def fixed_token(key: bytes) -> bytes:
    return _FIXED_TOKEN_PREFIX + struct.pack(">i", len(key)) + key


def restore_index(key_length: int, entries: Mapping[bytes, tuple[int, int]]) -> TableIndex:
    return TableIndex(key_length, {key: Located(*place) for key, place in entries.items()})
