"""`JetStreamLog`: a container's write-ahead log in a replicated JetStream stream.

One stream per container, ANABRANCH_LOG_<n> (messages: jetstream_log_format.py, docs/formats.md).
Opening mints an epoch and fences the older owners (jetstream_log_opening.py), appending keeps a
window of messages under way and resolves what was not acknowledged (jetstream_log_writer.py),
reading goes to any replica (jetstream_log_reading.py).

What an acknowledgement is worth is the server's matter: with `sync_interval: always` it survives
a power cut, with JetStream's default it may not (jetstream_log_sync.py looks and warns).

**Falling silent.** An owner may answer while its newest acknowledged message was sent less than a
lease ago (`check_owner`); heartbeats see to that while it is idle. `open` returns only when the
lease of the predecessor has run out, unless that one left a release record.

What remains (by design): a server that loses the end of a stream and forgets that it had it, on
all replicas, cannot be told from one that never had it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import structlog
from anabranch_kit.ids import NewId
from anabranch_kit.ports.clock import Clock
from nats.aio.client import Client

from anabranch_segmentstore.adapters.jetstream_log_format import Kind, Region
from anabranch_segmentstore.adapters.jetstream_log_opening import Opened, Opening
from anabranch_segmentstore.adapters.jetstream_log_reading import Reader
from anabranch_segmentstore.adapters.jetstream_log_stream import ContainerStream
from anabranch_segmentstore.adapters.jetstream_log_writer import Writer, seen
from anabranch_segmentstore.ports import (
    Buffer,
    ContainerId,
    Epoch,
    Frame,
    LogFailed,
    LogPosition,
)

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024  # the longest append (16 MiB) and what waits with it
LEASE_S: Final = 3.0  # that of a member in the registry
MARGIN_S: Final = 1.0  # a host asks `check_owner` twice a second; clocks do not run alike
SILENCE_CHECK_S: Final = 0.1
FRAMES_IN_FLIGHT_MAX: Final = 8  # small ones wait for round trips more than for the disk

log = structlog.stdlib.get_logger("anabranch.log")


class JetStreamLog:
    """DurableLog over one stream. Built by JetStreamLogStore.open."""

    def __init__(
        self,
        stream: ContainerStream,
        clock: Clock,
        opened: Opened,
        writer: Writer,
        *,
        lease_s: float,
    ) -> None:
        self._stream, self._clock, self._writer = stream, clock, writer
        self._lease_s = lease_s
        self._epoch, self._earlier = Epoch(opened.epoch), opened.regions
        self._reader = Reader(stream, clock, writer.places, kept_from=opened.kept_from)
        self._counted_bytes = opened.stored_bytes  # when `_written_then` had been written
        self._written_then = 0
        self._is_closed = False

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    @property
    def last_position(self) -> LogPosition:
        return LogPosition(self._writer.position)

    @property
    def frame_length_max(self) -> int:
        return FRAME_BYTES_MAX

    @property
    def frames_in_flight_max(self) -> int:
        return FRAMES_IN_FLIGHT_MAX

    @property
    def stored_bytes(self) -> int:
        return self._counted_bytes + self._writer.written_bytes - self._written_then

    def check_owner(self) -> None:
        writer = self._writer
        if writer.failure is not None:
            raise writer.failure
        silent_s = self._clock.monotonic() - writer.owned_at
        if silent_s > self._lease_s:
            raise LogFailed(
                self._stream.container,
                f"NATS has confirmed nothing for {silent_s:.1f} s, and the lease is "
                f"{self._lease_s:g} s; another segment store may own the container by now",
            )

    async def append(self, parts: Sequence[Buffer], *, snapshot: bool = False) -> LogPosition:
        return LogPosition(await self._writer.append(parts, snapshot=snapshot))

    async def replay(self) -> AsyncIterator[Frame]:
        writer = self._writer
        frames = self._reader.replay(
            self._regions(),
            first=writer.snapshot or self._reader.kept_from,
            position=writer.snapshot_position or 1,
        )
        try:
            async for frame in frames:
                yield frame
        finally:
            await frames.aclose()  # type: ignore[attr-defined]

    async def read(self, position: LogPosition, start: int, length: int) -> bytes:
        return await self._reader.read(self._regions(), position, start, length)

    async def truncate(self, before: LogPosition) -> None:
        """Journal from where on everything is kept, then purge. A late purge of an owner that
        was fenced meanwhile takes only what it had given up while it was not."""
        writer = self._writer
        if writer.failure is not None:
            raise writer.failure
        kept = min(before, writer.snapshot_position)
        if kept < 1:
            return
        try:
            _, place = await self._reader.locate(self._regions(), kept)
        except KeyError:
            return  # it was truncated further before
        if place <= self._reader.kept_from:
            return
        self._reader.give_up(kept, place)
        await self._marked(writer.mark(Kind.TRUNCATE, kept_from=place))
        await self._reader.retried(lambda: self._stream.purge(place))
        written = writer.written_bytes
        self._counted_bytes = (await self._reader.retried(self._stream.ends)).stored_bytes
        self._written_then = written

    async def close(self, *, clean: bool) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        await self._writer.close(clean=clean)
        await self._reader.close()
        log.info("log.closed", container=self._stream.container, epoch=self._epoch, clean=clean)

    def _regions(self) -> list[Region]:
        writer = self._writer
        own = Region(self._epoch, writer.begin, writer.frames_end, writer.position)
        return [*self._earlier, own] if own.first <= own.last else list(self._earlier)

    async def _marked(self, marked: asyncio.Future[int]) -> None:
        """Until the mark is durable, or has to wait for the room that the purge will make."""
        no_space = asyncio.ensure_future(self._writer.no_space.wait())
        either: list[asyncio.Future[Any]] = [marked, no_space]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            no_space.cancel()
        if marked.done():
            marked.result()
        else:
            marked.add_done_callback(seen)


class JetStreamLogStore:
    """LogStore over a connection that the caller owns and closes when all logs are closed.

    Give it a connection of its own: long frames would delay what else travels on it.
    """

    def __init__(
        self,
        client: Client,
        *,
        clock: Clock,
        new_id: NewId,
        replicas: int = 1,
        lease_s: float = LEASE_S,
        margin_s: float = MARGIN_S,
    ) -> None:
        """`lease_s` must be the same in all segment stores of a cluster."""
        self._client, self._clock, self._new_id = client, clock, new_id
        self._replicas, self._lease_s, self._margin_s = replicas, lease_s, margin_s

    async def open(self, container: ContainerId, *, owner: str) -> JetStreamLog:
        stream = ContainerStream(
            self._client, container, clock=self._clock, replicas=self._replicas
        )
        opening = Opening(stream, owner=owner, clock=self._clock, new_id=self._new_id)
        opened = await opening.open()
        writer = Writer(stream, self._clock, opened, lease_s=self._lease_s)
        await writer.start()
        if not opened.is_released:
            await self._wait_for_silence(writer, opened)
        log.info(
            "log.opened",
            container=container,
            epoch=opened.epoch,
            stream=stream.name,
            position=opened.position,
            snapshot=opened.snapshot_position,
            predecessor_released=opened.is_released,
        )
        return JetStreamLog(stream, self._clock, opened, writer, lease_s=self._lease_s)

    async def _wait_for_silence(self, writer: Writer, opened: Opened) -> None:
        """Until an owner that does not know better yet has stopped answering. The writer's
        heartbeats go on meanwhile. Raises LogFenced."""
        end = opened.minted_at + self._lease_s + self._margin_s
        try:
            while (left_s := end - self._clock.monotonic()) > 0 and writer.failure is None:
                await self._clock.sleep(min(left_s, SILENCE_CHECK_S))
            if writer.failure is not None:
                raise writer.failure
        except BaseException:
            await writer.close(clean=False)
            raise

    async def close(self) -> None:
        """The connection is the caller's; there is nothing else to release."""
