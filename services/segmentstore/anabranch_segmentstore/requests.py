"""The requests of the wire protocol, other than appends: one small function each.

`REQUESTS` is the table; a test holds it against the protocol's union of requests. A function
gets the container of its segment and the command, and gives the reply. What the container
refuses is turned into a reply in one place, `reply_to_refusal`, after the table of
wire-protocol.md 4.2; where that table closes the connection, it returns None.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast
from uuid import UUID

import structlog
from anabranch_kit.ids import NewId
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import ObjectNotFound, ObjectStoreUnavailable
from anabranch_wire import attributes as attribute_ids
from anabranch_wire import commands as c
from anabranch_wire.attributes import SegmentType, UpdateType
from anabranch_wire.names import transient_segment_name

from anabranch_segmentstore.api import (
    AttributeUpdate,
    SegmentContainer,
    TableEntry,
    TableKey,
)
from anabranch_segmentstore.domain import errors
from anabranch_segmentstore.ports import LogError
from anabranch_segmentstore.reads import ChunkDamaged, NoTierTwo

STORAGE_TROUBLE: Final = (
    LogError,
    ObjectStoreUnavailable,
    ObjectNotFound,
    ChunkDamaged,
    NoTierTwo,
)
NAME_BYTES_MAX: Final = 8 * 1024  # of a segment; longer ones have no use and cost index space

log = structlog.stdlib.get_logger("anabranch.requests")


class Site(Protocol):
    """What requests need of the store that they came to."""

    @property
    def clock(self) -> Clock: ...

    @property
    def new_id(self) -> NewId: ...

    def container_number(self, segment: str) -> int: ...

    async def container_of(self, segment: str) -> SegmentContainer:
        """The container of a segment, once it is ready if it is starting here. Raises
        ContainerStopped when it runs elsewhere."""
        ...

    async def forward(self, segment: str, command: c.TableRequest) -> c.Reply | None:
        """The answer of the store that holds the container; None: close the connection."""
        ...

    def confirm(self, segment: str) -> None:
        """Called before a reply leaves: a store that was paused may have lost the container
        meanwhile, and must not answer from what it remembers. Raises ContainerStopped."""
        ...


async def _admit_all(length: int) -> None:
    """No bound."""


class Context(NamedTuple):
    """One connection's view: `transients` are deleted when it goes away; `admit` is awaited
    before so many bytes are fetched for a reply (api.SegmentContainer.read)."""

    site: Site
    transients: set[str]
    admit: Callable[[int], Awaitable[None]] = _admit_all


Handler = Callable[[Context, SegmentContainer, Any], Awaitable[c.Reply]]


class Request(NamedTuple):
    """How to handle a command, and what its refusals call it (wire-protocol.md 4.2)."""

    handle: Handler
    operation: str
    routed_by: str = "segment"  # the field that names the segment whose container it goes to
    offset_field: str = ""  # the field that NoSuchSegment and the like repeat as `offset`
    is_table: bool = False
    carries_data: bool = False  # waits while the container has too much to write


async def answer(context: Context, command: c.SegmentRequest | c.TableRequest) -> c.Reply | None:
    """The reply to a request; None: close the connection."""
    request = REQUESTS[type(command)]
    segment: str = getattr(command, request.routed_by)
    try:
        container = await context.site.container_of(segment)
    except errors.ContainerStopped:
        if request.is_table:
            # Rust's tables take WrongHost for a failure, and never look for the new owner.
            return await context.site.forward(segment, cast(c.TableRequest, command))
        return c.WrongHost(command.request_id, segment)
    reply: c.Reply | None
    if request.carries_data and container.is_busy:
        await _idle(container)
    try:
        reply = await request.handle(context, container, command)
    except errors.Refusal as refusal:
        reply = reply_to_refusal(refusal, command)
    except STORAGE_TROUBLE as trouble:
        # The protocol has no reply for it; clients reconnect, wait a while and ask again.
        log.error("request.storage_trouble", segment=segment, reason=str(trouble))  # noqa: TRY400
        return None
    try:
        context.site.confirm(segment)
    except errors.ContainerStopped:
        return None
    return reply


async def _idle(container: SegmentContainer) -> None:
    resumed = asyncio.get_running_loop().create_future()
    container.when_idle(lambda: None if resumed.done() else resumed.set_result(None))
    await resumed


# --- Refusals ----------------------------------------------------------------------------------


def reply_to_refusal(
    refusal: errors.Refusal, command: c.SegmentRequest | c.TableRequest
) -> c.Reply | None:
    """The reply that says why; None where the protocol closes the connection."""
    request = REQUESTS[type(command)]
    request_id = command.request_id
    segment = _named_in_errors(command, request)
    offset: int = getattr(command, request.offset_field) if request.offset_field else c.NO_OFFSET
    match refusal:
        case errors.SegmentExists():
            return c.SegmentAlreadyExists(request_id, segment)
        case errors.NoSuchSegment():
            return c.NoSuchSegment(request_id, segment, "", offset)
        case errors.SegmentSealed():
            return c.SegmentIsSealed(request_id, segment, "", _sealed_offset(command, offset))
        case errors.SegmentTruncated():
            return c.SegmentIsTruncated(request_id, segment, refusal.start_offset, "", offset)
        case errors.AttributeConditionFailed():
            return c.SegmentAttributeUpdated(request_id, success=False)
        case errors.TableNotEmpty():
            return c.TableSegmentNotEmpty(request_id, segment)
        case errors.TableKeyMissing():
            return c.TableKeyDoesNotExist(request_id, segment)
        case errors.TableKeyBadVersion():
            return c.TableKeyBadVersion(request_id, segment)
        case errors.OperationUnsupported():
            return c.OperationUnsupported(request_id, request.operation)
        case errors.Misuse():
            return None
        case errors.BadArgument():
            return c.ErrorMessage(request_id, segment, refusal.message, c.ERROR_ILLEGAL_ARGUMENT)
        case _:
            # NotATable, IsATable: the recorded server closes too. ContainerStopped: what
            # became of the request is unknown, and clients find out after reconnecting.
            return None


def _named_in_errors(command: c.SegmentRequest | c.TableRequest, request: Request) -> str:
    """A merge that fails names its source, whatever it failed for (wire-protocol.md 4.10)."""
    if isinstance(command, c.MergeSegments):
        return command.source
    segment: str = getattr(command, request.routed_by)
    return segment


def _sealed_offset(command: c.SegmentRequest | c.TableRequest, offset: int) -> int:
    """Sealed tables answer -1, whatever offset the request carried (wire-protocol.md 4.14)."""
    return offset if isinstance(command, c.ReadSegment) else c.NO_OFFSET


# --- Segments ----------------------------------------------------------------------------------


def _attributes_at_creation(
    context: Context, segment_type: SegmentType, rollover_size_bytes: int = 0
) -> dict[UUID, int]:
    return {
        attribute_ids.CREATION_TIME: context.site.clock.now_ms(),
        attribute_ids.SEGMENT_TYPE: int(segment_type),
        attribute_ids.ROLLOVER_SIZE: max(rollover_size_bytes, 0),
    }


async def _create_segment(
    context: Context, container: SegmentContainer, command: c.CreateSegment
) -> c.Reply:
    _check_name(command.segment)
    values = _attributes_at_creation(context, SegmentType.STREAM, command.rollover_size_bytes)
    values[attribute_ids.SCALE_POLICY_TYPE] = command.scale_type
    values[attribute_ids.SCALE_POLICY_RATE] = command.target_rate
    await container.create_segment(command.segment, attributes=values)
    return c.SegmentCreated(command.request_id, command.segment)


async def _create_transient_segment(
    context: Context, container: SegmentContainer, command: c.CreateTransientSegment
) -> c.Reply:
    """The connection owns it: it goes when the connection goes."""
    _check_name(command.parent_segment)
    name = transient_segment_name(command.parent_segment, command.writer_id, context.site.new_id())
    values = _attributes_at_creation(context, SegmentType.TRANSIENT)
    del values[attribute_ids.ROLLOVER_SIZE]
    # Known before it is made: the connection may go, and this be cancelled, at the await.
    context.transients.add(name)
    await container.create_segment(name, attributes=values)
    return c.SegmentCreated(command.request_id, name)


def _check_name(segment: str) -> None:
    length = len(segment.encode(errors="surrogatepass"))
    if length > NAME_BYTES_MAX:
        reason = f"a name of {length} bytes, the limit is {NAME_BYTES_MAX}"
        raise errors.BadArgument(segment, reason)


async def _segment_info(
    context: Context, container: SegmentContainer, command: c.GetStreamSegmentInfo
) -> c.Reply:
    info = await container.segment_info(command.segment)
    return c.StreamSegmentInfo(
        command.request_id,
        command.segment,
        exists=True,
        is_sealed=info.is_sealed,
        is_deleted=False,
        last_modified=info.last_modified_ms,
        write_offset=info.length,
        start_offset=info.start_offset,
    )


async def _seal_segment(
    context: Context, container: SegmentContainer, command: c.SealSegment
) -> c.Reply:
    await container.seal_segment(command.segment)
    return c.SegmentSealed(command.request_id, command.segment)


async def _truncate_segment(
    context: Context, container: SegmentContainer, command: c.TruncateSegment
) -> c.Reply:
    await container.truncate_segment(command.segment, command.truncation_offset)
    return c.SegmentTruncated(command.request_id, command.segment)


async def _delete_segment(
    context: Context, container: SegmentContainer, command: c.DeleteSegment
) -> c.Reply:
    await container.delete_segment(command.segment)
    context.transients.discard(command.segment)
    return c.SegmentDeleted(command.request_id, command.segment)


async def _read_segment(
    context: Context, container: SegmentContainer, command: c.ReadSegment
) -> c.Reply:
    """Held at the tail for as long as the connection lives: a client gives up by closing it."""
    segment, offset, length, _, request_id = command
    result = await container.read(segment, offset, length, admit=context.admit)
    if result.sealed_while_waiting:
        return c.SegmentIsSealed(request_id, segment, "", offset)
    return c.SegmentRead(
        segment, offset, result.at_tail, result.end_of_segment, result.data, request_id
    )


async def _locate_offset(
    context: Context, container: SegmentContainer, command: c.LocateOffset
) -> c.Reply:
    """Always the segment's length, which is an event boundary: no index of events is kept."""
    info = await container.segment_info(command.segment)
    return c.OffsetLocated(command.request_id, command.segment, info.length)


