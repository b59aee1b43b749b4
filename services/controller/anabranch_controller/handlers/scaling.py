"""Scaling: by hand, by the autoscaler's command, and what became of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, assert_never

from anabranch_events.bus import KeyRange, ScaleAnswer, ScaleCommand
from anabranch_events.domain import ScaleStarted

from anabranch_controller import requests
from anabranch_controller.api import ScaleHistory, ScaleReply, ScaleStatus, SegmentHistory
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.history import Epoch
from anabranch_controller.domain.stream import Stream
from anabranch_controller.domain.stream_decisions import Busy, ScaleRefused, ScaleUnderWay
from anabranch_controller.errors import Conflict, InvalidArgument, Timeout, Unavailable
from anabranch_controller.event_log import Written
from anabranch_controller.handlers.base import Handlers, is_stream_name
from anabranch_controller.keys import StreamKey

COMMAND_LIMIT_S: Final = 5.0  # the autoscaler asks again with fresh rates

_HASH_MAP_BUCKETS: Final = 16
_HASH_MAP_LOAD_MAX: Final = 0.75
_FAILED: Final = ScaleReply("FAILURE", 0, ())


class _EpochMovedOn(Exception):
    """The decision was made for segments that are not there any more."""


class ScalingHandlers(Handlers):
    async def scale(
        self,
        scope: str,
        stream: str,
        *,
        seal: Sequence[int],
        ranges: Sequence[KeyRange],
        requested_ms: int,
    ) -> ScaleReply:
        _check_ranges(ranges)
        ranges = _numbering_order(ranges)
        if not is_stream_name(scope, stream):
            return _FAILED
        decided: list[ScaleStarted] = []

        def decide(found: Stream) -> ScaleStarted | ScaleUnderWay | ScaleRefused | Busy:
            decision = decisions.scale(
                found, seal=seal, ranges=ranges, requested_ms=requested_ms, cause="manual"
            )
            if isinstance(decision, ScaleStarted):
                decided[:] = [decision]
            return decision

        result: Written | ScaleUnderWay | ScaleRefused | None = await requests.in_the_slot(
            self._ctx, StreamKey(scope, stream), decide
        )
        match result:
            case None:
                return _FAILED
            case ScaleRefused(outcome=outcome):
                return ScaleReply(outcome, 0, ())
            case ScaleUnderWay(started=started):
                return ScaleReply("STARTED", started.new_epoch - 1, started.created)
            case Written():
                return ScaleReply("STARTED", decided[0].new_epoch - 1, decided[0].created)
            case _:
                assert_never(result)

    async def scale_by_command(self, command: ScaleCommand) -> ScaleAnswer:
        name = f"{command.scope}/{command.stream}"
        if not is_stream_name(command.scope, command.stream):
            return ScaleAnswer("not-found", f"no stream {name}")
        try:
            _check_ranges(command.ranges)
            result: Written | ScaleUnderWay | ScaleRefused | None = await requests.in_the_slot(
                self._ctx,
                StreamKey(command.scope, command.stream),
                lambda found: _decide_command(found, command, self._ctx.clock.now_ms()),
                limit_s=COMMAND_LIMIT_S,
            )
        except (_EpochMovedOn, InvalidArgument) as error:
            return ScaleAnswer("refused", str(error))
        except (Conflict, Timeout, Unavailable) as error:
            return ScaleAnswer("conflict", str(error))
        match result:
            case None:
                return ScaleAnswer("not-found", f"no stream {name}")
            case ScaleRefused(why=why):
                return ScaleAnswer("refused", why)
            case ScaleUnderWay() | Written():
                return ScaleAnswer("started")

    async def check_scale(self, scope: str, stream: str, epoch: int) -> ScaleStatus:
        if epoch < 0:
            raise InvalidArgument("epoch", f"{epoch} is negative")
        found = await self._loaded_stream(scope, stream)
        if found is None or epoch > found.current:
            return "INVALID_INPUT"
        active = found.active_epoch
        return "IN_PROGRESS" if epoch in (active.number, active.reference) else "SUCCESS"

    async def scaling_events(
        self, scope: str, stream: str, from_ms: int, to_ms: int
    ) -> tuple[ScaleHistory, ...]:
        found = await self._need_stream(scope, stream)
        shown = [epoch for epoch in found.epochs[: found.current + 1] if epoch.created_ms <= to_ms]
        inside = [epoch for epoch in shown if epoch.created_ms >= from_ms]
        before = [epoch for epoch in shown if epoch.created_ms < from_ms]
        if before and not (inside and inside[0].created_ms == from_ms):
            inside.insert(0, before[-1])
        previous = [inside[0], *inside] if inside else []
        return tuple(
            _history(found, epoch, last) for epoch, last in zip(inside, previous, strict=False)
        )


def _check_ranges(ranges: Sequence[KeyRange]) -> None:
    """Raises InvalidArgument."""
    if any(not part.low < part.high for part in ranges):
        raise InvalidArgument("new key ranges", "each must start before it ends")
    if len({part.low for part in ranges}) != len(ranges):
        raise InvalidArgument("new key ranges", "two start at the same key")


def _numbering_order(ranges: Sequence[KeyRange]) -> list[KeyRange]:
    """The order in which a manual scale numbers its segments.

    Pravega's request handler collects the ranges in a Java HashMap by their start, so they
    come out by the hash of that double. For starts with few binary digits (halves, quarters)
    that is the order of the request; for others it is not, and recorded ids show it.
    """
    buckets_count = _HASH_MAP_BUCKETS
    while len(ranges) > _HASH_MAP_LOAD_MAX * buckets_count:
        buckets_count *= 2
    return sorted(ranges, key=lambda part: _java_hash(part.low) & (buckets_count - 1))


def _java_hash(value: float) -> int:
    """Of a Double, spread as HashMap does it."""
    bits = int.from_bytes(struct.pack(">d", value))
    folded = (bits ^ bits >> 32) & 0xFFFFFFFF
    return folded ^ folded >> 16


def _decide_command(
    stream: Stream, command: ScaleCommand, now_ms: int
) -> ScaleStarted | ScaleUnderWay | ScaleRefused | Busy:
    """Raises _EpochMovedOn."""
    if stream.current != command.epoch:
        raise _EpochMovedOn(f"the epoch is {stream.current}, the decision was for {command.epoch}")
    return decisions.scale(
        stream,
        seal=command.seal,
        ranges=command.ranges,
        requested_ms=now_ms,
        cause="load",
        reason=command.reason,
        observed_rate=command.observed_rate,
        target_rate=command.target_rate,
    )


def _history(stream: Stream, epoch: Epoch, previous: Epoch) -> ScaleHistory:
    return ScaleHistory(
        at_ms=epoch.created_ms,
        segments=tuple(
            SegmentHistory(
                segment.number,
                segment.epoch,
                stream.epochs[segment.epoch].created_ms,
                segment.low,
                segment.high,
            )
            for segment in epoch.segments
        ),
        splits=epoch.splits - previous.splits,
        merges=epoch.merges - previous.merges,
    )
