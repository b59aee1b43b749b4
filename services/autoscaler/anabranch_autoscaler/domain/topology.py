"""The autoscaler's picture of a stream, folded from the controller's event log.

Only what a scale decision needs: the policy, the tags, and which segments take writes now.
New segments count from `ScaleCompleted` on, when the old ones are sealed; between
`ScaleStarted` and there the stream is *busy*, and nothing is asked of it.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from anabranch_events import domain
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig

Phase = Literal["creating", "active", "closing"]


class StreamView(msgspec.Struct, frozen=True):
    """`segments` are those of the current epoch, by rising key range.

    `next_epochs` and `next_config` wait for the event that puts them in force.
    """

    scope: str
    stream: str
    incarnation: str
    config: StreamConfig
    epoch: int
    segments: tuple[SegmentRange, ...]
    phase: Phase = "creating"
    busy: bool = False
    next_epochs: tuple[domain.EpochAppended, ...] = ()
    next_config: StreamConfig | None = None

    @property
    def policy(self) -> ScalingPolicy:
        return self.config.scaling

    @property
    def is_scaled_by_load(self) -> bool:
        return self.policy.scale_type != "fixed" and self.policy.target_rate > 0


def evolve(view: StreamView | None, event: domain.StreamEvent) -> StreamView | None:
    """The picture after `event`; None while there is no such stream.

    Events of a stream whose creation was not seen change nothing: one cannot scale what one
    does not know.
    """
    if isinstance(event, domain.StreamCreated):
        return StreamView(
            scope=event.scope,
            stream=event.stream,
            incarnation=event.incarnation,
            config=event.config,
            epoch=0,
            segments=_by_range(event.segments),
        )
    if view is None:
        return None
    return _evolve_known(view, event)


def _evolve_known(view: StreamView, event: domain.StreamEvent) -> StreamView | None:
    replace = msgspec.structs.replace
    match event:
        case domain.StreamActivated():
            return replace(view, phase="active")
        case domain.ScaleStarted() | domain.CommitStarted(rolling=True):
            return replace(view, busy=True)
        case domain.EpochAppended():
            return replace(view, next_epochs=(event,))
        case domain.RollingEpochsAppended():
            copies = (event.transaction_epoch_copy, event.active_epoch_copy)
            return replace(view, next_epochs=copies)
        case domain.ScaleCompleted() | domain.CommitCompleted():
            return _switched(view)
        case domain.UpdateStarted():
            return replace(view, next_config=event.config)
        case domain.UpdateCompleted():
            return replace(view, config=view.next_config or view.config, next_config=None)
        case domain.SealStarted() | domain.StreamSealed() | domain.DeleteStarted():
            return replace(view, phase="closing")
        case domain.StreamDeleted():
            return None
        case _:
            # Truncation, subscribers, watermarks, transactions of this epoch: they change
            # nothing about which segments take writes, and neither will what is added there.
            return view


def _switched(view: StreamView) -> StreamView:
    """The newest appended epoch is the current one."""
    epoch, segments = view.epoch, view.segments
    for appended in view.next_epochs:
        epoch = appended.epoch
        segments = _after(segments, appended)
    return msgspec.structs.replace(view, epoch=epoch, segments=segments, busy=False, next_epochs=())


def _after(
    segments: tuple[SegmentRange, ...], appended: domain.EpochAppended
) -> tuple[SegmentRange, ...]:
    """The segments of an epoch, whether its event lists all of them or the new ones only."""
    gone = {segment.id for segment in appended.sealed}
    kept = {segment.id: segment for segment in segments if segment.id not in gone}
    kept |= {segment.id: segment for segment in appended.segments}
    return _by_range(tuple(kept.values()))


def _by_range(segments: tuple[SegmentRange, ...]) -> tuple[SegmentRange, ...]:
    return tuple(sorted(segments, key=lambda segment: segment.low))
