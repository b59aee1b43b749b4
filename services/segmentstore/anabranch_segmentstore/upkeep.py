"""What a container does beside its requests: snapshots, tiering, and the cut of the log.

The log is cut at min(newest durable snapshot, oldest frame with bytes that are nowhere else),
and only after the cut is journalled: by then everything that led to it is durable too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from anabranch_segmentstore.collection import paused
from anabranch_segmentstore.domain.operations import LogCut
from anabranch_segmentstore.domain.snapshot import encode_snapshot
from anabranch_segmentstore.ports import LogPosition
from anabranch_segmentstore.recovery import Recovered

if TYPE_CHECKING:
    from anabranch_segmentstore.container import Container
    from anabranch_segmentstore.tiering import Tiering

TICK_S: Final = 0.25
SNAPSHOT_TIME_SHARE_MAX: Final = 0.05
"""Of the event loop's time. Encoding stops everything else, and takes half a second for a
hundred thousand segments: a container that writes fast then takes longer to recover."""
log = structlog.stdlib.get_logger("anabranch.container")


class Upkeep:
    """Owned by a container; `run` until it ended."""

    def __init__(self, container: Container, recovered: Recovered) -> None:
        self._container = container
        self._snapshot_position = recovered.snapshot_position  # of the newest durable one
        # Counters of the commits at the time of the newest snapshot; recovered frames count too.
        self._frames_at_snapshot = -recovered.frames_count
        self._bytes_at_snapshot = -recovered.frames_bytes
        self._is_snapshot_under_way = False
        self._next_snapshot_s = 0.0  # of the monotonic clock

    async def run(self, tiering: Tiering | None) -> None:
        """Tick until the container ended. What it raises is a bug, or the end's reason."""
        container = self._container
        ended = asyncio.ensure_future(container.wait_ended())
        try:
            while not ended.done():
                pause = asyncio.ensure_future(container.clock.sleep(TICK_S))
                await asyncio.wait([ended, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                if not ended.done():
                    await self.tick(tiering)
        finally:
            ended.cancel()

    async def tick(self, tiering: Tiering | None) -> None:
        self.snapshot_if_due()
        if tiering is not None:
            await tiering.tick()
        await self._cut_log()

    def snapshot_if_due(self) -> None:
        settings, commits = self._container.settings, self._container.commits
        frames = commits.frames_count - self._frames_at_snapshot
        size = commits.frames_bytes - self._bytes_at_snapshot
        is_due = frames >= settings.snapshot_after_frames or size >= settings.snapshot_after_bytes
        is_early = self._container.clock.monotonic() < self._next_snapshot_s
        if is_due and not is_early and not self._is_snapshot_under_way:
            self.snapshot()

    def snapshot(self) -> None:
        """Write the state as it is accepted now behind everything that led to it."""
        container, commits = self._container, self._container.commits
        start_s = container.clock.monotonic()
        with paused():
            payload = encode_snapshot(container.state)
        end_s = container.clock.monotonic()
        self._next_snapshot_s = end_s + (end_s - start_s) / SNAPSHOT_TIME_SHARE_MAX
        self._is_snapshot_under_way = True
        self._frames_at_snapshot = commits.frames_count
        self._bytes_at_snapshot = commits.frames_bytes
        position = commits.add_snapshot([payload], lambda: self._snapshot_settled(position))
        log.info(
            "container.snapshot", container=container.id, position=position, bytes=len(payload)
        )

    def _snapshot_settled(self, position: int) -> None:
        self._snapshot_position = position
        self._is_snapshot_under_way = False

    async def _cut_log(self) -> None:
        container = self._container
        state = container.state
        before = self._snapshot_position
        untiered = state.oldest_untiered_frame()
        if untiered is not None:
            before = min(before, untiered)
        if before <= state.log_cut_before:
            return
        container.record(LogCut(before))
        await container.barrier()
        await container.log.truncate(LogPosition(before))
