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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    PAYLOAD_BYTES_MAX,
    Broken,
    Header,
    Kind,
    blocks_count,
    decode_first,
    later_records,
)
from anabranch_segmentstore.adapters.file_log_reading import LogFile, Window
from anabranch_segmentstore.ports import LogDamaged

DEAD_BYTES_KEPT: Final = 64 * 1024  # a dead take-over that wrote more keeps its whole file
PIECE_BYTES: Final = 1024 * 1024  # what the search behind the end reads at once
OVERLAP_BYTES: Final = HEADER_BYTES + 4 * blocks_count(PAYLOAD_BYTES_MAX)

_FILE_NAME: Final = re.compile(r"(\d{8})\.wal")


def file_name(ordinal: int) -> str:
    return f"{ordinal:08d}.wal"


class TailFrame(NamedTuple):
    kind: Kind
    sequence: int
    position: int
    payload: bytes


class Recovered(NamedTuple):
    """`position` is the last frame's before the tail; `end` the sequence where the tail begins
    in `epoch` (0: the log is new). `trims` are files with nothing but zeros behind a length.
    `unproven` is the first file of `epoch` when no record says that its first one is durable."""

    files: list[LogFile]
    epoch: int
    end: int
    position: int
    tail: list[TailFrame]
    snapshot: int
    truncated_before: int
    trims: list[tuple[Path, int]]
    unproven: Path | None = None


@dataclass(slots=True)
class _Scan:
    """The intact records of a file, gathered as they are read."""

    last: Header
    synced_end: int
    snapshot: int
    truncated_before: int
    position: int  # of the newest frame below `synced_end`
    tail: list[TailFrame] = field(default_factory=list)
    end_offset: int = FIRST_RECORD_BYTES
    rest_is_zero: bool = False

    @property
    def end_sequence(self) -> int:
        return self.last.sequence + 1

    def add(self, header: Header, payload: bytes) -> None:
        """The next record."""
        self.last = header
        self.snapshot = max(self.snapshot, header.snapshot)
        self.truncated_before = max(self.truncated_before, header.truncated_before)
        if header.synced_end > self.synced_end:
            self.synced_end = header.synced_end
            kept = [frame for frame in self.tail if frame.sequence >= header.synced_end]
            for frame in self.tail[: len(self.tail) - len(kept)]:
                self.position = frame.position
            self.tail = kept
        if header.kind in FRAMES:
            frame = TailFrame(header.kind, header.sequence, header.position, payload)
            if header.kind is Kind.SNAPSHOT:
                self.snapshot = header.position
            if header.sequence < self.synced_end:
                self.position = header.position
            else:
                self.tail.append(frame)
        self.end_offset += header.record_bytes


def recover(files: LocalFiles, directory: Path, container: int) -> Recovered:
    """Raises LogDamaged."""
    reader = _Reader(files, directory, container)
    trims: list[tuple[Path, int]] = []
    for epoch in reversed(epoch_directories(files.names(directory))):
        log_files = reader.established(epoch)
        if log_files:
            found = reader.recover_from(log_files)
            return found._replace(trims=[*found.trims, *trims])
        trims += reader.dead_trims(epoch)
    return Recovered([], 0, 0, 0, [], 0, 0, trims)


