"""Applies retention policies: once a period, records each stream's tail and truncates it.

`domain/retention.py` says where; here is the round over the streams. Rounds begin at
multiples of the period of the wall clock, so that an instance that takes the duty over
neither repeats a round nor waits for a whole period.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import structlog
from anabranch_events.domain import RetentionCutRecorded, TruncationStarted
from anabranch_kit.ports.event_store import SequenceConflict

from anabranch_controller import requests
from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain import cuts
from anabranch_controller.domain import retention as rules
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.stream import Stream, bytes_before
from anabranch_controller.errors import ControllerError
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.keys import StreamKey
from anabranch_controller.ports import SegmentMissing, SegmentStoreUnavailable
from anabranch_controller.workflows.segments import name_of_segment

STREAMS_AT_ONCE: Final = 8

log = structlog.stdlib.get_logger("anabranch.retention")


class Retention:
    """A stream whose visit fails is left for the next round."""

    def __init__(self, ctx: Context, *, period_s: float) -> None:
        self._ctx, self._period_s = ctx, period_s

    async def run(self) -> None:
        while True:
            await self._ctx.clock.sleep(self._until_next_s())
            await self.round()

    def _until_next_s(self) -> float:
        period_ms = self._period_s * 1000
        return (period_ms - self._ctx.clock.now_ms() % period_ms) / 1000

    async def round(self) -> None:
        """Visit each stream that has a policy."""
        keys = [key for key, stream in self._ctx.projection.streams.items() if _is_due(stream)]
        await gather_bounded(
            (partial(self._visit, key) for key in keys), concurrent_max=STREAMS_AT_ONCE
        )

    async def _visit(self, key: StreamKey) -> None:
        try:
            await self._record(key)
            await self._truncate(key)
        except (ControllerError, SegmentStoreUnavailable, SegmentMissing, SequenceConflict) as why:
            # A segment can be gone because the stream is being deleted or truncated just now.
            log.warning("retention.put_off", scope=key.scope, stream=key.stream, reason=str(why))

    async def _record(self, key: StreamKey) -> None:
        """Record the tail, unless nothing was written since the last time."""
        await self._ctx.log.load(key.subject)
        before = self._ctx.projection.streams[key]
        if not _is_due(before):
            return
        cut = await self._tail(key, before)
        now_ms = self._ctx.clock.now_ms()

        def decide() -> Write | None:
            stream = self._ctx.projection.streams[key]
            if stream.incarnation != before.incarnation or not _is_due(stream):
                return None
            recorded = stream.retention_cuts
            known = recorded[-1].cut if recorded else stream.head
            if not cuts.equal_or_after(stream.epochs, cut, known) or cut == known:
                return None
            size = bytes_before(stream, cut)
            return write(RetentionCutRecorded(tuple(sorted(cut.items())), now_ms, size))

        await self._ctx.log.change(key.subject, decide)

    async def _tail(self, key: StreamKey, stream: Stream) -> dict[int, int]:
        async def one(identity: int) -> tuple[int, int]:
            info = await self._ctx.stores.info(name_of_segment(key, identity))
            return identity, info.length_bytes

        found = await gather_bounded(partial(one, segment.id) for segment in stream.segments)
        return dict(found)

    async def _truncate(self, key: StreamKey) -> None:
        stream = self._ctx.projection.streams[key]
        if not _is_due(stream):
            return
        cut = chosen_cut(stream, now_ms=self._ctx.clock.now_ms())
        if cut is None:
            return

        def decide(
            found: Stream,
        ) -> TruncationStarted | decisions.Busy | str:
            same = found.incarnation == stream.incarnation
            return decisions.truncate(found, cut) if same else "STREAM_NOT_FOUND"

        result = await requests.in_the_slot(self._ctx, key, decide)
        started = isinstance(result, Written)
        log.info("retention.truncates", scope=key.scope, stream=key.stream, started=started)


def chosen_cut(stream: Stream, *, now_ms: int) -> cuts.Cut | None:
    """Where the policy wants the stream truncated; None when it begins there already."""
    policy = stream.config.retention
    assert policy is not None, "only streams with a policy are visited"
    bound = cuts.lowest(stream.epochs, [one.cut for one in stream.subscribers.values()])
    head = stream.head
    if bound and not cuts.equal_or_after(stream.epochs, bound, head):
        # Somebody has not read what is gone already. All the rest is still needed.
        bound = head
    cut = rules.truncation_cut(
        policy,
        stream.epochs,
        stream.retention_cuts,
        bound=bound,
        bound_size_bytes=bytes_before(stream, bound) if bound else 0,
        now_ms=now_ms,
    )
    if cut is None or cut == head or not cuts.equal_or_after(stream.epochs, cut, head):
        return None
    return cut


def _is_due(stream: Stream) -> bool:
    return stream.stage == "active" and stream.config.retention is not None
