"""The public feed on a JetStream stream, kept for days."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import nats.errors
import nats.js.errors
import structlog
from anabranch_events import feed, subjects
from anabranch_kit.adapters.jetstream_provision import describe, ensure_stream
from anabranch_kit.ports.bus import BusUnavailable
from anabranch_kit.ports.clock import Clock
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RawStreamMsg, RetentionPolicy, StorageType, StreamConfig

from anabranch_controller.feed import KEPT_MS, PROJECTED, Position

MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
NO_MESSAGE_FOUND: Final = 10037
DUPLICATE_WINDOW_S: Final = 3600.0  # longer than a crash and a take-over; ids are small
BYTES_MAX: Final = 1024 * 1024 * 1024  # some two million events; the oldest go first
TIMEOUT_S: Final = 5.0

log = structlog.stdlib.get_logger("anabranch.feed")


def stream_config(*, replicas: int) -> StreamConfig:
    """How the stream of the feed is provisioned."""
    return StreamConfig(
        name=subjects.FEED_STREAM,
        subjects=[subjects.FEED_ALL],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        max_age=KEPT_MS / 1000,
        max_bytes=BYTES_MAX,
        duplicate_window=DUPLICATE_WINDOW_S,
        num_replicas=replicas,
    )


class JetStreamFeed:
    """FeedLog and ToldLog over a connection that the caller owns. `provision` it once at start."""

    def __init__(self, client: Client, *, clock: Clock, replicas: int = 1) -> None:
        self._client, self._clock, self._replicas = client, clock, replicas
        self._jetstream = client.jetstream(timeout=TIMEOUT_S)

    async def provision(self) -> None:
        """Make the stream, or bring it to these settings. Raises ProvisionFailed."""
        config = stream_config(replicas=self._replicas)
        await ensure_stream(self._client, config, clock=self._clock)

    async def newest(self) -> Position | None:
        # Others publish here too, under ids of their own, so each kind is asked for by itself.
        wanted = [f"{subjects.feed(feed.KINDS[data])}.>" for data in PROJECTED]
        found = await asyncio.gather(*map(self._newest_on, wanted))
        return max((position for position in found if position is not None), default=None)

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        try:
            await self._jetstream.publish(subject, payload, headers={MESSAGE_ID_HEADER: event_id})
        except (TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(subject, describe(error)) from error

    async def last_told(self, kind: str) -> list[feed.CloudEvent]:
        wanted = f"{subjects.feed(kind)}.>"
        try:
            info = await self._jetstream.stream_info(subjects.FEED_STREAM, subjects_filter=wanted)
        except (TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(wanted, describe(error)) from error
        events = []
        for subject in sorted(info.state.subjects or ()):
            message = await self._last_on(subject)
            if message is None:
                continue  # it has become too old since
            try:
                events.append(msgspec.json.decode(message.data or b"", type=feed.CloudEvent))
            except msgspec.DecodeError as error:
                log.warning("feed.event_unreadable", subject=subject, error=str(error))
        return events

    async def _newest_on(self, subject: str) -> Position | None:
        message = await self._last_on(subject)
        if message is None:
            return None
        event_id = (message.headers or {}).get(MESSAGE_ID_HEADER, "")
        try:
            return Position.of(event_id)
        except ValueError:
            raise BusUnavailable(subject, f"{event_id!r} is no position in the log") from None

    async def _last_on(self, subject: str) -> RawStreamMsg | None:
        try:
            return await self._jetstream.get_msg(subjects.FEED_STREAM, subject=subject)
        except nats.js.errors.NotFoundError as error:
            if error.err_code == NO_MESSAGE_FOUND:
                return None
            raise BusUnavailable(subject, describe(error)) from error
        except (TimeoutError, nats.errors.Error) as error:
            raise BusUnavailable(subject, describe(error)) from error