async def _merge_segments(
    context: Context, container: SegmentContainer, command: c.MergeSegments
) -> c.Reply:
    _check_same_container(context, command.target, [command.source])
    updates = [AttributeUpdate(*update) for update in command.attribute_updates]
    length = await container.merge_segment(command.target, command.source, updates)
    context.transients.discard(command.source)
    return c.SegmentsMerged(command.request_id, command.target, command.source, length)


async def _merge_segments_batch(
    context: Context, container: SegmentContainer, command: c.MergeSegmentsBatch
) -> c.Reply:
    """In the order given: all are handed to the container at once, which takes them in order.
    A source that is not there counts as merged before."""
    _check_same_container(context, command.target, command.sources)
    merges = (_merge_one(container, command.target, source) for source in command.sources)
    lengths = await asyncio.gather(*merges)
    merged = map(c.MergedSource, command.sources, lengths)
    return c.SegmentsBatchMerged(command.request_id, command.target, tuple(merged))


async def _merge_one(container: SegmentContainer, target: str, source: str) -> int:
    try:
        return await container.merge_segment(target, source)
    except errors.NoSuchSegment:
        return (await container.segment_info(target)).length


def _check_same_container(context: Context, target: str, sources: Sequence[str]) -> None:
    home = context.site.container_number(target)
    for source in sources:
        if context.site.container_number(source) != home:
            raise errors.Misuse(source, f"is in another container than {target}")


