"""Load reports in, commands and rates out, on FastStream.

Reports are core NATS messages: one that is lost is followed by the next within a second. A
report that cannot be read is logged and dropped, for it comes from another process and may be
newer than this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import nats.errors
import nats.js.errors
import structlog
from anabranch_events import feed, subjects
from anabranch_events.bus import LoadReport, ScaleAnswer, ScaleCommand, StreamRates
from anabranch_kit.adapters.nats_connection import (
    CONNECT_TIMEOUT_S,
    PENDING_BYTES_MAX,
    PING_INTERVAL_S,
    PINGS_MISSED_MAX,
    RECONNECT_WAIT_S,
)
from faststream.nats import NatsBroker, NatsMessage

from anabranch_autoscaler.ports import Unanswered, Untold

# The controller answers once the scale is decided and recorded, long before it is done.
ANSWER_TIMEOUT_S: Final = 10.0
NOTICE_TIMEOUT_S: Final = 5.0
ERROR_HEADER: Final = "Anabranch-Error"
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"

log = structlog.stdlib.get_logger("anabranch.autoscaler")


def make_broker(url: str, *, name: str) -> NatsBroker:
    """A broker that looks for its server for ever; the caller starts and stops it."""

    async def disconnected() -> None:
        log.warning("nats.disconnected", client=name)

    async def reconnected() -> None:
        log.info("nats.reconnected", client=name)

    async def failed(error: Exception) -> None:
        if not isinstance(error, OSError):  # refused attempts repeat, the loss was told
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
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=failed,
        apply_types=False,
        logger=None,
    )


def subscribe_reports(broker: NatsBroker, take: Callable[[LoadReport], None]) -> None:
    """Hand every readable load report to `take`."""
    decoder = msgspec.json.Decoder(LoadReport)

    async def raw(message: NatsMessage) -> bytes:
        return message.body

    @broker.subscriber(subjects.LOAD_ALL, decoder=raw)
    async def report_arrived(body: bytes) -> None:
        try:
            report = decoder.decode(body)
        except msgspec.DecodeError as error:
            log.warning("autoscaler.report_unreadable", error=str(error), length_bytes=len(body))
        else:
            take(report)


class FastStreamCluster:
    """Cluster over a broker that the caller owns."""

    def __init__(self, broker: NatsBroker, *, source: str) -> None:
        """`source` names this process in what it tells the feed."""
        self._broker, self._source = broker, source

    async def scale(self, command: ScaleCommand) -> ScaleAnswer:
        payload = msgspec.json.encode(command)
        try:
            reply = await self._broker.request(
                payload, subjects.SCALE_COMMAND, timeout=ANSWER_TIMEOUT_S
            )
        except nats.errors.NoRespondersError as error:
            raise Unanswered(command, "no controller is listening") from error
        except (TimeoutError, nats.errors.Error) as error:
            reason = str(error) or f"no answer within {ANSWER_TIMEOUT_S:g} s"
            raise Unanswered(command, reason) from error
        failure = reply.headers.get(ERROR_HEADER)
        if failure is not None:
            raise Unanswered(command, f"the controller failed: {failure}")
        try:
            return msgspec.json.decode(reply.body, type=ScaleAnswer)
        except msgspec.DecodeError as error:
            raise Unanswered(command, f"an answer that cannot be read: {error}") from error

    async def show_rates(self, rates: StreamRates) -> None:
        subject = subjects.rates(rates.scope, rates.stream)
        try:
            await self._broker.publish(msgspec.json.encode(rates), subject)
        except nats.errors.Error as error:
            raise Untold(subject, str(error) or type(error).__name__) from error

    async def warn(self, warning: feed.StreamWarning, *, key: str, at_ms: int) -> None:
        event_id = f"{self._source}-{key}"
        event = feed.cloud_event(warning, event_id=event_id, source=self._source, at_ms=at_ms)
        subject = subjects.feed(feed.KINDS[type(warning)], warning.scope, warning.stream)
        try:
            await self._broker.publish(
                msgspec.json.encode(event),
                subject,
                headers={MESSAGE_ID_HEADER: event_id},
                stream=subjects.FEED_STREAM,
                timeout=NOTICE_TIMEOUT_S,
            )
        except (TimeoutError, nats.errors.Error) as error:
            raise Untold(subject, str(error) or type(error).__name__) from error
