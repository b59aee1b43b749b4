"""An event loop in a thread of its own, for what has to go on while a test blocks or ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Any, TypeVar

Value = TypeVar("Value")


class LoopThread:
    """Calls from other threads; each waits for its result."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owned: AsyncExitStack) -> None:
        self._loop, self._owned = loop, owned

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def enter(self, context: AbstractAsyncContextManager[Value]) -> Value:
        """Held open until the thread ends."""
        return self.run(self._owned.enter_async_context(context))


@contextmanager
def loop_thread() -> Iterator[LoopThread]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="testkit-loop", daemon=True)
    thread.start()
    owned = AsyncExitStack()
    running = LoopThread(loop, owned)
    try:
        yield running
    finally:
        running.run(owned.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