async def _attribute(
    context: Context, container: SegmentContainer, command: c.GetSegmentAttribute
) -> c.Reply:
    value = await container.attribute(command.segment, command.attribute_id)
    return c.SegmentAttribute(command.request_id, value)


async def _update_attribute(
    context: Context, container: SegmentContainer, command: c.UpdateSegmentAttribute
) -> c.Reply:
    update = AttributeUpdate(
        command.attribute_id,
        UpdateType.REPLACE_IF_EQUALS,
        command.new_value,
        command.expected_value,
    )
    await container.update_attributes(command.segment, [update])
    return c.SegmentAttributeUpdated(command.request_id, success=True)


async def _update_policy(
    context: Context, container: SegmentContainer, command: c.UpdateSegmentPolicy
) -> c.Reply:
    replace = UpdateType.REPLACE
    updates = [
        AttributeUpdate(attribute_ids.SCALE_POLICY_TYPE, replace, command.scale_type),
        AttributeUpdate(attribute_ids.SCALE_POLICY_RATE, replace, command.target_rate),
    ]
    await container.update_attributes(command.segment, updates)
    return c.SegmentPolicyUpdated(command.request_id, command.segment)


# --- Tables ------------------------------------------------------------------------------------


async def _create_table(
    context: Context, container: SegmentContainer, command: c.CreateTableSegment
) -> c.Reply:
    _check_name(command.segment)
    kind = SegmentType.FIXED_KEY_TABLE if command.key_length > 0 else SegmentType.TABLE
    values = _attributes_at_creation(context, kind, command.rollover_size_bytes)
    if command.key_length > 0:
        values[attribute_ids.ATTRIBUTE_ID_LENGTH] = command.key_length
    await container.create_segment(
        command.segment, attributes=values, table_key_length=max(command.key_length, 0)
    )
    return c.SegmentCreated(command.request_id, command.segment)


