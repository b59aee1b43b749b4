"""Reading FileLog's files: finding a frame's place, ranges of it, and whole runs of frames.

Everything here runs on a reading thread, beside the writing thread. What is read below the
durable end is never written again, so the two need no lock but the one of `Places`.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_format import (
    BLOCK_BYTES,
    FIRST_RECORD_BYTES,
    FRAMES,
    HEADER_BYTES,
    Broken,
    First,
    Header,
    Kind,
    check_blocks,
    decode,
    peek,
)
from anabranch_segmentstore.ports import Frame, LogDamaged, LogPosition

PLACES_MAX: Final = 4096  # per file, 32 KiB; beyond it every second one is dropped
WINDOW_BYTES: Final = 4 * 1024 * 1024  # what replay reads at once
_HEAD_BYTES: Final = 4096  # header and table of a payload of up to 64 MB


class Places:
    """Where every n-th frame of a file begins; n doubles when the list is full."""

    def __init__(self, first_position: int) -> None:
        self._first = first_position
        self._stride = 1
        self._offsets = array("Q")
        self._lock = threading.Lock()

    def add(self, position: int, offset: int) -> None:
        """Remember a place if it is the next one that the list lacks."""
        ordinal, odd = divmod(position - self._first, self._stride)
        with self._lock:
            if odd or ordinal != len(self._offsets):
                return
            self._offsets.append(offset)
            if len(self._offsets) > PLACES_MAX:
                self._offsets = self._offsets[::2]
                self._stride *= 2

    def at_or_before(self, position: int) -> int:
        """The offset of a record from which `position` is reached by going forward."""
        with self._lock:
            if not self._offsets:
                return FIRST_RECORD_BYTES
            ordinal = (position - self._first) // self._stride
            return self._offsets[min(ordinal, len(self._offsets) - 1)]


@dataclass(slots=True)
class LogFile:
    """A file of the live path. It may hold more than the log: what lies behind the frames that
    the next file begins with is ignored."""

    path: Path
    ordinal: int
    header: Header
    first: First
    used_bytes: int = 0
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        self.places = Places(self.first_position)

    @property
    def epoch(self) -> int:
        return self.header.epoch

    @property
    def first_position(self) -> int:
        """Of its first frame, whether it has one or not."""
        return self.header.position + 1


class Place(NamedTuple):
    offset: int
    header: Header
    checksums: tuple[int, ...]


def file_of(log_files: Sequence[LogFile], position: int) -> LogFile:
    """Raises KeyError when the frame was truncated."""
    index = bisect_right(log_files, position, key=lambda file: file.first_position) - 1
    if index < 0:
        raise KeyError(position)
    return log_files[index]


def read_range(
    files: LocalFiles, container: int, file: LogFile, position: int, start: int, length: int
) -> bytes:
    """Part of a frame's payload, as far as its blocks reach checked; raises LogDamaged,
    KeyError when the file was deleted."""
    try:
        descriptor = files.open(file.path)
    except FileNotFoundError as gone:
        raise KeyError(position) from gone
    try:
        place = _find(files, descriptor, container, file, position)
        payload_offset = place.offset + HEADER_BYTES + place.header.table_bytes
        assert 0 <= start <= start + length <= place.header.payload_length, "inside the frame"
        first_block = start // BLOCK_BYTES
        end_block = -(-(start + length) // BLOCK_BYTES)
        begin = first_block * BLOCK_BYTES
        end = min(end_block * BLOCK_BYTES, place.header.payload_length)
        data = files.read(descriptor, end - begin, payload_offset + begin)
        try:
            check_blocks(data, place.checksums[first_block:end_block])
        except Broken as broken:
            raise LogDamaged(container, str(file.path), place.offset, str(broken)) from broken
        return data if (begin, end) == (start, start + length) else data[start - begin :][:length]
    finally:
        files.close(descriptor)


def _find(
    files: LocalFiles, descriptor: int, container: int, file: LogFile, position: int
) -> Place:
    offset = file.places.at_or_before(position)
    while True:
        try:
            data = files.read(descriptor, _HEAD_BYTES, offset)
            needed = peek(data)
            if needed > len(data):
                data = files.read(descriptor, needed, offset)
            header, checksums = decode(data, 0, file.first.salt)
        except Broken as broken:
            raise LogDamaged(container, str(file.path), offset, str(broken)) from broken
        if header.kind in FRAMES:
            file.places.add(header.position, offset)
            if header.position == position:
                return Place(offset, header, checksums)
        if header.position > position or header.epoch != file.epoch:
            reason = f"frame {position} is missing"
            raise LogDamaged(container, str(file.path), offset, reason)
        offset += header.record_bytes


def stream(
    files: LocalFiles, container: int, log_files: Sequence[LogFile], start: int, end: int
) -> Generator[Frame, None, None]:
    """The frames from `start` to `end`, both included; raises LogDamaged at the first one that
    is not intact or not there."""
    ends = [file.first_position - 1 for file in log_files[1:]] + [end]
    expected = start
    for file, file_end in zip(log_files, ends, strict=True):
        if expected > min(end, file_end):
            continue
        if expected < file.first_position:
            reason = f"frame {expected} is missing before it"
            raise LogDamaged(container, str(file.path), 0, reason)
        for frame in _stream_file(files, container, file, expected):
            yield frame
            expected = frame.position + 1
            if expected > min(end, file_end):
                break
    assert expected == end + 1, "the last file ends with the last frame"


def _stream_file(files: LocalFiles, container: int, file: LogFile, start: int) -> Iterator[Frame]:
    """The frames of a file from `start` on, for as long as the caller asks."""
    descriptor = files.open(file.path)
    try:
        window = Window(files, descriptor)
        offset = file.places.at_or_before(start)
        before = file.header if offset == FIRST_RECORD_BYTES else None
        expected = start
        while True:
            try:
                header, payload = window.record(offset, file.first.salt)
                _check_chain(before, header)
                if header.kind in FRAMES and header.position > expected:
                    raise Broken(f"frame {expected} is missing")
            except Broken as broken:
                raise LogDamaged(container, str(file.path), offset, str(broken)) from broken
            if header.kind in FRAMES:
                file.places.add(header.position, offset)
                if header.position == expected:
                    is_snapshot = header.kind is Kind.SNAPSHOT
                    yield Frame(LogPosition(expected), is_snapshot, payload)
                    expected += 1
            before = header
            offset += header.record_bytes
    finally:
        files.close(descriptor)


def _check_chain(before: Header | None, header: Header) -> None:
    if before is None:
        return
    if (header.epoch, header.sequence) != (before.epoch, before.sequence + 1):
        raise Broken(f"record {header.sequence} follows record {before.sequence}")
    if header.chain != before.checksum:
        raise Broken("the record is not the successor of the one before it")


class Window:
    """A piece of a file in memory that moves forward with the reader."""

    def __init__(self, files: LocalFiles, descriptor: int) -> None:
        self._files, self._descriptor = files, descriptor
        self._begin = 0
        self._data = b""

    def record(self, offset: int, salt: int) -> tuple[Header, bytes]:
        """Header and payload of the record at `offset`; raises Broken."""
        head_length = peek(self._bytes(offset, HEADER_BYTES), offset - self._begin)
        data = self._bytes(offset, head_length)
        header, checksums = decode(data, offset - self._begin, salt)
        data = self._bytes(offset, header.record_bytes)
        begin = offset - self._begin + head_length
        payload = data[begin : begin + header.payload_length]
        check_blocks(payload, checksums)
        return header, payload

    def _bytes(self, offset: int, length: int) -> bytes:
        """The window, moved so that it holds these bytes unless the file ends before them."""
        if offset < self._begin or offset + length > self._begin + len(self._data):
            self._data = self._files.read(self._descriptor, max(length, WINDOW_BYTES), offset)
            self._begin = offset
        return self._data
