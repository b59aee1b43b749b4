"""The commands of Pravega's segment store protocol, one named tuple each.

The order of the fields is their order on the wire. How a field is written, its type code, who
may send it and since which wire version it exists stands in `layouts.py`; `codec.py` turns a
command into a frame and back.

A default has one of two meanings. Where `layouts.py` calls a field optional, it is the value
that a reader assumes when an older peer leaves the field away. On other fields (mostly
`delegation_token`) it only saves typing: on the wire those are mandatory.

Units: `offset`s are bytes from the beginning of a segment, `request_id`s are opaque and echoed.
A `version` is the version of a table key. `Data` is held by reference, never copied: who keeps
a decoded command keeps the memory of its frame (see `framing.py`).

Named tuples compare as tuples: ask for the type before comparing (`SegmentSealed(1, "s")` equals
`SegmentDeleted(1, "s")`), and compare with None instead of asking for truth (`KeepAlive()` is
an empty tuple).
"""

from typing import Final, NamedTuple
from uuid import UUID

Data = bytes | memoryview

NO_EVENT: Final = -(2**63)  # the event number of a writer that has stored nothing
NULL_ATTRIBUTE: Final = -(2**63)  # the value of an attribute that is not set
NO_VERSION: Final = -(2**63)  # a table key whose version does not matter
NOT_EXISTS: Final = -1  # the version of a table key that must not, or does not, exist
NO_REQUEST_ID: Final = -1
NO_OFFSET: Final = -1

ERROR_UNSPECIFIED: Final = -1  # ErrorMessage.error_code and AuthTokenCheckFailed.error_code
ERROR_ILLEGAL_ARGUMENT: Final = 0  # ErrorMessage.error_code
TOKEN_CHECK_FAILED: Final = 0  # AuthTokenCheckFailed.error_code; others than -1, 0, 1 panic Rust
TOKEN_EXPIRED: Final = 1


# --- Connection ----------------------------------------------------------------------------


class Hello(NamedTuple):
    """The range of wire versions that a peer speaks; the first frame in each direction."""

    high_version: int
    low_version: int


class KeepAlive(NamedTuple):
    """Sent by a client so that something moves; the server echoes it."""


class Padding(NamedTuple):
    """Fills the rest of an AppendBlock whose size was announced before its content was known."""

    length: int


class PartialEvent(NamedTuple):
    """The beginning of an append that did not fit into its AppendBlock."""

    data: Data


class Event(NamedTuple):
    """An event inside segment data. As a frame of its own it is a fault of the peer."""

    data: Data


# --- Appends -------------------------------------------------------------------------------


class SetupAppend(NamedTuple):
    request_id: int
    writer_id: UUID
    segment: str
    delegation_token: str = ""


class AppendSetup(NamedTuple):
    request_id: int
    segment: str
    writer_id: UUID
    last_event_number: int


class AppendBlock(NamedTuple):
    """Data of a writer; it counts for nothing before its AppendBlockEnd."""

    writer_id: UUID
    data: Data


class AppendBlockEnd(NamedTuple):
    writer_id: UUID
    size_of_whole_events: int
    data: Data
    num_events: int
    last_event_number: int
    request_id: int = NO_REQUEST_ID


class ConditionalAppend(NamedTuple):
    """One event, without its header, to be stored with its header at `expected_offset`."""

    writer_id: UUID
    event_number: int
    expected_offset: int
    event: Data
    request_id: int = NO_REQUEST_ID


class ConditionalBlockEnd(NamedTuple):
    """Data to be stored as it is at `expected_offset`."""

    writer_id: UUID
    event_number: int
    expected_offset: int
    data: Data
    request_id: int


class DataAppended(NamedTuple):
    writer_id: UUID
    event_number: int
    previous_event_number: int = -1
    request_id: int = NO_REQUEST_ID
    current_segment_write_offset: int = NO_OFFSET


