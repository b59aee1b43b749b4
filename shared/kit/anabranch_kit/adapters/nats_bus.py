"""The bus on NATS: core messages for notices and requests, JetStream for work.

**Failing handlers.** A handler that raises is logged once, with the subject, and the
subscription goes on. Here that is right: every message comes from another process, and a
poison one must not stop a service that has others to serve. A requester is told at once,
by a reply with the header `Anabranch-Error`, and sees BusUnavailable.

**Bounds.** A subscription holds at most PENDING_MESSAGES_MAX messages and PENDING_BYTES_MAX
bytes for a slow handler; beyond that nats-py drops the newest one and reports a slow consumer,
which `connect_nats` logs. Notices may be lost, and a dropped request times out, so both sides
already live with it. A server of requests runs at most SERVED_AT_ONCE_MAX of them at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from anabranch_kit.adapters.nats_connection import NatsUnreachable, connect_nats
from anabranch_kit.ports.bus import BusUnavailable, Subscription

__all__ = ["NatsBus", "NatsUnreachable", "connect_nats"]

PENDING_MESSAGES_MAX: Final = 16_384
PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
SERVED_AT_ONCE_MAX: Final = 64
ENQUEUE_TIMEOUT_S: Final = 5.0
ERROR_HEADER: Final = "Anabranch-Error"
ERROR_HEADER_LENGTH_MAX: Final = 300
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"

log = structlog.stdlib.get_logger("anabranch.bus")


class NatsBus:
    """Bus over one NATS connection, which the caller owns and closes after the bus is idle."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=ENQUEUE_TIMEOUT_S)

    async def publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._client.publish(subject, payload)
        except nats.errors.Error as error:
            raise BusUnavailable(subject, _reason(error)) from error

    async def subscribe(
        self, subject: str, handler: Callable[[str, bytes], Awaitable[None]]
    ) -> Subscription:
        async def deliver(message: Msg) -> None:
            try:
                await handler(message.subject, message.data)
            except Exception:  # the edge: a poison notice must not stop the service
                log.exception("bus.handler_failed", subject=message.subject)

        return await self._subscribe(subject, deliver, queue="")

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        try:
            reply = await self._client.request(subject, payload, timeout=timeout_s)
        except nats.errors.NoRespondersError as error:
            raise BusUnavailable(subject, "nobody serves this subject now") from error
        except (TimeoutError, nats.errors.TimeoutError) as error:
            raise BusUnavailable(subject, f"no answer within {timeout_s:g} s") from error
        except nats.errors.Error as error:
            raise BusUnavailable(subject, _reason(error)) from error
        failure = (reply.headers or {}).get(ERROR_HEADER)
        if failure is not None:
            raise BusUnavailable(subject, f"the other side failed: {failure}")
        return reply.data

    async def serve(
        self, subject: str, handler: Callable[[bytes], Awaitable[bytes]], *, queue: str = ""
    ) -> Subscription:
        slots = asyncio.Semaphore(SERVED_AT_ONCE_MAX)
        running: set[asyncio.Task[None]] = set()

        async def answer(message: Msg) -> None:
            try:
                try:
                    payload, headers = await handler(message.data), None
                except Exception as error:  # the edge: a poison request must not stop the service
                    log.exception("bus.request_failed", subject=message.subject)
                    text = f"{type(error).__name__}: {error}".replace("\r", " ").replace("\n", " ")
                    payload, headers = b"", {ERROR_HEADER: text[:ERROR_HEADER_LENGTH_MAX]}
                await self._reply(message, payload, headers)
            finally:
                slots.release()

        async def deliver(message: Msg) -> None:
            if not message.reply:
                log.warning("bus.request_without_reply", subject=message.subject)
                return
            await slots.acquire()
            task = asyncio.create_task(answer(message))
            running.add(task)
            task.add_done_callback(running.discard)

        inner = await self._subscribe(subject, deliver, queue=queue)
        return _ServeSubscription(inner, running)

    async def enqueue(self, subject: str, payload: bytes, *, message_id: str = "") -> None:
        headers = {MESSAGE_ID_HEADER: message_id} if message_id else None
        try:
            await self._jetstream.publish(subject, payload, headers=headers)
        except nats.js.errors.NoStreamResponseError as error:
            reason = "no stream holds this subject (is JetStream up, are the streams provisioned?)"
            raise BusUnavailable(subject, reason) from error
        except (TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(subject, _reason(error)) from error

    async def _reply(self, message: Msg, payload: bytes, headers: dict[str, str] | None) -> None:
        try:
            await self._client.publish(message.reply, payload, headers=headers)
        except nats.errors.Error as error:  # the requester sees a time-out and asks again
            log.warning("bus.reply_lost", subject=message.subject, error=_reason(error))

    async def _subscribe(
        self, subject: str, deliver: Callable[[Msg], Awaitable[None]], *, queue: str
    ) -> _NatsSubscription:
        try:
            subscription = await self._client.subscribe(
                subject,
                queue=queue,
                cb=deliver,
                pending_msgs_limit=PENDING_MESSAGES_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
            # The server has seen the interest when this returns, so that nothing published
            # afterwards, on any connection, is missed.
            await self._client.flush()
        except (TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(subject, _reason(error)) from error
        return _NatsSubscription(subscription)


class _NatsSubscription:
    def __init__(self, subscription: NatsSubscription) -> None:
        self._subscription = subscription

    async def close(self) -> None:
        try:
            await self._subscription.unsubscribe()
        except (nats.errors.BadSubscriptionError, nats.errors.ConnectionClosedError):
            return  # closed already, which is what was asked for


class _ServeSubscription:
    """Also waits for the requests in work, so that its owner may free what they use."""

    def __init__(self, inner: _NatsSubscription, running: set[asyncio.Task[None]]) -> None:
        self._inner, self._running = inner, running

    async def close(self) -> None:
        await self._inner.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
