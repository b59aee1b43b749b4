"""The threads of FileLog, in one place, so that a simulation can run its blocking code without.

`LocalThreads` is the real thing. A simulation subclasses it and hands out what blocks in virtual
time instead; nothing else in file_log*.py starts a thread or waits for one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

JobT = TypeVar("JobT")


class JobQueue(Protocol[JobT]):
    """What the writing thread needs of `queue.SimpleQueue`."""

    def put(self, item: JobT, /) -> None: ...

    def get(self) -> JobT: ...

    def get_nowait(self) -> JobT:
        """Raises queue.Empty."""
        ...


class Flag(Protocol):
    """What the writing thread needs of `threading.Event`."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None, /) -> bool: ...


class LocalThreads:
    """Threads of the operating system."""

    def start(self, run: Callable[[], None], *, name: str) -> None:
        threading.Thread(target=run, name=name, daemon=True).start()

    def jobs(self) -> JobQueue[JobT]:
        made: queue.SimpleQueue[JobT] = queue.SimpleQueue()
        return made

    def flag(self) -> Flag:
        return threading.Event()
