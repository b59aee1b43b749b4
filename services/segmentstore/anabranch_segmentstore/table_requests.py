"""Table requests of a container: conditions, entries as bytes, pages and deltas.

The index says where the records are (domain/tables.py), the records are read like any bytes of
a segment. Every answer waits until the segment's accepted changes are durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from anabranch_segmentstore.api import (
    TableDelta,
    TableEntry,
    TableInfo,
    TableKey,
    TablePage,
)
from anabranch_segmentstore.domain.errors import (
    BadArgument,
    NotATable,
    OperationUnsupported,
    SegmentSealed,
    SegmentTruncated,
)
from anabranch_segmentstore.domain.operations import TableChanged, TableKeysRemoved
from anabranch_segmentstore.domain.state import Segment
from anabranch_segmentstore.domain.tables import (
    FIXED_KEY_PAGE,
    PAGE_BYTES_MAX,
    Located,
    Record,
    RecordsDamaged,
    TableIndex,
    check_entry_lengths,
    check_version_numbers,
    encode_put,
    encode_removal,
    fixed_token,
    hash_token,
    parse_hash_token,
    records,
    value_start,
)

if TYPE_CHECKING:
    from anabranch_segmentstore.container import Container

VALUES_AT_ONCE: Final = 64  # values that one request reads at the same time
DELTA_READ_LENGTH: Final = PAGE_BYTES_MAX


class TableRequests:
    """The table side of one container."""

    def __init__(self, container: Container) -> None:
        self._container = container

    async def update(
        self, name: str, entries: Sequence[TableEntry], expected_length: int | None
    ) -> list[int]:
        def accept() -> list[int]:
            segment, table = self._table(name)
            check_version_numbers(name, entries)
            table.check_keys(name, [entry.key for entry in entries])
            check_entry_lengths(name, entries)
            if segment.is_sealed:
                raise SegmentSealed(name)
            table.check_versions(name, entries)
            _check_length(segment, expected_length)
            return self._append(segment, [encode_put(entry.key, entry.value) for entry in entries])

        return await self._container.change(accept)

    async def remove(
        self, name: str, keys: Sequence[TableKey], expected_length: int | None
    ) -> None:
        def accept() -> None:
            segment, table = self._table(name)
            check_version_numbers(name, keys)
            table.check_keys(name, [key.key for key in keys])
            if segment.is_sealed:
                raise SegmentSealed(name)
            table.check_versions(name, keys)
            _check_length(segment, expected_length)
            if table.is_hash:
                self._append(segment, [encode_removal(key.key) for key in keys])
            elif keys:
                operation = TableKeysRemoved(segment.id, [key.key for key in keys])
                self._container.record(operation)

        await self._container.change(accept)

    def _append(self, segment: Segment, parts: list[bytes]) -> list[int]:
        """The offsets, which are the versions, of the records in `parts`."""
        versions: list[int] = []
        end = segment.length
        for part in parts:
            versions.append(end)
            end += len(part)
        if parts:
            length = end - segment.length
            self._container.record(
                TableChanged(segment.id, length), segment=segment, parts=parts, length=length
            )
        return versions

    async def get(self, name: str, keys: Sequence[bytes]) -> list[TableEntry | None]:
        def look(segment: Segment) -> tuple[Segment, list[Located | None]]:
            table = _table_of(segment)
            table.check_keys(name, keys)
            return segment, [table.entries.get(key) for key in keys]

        segment, places = await self._container.look(name, look)
        found = [(key, place) for key, place in zip(keys, places, strict=True) if place is not None]
        entries = iter(await self._read_entries(segment, found))
        return [None if place is None else next(entries) for place in places]

    async def iterate(
        self, name: str, count: int, token: bytes, low: bytes, high: bytes, *, keys_only: bool
    ) -> TablePage:
        def look(segment: Segment) -> tuple[Segment, TableIndex, list[tuple[bytes, Located]]]:
            table = _table_of(segment)
            after = _check_range(name, table, token, low, high)
            keys = table.keys_after(after, low, high)
            return segment, table, _page(table, keys, count, keys_only=keys_only)

        segment, table, page = await self._container.look(name, look)
        if not page:
            return TablePage([], b"")
        if keys_only:
            entries = [TableEntry(key, b"", located.offset) for key, located in page]
        else:
            entries = await self._read_entries(segment, page)
        last = page[-1][0]
        return TablePage(entries, hash_token(last) if table.is_hash else fixed_token(last))

    async def delta(self, name: str, position: int, count: int) -> TableDelta:
        def look(segment: Segment) -> tuple[Segment, int]:
            if not _table_of(segment).is_hash:
                raise OperationUnsupported(name, "readTableEntriesDelta")
            if not 0 <= position <= segment.length:
                raise BadArgument(name, f"position {position} is outside of the table")
            return segment, segment.length

        segment, end = await self._container.look(name, look)
        # Also for a position that is inside of a record (wire-protocol.md 7.7).
        nothing = TableDelta([], should_clear=False, reached_end=True, last_position=0)
        if position == end or count <= 0:
            return nothing
        start = max(position, segment.start_offset)
        entries: dict[bytes, TableEntry] = {}
        read_bytes = 0
        last = start
        while last < end and len(entries) < count and read_bytes < PAGE_BYTES_MAX:
            data = await self._container.reader.read_exactly(
                segment, last, min(end, last + DELTA_READ_LENGTH)
            )
            block_start = last
            try:
                for record in records(data, block_start, cut=True):
                    _take_record(entries, record, data, block_start)
                    last = record.end
                    read_bytes += record.end - record.offset
                    if len(entries) >= count or read_bytes >= PAGE_BYTES_MAX:
                        break
            except RecordsDamaged:
                is_inside_a_record = True
            else:
                is_inside_a_record = last == block_start
            if is_inside_a_record:
                return nothing
        return TableDelta(
            list(entries.values()),
            should_clear=position < segment.start_offset,
            reached_end=last == end,
            last_position=last,
        )

    async def info(self, name: str) -> TableInfo:
        def look(segment: Segment) -> TableInfo:
            table = _table_of(segment)
            return TableInfo(
                segment.start_offset, segment.length, len(table.entries), table.key_length
            )

        return await self._container.look(name, look)

    def _table(self, name: str) -> tuple[Segment, TableIndex]:
        segment = self._container.state.find(name)
        return segment, _table_of(segment)

    async def _read_entries(
        self, segment: Segment, places: Sequence[tuple[bytes, Located]]
    ) -> list[TableEntry]:
        entries: list[TableEntry] = []
        for at in range(0, len(places), VALUES_AT_ONCE):
            some = places[at : at + VALUES_AT_ONCE]
            values = await asyncio.gather(
                *(self._read_value(segment, key, located) for key, located in some)
            )
            entries += [
                TableEntry(key, value, located.offset)
                for (key, located), value in zip(some, values, strict=True)
            ]
        return entries

    async def _read_value(self, segment: Segment, key: bytes, located: Located) -> bytes:
        if located.value_length == 0:
            return b""
        start = value_start(located.offset, key)
        return await self._container.reader.read_exactly(
            segment, start, start + located.value_length
        )


def _table_of(segment: Segment) -> TableIndex:
    if segment.table is None:
        raise NotATable(segment.name)
    return segment.table


def _check_length(segment: Segment, expected_length: int | None) -> None:
    if expected_length is not None and expected_length != segment.length:
        raise SegmentTruncated(segment.name, segment.length, expected_length)


def _check_range(name: str, table: TableIndex, token: bytes, low: bytes, high: bytes) -> bytes:
    """The position to go on from (wire-protocol.md 7.6)."""
    if table.is_hash:
        if low or high:
            raise BadArgument(name, "a hash table is not iterated from key to key")
        return parse_hash_token(name, token)
    if token:
        raise BadArgument(name, "a fixed-key table is continued by its keys, not by a token")
    for bound in (low, high):
        if bound and len(bound) != table.key_length:
            raise BadArgument(
                name, f"a bound of {len(bound)} bytes; this table's keys have {table.key_length}"
            )
    if low and high and low > high:
        raise BadArgument(name, "the first key is above the last one")
    return b""


def _page(
    table: TableIndex, keys: Iterator[bytes], count: int, *, keys_only: bool
) -> list[tuple[bytes, Located]]:
    page: list[tuple[bytes, Located]] = []
    if count <= 0:
        return page
    count_max = count if table.is_hash else count + FIXED_KEY_PAGE
    page_bytes = 0
    for key in keys:
        located = table.entries[key]
        page.append((key, located))
        page_bytes += len(key) + (0 if keys_only else located.value_length)
        if len(page) >= count_max or page_bytes >= PAGE_BYTES_MAX:
            break
    return page


def _take_record(entries: dict[bytes, TableEntry], record: Record, data: bytes, base: int) -> None:
    if record.value_length is None:
        entries.pop(record.key, None)
        return
    value = data[record.end - base - record.value_length : record.end - base]
    entries.pop(record.key, None)
    entries[record.key] = TableEntry(record.key, value, record.offset)
