"""What handlers and workflows share: the log, the projection, the ports, and a few verbs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeVar

from anabranch_kit.ids import NewId
from anabranch_kit.ports.clock import Clock

from anabranch_controller.api import CALL_LIMIT_S
from anabranch_controller.errors import Timeout
from anabranch_controller.event_log import EventLog
from anabranch_controller.keys import StreamKey
from anabranch_controller.ports import ControllerMembers, SegmentLocator, SegmentStores
from anabranch_controller.projection import Projection
from anabranch_controller.waiting import OutOfTime

CONCURRENT_REQUESTS_MAX: Final = 32  # to the segment stores, for one step of one workflow

T = TypeVar("T")


@dataclass(slots=True)
class Context:
    """`slot_waiters` counts the calls of this instance that wait for a stream's slot, so that
    an endless row of commits gives way to them."""

    log: EventLog
    projection: Projection
    stores: SegmentStores
    locator: SegmentLocator
    members: ControllerMembers
    clock: Clock
    random: Random
    new_id: NewId
    slot_waiters: Counter[StreamKey] = field(default_factory=Counter)

    @property
    def instance(self) -> str:
        return self.log.instance

    async def until(
        self,
        subject: str,
        predicate: Callable[[], T | None],
        *,
        what: str,
        limit_s: float = CALL_LIMIT_S,
    ) -> T:
        """The first result of `predicate` that is not None. Raises Timeout, naming `what`."""
        try:
            return await self.projection.until(subject, predicate, limit_s=limit_s)
        except OutOfTime as error:
            raise Timeout(what, limit_s) from error

    @contextmanager
    def waiting_for_slot(self, key: StreamKey) -> Iterator[None]:
        self.slot_waiters[key] += 1
        try:
            yield
        finally:
            self.slot_waiters[key] -= 1
            if not self.slot_waiters[key]:
                del self.slot_waiters[key]


async def gather_bounded(
    work: Iterable[Callable[[], Coroutine[Any, Any, T]]],
    *,
    concurrent_max: int = CONCURRENT_REQUESTS_MAX,
) -> list[T]:
    """The results in order, a few at a time. The first failure cancels the others."""
    gate = asyncio.Semaphore(concurrent_max)

    async def one(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with gate:
            return await start()

    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(start)) for start in work]
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """One failure for many: callers handle them one by one anyway."""
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
