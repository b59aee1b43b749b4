"""The directory's promises: what is reserved gets created, what is deleted gets released.

A reservation has no owner to ask: several instances may try, and the sequence of the
subject that they write to lets one of them succeed.
"""

from __future__ import annotations

from typing import assert_never

from anabranch_events.domain import (
    DomainEvent,
    GroupCreated,
    GroupReleased,
    GroupReserved,
    StreamReleased,
    StreamReserved,
    TableReleased,
    TableReserved,
)

from anabranch_controller.context import Context
from anabranch_controller.domain import stream_decisions, table
from anabranch_controller.domain.scope import Reserved
from anabranch_controller.event_log import Write, write
from anabranch_controller.keys import GroupKey, ReservationKey, ScopeKey, StreamKey, TableKey


async def advance_reservation(ctx: Context, key: ReservationKey) -> bool:
    """Create the thing, or free its name; False when the directory is as it should be."""
    request = _request(ctx, key)
    if request is None:
        return False
    thing = ctx.projection.thing(key.scope, key.kind, key.name)
    if thing is None or thing.incarnation != request.incarnation:
        await _create(ctx, key, request)
        return False
    if thing.exists:
        return False
    await _release(ctx, key, request)
    return False


def _request(ctx: Context, key: ReservationKey) -> Reserved | None:
    scope = ctx.projection.scopes.get(key.scope)
    entry = None if scope is None else scope.reservation(key.kind, key.name)
    return None if entry is None else entry.request


async def _create(ctx: Context, key: ReservationKey, request: Reserved) -> None:
    def decide() -> Write | None:
        if _request(ctx, key) != request:
            return None
        created = _created(ctx, key, request)
        return None if created is None else write(created)

    subject = _thing_subject(key)
    await ctx.log.change(subject, decide, reads=(ScopeKey(key.scope).subject,))


def _thing_subject(key: ReservationKey) -> str:
    match key.kind:
        case "stream":
            return StreamKey(key.scope, key.name).subject
        case "group":
            return GroupKey(key.scope, key.name).subject
        case "table":
            return TableKey(key.scope, key.name).subject
        case _:
            assert_never(key.kind)


def _created(ctx: Context, key: ReservationKey, request: Reserved) -> DomainEvent | None:
    match request:
        case StreamReserved():
            return stream_decisions.create(
                ctx.projection.streams.get(StreamKey(key.scope, key.name)),
                scope=key.scope,
                stream=key.name,
                incarnation=request.incarnation,
                config=request.config,
                created_ms=request.created_ms,
            )
        case GroupReserved():
            before = ctx.projection.groups.get(GroupKey(key.scope, key.name))
            if before is not None and (before.exists or before.incarnation == request.incarnation):
                return None
            return GroupCreated(key.scope, key.name, request.incarnation, request.config)
        case TableReserved():
            return table.create(
                ctx.projection.tables.get(TableKey(key.scope, key.name)),
                scope=key.scope,
                table=key.name,
                incarnation=request.incarnation,
                config=request.config,
                created_ms=request.created_ms,
            )
        case _:
            assert_never(request)


async def _release(ctx: Context, key: ReservationKey, request: Reserved) -> None:
    def decide() -> Write | None:
        if _request(ctx, key) != request:
            return None
        return write(_released(key, request.incarnation))

    await ctx.log.change(key.subject, decide, reads=(_thing_subject(key),))


def _released(key: ReservationKey, incarnation: str) -> DomainEvent:
    match key.kind:
        case "stream":
            return StreamReleased(key.name, incarnation)
        case "group":
            return GroupReleased(key.name, incarnation)
        case "table":
            return TableReleased(key.name, incarnation)
        case _:
            assert_never(key.kind)