class ConditionalCheckFailed(NamedTuple):
    writer_id: UUID
    event_number: int
    request_id: int = NO_REQUEST_ID


# --- Reads ---------------------------------------------------------------------------------


class ReadSegment(NamedTuple):
    segment: str
    offset: int
    suggested_length: int
    delegation_token: str = ""
    request_id: int = NO_REQUEST_ID


class SegmentRead(NamedTuple):
    segment: str
    offset: int
    at_tail: bool
    end_of_segment: bool
    data: Data
    request_id: int = NO_REQUEST_ID


class LocateOffset(NamedTuple):
    request_id: int
    segment: str
    target_offset: int
    delegation_token: str = ""


class OffsetLocated(NamedTuple):
    request_id: int
    segment: str
    offset: int


# --- Segments ------------------------------------------------------------------------------


class GetStreamSegmentInfo(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str = ""


class StreamSegmentInfo(NamedTuple):
    """`last_modified` is in ms since 1970; `write_offset` is the length of the segment."""

    request_id: int
    segment: str
    exists: bool
    is_sealed: bool
    is_deleted: bool
    last_modified: int
    write_offset: int
    start_offset: int = 0


class CreateSegment(NamedTuple):
    """`scale_type`: 0 fixed, 1 KB/s, 2 events/s; `target_rate` is in that unit."""

    request_id: int
    segment: str
    target_rate: int
    scale_type: int
    delegation_token: str = ""
    rollover_size_bytes: int = 0


class SegmentCreated(NamedTuple):
    request_id: int
    segment: str


class CreateTransientSegment(NamedTuple):
    """Asks for a segment that lives as long as this connection; the reply names it."""

    request_id: int
    writer_id: UUID
    parent_segment: str
    delegation_token: str = ""


class SealSegment(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str = ""


class SegmentSealed(NamedTuple):
    request_id: int
    segment: str


class DeleteSegment(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str = ""


class SegmentDeleted(NamedTuple):
    request_id: int
    segment: str


class TruncateSegment(NamedTuple):
    request_id: int
    segment: str
    truncation_offset: int
    delegation_token: str = ""


class SegmentTruncated(NamedTuple):
    request_id: int
    segment: str


class UpdateSegmentPolicy(NamedTuple):
    request_id: int
    segment: str
    target_rate: int
    scale_type: int
    delegation_token: str = ""


class SegmentPolicyUpdated(NamedTuple):
    request_id: int
    segment: str


class GetSegmentAttribute(NamedTuple):
    request_id: int
    segment: str
    attribute_id: UUID
    delegation_token: str = ""


class SegmentAttribute(NamedTuple):
    request_id: int
    value: int


class UpdateSegmentAttribute(NamedTuple):
    request_id: int
    segment: str
    attribute_id: UUID
    new_value: int
    expected_value: int
    delegation_token: str = ""


class SegmentAttributeUpdated(NamedTuple):
    request_id: int
    success: bool


class ConditionalAttributeUpdate(NamedTuple):
    """A part of MergeSegments; `update_type` is one of `attributes.UpdateType`."""

    attribute_id: UUID
    update_type: int
    new_value: int
    old_value: int


class MergeSegments(NamedTuple):
    request_id: int
    target: str
    source: str
    delegation_token: str = ""
    attribute_updates: tuple[ConditionalAttributeUpdate, ...] = ()


class SegmentsMerged(NamedTuple):
    request_id: int
    target: str
    source: str
    new_target_write_offset: int = NO_OFFSET


class MergeSegmentsBatch(NamedTuple):
    request_id: int
    target: str
    sources: tuple[str, ...]
    delegation_token: str = ""


class MergedSource(NamedTuple):
    """A part of SegmentsBatchMerged."""

    source: str
    new_target_write_offset: int


class SegmentsBatchMerged(NamedTuple):
    request_id: int
    target: str
    merged: tuple[MergedSource, ...]


# --- Table segments ------------------------------------------------------------------------


class TableKey(NamedTuple):
    """A part of table commands. Empty keys do not exist on the wire (`codec.py` says why)."""

    key: bytes
    version: int = NO_VERSION


class TableEntry(NamedTuple):
    """A part of table commands; a value may be empty."""

    key: TableKey
    value: bytes


class GetTableSegmentInfo(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str = ""


class TableSegmentInfo(NamedTuple):
    request_id: int
    segment: str
    start_offset: int
    length: int
    entry_count: int
    key_length: int


class CreateTableSegment(NamedTuple):
    """`key_length` 0 asks for a hash table, others for keys of that many bytes, in order."""

    request_id: int
    segment: str
    delegation_token: str = ""
    sorted_deprecated: bool = False
    key_length: int = 0
    rollover_size_bytes: int = 0


class DeleteTableSegment(NamedTuple):
    request_id: int
    segment: str
    must_be_empty: bool
    delegation_token: str = ""


class UpdateTableEntries(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str
    entries: tuple[TableEntry, ...]
    table_segment_offset: int = NO_OFFSET


class TableEntriesUpdated(NamedTuple):
    request_id: int
    updated_versions: tuple[int, ...]


class RemoveTableKeys(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str
    keys: tuple[TableKey, ...]
    table_segment_offset: int = NO_OFFSET


class TableKeysRemoved(NamedTuple):
    request_id: int
    segment: str


class ReadTable(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str
    keys: tuple[TableKey, ...]


class TableRead(NamedTuple):
    request_id: int
    segment: str
    entries: tuple[TableEntry, ...]


class ReadTableKeys(NamedTuple):
    """`prefix` is obsolete: current clients send it empty and servers ignore it."""

    request_id: int
    segment: str
    delegation_token: str
    suggested_key_count: int
    continuation_token: bytes = b""
    prefix: bytes = b""
    from_key: bytes = b""
    to_key: bytes = b""


class TableKeysRead(NamedTuple):
    request_id: int
    segment: str
    keys: tuple[TableKey, ...]
    continuation_token: bytes


class ReadTableEntries(NamedTuple):
    """`prefix` is obsolete: current clients send it empty and servers ignore it."""

    request_id: int
    segment: str
    delegation_token: str
    suggested_entry_count: int
    continuation_token: bytes = b""
    prefix: bytes = b""
    from_key: bytes = b""
    to_key: bytes = b""


class TableEntriesRead(NamedTuple):
    request_id: int
    segment: str
    entries: tuple[TableEntry, ...]
    continuation_token: bytes


class ReadTableEntriesDelta(NamedTuple):
    request_id: int
    segment: str
    delegation_token: str
    from_position: int
    suggested_entry_count: int


class TableEntriesDeltaRead(NamedTuple):
    request_id: int
    segment: str
    entries: tuple[TableEntry, ...]
    should_clear: bool
    reached_end: bool
    last_position: int


# --- Error replies -------------------------------------------------------------------------


class WrongHost(NamedTuple):
    """The container of the segment lives elsewhere; clients ask the controller again."""

    request_id: int
    segment: str
    correct_host: str = ""
    server_stack_trace: str = ""


class SegmentIsSealed(NamedTuple):
    """`offset`: of the read, or for a failed append its event number."""

    request_id: int
    segment: str
    server_stack_trace: str = ""
    offset: int = NO_OFFSET


class SegmentIsTruncated(NamedTuple):
    request_id: int
    segment: str
    start_offset: int
    server_stack_trace: str = ""
    offset: int = NO_OFFSET


class SegmentAlreadyExists(NamedTuple):
    request_id: int
    segment: str
    server_stack_trace: str = ""


class NoSuchSegment(NamedTuple):
    request_id: int
    segment: str
    server_stack_trace: str = ""
    offset: int = NO_OFFSET


class InvalidEventNumber(NamedTuple):
    """In the layout of wire version 16; the older one had the event number second."""

    writer_id: UUID
    request_id: int
    server_stack_trace: str = ""
    event_number: int = -1


class OperationUnsupported(NamedTuple):
    request_id: int
    operation_name: str
    server_stack_trace: str = ""


class AuthTokenCheckFailed(NamedTuple):
    request_id: int
    server_stack_trace: str = ""
    error_code: int = ERROR_UNSPECIFIED


class ErrorMessage(NamedTuple):
    request_id: int
    segment: str
    message: str
    error_code: int


class TableSegmentNotEmpty(NamedTuple):
    request_id: int
    segment: str
    server_stack_trace: str = ""


class TableKeyDoesNotExist(NamedTuple):
    request_id: int
    segment: str
    server_stack_trace: str = ""


class TableKeyBadVersion(NamedTuple):
    request_id: int
    segment: str
    server_stack_trace: str = ""


# --- Administrative port -------------------------------------------------------------------


class FlushToStorage(NamedTuple):
    container_id: int
    delegation_token: str
    request_id: int


class StorageFlushed(NamedTuple):
    request_id: int


class ListStorageChunks(NamedTuple):
    segment: str
    delegation_token: str
    request_id: int


class StorageChunk(NamedTuple):
    """A part of StorageChunksListed."""

    length_in_metadata: int
    length_in_storage: int
    start_offset: int
    chunk_name: str
    exists_in_storage: bool


class StorageChunksListed(NamedTuple):
    request_id: int
    chunks: tuple[StorageChunk, ...]


# --- Unions, for exhaustive matching ---------------------------------------------------------

AppendFamily = (
    SetupAppend | AppendBlock | AppendBlockEnd | ConditionalAppend | ConditionalBlockEnd | Padding
)
SegmentRequest = (
    ReadSegment
    | LocateOffset
    | GetStreamSegmentInfo
    | CreateSegment
    | CreateTransientSegment
    | SealSegment
    | DeleteSegment
    | TruncateSegment
    | UpdateSegmentPolicy
    | GetSegmentAttribute
    | UpdateSegmentAttribute
    | MergeSegments
    | MergeSegmentsBatch
)
TableRequest = (
    GetTableSegmentInfo
    | CreateTableSegment
    | DeleteTableSegment
    | UpdateTableEntries
    | RemoveTableKeys
    | ReadTable
    | ReadTableKeys
    | ReadTableEntries
    | ReadTableEntriesDelta
)
AdminRequest = FlushToStorage | ListStorageChunks
Request = Hello | KeepAlive | AppendFamily | SegmentRequest | TableRequest | AdminRequest

Failure = (
    WrongHost
    | SegmentIsSealed
    | SegmentIsTruncated
    | SegmentAlreadyExists
    | NoSuchSegment
    | InvalidEventNumber
    | OperationUnsupported
    | AuthTokenCheckFailed
    | ErrorMessage
    | TableSegmentNotEmpty
    | TableKeyDoesNotExist
    | TableKeyBadVersion
)
Reply = (
    Hello
    | KeepAlive
    | AppendSetup
    | DataAppended
    | ConditionalCheckFailed
    | SegmentRead
    | OffsetLocated
    | StreamSegmentInfo
    | SegmentCreated
    | SegmentSealed
    | SegmentDeleted
    | SegmentTruncated
    | SegmentPolicyUpdated
    | SegmentAttribute
    | SegmentAttributeUpdated
    | SegmentsMerged
    | SegmentsBatchMerged
    | TableSegmentInfo
    | TableEntriesUpdated
    | TableKeysRemoved
    | TableRead
    | TableKeysRead
    | TableEntriesRead
    | TableEntriesDeltaRead
    | StorageFlushed
    | StorageChunksListed
    | Failure
)
Command = Request | Reply | PartialEvent | Event
