"""A key-value table: a fixed set of table segments over the key space. It never scales."""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec
from anabranch_events.domain import (
    TableActivated,
    TableBatch,
    TableCreated,
    TableDeleted,
    TableDeletionStarted,
    TableEvent,
    WorkTakenOver,
)
from anabranch_events.model import SegmentRange, TableConfig

from anabranch_controller.domain.stream_decisions import first_segments

KEY_LENGTH_MAX = 256  # of the two keys together; the segment store refuses longer ones
PARTITIONS_MAX = 10_000


class Table(msgspec.Struct, frozen=True):
    """A deleted one stays as a tombstone, for the numbers of a namesake's segments."""

    scope: str
    name: str
    incarnation: str
    config: TableConfig
    segments: tuple[SegmentRange, ...]
    stage: Literal["creating", "active", "deleting", "deleted"]
    owner: str
    last_segment_number: int = -1

    @property
    def exists(self) -> bool:
        return self.stage != "deleted"

    @property
    def has_open_work(self) -> bool:
        return self.stage in ("creating", "deleting")


def fold(table: Table | None, batch: TableBatch) -> Table:
    for event in batch.events:
        table = evolve(table, event, by=batch.by)
    assert table is not None, "a message holds at least one event"
    return table


def evolve(table: Table | None, event: TableEvent, *, by: str) -> Table:
    if isinstance(event, TableCreated):
        assert table is None or not table.exists, "a table is created once"
        return Table(
            event.scope,
            event.table,
            event.incarnation,
            event.config,
            event.segments,
            "creating",
            by,
        )
    assert table is not None, "the first event of a table creates it"
    replace = msgspec.structs.replace
    match event:
        case TableActivated():
            return replace(table, stage="active", owner=by)
        case TableDeletionStarted():
            return replace(table, stage="deleting", owner=by)
        case TableDeleted(last_segment_number=last):
            return replace(table, stage="deleted", segments=(), last_segment_number=last, owner=by)
        case WorkTakenOver():
            return replace(table, owner=by)
        case _:
            assert_never(event)


def create(
    before: Table | None,
    *,
    scope: str,
    table: str,
    incarnation: str,
    config: TableConfig,
    created_ms: int,
) -> TableCreated | None:
    """None when the reservation was followed already."""
    if before is not None and (before.exists or before.incarnation == incarnation):
        return None
    first = 0 if before is None else before.last_segment_number + 1
    return TableCreated(
        scope=scope,
        table=table,
        incarnation=incarnation,
        config=config,
        segments=first_segments(config.partitions_count, first),
        created_ms=created_ms,
    )
