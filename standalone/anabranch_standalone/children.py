"""Child processes: started so that they cannot outlive the supervisor, and ended politely.

Each child is in a process group of its own, so that Ctrl-C in a terminal reaches only the
supervisor, which then stops them in order. On Linux the kernel kills a child when its parent
dies (PR_SET_PDEATHSIG); elsewhere a killed supervisor leaves its children, and the lock of
the data directory keeps a second cluster away from them.

What a child prints goes to a log file; the end of it is what a report quotes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

PR_SET_PDEATHSIG: Final = 1
LOG_BYTES_MAX: Final = 32 * 1024 * 1024  # then the file moves to NAME.log.1
LOG_TAIL_BYTES: Final = 16 * 1024
LOG_TAIL_LINES: Final = 8
LOG_READ_BYTES_MAX: Final = 1024 * 1024  # of a start; a refusal comes among the first lines
REFUSAL: Final = b"container.given_up"  # the segment store's log event for a container it refuses


class ChildSpec(NamedTuple):
    """`environment` is added to the supervisor's own. Children of a higher wave stop first.

    `held_port` is held open while the child is started again (held_port.py); it must listen
    there with SO_REUSEPORT.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    wave: int
    is_member: bool
    held_port: int | None = None


class Child:
    """One run of one child."""

    def __init__(
        self, spec: ChildSpec, process: subprocess.Popen[bytes], log: Path, log_start: int
    ) -> None:
        self.spec = spec
        self.pid = process.pid
        self.log = log
        self._log_start = log_start
        self._process = process
        self._ended = asyncio.Event()

    @property
    def exit_code(self) -> int | None:
        """Negative: minus the number of the signal that ended it."""
        return self._process.returncode

    def reap(self) -> None:
        """Look whether it has ended; called at each SIGCHLD."""
        if self._process.poll() is not None:
            self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._process.returncode is not None, "reap() saw the end"
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """To the child's whole group; nothing happens when it has ended."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def stop(self, *, limit_s: float) -> bool:
        """SIGTERM, and SIGKILL after the limit. False when it had to be killed."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()
            return False
        return True

    def refusals(self) -> list[str]:
        """Why it will not do its work though it runs, in its own words (damaged data)."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read(LOG_READ_BYTES_MAX).splitlines()
        return [reason for line in lines if REFUSAL in line and (reason := _reason(line))]

    def log_tail(self) -> list[str]:
        return log_tail(self.log)


def start(spec: ChildSpec, *, logs: Path, lock_fd: int) -> Child:
    """Raises OSError when the program cannot be executed."""
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"{spec.name}.log"
    turn_over(path)
    with path.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **spec.environment},
            pass_fds=[lock_fd],
            process_group=0,
            preexec_fn=_die_with(os.getpid()),
        )
    return Child(spec, process, path, log_start)


def turn_over(path: Path) -> None:
    """Bound a log file: copy it aside and empty it in place, for the child has it open."""
    try:
        too_large = path.stat().st_size > LOG_BYTES_MAX
    except FileNotFoundError:
        return
    if too_large:
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, for a report; a line that repeats itself is given once."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = [line for line in text.splitlines() if line.strip()]
    return list(dict.fromkeys(reversed(lines)))[:LOG_TAIL_LINES][::-1]


def _reason(line: bytes) -> str:
    try:
        told = json.loads(line)
    except ValueError:
        return ""  # still being written: it is whole at the next look
    return str(told.get("reason", ""))


def describe_end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was ended by {name}"


def _die_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded before the fork: after it, only calls that need no lock are safe.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return arrange
