"""The data directory and its lock: one cluster per directory.

    LOCK           flock while a cluster runs; holds the pid of its supervisor as text
    cluster.json   addresses and pids of the running cluster, as in --ready-file
    nats/ nats.conf   the event log, the work queues and the public feed
    wal/           tier 1 of the segment store
    tier2/         tier 2
    log/           one log file per process

The lock's file descriptor is inherited by the children. A supervisor that was killed takes
them along (children.py), but until the last of them is gone the directory stays locked: two
NATS servers over one store would destroy it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from anabranch_cli.output import ExitCode, Problem

LOCK: Final = "LOCK"
CLUSTER_FILE: Final = "cluster.json"
# How long the children of a killed supervisor may take to follow it.
STALE_CHILDREN_S: Final = 10.0
POLL_S: Final = 0.05


class DataDirectory:
    """Opened and locked on construction; `close` gives it free. Raises Problem."""

    def __init__(
        self,
        path: Path,
        *,
        pid: int,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.path = path.absolute()
        self._monotonic, self._sleep = monotonic, sleep
        try:
            for folder in (self.path, self.nats, self.wal, self.tier2, self.path / "redis"):
                folder.mkdir(parents=True, exist_ok=True)
            self.lock_fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Problem(
                f"cannot use the data directory {self.path}: {error.strerror} ({error.filename})",
                hint="name a folder that can be written to with --data",
                code=ExitCode.REFUSED,
            ) from error
        try:
            self._lock()
        except BaseException:
            os.close(self.lock_fd)
            raise
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, f"{pid}\n".encode(), 0)

    @property
    def nats(self) -> Path:
        return self.path / "nats"

    @property
    def nats_config(self) -> Path:
        return self.path / "nats.conf"

    @property
    def wal(self) -> Path:
        return self.path / "wal"

    @property
    def tier2(self) -> Path:
        return self.path / "tier2"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def cluster_file(self) -> Path:
        return self.path / CLUSTER_FILE

    def close(self) -> None:
        os.close(self.lock_fd)

    def _lock(self) -> None:
        """Take the lock; wait a little when its owner is dead and its children are dying."""
        deadline = self._monotonic() + STALE_CHILDREN_S
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise Problem(
                        f"cannot lock the data directory {self.path}: {error.strerror}",
                        hint="name a folder on a local file system with --data",
                        code=ExitCode.REFUSED,
                    ) from error
            else:
                return
            owner = self._owner()
            if owner is not None and _alive(owner):
                raise Problem(
                    f"the data directory {self.path} is in use by the cluster of process {owner}",
                    hint=f"stop that cluster (kill {owner}), or name another folder with --data",
                    code=ExitCode.REFUSED,
                )
            if self._monotonic() > deadline:
                raise Problem(
                    f"the data directory {self.path} is still locked by children of the "
                    f"dead process {owner}",
                    hint=f"`fuser -v {self.path / LOCK}` names them; end them and start again",
                    code=ExitCode.REFUSED,
                )
            self._sleep(POLL_S)

    def _owner(self) -> int | None:
        text = os.pread(self.lock_fd, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """A killed process whose parent has not looked yet. Linux only; elsewhere: no."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"
