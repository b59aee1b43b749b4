"""The bus in memory: notices, requests and queued work within one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from anabranch_kit.ports.bus import BusUnavailable, Subscription

from anabranch_testkit.fakes.faults import Fault, no_fault

NoticeHandler = Callable[[str, bytes], Awaitable[None]]
RequestHandler = Callable[[bytes], Awaitable[bytes]]
PENDING_MAX = 16_384


class MemoryBus:
    """Bus that delivers on the event loop. `queued` holds the work that was enqueued.

    Handlers' failures are kept in `failures`, for a test to look at.
    """

    def __init__(self, *, fault: Fault = no_fault) -> None:
        self.fault = fault
        self.queued: list[tuple[str, bytes]] = []
        self.published: list[tuple[str, bytes]] = []
        self.failures: list[tuple[str, Exception]] = []
        self._listeners: list[_Listener] = []
        self._servers: list[_Server] = []
        self._message_ids: set[str] = set()
        self._turn = 0

    async def publish(self, subject: str, payload: bytes) -> None:
        self.fault("before publish", subject)
        self.published.append((subject, payload))
        for listener in list(self._listeners):
            if matches(listener.pattern, subject) and listener.queue.qsize() < PENDING_MAX:
                listener.queue.put_nowait((subject, payload))

    async def subscribe(self, subject: str, handler: NoticeHandler) -> Subscription:
        listener = _Listener(subject, handler, self)
        self._listeners.append(listener)
        listener.task = asyncio.create_task(listener.run())
        return listener

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        self.fault("before request", subject)
        server = self._server_of(subject)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await server.handler(payload)
        except TimeoutError:
            raise BusUnavailable(subject, f"no answer within {timeout_s:g} s") from None
        except Exception as error:
            self.failures.append((subject, error))
            reason = f"the other side failed: {type(error).__name__}: {error}"
            raise BusUnavailable(subject, reason) from error
        self.fault("after request", subject)
        return answer

    async def serve(
        self, subject: str, handler: RequestHandler, *, queue: str = ""
    ) -> Subscription:
        server = _Server(subject, handler, self)
        self._servers.append(server)
        return server

    async def enqueue(self, subject: str, payload: bytes, *, message_id: str = "") -> None:
        self.fault("before enqueue", subject)
        if message_id and message_id in self._message_ids:
            return
        if message_id:
            self._message_ids.add(message_id)
        self.queued.append((subject, payload))
        self.fault("after enqueue", subject)

    def _server_of(self, subject: str) -> _Server:
        found = [server for server in self._servers if matches(server.pattern, subject)]
        if not found:
            raise BusUnavailable(subject, "nobody serves this subject now")
        self._turn += 1
        return found[self._turn % len(found)]

    def forget(self, one: _Listener | _Server) -> None:
        if isinstance(one, _Listener) and one in self._listeners:
            self._listeners.remove(one)
        if isinstance(one, _Server) and one in self._servers:
            self._servers.remove(one)


@dataclass(eq=False, slots=True)
class _Listener:
    pattern: str
    handler: NoticeHandler
    bus: MemoryBus
    queue: asyncio.Queue[tuple[str, bytes]] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while True:
            subject, payload = await self.queue.get()
            try:
                await self.handler(subject, payload)
            except Exception as error:
                self.bus.failures.append((subject, error))

    async def close(self) -> None:
        self.bus.forget(self)
        if self.task is not None:
            self.task.cancel()


@dataclass(eq=False, slots=True)
class _Server:
    pattern: str
    handler: RequestHandler
    bus: MemoryBus

    async def close(self) -> None:
        self.bus.forget(self)


def matches(pattern: str, subject: str) -> bool:
    """NATS's wildcards: `*` is one token, `>` one or more at the end."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or token not in ("*", given[index]):
            return False
    return len(wanted) == len(given)
