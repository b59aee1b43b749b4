"""Writes watermarks into mark streams, where readers look for them.

Nothing is remembered here that could be lost: the previous watermark is read back from the
mark stream, and the new one is appended only where the previous one ended, so that of two
instances one succeeds. The *mark* of the segment says where new readers begin; it follows
one watermark behind, which gives them two.

Only the clocks of writers that are waited for live in memory: after a change of the instance
they begin anew, and a watermark comes a little later.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import structlog
from anabranch_events.domain import WritersForgotten
from anabranch_kit.ports.event_store import SequenceConflict
from anabranch_wire.names import mark_stream_name

from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain import watermarks as rules
from anabranch_controller.domain.stream import Stream, WriterMark
from anabranch_controller.domain.watermarks import DamagedWatermark
from anabranch_controller.errors import ControllerError
from anabranch_controller.event_log import Write, write
from anabranch_controller.keys import StreamKey
from anabranch_controller.ports import MarkSegments, SegmentMissing, SegmentStoreUnavailable
from anabranch_controller.workflows.segments import name_of_segment

STREAMS_AT_ONCE: Final = 16

log = structlog.stdlib.get_logger("anabranch.watermarks")


class Watermarks:
    """A stream whose visit fails is left for the next round."""

    def __init__(self, ctx: Context, marks: MarkSegments, *, period_s: float) -> None:
        self._ctx, self._marks, self._period_s = ctx, marks, period_s
        self._silent_since_s: dict[StreamKey, dict[str, float]] = {}
        self._settled: dict[StreamKey, dict[str, WriterMark]] = {}

    async def run(self) -> None:
        while True:
            await self._ctx.clock.sleep(self._period_s)
            await self.round()

    async def round(self) -> None:
        """Visit each stream whose writers noted something since the last time."""
        streams = self._ctx.projection.streams
        noted = {key for key, stream in streams.items() if stream.exists and stream.writers}
        for memory in (self._silent_since_s, self._settled):
            for key in memory.keys() - noted:
                del memory[key]
        due = [key for key in noted if self._settled.get(key) is not streams[key].writers]
        await gather_bounded(
            (partial(self._visit, key) for key in due), concurrent_max=STREAMS_AT_ONCE
        )

    async def _visit(self, key: StreamKey) -> None:
        try:
            await self._advance(key)
        except (
            ControllerError,
            DamagedWatermark,
            SegmentMissing,
            SegmentStoreUnavailable,
            SequenceConflict,
        ) as why:
            # A segment can be gone because the stream is being deleted just now.
            log.warning("watermark.put_off", scope=key.scope, stream=key.stream, reason=str(why))

    async def _advance(self, key: StreamKey) -> None:
        segment = self._mark_segment(key)
        if segment is None:
            return
        tail = await self._marks.tail(segment)
        known = list(rules.entries(tail.events, tail.begin))
        stream = self._ctx.projection.streams[key]
        decision = rules.decide(
            stream,
            known[-1].watermark if known else None,
            self._silent_since_s.get(key, {}),
            now_s=self._ctx.clock.monotonic(),
        )
        self._silent_since_s[key] = decision.silent_since_s
        if decision.forget:
            await self._forget(key, stream, decision.forget)
        if decision.watermark is not None:
            emitted = await self._emit(segment, tail.end, decision.watermark)
            if emitted and known:
                await self._marks.move_mark(segment, known[-1].offset, expected=tail.mark)
        elif not decision.silent_since_s and not decision.forget:
            self._settled[key] = stream.writers

    async def _emit(self, segment: str, end: int, watermark: rules.Watermark) -> bool:
        event = rules.encode(watermark)
        emitted = await self._marks.append(segment, event, expected_offset=end)
        if not emitted:
            log.info("watermark.set_by_another", segment=segment)
        return emitted

    def _mark_segment(self, key: StreamKey) -> str | None:
        mark_key = StreamKey(key.scope, mark_stream_name(key.stream))
        marks = self._ctx.projection.streams.get(mark_key)
        if marks is None or marks.stage != "active":
            return None
        return name_of_segment(mark_key, marks.segments[0].id)

    async def _forget(self, key: StreamKey, seen: Stream, writers: dict[str, WriterMark]) -> None:
        """Unless they noted something meanwhile."""

        def decide() -> Write | None:
            stream = self._ctx.projection.streams[key]
            if stream.incarnation != seen.incarnation:
                return None
            gone = tuple(name for name, mark in writers.items() if stream.writers.get(name) == mark)
            return write(WritersForgotten(gone)) if gone else None

        await self._ctx.log.change(key.subject, decide)
