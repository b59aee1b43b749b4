"""An event loop in virtual time whose callbacks belong to processes.

Time stands still while something can run, and jumps to the next timer when nothing can. Each
callback carries the process that scheduled it, in its context: a dead process's callbacks are
never called, those of a stopped process wait for it to be continued. So a process ends at an
`await`, with nothing unwound and nothing said to anybody, as after `kill -9`.

Two runs of a seed must be equal to the last event, so nothing may depend on addresses in memory:
tasks and futures get numbers for their hashes (sets of them are walked by the services).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import hashlib
import heapq
import random
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from anabranch_testkit.simulation.blocking import Blocking
from anabranch_testkit.simulation.network import Network, is_arrival

Result = TypeVar("Result")
EPOCH_MS = 1_700_000_000_000
TURNS_MAX = 3_000_000  # callbacks of one run; one that needs more is caught in a loop
LOG_LINES_KEPT = 400


class State(enum.Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    DEAD = "dead"


class Stuck(Exception):
    """Nothing can run and no timer is set: everybody waits for somebody."""


class Process:
    """What lives and dies together, and reads one wall clock."""

    def __init__(self, loop: SimulatedLoop, name: str) -> None:
        self.loop, self.name = loop, name
        self.state = State.RUNNING
        self.wall_offset_ms = 0
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)
        self.chance = random.Random(f"{loop.seed}/{name}/{loop.next_number()}")
        self.kept: list[object] = []  # a dead process's tasks: collecting them would run them
        self._waiting: list[asyncio.Handle] = []

    def start(self, main: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        return self.loop.create_task(main, context=self.context)

    def stop(self) -> None:
        """SIGSTOP: time goes on, its tasks do not."""
        if self.state is State.RUNNING:
            self.loop.trace("process.stopped", self.name)
            self.state = State.STOPPED

    def proceed(self) -> None:
        """SIGCONT."""
        if self.state is State.STOPPED:
            self.loop.trace("process.continued", self.name)
            self.state = State.RUNNING
            # As a real loop does that wakes up: what has arrived goes before what is due.
            arrived = [one for one in self._waiting if is_arrival(one)]
            self.loop.put_back(arrived)
            self.loop.put_back([one for one in self._waiting if not is_arrival(one)])
            self._waiting = []

    def kill(self, *, vanish: bool = False) -> None:
        """SIGKILL; or the whole host is gone, and its peers hear nothing."""
        if self.state is not State.DEAD:
            self.loop.trace("process.killed", self.name)
            self.state = State.DEAD
            self.loop.network.died(self, vanished=vanish)
            self.kept += [task for task in asyncio.all_tasks(self.loop) if _of(task) is self]
            self.kept += self._waiting

    @property
    def is_alive(self) -> bool:
        return self.state is not State.DEAD

    def put_aside(self, handle: asyncio.Handle) -> None:
        (self._waiting if self.state is State.STOPPED else self.kept).append(handle)

    # --- Clock, as the services see it ---

    def now_ms(self) -> int:
        return EPOCH_MS + self.wall_offset_ms + int(self.loop.time() * 1000)

    def monotonic(self) -> float:
        return self.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process:
    process = PROCESS.get()
    assert process is not None, "called from outside of the simulation's processes"
    return process


class _Task(asyncio.Task[Any]):
    def __init__(self, loop: SimulatedLoop, coro: Any, **more: Any) -> None:
        self._number = loop.next_number()
        self.process = more["context"].get(PROCESS) if more.get("context") else PROCESS.get()
        super().__init__(coro, loop=loop, **more)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    def __init__(self, loop: SimulatedLoop) -> None:
        self._number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """Made and run by `run_simulated`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.chance = random.Random(seed)
        self.turns = 0
        self.failures: list[str] = []
        self.lines: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self.digest = hashlib.blake2b(digest_size=16)
        self.kernel = contextvars.Context()  # of no process
        self._now = 0.0
        self._numbers = 0
        self.blocking = Blocking(self)
        self.network = Network(self)
        self.set_task_factory(lambda loop, coro, **more: _Task(self, coro, **more))
        self.set_exception_handler(self._failed)

    # --- What the simulation's parts use ---

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def trace(self, event: str, *details: object) -> None:
        """Part of what must be the same in each run of a seed."""
        line = f"{self._now:12.6f} {event} {' '.join(map(str, details))}"
        self.digest.update(line.encode())
        self.lines.append(line)

    def put_back(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)  # type: ignore[attr-defined]

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self.is_closed():
            return
        error = context.get("exception")
        self.failures.append(f"{context.get('message')}: {error!r}")

    # --- asyncio's loop ---

    def time(self) -> float:
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(self)

    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise Stuck("nothing can run, and no timer is set")
            self._now = max(self._now, timers[0].when())
        while timers and timers[0].when() <= self._now:
            ready.append(heapq.heappop(timers))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled():
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is not None and process.state is not State.RUNNING:
                process.put_aside(handle)
                continue
            self.turns += 1
            handle._run()
        if self.turns > TURNS_MAX:
            raise Stuck(f"more than {TURNS_MAX} callbacks")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave the heap when their time comes."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Result], *args: Any
    ) -> asyncio.Future[Result]:
        return self.blocking.run(lambda: func(*args))

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **_more: object
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        return await self.network.connect(current_process(), factory, host, port)


def run_simulated(loop: SimulatedLoop, main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end of `main`, then put everything away that still lives."""
    task = loop.create_task(main)
    try:
        return loop.run_until_complete(task)
    finally:
        left = asyncio.all_tasks(loop)
        loop.close()
        _dispose(loop, [task, *left])


def _dispose(loop: SimulatedLoop, tasks: list[asyncio.Task[Any]]) -> None:
    """End what is suspended, in silence: what it says now, it says to nobody."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            for _ in range(20):  # each `finally` may wait once more
                with contextlib.suppress(BaseException):
                    coroutine.close()
                    break
        loop.blocking.dispose()
    finally:
        sys.unraisablehook = hook


def _of(task: asyncio.Task[Any]) -> Process | None:
    assert isinstance(task, _Task), "made by the loop's factory"
    return task.process