class _Reader:
    def __init__(self, files: LocalFiles, directory: Path, container: int) -> None:
        self._files, self._directory, self._container = files, directory, container

    def recover_from(self, log_files: list[LogFile]) -> Recovered:
        """The log whose newest epoch consists of `log_files` (the last may be unfinished)."""
        scan = self._scan_end(log_files)
        last = log_files[-1]
        return Recovered(
            files=self._walk_back(log_files, max(scan.truncated_before, 1)),
            epoch=last.epoch,
            end=scan.synced_end,
            position=scan.position,
            tail=scan.tail,
            snapshot=scan.snapshot,
            truncated_before=scan.truncated_before,
            trims=[(last.path, scan.end_offset)] if scan.rest_is_zero else [],
            unproven=None if _is_proven(log_files, scan) else last.path,
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
            if len(paths) > 1:
                raise
            if not self._was_established(epoch, paths[0]):
                return []
        # Damage, or a take-over that runs right now has written it between the two looks.
        return self._firsts(paths, last_may_be_broken=True)

    def dead_trims(self, epoch: int) -> list[tuple[Path, int]]:
        """What a take-over that died had preallocated: its files stay, but not the zeros."""
        trims: list[tuple[Path, int]] = []
        for path in self._paths(epoch):
            with self._opened(path) as descriptor:
                size = self._files.size(descriptor)
                if self._is_zero(descriptor, DEAD_BYTES_KEPT):
                    trims.append((path, min(size, DEAD_BYTES_KEPT)))
        return trims

    def _was_established(self, epoch: int, path: Path) -> bool:
        """Whether a file without a valid first record ever had one."""
        salt = read_salt(self._files, self._directory, epoch)
        with self._opened(path) as descriptor:
            if self._files.read(descriptor, FIRST_RECORD_BYTES, 0).strip(b"\0"):
                return True  # something was there; it is written by one sector, so it was whole
            return salt is not None and any(
                header.synced_end > 0 for header in self._later_records(descriptor, 0, salt)
            )

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
            with self._opened(path) as descriptor:
                data = self._files.read(descriptor, FIRST_RECORD_BYTES, 0)
                size = self._files.size(descriptor)
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
        return [file for file in firsts if file.header.sequence < end]

    # --- Where the newest epoch ends ---

    def _scan_end(self, log_files: list[LogFile]) -> _Scan:
        """The intact records of the last file. A file behind it whose first record is broken
        was never acknowledged, or is damage."""
        last = log_files[-1]
        with self._opened(last.path) as descriptor:
            scan = self._scan(last, descriptor)
            self._check_rest(last, scan, last.path, descriptor, scan.end_offset)
            scan.rest_is_zero = self._is_zero(descriptor, scan.end_offset)
            size = self._files.size(descriptor)
        unfinished = last.path.with_name(file_name(last.ordinal + 1))
        if unfinished in self._paths(last.epoch):
            with self._opened(unfinished) as descriptor:
                self._check_rest(last, scan, unfinished, descriptor, 0)
        if size < last.first.allocated_bytes and scan.last.kind is not Kind.CLOSE:
            reason = f"the file was {last.first.allocated_bytes} bytes long, now {size}"
            raise self._damaged(last.path, size, reason)
        if scan.synced_end > scan.end_sequence:
            reason = _acknowledged(scan.last, scan.synced_end, scan.end_sequence)
            raise self._damaged(last.path, scan.end_offset, reason)
        last.used_bytes = min(scan.end_offset, size)
        return scan

    def _scan(self, file: LogFile, descriptor: int) -> _Scan:
        header = file.header
        scan = _Scan(
            last=header,
            synced_end=header.synced_end,
            snapshot=header.snapshot,
            truncated_before=header.truncated_before,
            position=header.position,
        )
        window = Window(self._files, descriptor)
        while True:
            try:
                header, payload = window.record(scan.end_offset, file.first.salt)
                _check_follows(scan.last, header)
            except Broken:
                return scan
            if header.kind in FRAMES:
                file.places.add(header.position, scan.end_offset)
            scan.add(header, payload)

    def _check_rest(
        self, last: LogFile, scan: _Scan, path: Path, descriptor: int, begin: int
    ) -> None:
        """Behind the end of the log nothing may say that something there was durable."""
        for header in self._later_records(descriptor, begin, last.first.salt):
            if header.epoch == last.epoch and header.synced_end > scan.end_sequence:
                reason = _acknowledged(header, header.synced_end, scan.end_sequence)
                raise self._damaged(path, begin, reason)

    def _later_records(self, descriptor: int, begin: int, salt: int) -> Iterator[Header]:
        """Intact headers from `begin` on; pieces overlap by the longest table, so that none is
        cut in two."""
        while piece := self._files.read(descriptor, PIECE_BYTES + OVERLAP_BYTES, begin):
            yield from later_records(piece, 0, salt)
            begin += PIECE_BYTES

    def _is_zero(self, descriptor: int, begin: int) -> bool:
        """Whether there is something behind `begin`, and nothing but zeros."""
        size = self._files.size(descriptor)
        pieces = (
            self._files.read(descriptor, PIECE_BYTES, at) for at in range(begin, size, PIECE_BYTES)
        )
        return size > begin and not any(piece.strip(b"\0") for piece in pieces)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        descriptor = self._files.open(path)
        try:
            yield descriptor
        finally:
            self._files.close(descriptor)

    def _damaged(self, path: Path, offset: int, reason: str) -> LogDamaged:
        return LogDamaged(self._container, str(path), offset, reason)


def _is_proven(log_files: Sequence[LogFile], scan: _Scan) -> bool:
    """Whether a record was written after the epoch's first one was synced: any but the copies
    of the predecessor's tail, which come before it."""
    return len(log_files) > 1 or scan.last.sequence >= log_files[0].header.synced_end


def _check_follows(before: Header, header: Header) -> None:
    if header.kind in FIRSTS or header.epoch != before.epoch:
        raise Broken("a record of another place")
    if header.sequence != before.sequence + 1 or header.chain != before.checksum:
        raise Broken("the record is not the successor of the one before it")


def _acknowledged(header: Header, synced_end: int, end: int) -> str:
    return (
        f"record {end} is broken, but record {header.sequence} was written when everything "
        f"below {synced_end} was durable"
    )
