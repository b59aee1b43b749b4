"""Changes of a stream that handlers ask for and that workflows ask of each other.

Each function decides, writes, and where it says so waits for the end; the work itself is
done by whichever instance owns it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anabranch_events.domain import (
    DomainEvent,
    GroupDeletionStarted,
    StreamReserved,
    TableDeletionStarted,
)
from anabranch_events.model import ScalingPolicy, StreamConfig
from anabranch_wire.names import mark_stream_name

from anabranch_controller.api import CALL_LIMIT_S
from anabranch_controller.context import Context
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.scope import Scope
from anabranch_controller.domain.stream import Stream
from anabranch_controller.domain.stream_decisions import Busy
from anabranch_controller.errors import Timeout
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.keys import GroupKey, ReservationKey, ScopeKey, StreamKey, TableKey

R = TypeVar("R")

MARK_CONFIG = StreamConfig(scaling=ScalingPolicy(min_segments=1))
"""Of the stream beside each stream that holds its watermarks (reference, 2.3)."""


def stream_reservations(
    ctx: Context, scope: Scope, stream: str, config: StreamConfig
) -> tuple[StreamReserved, ...]:
    """The stream and its mark stream, unless that name is taken already."""
    now_ms = ctx.clock.now_ms()
    mark = mark_stream_name(stream)
    wanted = [(stream, config)]
    if mark not in scope.streams:
        wanted.append((mark, MARK_CONFIG))
    return tuple(
        StreamReserved(name, ctx.new_id().hex, its_config, now_ms) for name, its_config in wanted
    )


def directory_entry(ctx: Context, key: StreamKey) -> Stream | None:
    """The stream that the scope's directory means by this name; None while there is none."""
    scope = ctx.projection.scopes.get(key.scope)
    entry = None if scope is None else scope.streams.get(key.stream)
    stream = ctx.projection.streams.get(key)
    if entry is None or stream is None or stream.incarnation != entry.incarnation:
        return None
    return stream


async def in_the_slot(
    ctx: Context,
    key: StreamKey,
    decide: Callable[[Stream], DomainEvent | Busy | R],
    *,
    limit_s: float = CALL_LIMIT_S,
) -> Written | R | None:
    """Decide about the stream, waiting while other work holds its slot; write the event.

    None when there is no such stream. Raises Timeout, Conflict, Unavailable.
    """
    ends_at = ctx.clock.monotonic() + limit_s

    def attempt() -> Write | Busy | R | None:
        stream = ctx.projection.streams.get(key)
        if stream is None or not stream.exists:
            return None
        decision = decide(stream)
        return write(decision) if isinstance(decision, DomainEvent) else decision

    result = await ctx.log.change(key.subject, attempt)
    if not isinstance(result, Busy):
        return result
    with ctx.waiting_for_slot(key):
        while isinstance(result, Busy):
            what = f"other work ({result.work}) on {key.scope}/{key.stream}"
            remaining_s = ends_at - ctx.clock.monotonic()
            if remaining_s <= 0:
                raise Timeout(what, limit_s)
            await ctx.until(
                key.subject, lambda: _slot_is_free(ctx, key), what=what, limit_s=remaining_s
            )
            result = await ctx.log.change(key.subject, attempt)
    return result


def _slot_is_free(ctx: Context, key: StreamKey) -> bool | None:
    stream = ctx.projection.streams.get(key)
    free = stream is None or (stream.work is None and stream.stage != "creating")
    return True if free else None


async def seal(ctx: Context, key: StreamKey) -> bool:
    """Seal the stream and wait until it is sealed; False when there is no such stream."""
    await ctx.log.load(ScopeKey(key.scope).subject, key.subject)
    stream = directory_entry(ctx, key)
    if stream is None:
        return False
    result = await in_the_slot(ctx, key, decisions.seal)
    if result is None or result == "STREAM_NOT_FOUND":
        return False
    await ctx.until(
        key.subject,
        lambda: _reached_end(ctx, key, stream.incarnation),
        what=f"the sealing of {key.scope}/{key.stream}",
    )
    return True


