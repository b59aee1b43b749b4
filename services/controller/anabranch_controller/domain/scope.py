"""A scope: the directory of its streams, reader groups and tables.

A name is reserved here before the thing exists and released after it is gone, so that
deleting a scope cannot race with creating something in it. A reservation says everything
that it takes to create the thing; whoever finds one without its thing creates it.
"""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec
from anabranch_events.domain import (
    GroupReleased,
    GroupReserved,
    ScopeBatch,
    ScopeCreated,
    ScopeDeleted,
    ScopeDeletionStarted,
    ScopeEvent,
    StreamReleased,
    StreamReserved,
    TableReleased,
    TableReserved,
    WorkTakenOver,
)

Kind = Literal["stream", "group", "table"]
Reserved = StreamReserved | GroupReserved | TableReserved


class Reservation(msgspec.Struct, frozen=True):
    """`owner` is the instance that is expected to create the thing; when it is gone, anybody
    may, and the sequence of the thing's own subject judges who was first."""

    request: Reserved
    owner: str

    @property
    def incarnation(self) -> str:
        return self.request.incarnation


class Scope(msgspec.Struct, frozen=True):
    name: str
    incarnation: str
    stage: Literal["active", "deleting", "deleted"]
    owner: str
    streams: dict[str, Reservation] = {}
    groups: dict[str, Reservation] = {}
    tables: dict[str, Reservation] = {}

    @property
    def exists(self) -> bool:
        return self.stage != "deleted"

    @property
    def is_open(self) -> bool:
        """May something be reserved in it?"""
        return self.stage == "active"

    @property
    def is_empty(self) -> bool:
        return not (self.streams or self.groups or self.tables)

    def reservation(self, kind: Kind, name: str) -> Reservation | None:
        return self._directory(kind).get(name)

    def _directory(self, kind: Kind) -> dict[str, Reservation]:
        match kind:
            case "stream":
                return self.streams
            case "group":
                return self.groups
            case "table":
                return self.tables


def fold(scope: Scope | None, batch: ScopeBatch) -> Scope:
    for event in batch.events:
        scope = evolve(scope, event, by=batch.by)
    assert scope is not None, "a message holds at least one event"
    return scope


def evolve(scope: Scope | None, event: ScopeEvent, *, by: str) -> Scope:
    if isinstance(event, ScopeCreated):
        assert scope is None or not scope.exists, "a scope is created once"
        return Scope(event.scope, event.incarnation, "active", by)
    assert scope is not None, "the first event of a scope creates it"
    replace = msgspec.structs.replace
    match event:
        case StreamReserved(stream=name):
            return replace(scope, streams={**scope.streams, name: Reservation(event, by)})
        case GroupReserved(group=name):
            return replace(scope, groups={**scope.groups, name: Reservation(event, by)})
        case TableReserved(table=name):
            return replace(scope, tables={**scope.tables, name: Reservation(event, by)})
        case StreamReleased(stream=name):
            return replace(scope, streams=_without(scope.streams, name))
        case GroupReleased(group=name):
            return replace(scope, groups=_without(scope.groups, name))
        case TableReleased(table=name):
            return replace(scope, tables=_without(scope.tables, name))
        case ScopeDeletionStarted():
            return replace(scope, stage="deleting", owner=by)
        case ScopeDeleted():
            return Scope(scope.name, scope.incarnation, "deleted", by)
        case WorkTakenOver():
            return replace(scope, owner=by)
        case _:
            assert_never(event)


def _without(directory: dict[str, Reservation], name: str) -> dict[str, Reservation]:
    return {key: value for key, value in directory.items() if key != name}
