"""`FileLog`: a container's write-ahead log in local files (architecture, "Tier 1").

    wal/<container>/EPOCH-<n>             who may write: file_log_epochs.py
    wal/<container>/<epoch>/<ordinal>.wal records: file_log_format.py, docs/formats.md

Opening mints an epoch, finds the end of the log (file_log_recovery.py), copies what may not be
durable into the new epoch and writes its first record. Appending happens on a thread of the
log (file_log_writer.py), reading on a few threads of the store (file_log_reading.py).

What remains (the one gap, by design): damage in the very last batch before a crash looks like
a write that the crash tore, and is taken for the end of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import structlog
from anabranch_kit.ids import NewId

from anabranch_segmentstore.adapters.file_log_epochs import mint
from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_reading import file_of, read_range, stream
from anabranch_segmentstore.adapters.file_log_recovery import Recovered, recover
from anabranch_segmentstore.adapters.file_log_threads import LocalThreads
from anabranch_segmentstore.adapters.file_log_writer import (
    Appended,
    AppendJob,
    CloseJob,
    TruncateJob,
    Writer,
)
from anabranch_segmentstore.ports import (
    Buffer,
    ContainerId,
    Epoch,
    Frame,
    LogError,
    LogFailed,
    LogPosition,
)

FILE_BYTES: Final = 64 * 1024 * 1024  # preallocated; a longer frame gets a longer file
FRAME_BYTES_MAX: Final = 32 * 1024 * 1024  # the longest append (16 MiB) and what waits with it
FRAMES_IN_FLIGHT_MAX: Final = 2  # one is being synced, the next one is being gathered
READ_THREADS: Final = 4
REPLAY_BATCH_BYTES: Final = 8 * 1024 * 1024  # handed over by one hop from the reading thread
REPLAY_BATCH_FRAMES: Final = 256
_SALT_MASK: Final = 2**64 - 1

Outcome = TypeVar("Outcome")
log = structlog.stdlib.get_logger("anabranch.log")


class FileLog:
    """DurableLog over files. Built by FileLogStore.open."""

    def __init__(
        self,
        files: LocalFiles,
        container: ContainerId,
        writer: Writer,
        readers: ThreadPoolExecutor,
        threads: LocalThreads,
    ) -> None:
        self._files, self._container = files, container
        self._writer, self._readers = writer, readers
        self._last_position = LogPosition(writer.position)
        self._newest_snapshot = writer.snapshot
        self._closing: asyncio.Future[None] | None = None
        threads.start(writer.run, name=f"wal-{container}-{writer.epoch}")

    @property
    def epoch(self) -> Epoch:
        return Epoch(self._writer.epoch)

    @property
    def last_position(self) -> LogPosition:
        return self._last_position

    @property
    def frame_length_max(self) -> int:
        return FRAME_BYTES_MAX

    @property
    def frames_in_flight_max(self) -> int:
        return FRAMES_IN_FLIGHT_MAX

    @property
    def stored_bytes(self) -> int:
        return sum(file.used_bytes for file in self._writer.log_files)

    def check_owner(self) -> None:
        self._writer.check_owner()

    async def append(self, parts: Sequence[Buffer], *, snapshot: bool = False) -> LogPosition:
        future = self._future(Appended)
        self._submit_open()
        self._writer.submit(AppendJob(parts, snapshot, partial(self._appended, future)))
        return LogPosition((await future).position)

    async def replay(self) -> AsyncIterator[Frame]:
        start = self._newest_snapshot or max(self._writer.truncated_before, 1)
        frames = stream(
            self._files, self._container, self._writer.log_files, start, self._last_position
        )
        loop = asyncio.get_running_loop()
        try:
            batch = await loop.run_in_executor(self._readers, _take, frames)
            while batch:
                following = loop.run_in_executor(self._readers, _take, frames)
                try:
                    for frame in batch:
                        yield frame
                finally:
                    # Also when the caller stops early: a generator cannot be closed while a
                    # thread is inside it.
                    await asyncio.wait([following])
                batch = following.result()
        finally:
            frames.close()

    async def read(self, position: LogPosition, start: int, length: int) -> bytes:
        if not 1 <= position <= self._last_position:
            raise KeyError(position)
        file = file_of(self._writer.log_files, position)
        work = partial(read_range, self._files, self._container, file, position, start, length)
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def truncate(self, before: LogPosition) -> None:
        future = self._future(type(None))
        self._submit_open()
        self._writer.submit(TruncateJob(before, partial(_resolve, future)))
        await future

    async def close(self, *, clean: bool) -> None:
        if self._closing is None:
            self._closing = self._future(type(None))
            self._writer.submit(CloseJob(clean, partial(_resolve, self._closing)))
        try:
            await asyncio.shield(self._closing)
        except LogError as error:
            log.warning("log.closed_after_failure", container=self._container, error=str(error))

    def _submit_open(self) -> None:
        if self._closing is not None:
            raise LogFailed(self._container, "it was closed")

    @staticmethod
    def _future(of: type[Outcome]) -> asyncio.Future[Outcome]:
        return asyncio.get_running_loop().create_future()

    def _appended(self, future: asyncio.Future[Appended], outcome: Appended | LogError) -> None:
        if isinstance(outcome, Appended):
            self._last_position = LogPosition(outcome.position)
            if outcome.snapshot:
                self._newest_snapshot = outcome.position
        _resolve(future, outcome)


class FileLogStore:
    """LogStore over a directory of local files; `close` it when all its logs are closed."""

    def __init__(
        self,
        directory: Path,
        *,
        new_id: NewId,
        files: LocalFiles | None = None,
        threads: LocalThreads | None = None,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._directory, self._new_id, self._file_bytes = directory, new_id, file_bytes
        self._files = files or LocalFiles()
        self._threads = threads or LocalThreads()
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="wal-read")

    async def open(self, container: ContainerId, *, owner: str) -> FileLog:
        loop = asyncio.get_running_loop()

        def report(outcomes: list[tuple[Callable[..., None], object]]) -> None:
            loop.call_soon_threadsafe(_call_all, outcomes)

        work = partial(self._take_over, container, owner, report)
        writer = await loop.run_in_executor(self._readers, work)
        return FileLog(self._files, container, writer, self._readers, self._threads)

    async def close(self) -> None:
        self._readers.shutdown(wait=True)

    def _take_over(
        self,
        container: ContainerId,
        owner: str,
        report: Callable[[list[tuple[Callable[..., None], object]]], None],
    ) -> Writer:
        """Mint, recover, establish. Raises LogDamaged, LogFenced, LogFailed."""
        directory = self._directory / str(container)
        try:
            self._files.make_directories(directory)
            self._files.sync_directory(self._directory)
            minted = mint(self._files, directory, container, self._new_number)
            recovered = recover(self._files, directory, container)
            writer = Writer(
                self._files,
                directory,
                container,
                minted=minted,
                owner=owner,
                file_bytes=self._file_bytes,
                report=report,
                threads=self._threads,
            )
            writer.start(recovered)
            self._trim(recovered)
        except OSError as error:
            reason = f"{error.strerror or error} ({error.filename or directory})"
            raise LogFailed(container, reason) from error
        _log_opened(container, minted.epoch, recovered)
        return writer

    def _trim(self, recovered: Recovered) -> None:
        """Give back space that a crashed predecessor had preallocated and never used."""
        for path, used_bytes in recovered.trims:
            self._files.trim(path, used_bytes)

    def _new_number(self) -> int:
        return self._new_id().int & _SALT_MASK


def _log_opened(container: int, epoch: int, recovered: Recovered) -> None:
    log.info(
        "log.opened",
        container=container,
        epoch=epoch,
        predecessor=recovered.epoch,
        position=recovered.position + len(recovered.tail),
        copied_frames=len(recovered.tail),
        snapshot=recovered.snapshot,
        truncated_before=recovered.truncated_before,
    )


def _take(frames: Iterator[Frame]) -> list[Frame]:
    """The next frames, few enough to hold in memory; none at the end."""
    taken: list[Frame] = []
    taken_bytes = 0
    for frame in islice(frames, REPLAY_BATCH_FRAMES):
        taken.append(frame)
        taken_bytes += len(frame.payload)
        if taken_bytes >= REPLAY_BATCH_BYTES:
            break
    return taken


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome | LogError) -> None:
    if future.done():
        return  # the caller was cancelled; what was written stays written
    if isinstance(outcome, LogError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _call_all(outcomes: list[tuple[Callable[..., None], object]]) -> None:
    for done, outcome in outcomes:
        done(outcome)
