"""The bus in virtual time: notices, requests and the work queue, as NATS loses and repeats them.

One `SimulatedBus` is the server; each process has its `BusClient`. Handlers run as tasks of the
process that serves. The work queue keeps a message until it is acknowledged, and delivers it
again when it is not; copies overtake each other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from anabranch_kit.ports.bus import BusUnavailable, Subscription

from anabranch_testkit.fakes.bus import matches
from anabranch_testkit.simulation.loop import Process, SimulatedLoop

DELAY_S = (0.0002, 0.003)
LATE_S = (0.1, 3.0)
OUTAGE_NOTICED_S = 1.0
ACK_WAIT_S = 10.0

NoticeHandler = Callable[[str, bytes], Awaitable[None]]
RequestHandler = Callable[[bytes], Awaitable[bytes]]


@dataclass(slots=True)
class Faults:
    """Shares of all messages."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0


@dataclass(eq=False, slots=True)
class Message:
    """Work in the queue. `visible_at`: when a worker may have it (again)."""

    subject: str
    payload: bytes
    visible_at: float
    deliveries_count: int = 0


@dataclass(eq=False, slots=True)
class _Listener:
    pattern: str
    process: Process
    notice: NoticeHandler | None
    request: RequestHandler | None
    bus: SimulatedBus

    async def close(self) -> None:
        if self in self.bus.listeners:
            self.bus.listeners.remove(self)


@dataclass(eq=False, slots=True)
class SimulatedBus:
    loop: SimulatedLoop
    faults: Faults = field(default_factory=Faults)
    is_away: bool = False
    listeners: list[_Listener] = field(default_factory=list)
    queue: list[Message] = field(default_factory=list)
    unreachable_for: set[str] = field(default_factory=set)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.loop.seed}/bus")

    def client(self, process: Process) -> BusClient:
        return BusClient(self, process)

    def serves(self, subject: str) -> _Listener | None:
        """A server of the subject; those of dead processes are struck off by the server."""
        self.listeners = [one for one in self.listeners if one.process.is_alive]
        found = [
            one
            for one in self.listeners
            if one.request is not None
            and one.process.name not in self.unreachable_for
            and matches(one.pattern, subject)
        ]
        return self.chance.choice(found) if found else None

    def take(self, pattern: str) -> Message | None:
        """Work that is due, mostly the oldest."""
        now = self.loop.time()
        due = [one for one in self.queue if one.visible_at <= now and matches(pattern, one.subject)]
        if not due:
            return None
        message = self.chance.choice(due) if self.chance.random() < 0.2 else due[0]
        message.visible_at = now + ACK_WAIT_S
        message.deliveries_count += 1
        return message

    def settle(self, message: Message, *, again_in_s: float | None = None) -> None:
        if again_in_s is not None:
            message.visible_at = self.loop.time() + again_in_s
        elif message in self.queue:
            self.queue.remove(message)

    def is_reachable(self, process: Process) -> bool:
        return not self.is_away and process.name not in self.unreachable_for


class BusClient:
    """Bus of one process."""

    def __init__(self, bus: SimulatedBus, process: Process) -> None:
        self._bus, self._process = bus, process
        self._chance = process.chance

    async def publish(self, subject: str, payload: bytes) -> None:
        await self._travel(subject)
        if self._is_lost():
            return
        for listener in list(self._bus.listeners):
            if listener.notice is not None and matches(listener.pattern, subject):
                self._deliver_notice(listener.notice, listener.process, subject, payload)

    def _deliver_notice(
        self, handler: NoticeHandler, process: Process, subject: str, payload: bytes
    ) -> None:
        async def deliver() -> None:
            await handler(subject, payload)

        self._bus.loop.create_task(deliver(), context=process.context)

    async def subscribe(self, subject: str, handler: NoticeHandler) -> Subscription:
        await self._travel(subject)
        return self._listen(_Listener(subject, self._process, handler, None, self._bus))

    async def serve(
        self, subject: str, handler: RequestHandler, *, queue: str = ""
    ) -> Subscription:
        await self._travel(subject)
        return self._listen(_Listener(subject, self._process, None, handler, self._bus))

    def _listen(self, listener: _Listener) -> Subscription:
        self._bus.listeners.append(listener)
        return listener

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        await self._travel(subject)
        server = self._bus.serves(subject)
        if server is None:
            raise BusUnavailable(subject, "nobody serves this subject now")
        answer: asyncio.Future[bytes] = self._bus.loop.create_future()
        if not self._is_lost():
            for _ in range(2 if self._chance.random() < self._bus.faults.doubled else 1):
                self._bus.loop.create_task(
                    self._answer(server, payload, answer), context=server.process.context
                )
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise BusUnavailable(subject, f"no answer within {timeout_s:g} s") from None

    async def _answer(
        self, server: _Listener, payload: bytes, answer: asyncio.Future[bytes]
    ) -> None:
        await asyncio.sleep(self._delay())
        assert server.request is not None, "found by `serves`"
        answered = await server.request(payload)
        await asyncio.sleep(self._delay())
        if not self._is_lost() and not answer.done():
            answer.set_result(answered)

    async def enqueue(self, subject: str, payload: bytes, *, message_id: str = "") -> None:
        await self._travel(subject)
        bus = self._bus
        if self._is_lost():
            await asyncio.sleep(OUTAGE_NOTICED_S)
            raise BusUnavailable(subject, "not acknowledged, and not stored")
        for _ in range(2 if self._chance.random() < bus.faults.doubled else 1):
            visible_at = bus.loop.time() + self._delay()
            bus.queue.append(Message(subject, payload, visible_at))
        if self._is_lost():
            await asyncio.sleep(OUTAGE_NOTICED_S)
            raise BusUnavailable(subject, "not acknowledged, but stored")

    async def _travel(self, subject: str) -> None:
        await asyncio.sleep(self._delay())
        if not self._bus.is_reachable(self._process):
            await asyncio.sleep(OUTAGE_NOTICED_S)
            raise BusUnavailable(subject, "the bus is away")

    def _is_lost(self) -> bool:
        return self._chance.random() < self._bus.faults.lost

    def _delay(self) -> float:
        is_late = self._chance.random() < self._bus.faults.late
        return self._chance.uniform(*(LATE_S if is_late else DELAY_S))
