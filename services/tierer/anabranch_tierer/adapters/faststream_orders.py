"""Orders from the JetStream work queue, on FastStream.

The stream and its consumers are provisioned by the kit (tiering_queue), so FastStream only
subscribes. It runs the messages of one fetch at the same time, so each slot is a subscriber
that fetches one order, and fetches the next when that one is settled.

**Failure domain.** A bug in a handler costs the one order: it is logged, and the order is
delivered again much later. An order that cannot be read goes off the queue at once: its
sender issues it again, and it will not be readable then either until one of the two is mended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, assert_never

import msgspec
import nats.errors
import structlog
from anabranch_events import subjects
from anabranch_events.bus import DeleteOrder, FlushOrder
from anabranch_kit.adapters import tiering_queue
from anabranch_kit.adapters.nats_connection import (
    CONNECT_TIMEOUT_S,
    PENDING_BYTES_MAX,
    PING_INTERVAL_S,
    PINGS_MISSED_MAX,
    RECONNECT_WAIT_S,
)
from anabranch_kit.ports.clock import Clock
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub

from anabranch_tierer.domain.orders import Again, Done, Dropped, Settlement

DELETE_SLOTS: Final = 1
# A restarted server forgets a waiting fetch, so this is the longest pause after a restart.
FETCH_TIMEOUT_S: Final = 2.0
SIGN_OF_LIFE_S: Final = tiering_queue.ACK_WAIT_S / 3
BUG_PAUSE_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0

OrderT = TypeVar("OrderT", FlushOrder, DeleteOrder)
log = structlog.stdlib.get_logger("anabranch.tierer")


def make_broker(url: str, *, name: str) -> NatsBroker:
    """A broker that looks for its server for ever; the caller starts and stops it."""

    async def failed(error: Exception) -> None:
        # The loss of the connection is told by the service's other connection.
        if not isinstance(error, OSError | nats.errors.UnexpectedEOF):
            log.warning("nats.error", client=name, error=str(error) or type(error).__name__)

    return NatsBroker(
        url,
        name=name,
        connect_timeout=CONNECT_TIMEOUT_S,
        reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds, as nats-py takes
        max_reconnect_attempts=-1,
        ping_interval=PING_INTERVAL_S,
        max_outstanding_pings=PINGS_MISSED_MAX,
        pending_size=PENDING_BYTES_MAX,
        error_cb=failed,
        graceful_timeout=STOP_TIMEOUT_S,
        apply_types=False,
        logger=logging.getLogger("faststream"),  # tells of what escapes a handler
    )


def subscribe_orders(
    broker: NatsBroker,
    *,
    flush: Callable[[FlushOrder], Awaitable[Settlement]],
    delete: Callable[[DeleteOrder], Awaitable[Settlement]],
    slots: int,
    clock: Clock,
) -> None:
    """Have `slots` flush orders in work at once, and a delete order beside them."""
    for _ in range(slots):
        _subscribe(
            broker,
            tiering_queue.FLUSH_SUBJECTS,
            tiering_queue.FLUSH_CONSUMER,
            _order_handler(FlushOrder, flush, clock),
        )
    for _ in range(DELETE_SLOTS):
        _subscribe(
            broker,
            tiering_queue.DELETE_SUBJECTS,
            tiering_queue.DELETE_CONSUMER,
            _order_handler(DeleteOrder, delete, clock),
        )


def _subscribe(
    broker: NatsBroker,
    subject: str,
    consumer: str,
    handler: Callable[[NatsMessage], Awaitable[None]],
) -> None:
    # The handler acknowledges by itself, so what it is given is the message.
    async def whole(message: NatsMessage) -> NatsMessage:
        return message

    subscriber = broker.subscriber(
        subject,
        durable=consumer,
        stream=JStream(subjects.TIERING_STREAM, declare=False),
        pull_sub=PullSub(batch_size=1, timeout=FETCH_TIMEOUT_S),
        decoder=whole,
        ack_policy=AckPolicy.MANUAL,
    )
    subscriber(handler)


def _order_handler(
    order_type: type[OrderT], work: Callable[[OrderT], Awaitable[Settlement]], clock: Clock
) -> Callable[[NatsMessage], Awaitable[None]]:
    decoder = msgspec.json.Decoder(order_type)

    async def handle(message: NatsMessage) -> None:
        subject = message.raw_message.subject
        try:
            order = decoder.decode(message.body)
        except msgspec.DecodeError as error:
            log.error("tierer.order_unreadable", subject=subject, error=str(error))  # noqa: TRY400
            await _answer(message.reject(), subject)
            return
        signs = asyncio.create_task(_show_life(message, clock))
        try:
            settlement = await work(order)
        except asyncio.CancelledError:
            # Stopping: the order goes to the next worker now, not after the silence.
            await _answer(message.nack(), subject)
            raise
        except Exception:  # the edge of the failure domain: one order
            log.exception("tierer.order_failed", subject=subject)
            settlement = Again("a bug", BUG_PAUSE_S)
        finally:
            signs.cancel()
        await _answer(_settled(message, settlement), subject)

    return handle


def _settled(message: NatsMessage, settlement: Settlement) -> Awaitable[None]:
    match settlement:
        case Done():
            return message.ack()
        case Dropped():
            return message.reject()
        case Again(delay_s=delay_s):
            return message.nack(delay=delay_s)
        case _:
            assert_never(settlement)


async def _show_life(message: NatsMessage, clock: Clock) -> None:
    """Keep the queue from giving the order to another worker while this one is busy."""
    while True:
        await clock.sleep(SIGN_OF_LIFE_S)
        await _answer(message.in_progress(), message.raw_message.subject)


async def _answer(answer: Awaitable[None], subject: str) -> None:
    """An answer that does not get through means one more delivery, which is harmless."""
    try:
        await answer
    except nats.errors.Error as error:
        log.warning("tierer.answer_lost", subject=subject, error=str(error))
