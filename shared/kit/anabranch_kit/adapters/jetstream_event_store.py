"""The event log on a JetStream stream.

**Appending.** Each message carries the expected last sequence *of its subject*, which the
leader judges. The answer may be lost, so an append is repeated with the same expectation: at
most one copy can be stored. A refusal (error 10071) may then be our own success. If our
message was stored, it is the *first* one on its subject above the expected sequence, because
the expectation held then; so that message is read from the leader and its batch id compared.
`Nats-Msg-Id` would not help: the expectation is judged before it.

**Reading.** Direct gets are off: any replica answers them. `STREAM.MSG.GET` and `STREAM.INFO`
are answered by the leader. (A leader that is deposed but does not know it yet can answer once
more with old state; hence `barrier`, a write that only a quorum can confirm.)

**Following** is one ephemeral push consumer in the server's memory, made anew from the last
delivered sequence whenever something is odd: a hole in the consumer's own count, silence
longer than its heartbeat, a reconnect. So nothing is skipped, repeated or out of order.
Stream sequences may have holes by themselves (rolled-up barriers, a subject filter).

**Large messages.** A decision about a stream of thousands of segments is longer than NATS
takes by default, and mostly repetition: from COMPRESS_FROM_BYTES on it travels compressed,
which a header says.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final

import nats.errors
import nats.js.errors
import structlog
from anabranch_events import subjects
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RawStreamMsg,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from anabranch_kit.adapters.jetstream_provision import (
    API_TIMEOUT_S,
    describe,
    ensure_stream,
    passes_by_itself,
)
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.event_store import EventStoreUnavailable, Record, SequenceConflict

BATCH_ID_HEADER: Final = "Anabranch-Batch-Id"
EXPECTED_HEADER: Final = "Nats-Expected-Last-Subject-Sequence"
ROLLUP_HEADER: Final = "Nats-Rollup"
ENCODING_HEADER: Final = "Anabranch-Encoding"
ZLIB: Final = "zlib"
WRONG_LAST_SEQUENCE: Final = 10071
NO_MESSAGE_FOUND: Final = 10037

# Fits in NATS's default payload limit of 1 MiB, with its headers.
MESSAGE_BYTES_MAX: Final = 1_000_000
COMPRESS_FROM_BYTES: Final = 64 * 1024
COMPRESSION_LEVEL: Final = 1  # 8 ms for 1.5 MB of segment ranges, a fifth of their size
# What one message may unfold to; far more than any decision is.
UNFOLDED_BYTES_MAX: Final = 64 * 1024 * 1024
ATTEMPT_TIMEOUT_S: Final = 2.0
# Rides out a restart of the server; callers hold their clients that long.
OPERATION_TIMEOUT_S: Final = 15.0
RETRY_PAUSE_S: Final = 0.05
FOLLOW_HEARTBEAT_S: Final = 1.0
FOLLOW_SILENCE_MAX_S: Final = 2.5
FOLLOW_WAKE_S: Final = 0.2
# A consumer that nobody hears goes away by itself after this.
FOLLOW_INACTIVE_S: Final = 10.0
# Flow control keeps what is under way far below this; a drop would be noticed as a hole.
FOLLOW_PENDING_MESSAGES_MAX: Final = 65_536
FOLLOW_PENDING_BYTES_MAX: Final = 64 * 1024 * 1024

log = structlog.stdlib.get_logger("anabranch.events")


def stream_config(*, replicas: int) -> StreamConfig:
    """How the stream of the event log is provisioned."""
    return StreamConfig(
        name=subjects.EVENTS_STREAM,
        subjects=[subjects.EVENTS_ALL],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,  # with no limit set: a full disk refuses, history stays
        num_replicas=replicas,
        max_msg_size=MESSAGE_BYTES_MAX + 4096,  # the server counts headers too
        allow_rollup_hdrs=True,  # for barriers, of which one message per instance is kept
        allow_direct=False,
        deny_delete=True,
    )


class JetStreamEventStore:
    """EventStore over a connection that the caller owns. `provision` it once at start."""

    def __init__(self, client: Client, *, clock: Clock, replicas: int = 1) -> None:
        self._client, self._clock, self._replicas = client, clock, replicas
        self._jetstream = client.jetstream(timeout=API_TIMEOUT_S)

    async def provision(self) -> None:
        """Make the stream, or bring it to these settings. Raises ProvisionFailed."""
        config = stream_config(replicas=self._replicas)
        await ensure_stream(self._client, config, clock=self._clock)

    async def append(
        self, subject: str, payload: bytes, *, expected_sequence: int, batch_id: str
    ) -> int:
        headers = {EXPECTED_HEADER: str(expected_sequence), BATCH_ID_HEADER: batch_id}
        if len(payload) >= COMPRESS_FROM_BYTES:
            payload = zlib.compress(payload, COMPRESSION_LEVEL)
            headers[ENCODING_HEADER] = ZLIB
        if len(payload) > MESSAGE_BYTES_MAX:
            raise ValueError(
                f"event log: {subject}: {len(payload)} bytes of events in one decision, "
                f"the limit is {MESSAGE_BYTES_MAX}"
            )
        deadline = self._clock.monotonic() + OPERATION_TIMEOUT_S
        while True:
            try:
                return await self._publish(subject, payload, headers)
            except nats.js.errors.APIError as error:
                if error.err_code == WRONG_LAST_SEQUENCE:
                    return await self._own_success(subject, expected_sequence, batch_id)
                await self._pause_or_give_up(f"append to {subject}", error, deadline)
            except (TimeoutError, nats.errors.Error) as error:
                await self._pause_or_give_up(f"append to {subject}", error, deadline)

    async def last_sequence(self, subject: str) -> int:
        message = await self._get(f"last sequence of {subject}", subject, above=None)
        return 0 if message is None or message.seq is None else message.seq

    async def end(self) -> int:
        deadline = self._clock.monotonic() + OPERATION_TIMEOUT_S
        while True:
            try:
                return (await self._jetstream.stream_info(subjects.EVENTS_STREAM)).state.last_seq
            except (TimeoutError, nats.errors.Error) as error:
                await self._pause_or_give_up("end", error, deadline)

    async def barrier(self, instance: str) -> int:
        subject = subjects.barrier(instance)
        deadline = self._clock.monotonic() + OPERATION_TIMEOUT_S
        while True:
            try:
                return await self._publish(subject, b"", {ROLLUP_HEADER: "sub"})
            except (TimeoutError, nats.errors.Error) as error:
                await self._pause_or_give_up("barrier", error, deadline)

    async def follow(self, *, after: int = 0, subject: str = "") -> AsyncIterator[Record]:
        position, failures = after, 0
        while True:
            try:
                async with asyncio.timeout(OPERATION_TIMEOUT_S):
                    subscription = await self._start_consumer(position, subject)
            except nats.errors.ConnectionClosedError as error:
                raise EventStoreUnavailable("follow", "our own connection was closed") from error
            except (TimeoutError, nats.errors.Error, EventStoreUnavailable) as error:
                failures += 1
                if failures == 1:
                    log.warning("events.follow_interrupted", after=position, error=describe(error))
                await self._clock.sleep(RETRY_PAUSE_S)
                continue
            if failures:
                log.info("events.follow_resumed", after=position)
            failures = 0
            try:
                async for record in self._deliveries(subscription):
                    assert record.sequence > position, "the consumer was started above it"
                    position = record.sequence
                    yield record
            finally:
                await _unsubscribe(subscription)

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> int:
        stream = subjects.EVENTS_STREAM
        acknowledgement = await self._jetstream.publish(
            subject, payload, timeout=ATTEMPT_TIMEOUT_S, stream=stream, headers=dict(headers)
        )
        return acknowledgement.seq

    async def _own_success(self, subject: str, expected_sequence: int, batch_id: str) -> int:
        """The sequence of our message if it is the one that moved the subject on."""
        message = await self._get(f"conflict on {subject}", subject, above=expected_sequence)
        mine = message is not None and (message.headers or {}).get(BATCH_ID_HEADER) == batch_id
        if message is None or message.seq is None or not mine:
            raise SequenceConflict(subject, expected_sequence)
        return message.seq

    async def _get(self, operation: str, subject: str, *, above: int | None) -> RawStreamMsg | None:
        """The subject's last message, or its first one above a sequence, from the leader."""
        deadline = self._clock.monotonic() + OPERATION_TIMEOUT_S
        stream = subjects.EVENTS_STREAM
        while True:
            try:
                if above is None:
                    return await self._jetstream.get_msg(stream, subject=subject)
                return await self._jetstream.get_msg(
                    stream, seq=above + 1, subject=subject, next=True
                )
            except nats.js.errors.NotFoundError as error:
                if error.err_code == NO_MESSAGE_FOUND:
                    return None
                raise EventStoreUnavailable(operation, describe(error)) from error
            except (TimeoutError, nats.errors.Error) as error:
                await self._pause_or_give_up(operation, error, deadline)

    async def _pause_or_give_up(self, operation: str, error: Exception, deadline: float) -> None:
        if not passes_by_itself(error) or self._clock.monotonic() >= deadline:
            raise EventStoreUnavailable(operation, describe(error)) from error
        await self._clock.sleep(RETRY_PAUSE_S)

    async def _start_consumer(self, position: int, subject: str) -> Subscription:
        info = await self._jetstream.stream_info(subjects.EVENTS_STREAM)
        if info.state.last_seq < position:
            # A restored or emptied server, or a deposed leader's last answer. Never a reason
            # to go back; a follower that waits is visible by its service not being ready.
            raise EventStoreUnavailable(
                "follow", f"the log ends at {info.state.last_seq}, {position} was read already"
            )
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(
            inbox,
            pending_msgs_limit=FOLLOW_PENDING_MESSAGES_MAX,
            pending_bytes_limit=FOLLOW_PENDING_BYTES_MAX,
        )
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=position + 1,
            filter_subject=subject or None,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=FOLLOW_HEARTBEAT_S,
            inactive_threshold=FOLLOW_INACTIVE_S,
            mem_storage=True,
            num_replicas=1,
        )
        try:
            await self._jetstream.add_consumer(subjects.EVENTS_STREAM, config)
        except BaseException:
            await _unsubscribe(subscription)
            raise
        return subscription

    async def _deliveries(self, subscription: Subscription) -> AsyncIterator[Record]:
        """Records of one consumer; ends when the consumer cannot be trusted any more."""
        reconnects = self._client.stats["reconnects"]
        delivered = 0
        heard = self._clock.monotonic()
        while True:
            try:
                message = await subscription.next_msg(timeout=FOLLOW_WAKE_S)
            except (TimeoutError, nats.errors.TimeoutError):
                silent_s = self._clock.monotonic() - heard
                if silent_s > FOLLOW_SILENCE_MAX_S:
                    log.warning("events.follow_silent", silent_s=round(silent_s, 1))
                    return
                if self._client.stats["reconnects"] != reconnects:
                    return  # the consumer lived in the memory of the server that is gone
                continue
            except nats.errors.Error as error:
                log.warning("events.follow_failed", error=describe(error))
                return
            heard = self._clock.monotonic()
            if _is_status(message):
                if not await self._answer_status(message, delivered):
                    return
                continue
            metadata = message.metadata
            if metadata.sequence.consumer != delivered + 1:
                log.warning(
                    "events.follow_gap", expected=delivered + 1, got=metadata.sequence.consumer
                )
                return
            delivered += 1
            yield Record(metadata.sequence.stream, message.subject, _unfolded(message))

    async def _answer_status(self, message: Msg, delivered: int) -> bool:
        """Answer flow control; False when a heartbeat tells of deliveries that never came."""
        headers = message.headers or {}
        if message.reply:
            await self._client.publish(message.reply)
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            await self._client.publish(stalled)
        last = headers.get("Nats-Last-Consumer")
        return last is None or int(last) <= delivered


def _unfolded(message: Msg) -> bytes:
    """The payload as it was appended. What cannot be unfolded comes as it is: whoever decodes
    it will refuse it, and can name the message."""
    if (message.headers or {}).get(ENCODING_HEADER) != ZLIB:
        return message.data
    unfolding = zlib.decompressobj()
    try:
        payload = unfolding.decompress(message.data, UNFOLDED_BYTES_MAX)
    except zlib.error:
        return message.data
    return payload if unfolding.eof else message.data


def _is_status(message: Msg) -> bool:
    return bool(message.headers) and not message.data and "Status" in (message.headers or {})


async def _unsubscribe(subscription: Subscription) -> None:
    """The server drops the consumer soon after its last listener went."""
    try:
        await subscription.unsubscribe()
    except nats.errors.Error as error:
        log.debug("events.unsubscribe_failed", error=describe(error))
