"""Time that moves only when a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from typing import NamedTuple

# Turns of the event loop given to tasks after each step, so that what they do on waking up
# (and what that wakes up in turn) has happened before the time moves on.
TURNS_PER_STEP = 20


class _Sleeper(NamedTuple):
    until: float
    order: int
    woken: asyncio.Future[None]


class FakeClock:
    """Clock whose sleepers wake in the order of their times, those of one time in the order
    in which they went to sleep."""

    def __init__(self, *, now_ms: int = 1_700_000_000_000) -> None:
        self._epoch_ms = now_ms
        self._elapsed = 0.0
        self._sleepers: list[_Sleeper] = []
        self._order = 0

    def now_ms(self) -> int:
        return self._epoch_ms + round(self._elapsed * 1000)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        self._order += 1
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, _Sleeper(self._elapsed + seconds, self._order, woken))
        await woken

    @property
    def sleepers_count(self) -> int:
        return sum(not sleeper.woken.done() for sleeper in self._sleepers)

    def jump_wall(self, milliseconds: int) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; sleepers sleep on."""
        self._epoch_ms += milliseconds

    async def advance(self, seconds: float) -> None:
        """Let this much time pass, waking each sleeper at its time."""
        target = self._elapsed + seconds
        await _turns()
        while self._sleepers and self._sleepers[0].until <= target:
            sleeper = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, sleeper.until)
            if not sleeper.woken.done():
                sleeper.woken.set_result(None)
                await _turns()
        self._elapsed = target
        await _turns()


async def _turns() -> None:
    for _ in range(TURNS_PER_STEP):
        await asyncio.sleep(0)
