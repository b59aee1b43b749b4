"""Who may use a data directory: one cluster, and in it one running segment store of a name.

The lock protects against the same store started twice. The stores of a cluster that share a host
have names of their own and may share the directory: which of them writes a container's log is
decided in the log, by epochs. A lock could not decide that: a paused owner keeps it.

The file CLUSTER protects against a second cluster. It holds the cluster's id, is written by the
first store that learns it, and stays: the logs are that cluster's also while nothing runs.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

_PID_BYTES_MAX: Final = 32
_ID_BYTES_MAX: Final = 256
CLUSTER: Final = "CLUSTER"


class DataDirectoryInUse(Exception):
    """Another process holds the data directory under this name."""

    def __init__(self, directory: Path, member: str, pid: str) -> None:
        super().__init__(
            f"the data directory {directory} is in use by the segment store {member} with "
            f"process id {pid or 'unknown'}. Stop that process, or start this one with another "
            "--wal-dir (or, as one more store of the same cluster, with another --member)."
        )
        self.directory, self.member, self.pid = directory, member, pid


class DataDirectoryOfAnother(Exception):
    """The logs in the data directory belong to another cluster."""

    def __init__(self, directory: Path, cluster: str, owner: str) -> None:
        super().__init__(
            f"the data directory {directory} belongs to the cluster {owner}, and this store works "
            f"for {cluster}. Give it another --wal-dir, or the --redis-url of its own cluster; if "
            f"{owner} is given up for good, move its directory away."
        )
        self.directory, self.cluster, self.owner = directory, cluster, owner


def claim_for_cluster(directory: Path, cluster: str) -> None:
    """Durable on return. Raises DataDirectoryOfAnother, OSError."""
    path = directory / CLUSTER
    draft = directory / f".{CLUSTER}-{os.getpid()}"
    if not path.exists():
        with draft.open("wb") as file:
            file.write(f"{cluster}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails when another store was faster
        except FileExistsError:
            pass  # what it wrote is judged below
        finally:
            draft.unlink()
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    owner = path.read_bytes()[:_ID_BYTES_MAX].decode(errors="replace").strip()
    if owner != cluster:
        raise DataDirectoryOfAnother(directory, cluster, owner)


class DataDirectoryLock:
    """Held from its making until `release`, or until the process ends."""

    def __init__(self, directory: Path, member: str) -> None:
        """Makes the directory if it is missing. Raises DataDirectoryInUse, OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(
            directory / f"{member}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644
        )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            pid = os.pread(self._descriptor, _PID_BYTES_MAX, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise DataDirectoryInUse(directory, member, pid) from taken
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._descriptor)
