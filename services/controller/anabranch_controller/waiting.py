"""Waiting with limits in the injected clock's time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from anabranch_kit.ports.clock import Clock

R = TypeVar("R")


class OutOfTime(Exception):
    """The limit passed first."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"not within {limit_s:g} s")
        self.limit_s = limit_s


async def within(clock: Clock, limit_s: float, awaited: Awaitable[R]) -> R:
    """The result of `awaited`, which is cancelled when the time is up. Raises OutOfTime."""
    work = asyncio.ensure_future(awaited)
    alarm = asyncio.ensure_future(clock.sleep(limit_s))
    try:
        await asyncio.wait({work, alarm}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise OutOfTime(limit_s)
    finally:
        work.cancel()
        alarm.cancel()
        await asyncio.gather(work, alarm, return_exceptions=True)
