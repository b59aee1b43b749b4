"""The system calls of FileLog, in one place, so that a test can make each of them fail.

`LocalFiles` is the real thing. A test subclasses it and raises, delays or cuts short what it
likes; nothing else in file_log*.py touches the file system.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WRITE_PARTS_MAX: Final = 1024  # IOV_MAX on Linux
_FILE_MODE: Final = 0o644


class LocalFiles:
    """Blocking calls on local files; call them on a thread."""

    def names(self, directory: Path) -> list[str]:
        return os.listdir(directory)

    def make_directory(self, directory: Path) -> None:
        """Raises FileExistsError: a directory of an epoch has one maker."""
        directory.mkdir()

    def make_directories(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)

    def sync_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def allocate(self, descriptor: int, length: int) -> None:
        os.posix_fallocate(descriptor, 0, length)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def cut(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def trim(self, path: Path, length: int) -> None:
        os.truncate(path, length)

    def write(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        """All of `parts` at `offset`, in as few calls as the system allows."""
        waiting: list[bytes | memoryview] = list(parts)
        while waiting:
            batch = waiting[:WRITE_PARTS_MAX]
            written = os.pwritev(descriptor, batch, offset)
            offset += written
            waiting[: len(batch)] = _rest(batch, written)

    def rewrite(self, path: Path, data: bytes) -> None:
        """Put `data` at the beginning of an existing file, and sync that."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self.write(descriptor, [data], 0)
            self.sync(descriptor)
        finally:
            self.close(descriptor)

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        first = os.pread(descriptor, length, offset)
        if len(first) == length or not first:
            return first
        pieces = [first]
        found = len(first)
        while found < length:
            piece = os.pread(descriptor, length - found, offset + found)
            if not piece:
                break
            pieces.append(piece)
            found += len(piece)
        return b"".join(pieces)

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def release_pages(self, path: Path) -> None:
        """Let the system use the memory in which it keeps what was written and synced. Advice."""
        descriptor = self.open(path)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            self.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Raises FileExistsError when somebody was faster."""
        os.link(source, target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def remove_directory(self, directory: Path) -> None:
        directory.rmdir()


def _rest(parts: Sequence[bytes | memoryview], written: int) -> list[bytes | memoryview]:
    """What a short write has left over."""
    for index, part in enumerate(parts):
        if written < len(part):
            return (
                [memoryview(part)[written:], *parts[index + 1 :]] if written else [*parts[index:]]
            )
        written -= len(part)
    return []
