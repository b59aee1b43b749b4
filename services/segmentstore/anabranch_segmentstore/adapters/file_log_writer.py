"""The writing thread of a FileLog: batches in, durable frames out.

One thread per open log. It takes whatever waits, writes it by one pwritev, syncs by one
fdatasync, looks for a newer epoch, and only then reports the batch as durable. Callers talk to
it by `submit`, it answers by `Job.done`, which the log brings back to the event loop.

When the disk is full the batch waits and is tried again, while truncations go on: they need no
new space (each file keeps some room for their records) and give space back. Every other error
of a write or sync ends the writer for good, and nothing after it is acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import queue
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, assert_never

import structlog
from prometheus_client import Counter

from anabranch_segmentstore.adapters.file_log_epochs import (
    Minted,
    check_fence,
    epoch_directory,
    token_path,
)
from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_format import (
    FIRST_RECORD_BYTES,
    HEADER_BYTES,
    First,
    Header,
    Kind,
    encode,
    encode_first,
)
from anabranch_segmentstore.adapters.file_log_reading import LogFile
from anabranch_segmentstore.adapters.file_log_recovery import Recovered, file_name
from anabranch_segmentstore.adapters.file_log_threads import JobQueue, LocalThreads
from anabranch_segmentstore.ports import Buffer, LogError, LogFailed

BATCH_BYTES_MAX: Final = 64 * 1024 * 1024  # of payload, unless one frame alone is longer
RESERVED_BYTES: Final = 4096  # at the end of each file: truncations and the closing record
DISK_FULL_RETRY_S: Final = 0.5
PAGES_KEPT_FILES: Final = 4  # in the system's page cache, for the tierer's reads

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
BATCHES: Final = Counter(
    "anabranch_log_batches", "Batches written to the log, each with one sync", ["container"]
)
BYTES: Final = Counter(
    "anabranch_log_bytes", "Bytes written to the log, headers and padding too", ["container"]
)
log = structlog.stdlib.get_logger("anabranch.log")


class Appended(NamedTuple):
    position: int
    snapshot: bool


@dataclass(slots=True, frozen=True)
class AppendJob:
    parts: Sequence[Buffer]
    snapshot: bool
    done: Callable[[Appended | LogError], None]


@dataclass(slots=True, frozen=True)
class TruncateJob:
    before: int
    done: Callable[[LogError | None], None]


@dataclass(slots=True, frozen=True)
class CloseJob:
    clean: bool
    done: Callable[[LogError | None], None]


Job = AppendJob | TruncateJob | CloseJob


class _Finished(NamedTuple):
    """A full file that is still open."""

    descriptor: int
    used_bytes: int


class Writer:
    """Owns the file that is being written. `start` and `run` belong to the thread."""

    def __init__(
        self,
        files: LocalFiles,
        directory: Path,
        container: int,
        *,
        minted: Minted,
        owner: str,
        file_bytes: int,
        report: Callable[[list[tuple[Callable[..., None], object]]], None],
        threads: LocalThreads,
    ) -> None:
        """`report` takes (done, outcome) pairs to the event loop, in order."""
        self._files, self._directory, self._container = files, directory, container
        self._minted, self._owner, self._file_bytes = minted, owner, file_bytes
        self._report = report
        self._jobs: JobQueue[Job] = threads.jobs()
        self._held: deque[Job] = deque()  # taken from the queue, but not yet worked off
        self._unanswered: list[Job] = []
        self._stopping = threads.flag()
        self.log_files: list[LogFile] = []
        self.position = self.snapshot = self.truncated_before = 0
        self._sequence = self._chain = self._synced_end = 0
        self._descriptor = -1
        self._offset = self._size = 0
        self._failure: LogError | None = None
        self._batches_count = BATCHES.labels(str(container))
        self._bytes_count = BYTES.labels(str(container))

    @property
    def epoch(self) -> int:
        return self._minted.epoch

    def check_owner(self) -> None:
        """From any thread. Raises LogFenced; LogFailed when the names cannot be listed."""
        try:
            check_fence(self._files, self._directory, self._container, self.epoch)
        except OSError as error:
            raise LogFailed(self._container, f"{error.strerror or error}") from error

    def submit(self, job: Job) -> None:
        if isinstance(job, CloseJob):
            self._stopping.set()
        self._jobs.put(job)

    # --- Take-over ---

    def start(self, recovered: Recovered) -> None:
        """Establish the epoch: copy the tail, sync, write the first record, sync, look for a
        newer epoch. Raises LogFenced and OSError; the log of the predecessor is not touched."""
        directory = epoch_directory(self._directory, self.epoch)
        self._files.make_directory(directory)
        self._files.sync_directory(self._directory)
        self.position = recovered.position
        self.snapshot, self.truncated_before = recovered.snapshot, recovered.truncated_before
        self._confirm(recovered)
        path = directory / file_name(0)
        self._descriptor = self._files.create(path)
        try:
            self._files.sync_directory(directory)
            file = self._establish(path, recovered)
            check_fence(self._files, self._directory, self._container, self.epoch)
        except BaseException:
            self._files.close(self._descriptor)
            raise
        self.log_files = [*recovered.files, file]

    def _confirm(self, recovered: Recovered) -> None:
        """Make sure that the record which this epoch builds on is on the disk. Its writer may
        have died after writing it and before its sync, and after a failed sync its page may
        count as clean: so it is written again."""
        if recovered.unproven is None:
            return
        descriptor = self._files.open(recovered.unproven)
        try:
            record = self._files.read(descriptor, FIRST_RECORD_BYTES, 0)
        finally:
            self._files.close(descriptor)
        self._files.rewrite(recovered.unproven, record)

    def _establish(self, path: Path, recovered: Recovered) -> LogFile:
        tail = recovered.tail
        begin = FIRST_RECORD_BYTES
        self._size = self._allocate(begin + sum(_record_bytes_max([f.payload]) for f in tail))
        first = First(
            self._minted.salt,
            recovered.epoch,
            recovered.end,
            recovered.position,
            self._size,
            self._owner,
        )
        # The copies precede the record that makes them count; it says already that they are
        # durable, for it is written after their sync.
        self._synced_end = 1 + len(tail)
        head, header = self._first_record(Kind.EPOCH, first)
        file = LogFile(path, 0, header, first)
        self._synced_end = 0
        self._offset = begin
        copies: list[bytes] = []
        for frame in tail:
            copies += self._frame_record(file, frame.kind, [frame.payload])
        self._files.write(self._descriptor, copies, begin)
        self._files.sync(self._descriptor)
        self._files.write(self._descriptor, head, 0)
        self._files.sync(self._descriptor)
        self._synced_end = self._sequence
        file.used_bytes = self._offset
        return file

    def _allocate(self, needed: int) -> int:
        """Give the epoch's first file its full size; 0 when the disk is too full for that."""
        size = max(self._file_bytes, needed + RESERVED_BYTES)
        try:
            self._files.allocate(self._descriptor, size)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            return 0
        return size

    # --- The thread ---

    def run(self) -> None:
        """Work until a close job; after a failure every job is refused."""
        while True:
            job = self._held.popleft() if self._held else self._jobs.get()
            try:
                self._work(job)
            except Exception as bug:
                log.exception("log.bug", container=self._container)
                self._failure = LogFailed(self._container, f"a bug: {bug!r}")
                self._report([(one.done, self._failure) for one in self._unanswered])
            if isinstance(job, CloseJob):
                return

    def _work(self, job: Job) -> None:
        self._unanswered = [job]
        match job:
            case AppendJob():
                self._append(self._batch(job))
            case TruncateJob():
                self._truncate(job)
            case CloseJob():
                self._close(job)
            case _:
                assert_never(job)

    def _batch(self, first: AppendJob) -> list[AppendJob]:
        """The job and the appends that wait right behind it."""
        batch, batch_bytes = [first], _length(first.parts)
        self._take_waiting()
        while self._held and batch_bytes < BATCH_BYTES_MAX:
            following = self._held[0]
            if not isinstance(following, AppendJob):
                break
            batch.append(following)
            batch_bytes += _length(following.parts)
            self._held.popleft()
        self._unanswered = [*batch]
        return batch

    def _take_waiting(self) -> None:
        while True:
            try:
                self._held.append(self._jobs.get_nowait())
            except queue.Empty:
                return

    def _append(self, batch: list[AppendJob]) -> None:
        outcomes: list[Appended] | LogError
        try:
            outcomes = self._failure or self._write_batch(batch)
        except LogError as error:
            outcomes = self._failure = error
        except OSError as error:
            outcomes = self._fail(error)
        if isinstance(outcomes, LogError):
            failed = outcomes
            self._report([(job.done, failed) for job in batch])
        else:
            self._report([(job.done, one) for job, one in zip(batch, outcomes, strict=True)])

    def _write_batch(self, batch: list[AppendJob]) -> list[Appended]:
        """Raises OSError, LogFenced; a full disk is waited for."""
        needed = sum(_record_bytes_max(job.parts) for job in batch)
        finished: _Finished | None = None
        parts, outcomes = list[bytes](), list[Appended]()
        begin = self._offset
        if self._offset + needed + RESERVED_BYTES > self._size:
            finished, parts = self._roll(needed)
            begin = 0
        file = self.log_files[-1]
        newest_snapshot = self.snapshot
        for job in batch:
            kind = Kind.SNAPSHOT if job.snapshot else Kind.FRAME
            parts += self._frame_record(file, kind, job.parts)
            outcomes.append(Appended(self.position, job.snapshot))
            if job.snapshot:
                newest_snapshot = self.position
        self._write_when_space(parts, begin)
        self._files.sync(self._descriptor)
        if finished is not None:
            self._finish(finished, file.path.parent)
        self._synced_end, self.snapshot = self._sequence, newest_snapshot
        file.used_bytes = self._offset
        self._batches_count.inc()
        self._bytes_count.inc(self._offset - begin)
        check_fence(self._files, self._directory, self._container, self.epoch)
        return outcomes

    def _write_when_space(self, parts: Sequence[bytes], offset: int) -> None:
        """Preallocated space can run out too, where a file system copies on write. No truncation
        may be journalled meanwhile: its record would stand behind a hole."""
        self._while_full(lambda: self._files.write(self._descriptor, parts, offset))

    def _while_full(
        self, action: Callable[[], None], *, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Try until there is space."""
        warned = False
        while True:
            try:
                action()
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                if self._stopping.is_set():
                    raise LogFailed(self._container, "stopped while the disk was full") from error
                if not warned:
                    log.warning(
                        "log.disk_full", container=self._container, log=str(self._directory)
                    )
                warned = True
                if meanwhile is not None:
                    meanwhile()
                self._stopping.wait(DISK_FULL_RETRY_S)
            else:
                if warned:
                    log.info("log.disk_has_space", container=self._container)
                return

    def _truncate_waiting(self) -> None:
        """Work off the truncations that wait; the other jobs keep their order."""
        self._take_waiting()
        waiting, self._held = self._held, deque()
        for job in waiting:
            if isinstance(job, TruncateJob):
                self._truncate(job)
            else:
                self._held.append(job)

    def _fail(self, error: OSError) -> LogFailed:
        failure = LogFailed(self._container, f"{error.strerror or error} ({error.filename or ''})")
        self._failure = failure
        return failure

    # --- Records ---

    def _header(self, kind: Kind, payload_length: int) -> Header:
        return Header(
            kind=kind,
            container=self._container,
            epoch=self.epoch,
            sequence=self._sequence,
            position=self.position,
            synced_end=self._synced_end,
            snapshot=self.snapshot,
            truncated_before=self.truncated_before,
            payload_length=payload_length,
            chain=self._chain,
            checksum=0,
        )

    def _frame_record(self, file: LogFile, kind: Kind, parts: Sequence[Buffer]) -> list[bytes]:
        """The next frame's bytes; moves position, sequence, chain and offset on."""
        self.position += 1
        header = self._header(kind, _length(parts))
        encoded, self._chain = encode(header, parts, self._minted.salt)
        file.places.add(self.position, self._offset)
        self._sequence += 1
        self._offset += header.record_bytes
        return encoded

    def _first_record(self, kind: Kind, first: First) -> tuple[list[bytes], Header]:
        payload = encode_first(first)
        header = self._header(kind, len(payload))
        encoded, self._chain = encode(header, [payload], 0)
        self._sequence += 1
        return encoded, header._replace(checksum=self._chain)

    def _mark(self, kind: Kind) -> bool:
        """Write and sync a record without payload into the reserved room; False when there is
        no room for it any more."""
        if self._offset + HEADER_BYTES > self._size:
            return False
        header = self._header(kind, 0)
        encoded, chain = encode(header, [], self._minted.salt)
        try:
            self._files.write(self._descriptor, encoded, self._offset)
        except OSError as error:
            if error.errno in _NO_SPACE:
                return False
            raise
        self._files.sync(self._descriptor)
        self._chain = chain
        self._sequence += 1
        self._offset += header.record_bytes
        self._synced_end = self._sequence
        self.log_files[-1].used_bytes = self._offset
        return True

    # --- Files ---

    def _roll(self, needed: int) -> tuple[_Finished, list[bytes]]:
        """Go on to a new file that holds `needed` bytes; returns its first record, which is
        written and synced together with the first batch in it."""
        before = self.log_files[-1]
        path = before.path.with_name(file_name(before.ordinal + 1))
        size = max(self._file_bytes, FIRST_RECORD_BYTES + needed + RESERVED_BYTES)
        descriptor = -1

        def make() -> None:
            nonlocal descriptor
            descriptor = self._files.create(path)
            try:
                self._files.allocate(descriptor, size)
            except OSError:
                self._files.close(descriptor)
                self._files.remove(path)
                raise

        self._while_full(make, meanwhile=self._truncate_waiting)
        finished = _Finished(self._descriptor, self._offset)
        self._descriptor, self._offset, self._size = descriptor, FIRST_RECORD_BYTES, size
        first = before.first._replace(allocated_bytes=size)
        head, header = self._first_record(Kind.FILE, first)
        self.log_files = [*self.log_files, LogFile(path, before.ordinal + 1, header, first)]
        return finished, [*head]

    def _finish(self, finished: _Finished, directory: Path) -> None:
        """The file behind it is synced: make its name durable, and give back what the finished
        one never used. Not earlier: a file that is shorter than it was made is damaged.

        The pages of an older file go back: the next one then gets pages that were in use, which
        on a virtual machine cost a third of untouched ones."""
        self._files.sync_directory(directory)
        self._files.cut(finished.descriptor, finished.used_bytes)
        if len(self.log_files) > PAGES_KEPT_FILES:
            self._files.release_pages(self.log_files[-1 - PAGES_KEPT_FILES].path)
        self._files.close(finished.descriptor)

    def _truncate(self, job: TruncateJob) -> None:
        outcome: LogError | None = self._failure
        if outcome is None:
            try:
                self._truncate_before(min(job.before, self.snapshot))
            except LogError as error:
                outcome = self._failure = error
            except OSError as error:
                outcome = self._fail(error)
        self._report([(job.done, outcome)])

    def _truncate_before(self, before: int) -> None:
        """Journal the new lower end, then delete the files below it, oldest first: each name's
        end is durable before the next one's, so that a power cut leaves no gap."""
        journalled = self.truncated_before
        if before > journalled:
            self.truncated_before = before
            if not self._mark(Kind.TRUNCATE):
                self.truncated_before = journalled  # the next call tries again
        check_fence(self._files, self._directory, self._container, self.epoch)
        while len(self.log_files) > 1:
            oldest, following = self.log_files[:2]
            if following.first_position > self.truncated_before:
                return
            self.log_files = self.log_files[1:]
            self._remove(oldest.path)
            self._files.sync_directory(oldest.path.parent)
            if following.epoch != oldest.epoch:
                self._remove_epoch(oldest.epoch)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.remove(path)

    def _remove_epoch(self, epoch: int) -> None:
        """Its directory and its token, unless files are left that are not the log's."""
        try:
            self._files.remove_directory(epoch_directory(self._directory, epoch))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
        else:
            self._remove(token_path(self._directory, epoch))

    def _close(self, job: CloseJob) -> None:
        outcome: LogError | None = self._failure
        try:
            if outcome is None and job.clean:
                check_fence(self._files, self._directory, self._container, self.epoch)
                self._mark(Kind.CLOSE)
                self._files.cut(self._descriptor, self._offset)
        except LogError as error:
            outcome = error
        except OSError as error:
            outcome = self._fail(error)
        finally:
            if self._descriptor >= 0:
                self._files.close(self._descriptor)
                self._descriptor = -1
        self._report([(job.done, outcome)])


def _length(parts: Sequence[Buffer]) -> int:
    return sum(map(len, parts))


def _record_bytes_max(parts: Sequence[Buffer]) -> int:
    length = _length(parts)
    return HEADER_BYTES + length + length // 8192 + 64  # more than the table and the padding
