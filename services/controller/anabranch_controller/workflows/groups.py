"""The workflows of a reader group: subscribe, have a stream, and give both back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import assert_never

from anabranch_events.domain import (
    GroupActivated,
    GroupDeleted,
    GroupEvent,
    GroupUpdateCompleted,
    SubscriberRemoved,
    SubscriberSet,
)
from anabranch_wire.names import reader_group_stream_name

from anabranch_controller import requests
from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain.group import Group
from anabranch_controller.event_log import Write, write
from anabranch_controller.keys import GroupKey, ReservationKey, StreamKey
from anabranch_controller.workflows.reservations import advance_reservation


async def advance_group(ctx: Context, key: GroupKey) -> bool:
    """Do what is open; False when there is nothing for this instance to do."""
    group = ctx.projection.groups.get(key)
    if group is None or group.owner != ctx.instance:
        return False
    match group.stage:
        case "creating":
            await _subscribe(ctx, group)
            await requests.settled(ctx, stream_of_group(key))
            await _record(ctx, key, group, GroupActivated())
        case "updating":
            await _subscribe(ctx, group)
            await _unsubscribe(ctx, group, group.unsubscribed)
            await _record(ctx, key, group, GroupUpdateCompleted())
        case "deleting":
            await _unsubscribe(ctx, group, (*group.subscriptions, *group.unsubscribed))
            await requests.remove(ctx, stream_of_group(key))
            await _record(ctx, key, group, GroupDeleted())
        case "deleted":
            return await advance_reservation(ctx, ReservationKey(key.scope, "group", key.group))
        case "active":
            return False
        case _:
            assert_never(group.stage)
    return True


def stream_of_group(key: GroupKey) -> StreamKey:
    """The stream that holds the group's shared state."""
    return StreamKey(key.scope, reader_group_stream_name(key.group))


async def _record(ctx: Context, key: GroupKey, seen: Group, event: GroupEvent) -> None:
    def decide() -> Write | None:
        return write(event) if ctx.projection.groups.get(key) == seen else None

    await ctx.log.change(key.subject, decide)


async def _subscribe(ctx: Context, group: Group) -> None:
    async def one(key: StreamKey) -> None:
        def decide() -> Write | None:
            stream = ctx.projection.streams.get(key)
            if stream is None or not stream.exists:
                return None
            known = stream.subscribers.get(group.subscriber)
            wanted = (group.config.id, group.config.generation)
            if known is not None and (known.group_id, known.generation) == wanted:
                return None
            return write(SubscriberSet(group.subscriber, *wanted))

        await ctx.log.change(key.subject, decide)

    await gather_bounded(partial(one, key) for key in _stream_keys(group.subscriptions))


async def _unsubscribe(ctx: Context, group: Group, names: Iterable[str]) -> None:
    async def one(key: StreamKey) -> None:
        def decide() -> Write | None:
            stream = ctx.projection.streams.get(key)
            if stream is None or group.subscriber not in stream.subscribers:
                return None
            if stream.subscribers[group.subscriber].group_id != group.config.id:
                return None
            return write(SubscriberRemoved(group.subscriber, group.config.id))

        await ctx.log.change(key.subject, decide)

    await gather_bounded(partial(one, key) for key in _stream_keys(names))


def _stream_keys(names: Iterable[str]) -> list[StreamKey]:
    return [StreamKey(*name.split("/", 1)) for name in sorted(set(names))]
