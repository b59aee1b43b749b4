"""Key-value tables: create, look, list, delete."""

from __future__ import annotations

from anabranch_events.domain import TableReserved
from anabranch_events.model import SegmentRange, TableConfig
from anabranch_wire.names import INTERNAL_SCOPE

from anabranch_controller import requests
from anabranch_controller.api import CreateTableOutcome, Page, TableOutcome, TableReply
from anabranch_controller.domain.table import KEY_LENGTH_MAX, PARTITIONS_MAX, Table
from anabranch_controller.errors import IllegalState, InvalidArgument, NotFound
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.handlers.base import (
    Handlers,
    is_given_name,
    is_scope_name,
    page,
    require,
)
from anabranch_controller.keys import ScopeKey, TableKey


class TableHandlers(Handlers):
    async def create_table(self, scope: str, table: str, config: TableConfig) -> CreateTableOutcome:
        _check(config)
        if not is_given_name("table", table):
            return "INVALID_TABLE_NAME"
        if not is_scope_name(scope):
            return "SCOPE_NOT_FOUND"
        key = TableKey(scope, table)

        def decide() -> Write | CreateTableOutcome:
            directory = self._scope(scope)
            if directory is None or not directory.is_open:
                return "SCOPE_NOT_FOUND"
            if table in directory.tables:
                return "TABLE_EXISTS"
            incarnation = self._ctx.new_id().hex
            return write(TableReserved(table, incarnation, config, self._ctx.clock.now_ms()))

        result: Written | CreateTableOutcome = await self._ctx.log.change(
            ScopeKey(scope).subject, decide
        )
        if result == "SCOPE_NOT_FOUND":
            return result

        def ready() -> bool | None:
            directory = self._scope(scope)
            if directory is None or table not in directory.tables:
                return True
            found = self._table(key)
            return True if found is not None and found.stage != "creating" else None

        await self._ctx.until(key.subject, ready, what=f"the creation of table {scope}/{table}")
        return "SUCCESS" if isinstance(result, Written) else result

    def _table(self, key: TableKey) -> Table | None:
        scope = self._scope(key.scope)
        entry = None if scope is None else scope.tables.get(key.table)
        found = self._ctx.projection.tables.get(key)
        if entry is None or found is None or found.incarnation != entry.incarnation:
            return None
        return found if found.exists else None

    async def _loaded_table(self, scope: str, table: str) -> Table | None:
        if not is_scope_name(scope) or not is_given_name("table", table):
            return None
        key = TableKey(scope, table)
        await self._ctx.log.load(ScopeKey(scope).subject, key.subject)
        return self._table(key)

    async def table(self, scope: str, table: str) -> TableReply:
        require("table", table)
        found = await self._loaded_table(scope, table)
        if found is None:
            return TableReply("TABLE_NOT_FOUND", None)
        return TableReply("SUCCESS", found.config)

    async def list_tables(self, scope: str, token: str) -> Page:
        require("scope", scope)
        if scope == INTERNAL_SCOPE:
            return page((), token)
        found = await self._loaded_scope(scope)
        if found is None:
            return Page("SCOPE_NOT_FOUND", (), "")
        return page(found.tables, token)

    async def delete_table(self, scope: str, table: str) -> TableOutcome:
        if not is_scope_name(scope) or not is_given_name("table", table):
            return "TABLE_NOT_FOUND"
        removed = await requests.remove_table(self._ctx, TableKey(scope, table))
        return "SUCCESS" if removed else "TABLE_NOT_FOUND"

    async def table_segments(self, scope: str, table: str) -> tuple[SegmentRange, ...]:
        found = await self._loaded_table(scope, table)
        if found is None:
            raise NotFound("table", f"{scope}/{table}")
        if found.stage == "creating":
            raise IllegalState(f"table {scope}/{table}", "creating", "wait until it is made")
        return found.segments


def _check(config: TableConfig) -> None:
    """Raises InvalidArgument."""
    if not 1 <= config.partitions_count <= PARTITIONS_MAX:
        raise InvalidArgument(
            "partitionCount", f"{config.partitions_count}, must be 1 to {PARTITIONS_MAX}"
        )
    if config.primary_key_length < 1 or config.secondary_key_length < 0:
        raise InvalidArgument("key lengths", "the primary must be positive, the other not negative")
    length = config.primary_key_length + config.secondary_key_length
    if length > KEY_LENGTH_MAX:
        raise InvalidArgument("key lengths", f"{length} together, at most {KEY_LENGTH_MAX}")
    if config.rollover_size_bytes < 0:
        raise InvalidArgument("rolloverSizeBytes", f"{config.rollover_size_bytes} is negative")
