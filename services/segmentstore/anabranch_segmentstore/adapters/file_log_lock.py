"""The lock on a data directory: one segment store at a time.

It protects against a second cluster on the same directory (a mistake of the operator). It does
not protect a container against a paused owner, who keeps his lock: that is what epochs are for.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

LOCK_NAME: Final = "segmentstore.lock"
_PID_BYTES_MAX: Final = 32


class DataDirectoryInUse(Exception):
    """Another process holds the data directory."""

    def __init__(self, directory: Path, pid: str) -> None:
        super().__init__(
            f"the data directory {directory} is in use by the segment store with process id "
            f"{pid or 'unknown'}. Stop that process, or start this one with another --data."
        )
        self.directory, self.pid = directory, pid


class DataDirectoryLock:
    """Held from its making until `release`, or until the process ends."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory if it is missing. Raises DataDirectoryInUse, OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(
            directory / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644
        )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            pid = os.pread(self._descriptor, _PID_BYTES_MAX, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DataDirectoryInUse(directory, pid) from taken
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._descriptor)
