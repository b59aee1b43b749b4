"""What a FileLog holds when it is opened: the live path of epochs, its end, and its tail.

Only read here, nothing written. Start: the newest epoch with a valid first record. From there
the first records name the predecessors, and where each of them ends. Directories off that path
belong to take-overs that died half-way; they are kept and never read.

An invalid record is the end of the log, unless some intact record says by its `synced_end`
that it had been durable: then it is damage, and nothing is opened. A file that became shorter
than it was made, without a closing record at its end, is damage too. What was in the last
batch before a crash cannot be told apart (a flipped bit there looks like a torn write): the
one case that checksums do not cover, and a clean stop closes it by a closing record.

The *tail* is what follows the newest `synced_end`. After a failed sync the kernel may hold
pages for clean that never reached the disk, so the tail is not synced where it lies but copied
into the new epoch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from anabranch_segmentstore.adapters.file_log_epochs import (
    epoch_directories,
    epoch_directory,
    read_salt,
)
from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_format import (
    FIRST_RECORD_BYTES,
    FIRSTS,
    FRAMES,
    HEADER_BYTES,
    Broken,
    Header,
    Kind,
    check_blocks,
    decode,
    decode_first,
    later_records,
)
from anabranch_segmentstore.adapters.file_log_reading import LogFile
from anabranch_segmentstore.ports import LogDamaged

_FILE_NAME: Final = re.compile(r"(\d{8})\.wal")


def file_name(ordinal: int) -> str:
    return f"{ordinal:08d}.wal"


class TailFrame(NamedTuple):
    kind: Kind
    position: int
    payload: bytes


class Recovered(NamedTuple):
    """`position` is the last frame's before the tail; `end` the sequence where the tail begins
    in `epoch` (0: the log is new). `trims` are files with nothing but zeros behind a length."""

    files: list[LogFile]
    epoch: int
    end: int
    position: int
    tail: list[TailFrame]
    snapshot: int
    truncated_before: int
    trims: list[tuple[Path, int]]


class _Scan(NamedTuple):
    """The intact records of a file, the offsets of their payloads in `data`, and where they end."""

    headers: list[Header]
    payload_offsets: list[int]
    data: bytes
    end_offset: int

    @property
    def end_sequence(self) -> int:
        return self.headers[-1].sequence + 1

    @property
    def rest_is_zero(self) -> bool:
        rest = self.data[self.end_offset :]
        return bool(rest) and not rest.strip(b"\0")

    def frames(self, begin: int) -> list[TailFrame]:
        """The frames from a sequence on."""
        return [
            TailFrame(
                header.kind, header.position, self.data[offset : offset + header.payload_length]
            )
            for header, offset in zip(self.headers, self.payload_offsets, strict=True)
            if header.sequence >= begin and header.kind in FRAMES
        ]


def recover(files: LocalFiles, directory: Path, container: int) -> Recovered:
    """Raises LogDamaged."""
    reader = _Reader(files, directory, container)
    for epoch in reversed(epoch_directories(files.names(directory))):
        log_files = reader.established(epoch)
        if log_files:
            return reader.recover_from(log_files)
    return Recovered([], 0, 0, 0, [], 0, 0, [])


class _Reader:
    def __init__(self, files: LocalFiles, directory: Path, container: int) -> None:
        self._files, self._directory, self._container = files, directory, container

    def recover_from(self, log_files: list[LogFile]) -> Recovered:
        """The log whose newest epoch consists of `log_files` (the last may be unfinished)."""
        scan = self._scan_end(log_files)
        last = log_files[-1]
        tail_begin = max(header.synced_end for header in scan.headers)
        durable = [header for header in scan.headers if header.sequence < tail_begin]
        snapshots = [h.position for h in scan.headers if h.kind is Kind.SNAPSHOT]
        last.end_sequence = tail_begin
        truncated_before = max(header.truncated_before for header in scan.headers)
        return Recovered(
            files=self._walk_back(log_files, max(truncated_before, 1)),
            epoch=last.epoch,
            end=tail_begin,
            position=(durable[-1] if durable else last.header).position,
            tail=scan.frames(tail_begin),
            snapshot=max([*snapshots, *(header.snapshot for header in scan.headers)]),
            truncated_before=truncated_before,
            trims=[(last.path, scan.end_offset)] if scan.rest_is_zero else [],
        )

    # --- Which epochs count ---

    def established(self, epoch: int) -> list[LogFile]:
        """The files of an epoch, if its first record is valid; none for a half-dead take-over."""
        paths = self._paths(epoch)
        if not paths:
            return []
        try:
            return self._firsts(paths, last_may_be_broken=True)
        except LogDamaged:
            if len(paths) > 1 or self._was_established(epoch, paths[0]):
                raise
            return []

    def _was_established(self, epoch: int, path: Path) -> bool:
        """Whether a file without a valid first record ever had one."""
        data = self._read_all(path)
        if data[:FIRST_RECORD_BYTES].strip(b"\0"):
            return True  # something was there; it is written by one sector, so it was whole
        salt = read_salt(self._files, self._directory, epoch)
        if salt is None:
            return False
        return any(header.synced_end > 0 for header in later_records(data, 0, salt))

    def _paths(self, epoch: int) -> list[Path]:
        directory = epoch_directory(self._directory, epoch)
        try:
            names = self._files.names(directory)
        except FileNotFoundError:
            return []
        ordinals = sorted(int(m[1]) for name in names if (m := _FILE_NAME.fullmatch(name)))
        for before, ordinal in pairwise(ordinals):
            if ordinal != before + 1:
                raise self._damaged(directory / file_name(before + 1), 0, "the file is missing")
        return [directory / file_name(ordinal) for ordinal in ordinals]

    def _firsts(self, paths: Sequence[Path], *, last_may_be_broken: bool) -> list[LogFile]:
        """The files with their first records; a broken last one is left out on demand."""
        found: list[LogFile] = []
        for path in paths:
            descriptor = self._files.open(path)
            try:
                data = self._files.read(descriptor, FIRST_RECORD_BYTES, 0)
                size = self._files.size(descriptor)
            finally:
                self._files.close(descriptor)
            try:
                header, first = decode_first(data)
                if header.container != self._container:
                    raise Broken(f"it belongs to container {header.container}")
            except Broken as broken:
                if last_may_be_broken and found and path == paths[-1]:
                    break
                raise self._damaged(path, 0, str(broken)) from broken
            ordinal = int(path.stem)
            found.append(LogFile(path, ordinal, header, first, used_bytes=size))
        for before, after in pairwise(found):
            before.end_sequence = after.header.sequence
        return found

    def _walk_back(self, log_files: list[LogFile], needed_from: int) -> list[LogFile]:
        """All files of the live path, oldest first; raises LogDamaged when frames that were
        not given up are missing."""
        path = list(log_files)
        while path[0].header.kind is Kind.EPOCH and path[0].first.predecessor:
            end = path[0].first.predecessor_end
            try:
                before = self._predecessor(path[0].first.predecessor, end)
            except LogDamaged:
                if path[0].first_position > needed_from:
                    raise
                break
            if not before:
                break
            path = before + path
        if path[0].first_position > needed_from:
            reason = f"frames {needed_from} to {path[0].first_position - 1} are missing before it"
            raise self._damaged(path[0].path, 0, reason)
        return path

    def _predecessor(self, epoch: int, end: int) -> list[LogFile]:
        firsts = self._firsts(self._paths(epoch), last_may_be_broken=True)
        found = [file for file in firsts if file.header.sequence < end]
        if found:
            found[-1].end_sequence = end
        return found

    # --- Where the newest epoch ends ---

    def _scan_end(self, log_files: list[LogFile]) -> _Scan:
        """The intact records of the last file. A file behind it whose first record is broken
        was never acknowledged, or is damage."""
        last = log_files[-1]
        data = self._read_all(last.path)
        scan = self._scan(last, data)
        unfinished = last.path.with_name(file_name(last.ordinal + 1))
        later = [(last.path, data[scan.end_offset :])]
        if unfinished in self._paths(last.epoch):
            later.append((unfinished, self._read_all(unfinished)))
        for path, rest in later:
            for header in later_records(rest, 0, last.first.salt):
                if header.epoch == last.epoch and header.synced_end > scan.end_sequence:
                    at = scan.end_offset if path == last.path else 0
                    raise self._damaged(path, at, _acknowledged(header, scan.end_sequence))
        if len(data) < last.first.allocated_bytes and scan.headers[-1].kind is not Kind.CLOSE:
            reason = f"the file was {last.first.allocated_bytes} bytes long, now {len(data)}"
            raise self._damaged(last.path, len(data), reason)
        for header in scan.headers:
            if header.synced_end > scan.end_sequence:
                reason = _acknowledged(header, scan.end_sequence)
                raise self._damaged(last.path, scan.end_offset, reason)
        return scan

    def _scan(self, file: LogFile, data: bytes) -> _Scan:
        headers, payload_offsets = [file.header], [0]
        offset = FIRST_RECORD_BYTES
        while True:
            try:
                header = _record(data, offset, file.first.salt)
                _check_follows(headers[-1], header)
            except Broken:
                break
            headers.append(header)
            payload_offsets.append(offset + HEADER_BYTES + header.table_bytes)
            if header.kind in FRAMES:
                file.places.add(header.position, offset)
            offset += header.record_bytes
        file.used_bytes = min(offset, len(data))
        return _Scan(headers, payload_offsets, data, offset)

    def _read_all(self, path: Path) -> bytes:
        descriptor = self._files.open(path)
        try:
            return self._files.read(descriptor, self._files.size(descriptor), 0)
        finally:
            self._files.close(descriptor)

    def _damaged(self, path: Path, offset: int, reason: str) -> LogDamaged:
        return LogDamaged(self._container, str(path), offset, reason)


def _record(data: bytes, offset: int, salt: int) -> Header:
    """The header of the record at `offset` if all of the record is intact; raises Broken."""
    header, checksums = decode(data, offset, salt)
    begin = offset + HEADER_BYTES + header.table_bytes
    check_blocks(data[begin : begin + header.payload_length], checksums)
    return header


def _check_follows(before: Header, header: Header) -> None:
    if header.kind in FIRSTS or header.epoch != before.epoch:
        raise Broken("a record of another place")
    if header.sequence != before.sequence + 1 or header.chain != before.checksum:
        raise Broken("the record is not the successor of the one before it")


def _acknowledged(header: Header, end: int) -> str:
    return (
        f"record {end} is broken, but record {header.sequence} was written when everything "
        f"below {header.synced_end} was durable"
    )
