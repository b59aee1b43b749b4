"""The workflows of a stream: create, scale, update, truncate, seal, delete.

The order within a scale is create → metadata → seal → switch (reference, 4.7): successors
must be known before a store says that a segment is sealed, or writers would take the stream
for sealed.
"""

from __future__ import annotations

from typing import Final, assert_never

from anabranch_events.domain import (
    ScaleCompleted,
    StreamActivated,
    StreamDeleted,
    StreamSealed,
    TruncationCompleted,
    UpdateCompleted,
)
from anabranch_wire.names import mark_stream_name

from anabranch_controller import requests
from anabranch_controller.context import Context
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.history import all_segments, largest_number
from anabranch_controller.domain.stream import (
    OpenCommit,
    OpenScale,
    OpenTruncation,
    OpenUpdate,
    Stream,
)
from anabranch_controller.keys import ReservationKey, StreamKey
from anabranch_controller.waiting import OutOfTime
from anabranch_controller.workflows import commits, segments
from anabranch_controller.workflows.recording import record
from anabranch_controller.workflows.reservations import advance_reservation
from anabranch_controller.workflows.transactions import abort_all

GIVE_WAY_S: Final = 0.5  # commits let a waiting scale or seal have the slot, this long at most


async def advance_stream(ctx: Context, key: StreamKey) -> bool:
    """Do one step of what is open in the stream; False when there is nothing for this
    instance to do."""
    stream = ctx.projection.streams.get(key)
    if stream is None:
        return False
    if stream.has_open_work and stream.owner != ctx.instance:
        return False
    work = stream.work
    match work:
        case None:
            return await _advance_stage(ctx, key, stream)
        case OpenScale():
            await _scale(ctx, key, stream, work)
        case OpenUpdate():
            await _update(ctx, key, stream, work)
        case OpenTruncation():
            await _truncate(ctx, key, stream, work)
        case OpenCommit():
            await commits.advance_commit(ctx, key, stream, work)
        case _:
            assert_never(work)
    return True


async def _advance_stage(ctx: Context, key: StreamKey, stream: Stream) -> bool:
    match stream.stage:
        case "creating":
            await segments.create(ctx, key, stream.active_epoch.segments, stream.config)
            await record(ctx, key, stream, StreamActivated())
        case "active":
            if not ctx.projection.committing(key):
                return False
            if not await _gave_way(ctx, key, stream):
                await commits.start_commit(ctx, key, stream)
        case "sealing":
            await _seal(ctx, key, stream)
        case "sealed":
            return False
        case "deleting":
            await _delete(ctx, key, stream)
        case "deleted":
            return await _release(ctx, key, stream)
        case _:
            assert_never(stream.stage)
    return True


async def _gave_way(ctx: Context, key: StreamKey, stream: Stream) -> bool:
    """Let a call that waits for the slot have it, unless it is too slow to take it."""
    if not ctx.slot_waiters[key]:
        return False
    try:
        await ctx.projection.until(
            key.subject,
            lambda: True if ctx.projection.streams[key].has_open_work else None,
            limit_s=GIVE_WAY_S,
        )
    except OutOfTime:
        return False
    return ctx.projection.streams[key].incarnation == stream.incarnation


async def _scale(ctx: Context, key: StreamKey, stream: Stream, work: OpenScale) -> None:
    started = work.started
    if not work.appended:
        await segments.create(ctx, key, started.created, stream.config)
        appended = decisions.scale_epoch(stream, started, created_ms=ctx.clock.now_ms())
        await record(ctx, key, stream, appended)
        return
    sizes = await segments.seal(ctx, key, started.sealed)
    completed = ScaleCompleted(started.new_epoch, sizes, ctx.clock.now_ms())
    await record(ctx, key, stream, completed)


async def _update(ctx: Context, key: StreamKey, stream: Stream, work: OpenUpdate) -> None:
    await segments.update_policy(ctx, key, stream.active_epoch.segments, work.config)
    scale = decisions.policy_scale(stream, work.config, requested_ms=ctx.clock.now_ms())
    if scale is None:
        await record(ctx, key, stream, UpdateCompleted())
    else:
        await record(ctx, key, stream, UpdateCompleted(), scale)


async def _truncate(ctx: Context, key: StreamKey, stream: Stream, work: OpenTruncation) -> None:
    gone = stream.truncation.deleted
    await segments.truncate(
        ctx, key, {identity: at for identity, at in work.cut.items() if identity not in gone}
    )
    await segments.delete(ctx, key, work.to_delete)
    await record(ctx, key, stream, TruncationCompleted())


async def _seal(ctx: Context, key: StreamKey, stream: Stream) -> None:
    """Promised commits first; everything else that is open is aborted, before and after."""
    if ctx.projection.committing(key):
        await commits.start_commit(ctx, key, stream)
        return
    await abort_all(ctx, key)
    sizes = await segments.seal(ctx, key, stream.active_epoch.segments)
    await ctx.log.load_all()
    if not ctx.projection.live_transactions(key):
        await record(ctx, key, stream, StreamSealed(sizes))


async def _delete(ctx: Context, key: StreamKey, stream: Stream) -> None:
    await abort_all(ctx, key)
    await requests.remove(ctx, StreamKey(key.scope, mark_stream_name(key.stream)))
    gone = stream.truncation.deleted
    every = [segment.id for segment in all_segments(stream.epochs) if segment.id not in gone]
    await segments.delete(ctx, key, every)
    await ctx.log.load_all()
    if not ctx.projection.live_transactions(key):
        last = largest_number(stream.epochs[-1])
        await record(ctx, key, stream, StreamDeleted(last))


async def _release(ctx: Context, key: StreamKey, stream: Stream) -> bool:
    """The name of a deleted stream becomes free by the hand of who deleted it."""
    if stream.owner != ctx.instance:
        return False
    return await advance_reservation(ctx, ReservationKey(key.scope, "stream", key.stream))
