"""The bus between the services: notices, requests and work queues over NATS.

Three kinds of traffic, by what a lost message costs:

* `publish`: a notice that the next one replaces (load reports, rates). May be lost.
* `request` / `serve`: a question whose sender waits. A time-out means *unknown*.
* `enqueue`: work that must not be forgotten, kept in JetStream until a worker acknowledges it.

Everything that travels is idempotent at its receiver (faults F14): the bus may lose,
double, delay and reorder.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol


class BusUnavailable(Exception):
    """The bus did not take or answer a message in time. What happened to it is unknown."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"bus: {subject}: {reason}")
        self.subject, self.reason = subject, reason


class Subscription(Protocol):
    """A standing subscription; its owner closes it."""

    async def close(self) -> None: ...


class Bus(Protocol):
    async def publish(self, subject: str, payload: bytes) -> None:
        """Send a notice. Nobody may be listening."""
        ...

    async def subscribe(
        self, subject: str, handler: Callable[[str, bytes], Awaitable[None]]
    ) -> Subscription:
        """Hand each notice (subject, payload) to `handler`, in order, one at a time."""
        ...

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Ask and wait. Raises BusUnavailable when nobody serves or the time is up."""
        ...

    async def serve(
        self, subject: str, handler: Callable[[bytes], Awaitable[bytes]], *, queue: str = ""
    ) -> Subscription:
        """Answer requests; servers with one `queue` name share them."""
        ...

    async def enqueue(self, subject: str, payload: bytes, *, message_id: str = "") -> None:
        """Put work into the stream that holds `subject`; returns once it is stored there."""
        ...
