"""A duty is done by one instance, goes over to another, and is not lost with the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from anabranch_controller.duty import Duty
from anabranch_kit.membership import LEASE_MS
from anabranch_testkit.fakes import FakeClock, MemoryRegistry

Work = Callable[[], Coroutine[None, None, None]]


class Worker:
    """Notes whether it is at work."""

    def __init__(self) -> None:
        self.working = False

    async def __call__(self) -> None:
        self.working = True
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False


def duty(name: str, work: Work, registry: MemoryRegistry, clock: FakeClock) -> asyncio.Task[None]:
    return asyncio.create_task(Duty("d", work, registry, holder=name, clock=clock).run())


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_works_and_another_takes_over() -> None:
    """Every instance would do the work of all, or nobody would after a shutdown."""
    clock = FakeClock()
    registry = MemoryRegistry(clock)
    one, two = Worker(), Worker()
    first = duty("a", one, registry, clock)
    await clock.advance(0.1)
    second = duty("b", two, registry, clock)
    await clock.advance(10 * LEASE_MS / 1000)
    assert (one.working, two.working) == (True, False)
    await end(first)
    await clock.advance(2.0)
    assert (one.working, two.working) == (False, True)
    await end(second)
    assert not two.working


async def test_a_failure_of_the_work_is_seen() -> None:
    """A bug would end retention for good, and nobody would know."""
    clock = FakeClock()

    async def broken() -> None:
        raise RuntimeError("a bug")

    task = duty("a", broken, MemoryRegistry(clock), clock)
    await clock.advance(1.0)
    with pytest.raises(ExceptionGroup) as failure:
        await task
    assert failure.group_contains(RuntimeError, match="a bug")


async def test_a_registry_that_is_away_stops_no_work() -> None:
    """Redis wiped or restarted would end retention until somebody noticed."""
    clock = FakeClock()
    registry = MemoryRegistry(clock)
    worker = Worker()
    task = duty("a", worker, registry, clock)
    await clock.advance(0.1)
    registry.away = True
    await clock.advance(10.0)
    assert worker.working
    registry.away = False
    await clock.advance(10.0)
    assert worker.working
    await end(task)