def _reached_end(ctx: Context, key: StreamKey, incarnation: str) -> bool | None:
    stream = ctx.projection.streams.get(key)
    if stream is None or stream.incarnation != incarnation:
        return True
    return True if stream.stage in ("sealed", "deleting", "deleted") else None


async def delete(ctx: Context, key: StreamKey) -> bool | None:
    """Delete a sealed stream and wait until its name is free. False when there is no such
    stream, None when it is not sealed."""
    await ctx.log.load(ScopeKey(key.scope).subject, key.subject)
    stream = directory_entry(ctx, key)
    if stream is None:
        return False
    if stream.stage != "deleted":
        result = await in_the_slot(ctx, key, decisions.delete)
        if result == "STREAM_NOT_SEALED":
            return None
    await ctx.until(
        ReservationKey(key.scope, "stream", key.stream).subject,
        lambda: _is_released(ctx, key, stream.incarnation),
        what=f"the deletion of {key.scope}/{key.stream}",
    )
    return True


def _is_released(ctx: Context, key: StreamKey, incarnation: str) -> bool | None:
    scope = ctx.projection.scopes.get(key.scope)
    entry = None if scope is None else scope.streams.get(key.stream)
    return True if entry is None or entry.incarnation != incarnation else None


async def settled(ctx: Context, key: StreamKey) -> None:
    """Wait until a reserved name has its stream, ready for use, or is free again."""

    def ready() -> bool | None:
        scope = ctx.projection.scopes.get(key.scope)
        if scope is None or key.stream not in scope.streams:
            return True
        stream = directory_entry(ctx, key)
        return True if stream is not None and stream.stage not in ("creating", "deleted") else None

    await ctx.until(key.subject, ready, what=f"the creation of {key.scope}/{key.stream}")


async def remove(ctx: Context, key: StreamKey) -> None:
    """Seal and delete whatever stream has this name; nothing when there is none."""
    await ctx.log.load(ScopeKey(key.scope).subject, key.subject)
    await settled(ctx, key)
    if await seal(ctx, key):
        await delete(ctx, key)


async def remove_group(ctx: Context, key: GroupKey) -> bool:
    """Delete the reader group and wait until its name is free; False when there is none."""

    def decide() -> Write | None:
        group = ctx.projection.groups.get(key)
        startable = group is not None and group.stage in ("creating", "active", "updating")
        return write(GroupDeletionStarted()) if startable else None

    reservation = ReservationKey(key.scope, "group", key.group)
    return await _remove_thing(ctx, reservation, key.subject, decide)


async def remove_table(ctx: Context, key: TableKey) -> bool:
    """Delete the table and wait until its name is free; False when there is none."""

    def decide() -> Write | None:
        table = ctx.projection.tables.get(key)
        startable = table is not None and table.stage in ("creating", "active")
        return write(TableDeletionStarted()) if startable else None

    reservation = ReservationKey(key.scope, "table", key.table)
    return await _remove_thing(ctx, reservation, key.subject, decide)


async def _remove_thing(
    ctx: Context, key: ReservationKey, subject: str, decide: Callable[[], Write | None]
) -> bool:
    def incarnation() -> str | None:
        scope = ctx.projection.scopes.get(key.scope)
        entry = None if scope is None else scope.reservation(key.kind, key.name)
        return None if entry is None else entry.incarnation

    def is_released() -> bool | None:
        return True if incarnation() != wanted else None

    def is_made() -> bool | None:
        thing = ctx.projection.thing(key.scope, key.kind, key.name)
        made = thing is not None and thing.incarnation == wanted
        return True if made else is_released()

    await ctx.log.load(key.subject, subject)
    wanted = incarnation()
    if wanted is None:
        return False
    what = f"{key.kind} {key.scope}/{key.name}"
    await ctx.until(subject, is_made, what=f"the creation of {what}")
    await ctx.log.change(subject, decide)
    await ctx.until(key.subject, is_released, what=f"the deletion of {what}")
    return True
