"""The bytes of a FileLog: records with checksums, and what can be told from them. No IO.

A file is a row of records, each aligned to 16 bytes (layout in docs/formats.md, "FileLog"):

    header (80 bytes) · CRC-32C of each payload block of 64 KiB · payload · zeros to the alignment

Three things make damage tell itself from the end of the log:

* the header's checksum covers the table of the blocks' checksums, and each record repeats the
  checksum of the one before it (`chain`), so a record belongs to exactly one place;
* `synced_end` is the sequence below which everything was durable when the record was written,
  so a broken record below the `synced_end` of any later one had been acknowledged;
* checksums are salted with a random number of the epoch, which no client knows: bytes that a
  client sends cannot pass for a record when the search for later ones meets them.

The first record of a file is not salted (it carries the salt) and fills a block of its own, so
that it can be written after the records behind it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import google_crc32c

MAGIC: Final = b"ABL1"  # "Anabranch log", version 1 of the format
BLOCK_BYTES: Final = 65_536  # one checksum each: what a small read has to verify
ALIGNMENT: Final = 16
FIRST_RECORD_BYTES: Final = 4096  # the block of the first record, whatever its length
PAYLOAD_BYTES_MAX: Final = 2**31 - 1

_HEADER: Final = struct.Struct("<4sIB3xIQQQQQQII8x")
_CHECKED_FROM: Final = 8  # magic and checksum are in front of what the checksum covers
HEADER_BYTES: Final = _HEADER.size
_FIRST: Final = struct.Struct("<QQQQQ")

assert HEADER_BYTES == 80
assert HEADER_BYTES % ALIGNMENT == 0
assert FIRST_RECORD_BYTES % ALIGNMENT == 0


class Kind(enum.IntEnum):
    EPOCH = 1  # first record of an epoch's first file
    FILE = 2  # first record of a later file of the epoch
    FRAME = 3
    SNAPSHOT = 4  # a frame that makes the earlier ones unnecessary for recovery
    TRUNCATE = 5  # `truncated_before` has moved; files may be deleted now
    CLOSE = 6  # a clean stop: nothing follows


FRAMES: Final = frozenset({Kind.FRAME, Kind.SNAPSHOT})
FIRSTS: Final = frozenset({Kind.EPOCH, Kind.FILE})


class Header(NamedTuple):
    """What a record says of itself; `position` is the newest frame's, itself included."""

    kind: Kind
    container: int
    epoch: int
    sequence: int
    position: int
    synced_end: int
    snapshot: int
    truncated_before: int
    payload_length: int
    chain: int
    checksum: int

    @property
    def table_bytes(self) -> int:
        return 4 * blocks_count(self.payload_length)

    @property
    def record_bytes(self) -> int:
        if self.kind in FIRSTS:
            return FIRST_RECORD_BYTES
        return aligned(HEADER_BYTES + self.table_bytes + self.payload_length)


class First(NamedTuple):
    """Payload of the first record of a file. Predecessor 0: this is the log's first epoch.

    The predecessor's records from `predecessor_end` (a sequence) on are ignored for ever.
    The file was made `allocated_bytes` long; a shorter one without a closing record was cut.
    """

    salt: int
    predecessor: int
    predecessor_end: int
    predecessor_position: int
    allocated_bytes: int
    owner: str


class Broken(Exception):
    """These bytes are no intact record; the reader decides whether that is damage or the end."""


def aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def blocks_count(payload_length: int) -> int:
    return -(-payload_length // BLOCK_BYTES)


def salt_bytes(salt: int) -> bytes:
    return salt.to_bytes(8, "little")


# --- Writing -----------------------------------------------------------------------------------


def encode(
    header: Header, parts: Sequence[bytes | bytearray | memoryview], salt: int
) -> tuple[list[bytes], int]:
    """The bytes of a record in pieces, and its checksum for the next one's `chain`.

    The payload is joined into blocks: google_crc32c takes `bytes` alone, and a block that was
    just copied is still in the processor's cache when its checksum is computed.
    """
    assert header.payload_length <= PAYLOAD_BYTES_MAX, "the caller limits the length"
    blocks = list(_blocks(parts))
    table = b"".join([_crc(0, block).to_bytes(4, "little") for block in blocks])
    assert len(table) == header.table_bytes, "payload_length is the length of the parts"
    bare = _HEADER.pack(
        MAGIC,
        0,
        header.kind,
        header.container,
        header.epoch,
        header.sequence,
        header.position,
        header.synced_end,
        header.snapshot,
        header.truncated_before,
        header.payload_length,
        header.chain,
    )[_CHECKED_FROM:]
    checksum = _crc(0, b"".join([salt_bytes(salt), bare, table]))
    head = b"".join([MAGIC, checksum.to_bytes(4, "little"), bare, table])
    padding = header.record_bytes - len(head) - header.payload_length
    return [head, *blocks, bytes(padding)] if padding else [head, *blocks], checksum


def encode_first(first: First) -> bytes:
    payload = _FIRST.pack(*first[:5]) + first.owner.encode()[:1024]
    assert HEADER_BYTES + 4 + len(payload) <= FIRST_RECORD_BYTES
    return payload


def _blocks(parts: Sequence[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    gathered: list[bytes | bytearray | memoryview] = []
    room = BLOCK_BYTES
    for part in parts:
        rest = part
        while len(rest) > room:
            view = memoryview(rest)
            gathered.append(view[:room])
            yield b"".join(gathered)
            gathered, rest, room = [], view[room:], BLOCK_BYTES
        gathered.append(rest)
        room -= len(rest)
    if room < BLOCK_BYTES:
        yield b"".join(gathered)


def _crc(start: int, data: bytes) -> int:
    checksum: int = google_crc32c.extend(start, data)
    return checksum


# --- Reading -----------------------------------------------------------------------------------


def peek(data: bytes, offset: int = 0) -> int:
    """How many bytes header and table of the record at `offset` take; raises Broken."""
    if len(data) - offset < HEADER_BYTES or data[offset : offset + 4] != MAGIC:
        raise Broken("no record begins here")
    payload_length: int = _HEADER.unpack_from(data, offset)[10]
    if payload_length > PAYLOAD_BYTES_MAX:
        raise Broken("the payload's length is impossible")
    return HEADER_BYTES + 4 * blocks_count(payload_length)


def decode(data: bytes, offset: int, salt: int) -> tuple[Header, tuple[int, ...]]:
    """Header and block checksums of the record at `offset`; raises Broken."""
    length = peek(data, offset)
    head = data[offset : offset + length]
    if len(head) < length:
        raise Broken("the record is cut short")
    _, checksum, kind, *numbers = _HEADER.unpack_from(head)
    if _crc(0, salt_bytes(salt) + head[_CHECKED_FROM:]) != checksum:
        raise Broken("the header's checksum is wrong")
    try:
        header = Header._make([Kind(kind), *numbers, checksum])
    except ValueError as problem:
        raise Broken(f"record kind {kind} is of a newer format") from problem
    count = (length - HEADER_BYTES) // 4
    return header, struct.unpack_from(f"<{count}I", head, HEADER_BYTES)


def decode_first(data: bytes) -> tuple[Header, First]:
    """The first record of a file, from its first block; raises Broken."""
    header, checksums = decode(data, 0, 0)
    if header.kind not in FIRSTS:
        raise Broken("the file does not begin with a first record")
    begin = HEADER_BYTES + header.table_bytes
    payload = data[begin : begin + header.payload_length]
    check_blocks(payload, checksums)
    numbers = _FIRST.unpack_from(payload)
    return header, First._make([*numbers, payload[_FIRST.size :].decode(errors="replace")])


def check_blocks(payload: bytes, checksums: Sequence[int]) -> None:
    """Raises Broken unless each block has its checksum."""
    if blocks_count(len(payload)) != len(checksums):
        raise Broken("the payload is cut short")
    if len(checksums) == 1:
        intact = _crc(0, payload) == checksums[0]
    else:
        intact = all(
            _crc(0, payload[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]) == checksum
            for index, checksum in enumerate(checksums)
        )
    if not intact:
        raise Broken("the payload's checksum is wrong")


def later_records(data: bytes, offset: int, salt: int) -> Iterator[Header]:
    """Every intact header at or behind `offset`, wherever the records between may be broken."""
    found = data.find(MAGIC, offset)
    while found >= 0:
        header = _intact(data, found, salt) if found % ALIGNMENT == 0 else None
        if header is not None:
            yield header
        found = data.find(MAGIC, found + 1)


def _intact(data: bytes, offset: int, salt: int) -> Header | None:
    try:
        if offset + peek(data, offset) > len(data):
            return None  # before any checksum: a made-up length must not cost time
        return decode(data, offset, salt)[0]
    except Broken:
        return None


# --- Tokens ------------------------------------------------------------------------------------

_TOKEN: Final = struct.Struct("<4sIQQI")


def encode_token(*, container: int, epoch: int, salt: int) -> bytes:
    """The content of an EPOCH file: what proves later that an epoch without an intact first
    record was never established."""
    bare = _TOKEN.pack(b"ABE1", container, epoch, salt, 0)[:-4]
    return bare + _crc(0, bare).to_bytes(4, "little")


def decode_token(data: bytes) -> int | None:
    """The salt of the epoch; None when the token itself is damaged."""
    if len(data) != _TOKEN.size or _crc(0, data[:-4]) != int.from_bytes(data[-4:], "little"):
        return None
    salt: int = _TOKEN.unpack(data)[3]
    return salt
