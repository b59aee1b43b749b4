"""The workflows of a key-value table: create and delete its segments."""

from __future__ import annotations

from functools import partial
from typing import assert_never

from anabranch_events.domain import TableActivated, TableDeleted, TableEvent
from anabranch_wire.names import SegmentId, table_segment_name

from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain.table import Table
from anabranch_controller.event_log import Write, write
from anabranch_controller.keys import ReservationKey, TableKey
from anabranch_controller.workflows.reservations import advance_reservation


async def advance_table(ctx: Context, key: TableKey) -> bool:
    """Do what is open; False when there is nothing for this instance to do."""
    table = ctx.projection.tables.get(key)
    if table is None or table.owner != ctx.instance:
        return False
    match table.stage:
        case "creating":
            config = table.config
            await gather_bounded(
                partial(
                    ctx.stores.create_table_segment,
                    name,
                    key_length=config.primary_key_length + config.secondary_key_length,
                    rollover_size_bytes=config.rollover_size_bytes,
                )
                for name in _segment_names(key, table)
            )
            await _record(ctx, key, table, TableActivated())
        case "deleting":
            await gather_bounded(
                partial(ctx.stores.delete_table_segment, name)
                for name in _segment_names(key, table)
            )
            last = max(segment.number for segment in table.segments)
            await _record(ctx, key, table, TableDeleted(last))
        case "deleted":
            return await advance_reservation(ctx, ReservationKey(key.scope, "table", key.table))
        case "active":
            return False
        case _:
            assert_never(table.stage)
    return True


def _segment_names(key: TableKey, table: Table) -> list[str]:
    return [
        table_segment_name(key.scope, key.table, SegmentId(segment.id))
        for segment in table.segments
    ]


async def _record(ctx: Context, key: TableKey, seen: Table, event: TableEvent) -> None:
    def decide() -> Write | None:
        return write(event) if ctx.projection.tables.get(key) == seen else None

    await ctx.log.change(key.subject, decide)
