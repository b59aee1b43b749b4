"""A JetStream server in memory that misbehaves from a seed, with clients like nats-py's.

It keeps one stream and what a container's log needs of it: publishes with an expected last
sequence, message gets, direct gets in batches, purges. Requests and answers are lost, delayed
(so that copies overtake each other) and reads answer from old state, as a leader does that was
deposed and does not know it yet. A publish is always judged by the true state: that is what a
quorum gives.

`run` runs a coroutine in virtual time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import nats.errors
import nats.js.errors

Result = TypeVar("Result")
Handler = Callable[["FakeMessage"], Awaitable[None]]
EXPECTED = "Nats-Expected-Last-Sequence"


@dataclass(slots=True)
class FakeMessage:
    subject: str
    data: bytes
    headers: dict[str, str] | None = None


@dataclass(slots=True, kw_only=True)
class Faults:
    """Probabilities per message, and the longest delay in seconds."""

    lost: float = 0.0
    answer_lost: float = 0.0
    delayed: float = 0.0
    delay_s_max: float = 0.0
    overtaken: float = 0.0
    """Of the delayed ones; the others hold up what the same client sends behind them."""
    stale: float = 0.0
    stale_messages_max: int = 0


@dataclass(slots=True)
class FakeJetStream:
    """The server. `messages` may be damaged and removed by a test."""

    random: random.Random
    faults: Faults = field(default_factory=Faults)
    max_payload: int = 8192
    messages: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    first: int = 1
    last: int = 0
    is_gone: bool = False
    """Somebody deleted the stream."""
    is_full: bool = False
    """There is no room for another message; a purge makes some."""

    def client(self) -> FakeClient:
        return FakeClient(self)

    def store(self, subject: str, data: bytes, expected: int | None) -> dict[str, Any]:
        if self.is_full:
            return _error(503, 10077, "maximum bytes exceeded")
        if expected is not None and expected != self.last:
            return _error(400, 10071, f"wrong last sequence: {self.last}")
        self.last += 1
        self.messages[self.last] = (subject, data)
        return {"stream": "S", "seq": self.last}

    def answer(self, subject: str, query: dict[str, Any]) -> dict[str, Any]:
        if self.is_gone:
            return _error(404, 10059, "stream not found")
        last = self.last
        if self.random.random() < self.faults.stale:
            last = max(0, last - self.random.randint(0, self.faults.stale_messages_max))
        match subject.split(".")[2:4]:
            case ["STREAM", "INFO"]:
                stored = sum(len(data) for _, data in self.messages.values())
                return {
                    "config": {"name": subject.split(".")[-1]},
                    "state": {
                        "messages": len(self.messages),
                        "bytes": stored,
                        "first_seq": self.first,
                        "last_seq": last,
                        "consumer_count": 0,
                    },
                }
            case ["STREAM", "MSG"]:
                return self._get(query, last)
            case ["STREAM", "PURGE"]:
                for sequence in [one for one in self.messages if one < query["seq"]]:
                    del self.messages[sequence]
                self.first = max(self.first, query["seq"])
                self.is_full = False
                return {"success": True}
            case _:
                return {"config": {}, "state": {}}

    def select(self, query: dict[str, Any], last: int) -> list[int]:
        subject = query.get("next_by_subj")
        found = (
            one
            for one in sorted(self.messages)
            if query["seq"] <= one <= last and subject in (None, self.messages[one][0])
        )
        return list(found)

    def _get(self, query: dict[str, Any], last: int) -> dict[str, Any]:
        found: list[int]
        if "last_by_subj" in query:
            subject = query["last_by_subj"]
            found = [one for one in sorted(self.messages) if self.messages[one][0] == subject]
            found = [one for one in found if one <= last][-1:]
        elif "next_by_subj" in query:
            found = self.select(query, last)[:1]
        else:
            found = [one for one in (query["seq"],) if one in self.messages and one <= last]
        if not found:
            return _error(404, 10037, "no message found")
        data = base64.b64encode(self.messages[found[0]][1]).decode()
        return {"message": {"seq": found[0], "data": data}}


class FakeSubscription:
    def __init__(self, client: FakeClient, subject: str, handler: Handler | None) -> None:
        self._client, self.subject, self.handler = client, subject, handler
        self.queue: asyncio.Queue[FakeMessage] = asyncio.Queue()

    async def next_msg(self, timeout: float) -> FakeMessage:
        try:
            async with asyncio.timeout(timeout):
                return await self.queue.get()
        except TimeoutError:
            raise nats.errors.TimeoutError from None

    async def unsubscribe(self) -> None:
        self._client.subscriptions.remove(self)


class FakeClient:
    """What the log uses of nats-py's Client."""

    def __init__(self, server: FakeJetStream) -> None:
        self.server = server
        self.is_connected, self.is_closed = True, False
        self.stats = {"reconnects": 0}
        self.subscriptions: list[FakeSubscription] = []
        self._inboxes = 0
        self._before: asyncio.Event | None = None
        self._deliveries: set[asyncio.Task[None]] = set()

    @property
    def max_payload(self) -> int:
        return self.server.max_payload

    def jetstream(self, timeout: float) -> FakeContext:
        return FakeContext(self)

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    async def subscribe(self, subject: str, cb: Handler | None = None) -> FakeSubscription:
        subscription = FakeSubscription(self, subject.replace(".*.*", ""), cb)
        self.subscriptions.append(subscription)
        return subscription

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        self._later(self._deliver(subject, payload, reply, headers))

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: dict[str, str] | None = None,
    ) -> FakeMessage:
        subscription = await self.subscribe(self.new_inbox())
        try:
            await self.publish(subject, payload, reply=subscription.subject, headers=headers)
            return await subscription.next_msg(timeout)
        finally:
            await subscription.unsubscribe()

    async def settle(self) -> None:
        """Until everything that is under way has arrived or was lost."""
        while self._deliveries:
            await asyncio.wait(self._deliveries)

    async def _deliver(
        self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None
    ) -> None:
        server, faults = self.server, self.server.faults
        before, passed = self._before, asyncio.Event()
        is_overtaken = server.random.random() < faults.overtaken
        if not is_overtaken:
            self._before = passed
        try:
            await self._delay()
            if before is not None:
                await before.wait()
        finally:
            passed.set()
        if server.random.random() < faults.lost:
            return
        for answer in self._answers(subject, payload, headers):
            if server.random.random() < faults.answer_lost:
                return
            answer.subject = reply
            await self._delay()
            await self._hand_over(answer)

    def _answers(
        self, subject: str, payload: bytes, headers: dict[str, str] | None
    ) -> list[FakeMessage]:
        server = self.server
        if subject.startswith("$JS.API.DIRECT."):
            query = json.loads(payload)
            found = server.select(query, server.last)[: query.get("batch", 1)]
            batch = [
                FakeMessage("", server.messages[one][1], {"Nats-Sequence": str(one)})
                for one in found
            ]
            return [*batch, FakeMessage("", b"", {"Status": "204"})]
        if subject.startswith("$JS."):
            answer = server.answer(subject, json.loads(payload or b"{}"))
        elif server.is_gone:
            return [FakeMessage("", b"", {"Status": "503"})]  # nobody listens
        else:
            expected = None if headers is None else int(headers[EXPECTED])
            answer = server.store(subject, payload, expected)
        return [FakeMessage("", json.dumps(answer).encode())]

    async def _delay(self) -> None:
        random_, faults = self.server.random, self.server.faults
        if random_.random() < faults.delayed:
            await asyncio.sleep(random_.uniform(0, faults.delay_s_max))
        else:
            await asyncio.sleep(0.001)

    async def _hand_over(self, answer: FakeMessage) -> None:
        for subscription in list(self.subscriptions):
            if answer.subject.startswith(subscription.subject):
                if subscription.handler is not None:
                    await subscription.handler(answer)
                else:
                    subscription.queue.put_nowait(answer)

    def _later(self, delivery: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(delivery)
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)


class FakeContext:
    """The management calls of nats-py's JetStreamContext: there is a stream already."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client

    async def stream_info(self, name: str) -> Any:
        raise nats.js.errors.NotFoundError(code=404, err_code=10059)

    async def add_stream(self, config: Any) -> None:
        """An identical creation succeeds any number of times."""


class LoopClock:
    """A Clock that shows the running loop's time."""

    def now_ms(self) -> int:
        return int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Sleeps take no time. Nothing in it may wait for a real socket or thread."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready and scheduled:
            self._now = max(self._now, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run in virtual time, from zero."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def _error(code: int, err_code: int, description: str) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": err_code, "description": description}}
