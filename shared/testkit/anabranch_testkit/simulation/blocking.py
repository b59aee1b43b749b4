"""Code that blocks (FileLog's threads) in virtual time: each thread is a greenlet.

A greenlet runs until it has to wait; then the loop goes on, and comes back to it by a callback.
Nothing runs at the same time as anything else, and what is interleaved is decided by the seed.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import greenlet  # type: ignore[import-untyped]
from anabranch_segmentstore.adapters.file_log_threads import Flag, JobQueue, LocalThreads

if TYPE_CHECKING:
    from anabranch_testkit.simulation.loop import SimulatedLoop

Result = TypeVar("Result")
JobT = TypeVar("JobT")


class Blocking:
    """The threads of all processes."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._hub = greenlet.getcurrent()
        self._alive: set[greenlet.greenlet] = set()

    def run(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """As run_in_executor: on a thread of its own, of the calling process."""
        future = self._loop.create_future()

        def call() -> None:
            try:
                result = work()
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.start(call)
        return future

    def start(self, run: Callable[[], None]) -> None:
        thread = greenlet.greenlet(run, self._hub)
        thread.gr_context = contextvars.copy_context()
        self._alive.add(thread)
        self._loop.call_soon(self._resume, thread)

    def pause(self, seconds: float) -> None:
        """Let time pass on this thread. On the event loop itself it passes in no time."""
        thread = greenlet.getcurrent()
        if thread is not self._hub:
            self._loop.call_later(seconds, self._resume, thread)
            self._hub.switch()

    def wait(self) -> greenlet.greenlet:
        """Until somebody calls `wake` for this thread."""
        thread = greenlet.getcurrent()
        assert thread is not self._hub, "the event loop never waits"
        self._hub.switch()
        return thread

    def wake(self, thread: greenlet.greenlet, *, delay_s: float = 0.0) -> asyncio.Handle:
        if delay_s:
            return self._loop.call_later(delay_s, self._resume, thread)
        return self._loop.call_soon(self._resume, thread)

    def _resume(self, thread: greenlet.greenlet) -> None:
        if thread.dead:
            return
        thread.switch()
        if thread.dead:
            self._alive.discard(thread)

    def dispose(self) -> None:
        """The simulation is over; unwind what still waits."""
        for thread in list(self._alive):
            for _ in range(20):
                if thread.dead:
                    break
                try:
                    thread.throw(greenlet.GreenletExit)
                except BaseException:
                    continue
        self._alive.clear()


class SimulatedThreads(LocalThreads):
    """For FileLogStore."""

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking

    def start(self, run: Callable[[], None], *, name: str) -> None:
        self._blocking.start(run)

    def jobs(self) -> JobQueue[JobT]:
        return _Queue[JobT](self._blocking)

    def flag(self) -> Flag:
        return _Flag(self._blocking)


class _Queue(Generic[JobT]):
    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking
        self._items: deque[JobT] = deque()
        self._waiting: greenlet.greenlet | None = None

    def put(self, item: JobT, /) -> None:
        self._items.append(item)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._blocking.wake(waiting)

    def get(self) -> JobT:
        while not self._items:
            self._waiting = greenlet.getcurrent()
            self._blocking.wait()
        return self._items.popleft()

    def get_nowait(self) -> JobT:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()


class _Flag:
    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking
        self._is_set = False
        self._waiting: list[greenlet.greenlet] = []

    def set(self) -> None:
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            self._blocking.wake(thread)

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None, /) -> bool:
        if self._is_set:
            return True
        thread: Any = greenlet.getcurrent()
        self._waiting.append(thread)
        timer = None if timeout is None else self._blocking.wake(thread, delay_s=timeout)
        self._blocking.wait()
        if timer is not None:
            timer.cancel()
        if thread in self._waiting:
            self._waiting.remove(thread)
        return self._is_set