async def _delete_table(
    context: Context, container: SegmentContainer, command: c.DeleteTableSegment
) -> c.Reply:
    await container.table_info(command.segment)  # refuses what is no table
    await container.delete_segment(command.segment, must_be_empty=command.must_be_empty)
    return c.SegmentDeleted(command.request_id, command.segment)


async def _table_info(
    context: Context, container: SegmentContainer, command: c.GetTableSegmentInfo
) -> c.Reply:
    info = await container.table_info(command.segment)
    return c.TableSegmentInfo(
        command.request_id,
        command.segment,
        info.start_offset,
        info.length,
        info.entries_count,
        info.key_length,
    )


async def _update_table(
    context: Context, container: SegmentContainer, command: c.UpdateTableEntries
) -> c.Reply:
    versions = await container.table_update(
        command.segment,
        [TableEntry(key, value, version) for (key, version), value in command.entries],
        expected_length=_expected_length(command.table_segment_offset),
    )
    return c.TableEntriesUpdated(command.request_id, tuple(versions))


async def _remove_keys(
    context: Context, container: SegmentContainer, command: c.RemoveTableKeys
) -> c.Reply:
    await container.table_remove(
        command.segment,
        [TableKey(key, version) for key, version in command.keys],
        expected_length=_expected_length(command.table_segment_offset),
    )
    return c.TableKeysRemoved(command.request_id, command.segment)


def _expected_length(table_segment_offset: int) -> int | None:
    """Negative numbers are no condition; the recorded server checks no -2 either."""
    return table_segment_offset if table_segment_offset >= 0 else None


async def _read_table(
    context: Context, container: SegmentContainer, command: c.ReadTable
) -> c.Reply:
    keys = [key.key for key in command.keys]
    found = await container.table_get(command.segment, keys)
    entries = (
        c.TableEntry(c.TableKey(key, c.NOT_EXISTS), b"") if entry is None else _wire_entry(entry)
        for key, entry in zip(keys, found, strict=True)
    )
    return c.TableRead(command.request_id, command.segment, tuple(entries))


