"""Running a service: the event loop, the signals and the exit status.

    0   stopped as asked (SIGTERM, SIGINT)
    1   a failure that was not foreseen, logged with its traceback
    2   wrong settings
    3   could not start: a dependency is away, a port is taken (`CannotStart`)
    70  did not stop within STOP_TIMEOUT_S

A service is one coroutine function `main(stop)`: it builds the graph, serves until `stop` is
set, and closes what it opened, in reverse, on the way out. When it ends before it was asked
to, that is a failure of the process, and whoever started it starts it again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CANNOT_START: Final = 3
EXIT_STOP_TIMEOUT: Final = 70

# After a signal: this long for a clean stop, then the main task is cancelled, then the end.
STOP_CLEAN_S: Final = 8.0
STOP_TIMEOUT_S: Final = 10.0

log = structlog.stdlib.get_logger("anabranch.run")


class CannotStart(Exception):
    """Something outside is not as the service needs it; the message says what to do."""


def run_service(main: Callable[[asyncio.Event], Awaitable[None]], *, uvloop: bool = True) -> int:
    """Run until done and return the exit status; the caller passes it to sys.exit."""
    if not __debug__:
        print("anabranch does not run with python -O: its assertions guard data", file=sys.stderr)  # noqa: T201
        return EXIT_CANNOT_START
    with asyncio.Runner(loop_factory=_loop_factory(uvloop)) as runner:
        return runner.run(_supervise(main))


def _loop_factory(uvloop_wanted: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not uvloop_wanted:
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _supervise(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    task = asyncio.ensure_future(main(stop))
    timers: list[asyncio.TimerHandle] = []

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("service.stop_hurried", signal=number.name)
            task.cancel()
            return
        log.info("service.stopping", signal=number.name)
        stop.set()
        timers.append(loop.call_later(STOP_CLEAN_S, task.cancel))
        timers.append(loop.call_later(STOP_TIMEOUT_S, _give_up))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await _outcome(task, stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        for timer in timers:
            timer.cancel()


async def _outcome(task: asyncio.Future[None], stop: asyncio.Event) -> int:
    try:
        await task
    except asyncio.CancelledError:
        log.warning("service.stop_forced", after_s=STOP_CLEAN_S)
        return EXIT_OK if stop.is_set() else EXIT_FAILED
    except BaseException as error:  # the edge of the process: what it was is seen and ends it
        reasons = _reasons_not_to_start(error)
        if reasons:
            log.error("service.cannot_start", reason="; ".join(reasons))  # noqa: TRY400
            return EXIT_CANNOT_START
        log.exception("service.failed")
        return EXIT_FAILED
    if not stop.is_set():
        log.error("service.ended_unasked")
        return EXIT_FAILED
    log.info("service.stopped")
    return EXIT_OK


def _reasons_not_to_start(error: BaseException) -> list[str]:
    """The messages of an error that is nothing but CannotStart, alone or out of a TaskGroup."""
    if isinstance(error, CannotStart):
        return [str(error)]
    if isinstance(error, BaseExceptionGroup):
        inner = [_reasons_not_to_start(one) for one in error.exceptions]
        return [reason for reasons in inner for reason in reasons] if all(inner) else []
    return []


def _give_up() -> None:
    log.error("service.stop_timeout", after_s=STOP_TIMEOUT_S)
    sys.stderr.flush()
    os._exit(EXIT_STOP_TIMEOUT)
