"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")
PAUSE_S = 0.01


async def eventually(
    predicate: Callable[[], Result | Awaitable[Result]],
    timeout_s: float = 10.0,
    *,
    pause_s: float = PAUSE_S,
) -> Result:
    """The first truthy value of `predicate` (plain or async). Fails with the last value.

    What the predicate raises is not hidden: raise in it what is really wrong.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        result: Result = await value if inspect.isawaitable(value) else value
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s; last: {result!r}"
        await asyncio.sleep(pause_s)