async def _read_keys(
    context: Context, container: SegmentContainer, command: c.ReadTableKeys
) -> c.Reply:
    page = await container.table_iterate(
        command.segment,
        count=command.suggested_key_count,
        token=command.continuation_token,
        low=command.from_key,
        high=command.to_key,
        keys_only=True,
    )
    keys = tuple(c.TableKey(entry.key, entry.version) for entry in page.entries)
    return c.TableKeysRead(command.request_id, command.segment, keys, page.token)


async def _read_entries(
    context: Context, container: SegmentContainer, command: c.ReadTableEntries
) -> c.Reply:
    page = await container.table_iterate(
        command.segment,
        count=command.suggested_entry_count,
        token=command.continuation_token,
        low=command.from_key,
        high=command.to_key,
    )
    entries = tuple(map(_wire_entry, page.entries))
    return c.TableEntriesRead(command.request_id, command.segment, entries, page.token)


async def _read_delta(
    context: Context, container: SegmentContainer, command: c.ReadTableEntriesDelta
) -> c.Reply:
    delta = await container.table_delta(
        command.segment, position=command.from_position, count=command.suggested_entry_count
    )
    return c.TableEntriesDeltaRead(
        command.request_id,
        command.segment,
        tuple(map(_wire_entry, delta.entries)),
        delta.should_clear,
        delta.reached_end,
        delta.last_position,
    )


def _wire_entry(entry: TableEntry) -> c.TableEntry:
    return c.TableEntry(c.TableKey(entry.key, entry.version), entry.value)


# --- The table ---------------------------------------------------------------------------------

REQUESTS: Final[dict[type, Request]] = {
    c.ReadSegment: Request(_read_segment, "readSegment", offset_field="offset"),
    c.LocateOffset: Request(_locate_offset, "locateOffset"),
    c.GetStreamSegmentInfo: Request(_segment_info, "getStreamSegmentInfo"),
    c.CreateSegment: Request(_create_segment, "createSegment"),
    c.CreateTransientSegment: Request(
        _create_transient_segment, "createTransientSegment", routed_by="parent_segment"
    ),
    c.SealSegment: Request(_seal_segment, "sealSegment"),
    c.DeleteSegment: Request(_delete_segment, "deleteSegment"),
    c.TruncateSegment: Request(
        _truncate_segment, "truncateSegment", offset_field="truncation_offset"
    ),
    c.UpdateSegmentPolicy: Request(_update_policy, "updateSegmentPolicy"),
    c.GetSegmentAttribute: Request(_attribute, "getSegmentAttribute"),
    c.UpdateSegmentAttribute: Request(_update_attribute, "updateSegmentAttribute"),
    c.MergeSegments: Request(_merge_segments, "mergeSegments", routed_by="target"),
    c.MergeSegmentsBatch: Request(_merge_segments_batch, "mergeSegmentsBatch", routed_by="target"),
    c.GetTableSegmentInfo: Request(_table_info, "getTableSegmentInfo", is_table=True),
    c.CreateTableSegment: Request(_create_table, "createTableSegment", is_table=True),
    c.DeleteTableSegment: Request(_delete_table, "deleteTableSegment", is_table=True),
    c.UpdateTableEntries: Request(
        _update_table,
        "updateTableEntries",
        offset_field="table_segment_offset",
        is_table=True,
        carries_data=True,
    ),
    c.RemoveTableKeys: Request(
        _remove_keys,
        "removeTableKeys",
        offset_field="table_segment_offset",
        is_table=True,
        carries_data=True,
    ),
    c.ReadTable: Request(_read_table, "readTable", is_table=True),
    c.ReadTableKeys: Request(_read_keys, "readTableKeys", is_table=True),
    c.ReadTableEntries: Request(_read_entries, "readTableEntries", is_table=True),
    c.ReadTableEntriesDelta: Request(_read_delta, "readTableEntriesDelta", is_table=True),
}
