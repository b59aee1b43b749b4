"""Recording a step: only if what the step was done for still stands."""

from __future__ import annotations

from anabranch_events.domain import DomainEvent

from anabranch_controller.context import Context
from anabranch_controller.domain.stream import Stream
from anabranch_controller.event_log import write
from anabranch_controller.keys import StreamKey


class Superseded(Exception):
    """Another instance took the work over, or finished it. Look again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the work on {name} went on elsewhere")
        self.name = name


async def record(ctx: Context, key: StreamKey, seen: Stream, *events: DomainEvent) -> None:
    """Write the events if the stream's stage, work and owner are those that were `seen`.

    Events that do not touch the work (subscribers, writers' times) may have come between.
    Raises Superseded, SequenceConflict, Unavailable.
    """
    now = ctx.projection.streams.get(key)
    if now is None or (now.incarnation, now.stage, now.work, now.owner) != (
        seen.incarnation,
        seen.stage,
        seen.work,
        seen.owner,
    ):
        raise Superseded(f"{key.scope}/{key.stream}")
    await ctx.log.append(key.subject, write(*events))
