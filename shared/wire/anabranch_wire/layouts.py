"""Which fields each command has on the wire: the table behind `codec.py`.

One line per command: type code, class, who sends it, since which wire version, and how each
field is written, in the order of the class's fields. `optional(kind, n)` is a trailing field
that is read only if at least `n` bytes are left in the frame; otherwise the class's default
stands. All fields are always written: Rust has no optional ones.

Source of codes and layouts: Pravega's `WireCommands` and `WireCommandType`. Numbers that are not
in the table are unassigned or retired, and a receiver closes the connection on them.
"""

import enum
from typing import Final, NamedTuple

from anabranch_wire import commands as c
from anabranch_wire.primitives import (
    ATTRIBUTE_UPDATES,
    BOOL,
    BUFFER,
    CHUNKS,
    DATA,
    ENTRIES,
    EVENT,
    INT8,
    INT32,
    INT64,
    INT64S,
    KEYS,
    MERGED_SOURCES,
    RAW,
    STRING,
    STRINGS,
    UUID128,
    ZEROS,
    Kind,
)

NEVER_OPTIONAL: Final = -1


class Direction(enum.Enum):
    """Who may send a command, and to which port."""

    REQUEST = "client to server"
    REPLY = "server to client"
    BOTH = "both ways"
    INNER = "inside another frame"
    ADMIN = "client to administrative port"


class Field(NamedTuple):
    """`least_bytes`: read only if so many bytes are left; NEVER_OPTIONAL: always there."""

    name: str
    kind: Kind
    least_bytes: int


class Layout(NamedTuple):
    """A line of the table. `since` 1 stands for "before any version that is still spoken"."""

    code: int
    command: type[c.Command]
    direction: Direction
    since: int
    fields: tuple[Field, ...]


class Optional(NamedTuple):
    kind: Kind
    least_bytes: int


def optional(kind: Kind, least_bytes: int) -> Optional:
    return Optional(kind, least_bytes)


def _layout(
    code: int,
    command: type[c.Command],
    direction: Direction,
    since: int,
    *kinds: Kind | Optional,
) -> Layout:
    names = command._fields
    assert len(names) == len(kinds), f"{command.__name__} has {len(names)} fields"
    fields = []
    for name, kind in zip(names, kinds, strict=True):
        if isinstance(kind, Optional):
            assert name in command._field_defaults, f"{command.__name__}.{name} needs a default"
            fields.append(Field(name, kind.kind, kind.least_bytes))
        else:
            fields.append(Field(name, kind, NEVER_OPTIONAL))
    return Layout(code, command, direction, since, tuple(fields))


_REQUEST, _REPLY, _BOTH = Direction.REQUEST, Direction.REPLY, Direction.BOTH
_INNER, _ADMIN = Direction.INNER, Direction.ADMIN
_ID = INT64
_TOKEN = STRING
_STACK = optional(STRING, 1)
_REQUEST_ID = optional(INT64, 8)
_OFFSET = optional(INT64, 8)
_ARGUMENT = optional(BUFFER, 4)

# fmt: off
TABLE: Final = (
    _layout(-127, c.Hello, _BOTH, 1, INT32, INT32),
    _layout(100, c.KeepAlive, _BOTH, 1),
    _layout(-1, c.Padding, _INNER, 1, ZEROS),
    _layout(-2, c.PartialEvent, _INNER, 1, RAW),
    _layout(0, c.Event, _INNER, 1, RAW),

    _layout(1, c.SetupAppend, _REQUEST, 1, _ID, UUID128, STRING, _TOKEN),
    _layout(2, c.AppendSetup, _REPLY, 1, _ID, STRING, UUID128, INT64),
    _layout(3, c.AppendBlock, _REQUEST, 1, UUID128, RAW),
    _layout(4, c.AppendBlockEnd, _REQUEST, 1, UUID128, INT32, DATA, INT32, INT64, _REQUEST_ID),
    _layout(5, c.ConditionalAppend, _REQUEST, 1, UUID128, INT64, INT64, EVENT, _REQUEST_ID),
    _layout(89, c.ConditionalBlockEnd, _REQUEST, 11, UUID128, INT64, INT64, DATA, _ID),
    _layout(7, c.DataAppended, _REPLY, 1, UUID128, INT64, optional(INT64, 8), _REQUEST_ID, _OFFSET),
    _layout(8, c.ConditionalCheckFailed, _REPLY, 1, UUID128, INT64, _REQUEST_ID),

    _layout(9, c.ReadSegment, _REQUEST, 1, STRING, INT64, INT32, _TOKEN, _REQUEST_ID),
    _layout(10, c.SegmentRead, _REPLY, 1, STRING, INT64, BOOL, BOOL, DATA, _REQUEST_ID),
    _layout(41, c.LocateOffset, _REQUEST, 17, _ID, STRING, INT64, _TOKEN),
    _layout(42, c.OffsetLocated, _REPLY, 17, _ID, STRING, INT64),

    _layout(11, c.GetStreamSegmentInfo, _REQUEST, 1, _ID, STRING, _TOKEN),
    _layout(12, c.StreamSegmentInfo, _REPLY, 1,
            _ID, STRING, BOOL, BOOL, BOOL, INT64, INT64, _OFFSET),
    _layout(20, c.CreateSegment, _REQUEST, 1,
            _ID, STRING, INT32, INT8, _TOKEN, optional(INT64, 8)),
    _layout(21, c.SegmentCreated, _REPLY, 1, _ID, STRING),
    _layout(40, c.CreateTransientSegment, _REQUEST, 14, _ID, UUID128, STRING, _TOKEN),
    _layout(28, c.SealSegment, _REQUEST, 1, _ID, STRING, _TOKEN),
    _layout(29, c.SegmentSealed, _REPLY, 1, _ID, STRING),
    _layout(30, c.DeleteSegment, _REQUEST, 1, _ID, STRING, _TOKEN),
    _layout(31, c.SegmentDeleted, _REPLY, 1, _ID, STRING),
    _layout(38, c.TruncateSegment, _REQUEST, 2, _ID, STRING, INT64, _TOKEN),
    _layout(39, c.SegmentTruncated, _REPLY, 2, _ID, STRING),
    _layout(32, c.UpdateSegmentPolicy, _REQUEST, 1, _ID, STRING, INT32, INT8, _TOKEN),
    _layout(33, c.SegmentPolicyUpdated, _REPLY, 1, _ID, STRING),
    _layout(34, c.GetSegmentAttribute, _REQUEST, 1, _ID, STRING, UUID128, _TOKEN),
    _layout(35, c.SegmentAttribute, _REPLY, 1, _ID, INT64),
    _layout(36, c.UpdateSegmentAttribute, _REQUEST, 1, _ID, STRING, UUID128, INT64, INT64, _TOKEN),
    _layout(37, c.SegmentAttributeUpdated, _REPLY, 1, _ID, BOOL),
    _layout(58, c.MergeSegments, _REQUEST, 5,
            _ID, STRING, STRING, _TOKEN, optional(ATTRIBUTE_UPDATES, 1)),
    _layout(59, c.SegmentsMerged, _REPLY, 5, _ID, STRING, STRING, optional(INT64, 1)),
    _layout(90, c.MergeSegmentsBatch, _REQUEST, 15, _ID, STRING, STRINGS, _TOKEN),
    _layout(91, c.SegmentsBatchMerged, _REPLY, 15, _ID, STRING, MERGED_SOURCES),

    _layout(68, c.GetTableSegmentInfo, _REQUEST, 12, _ID, STRING, _TOKEN),
    _layout(69, c.TableSegmentInfo, _REPLY, 12, _ID, STRING, INT64, INT64, INT64, INT32),
    _layout(70, c.CreateTableSegment, _REQUEST, 7,
            _ID, STRING, _TOKEN, optional(BOOL, 1), optional(INT32, 4), optional(INT64, 8)),
    _layout(71, c.DeleteTableSegment, _REQUEST, 7, _ID, STRING, BOOL, _TOKEN),
    _layout(74, c.UpdateTableEntries, _REQUEST, 7,
            _ID, STRING, _TOKEN, ENTRIES, optional(INT64, 1)),
    _layout(75, c.TableEntriesUpdated, _REPLY, 7, _ID, INT64S),
    _layout(76, c.RemoveTableKeys, _REQUEST, 7, _ID, STRING, _TOKEN, KEYS, optional(INT64, 1)),
    _layout(77, c.TableKeysRemoved, _REPLY, 7, _ID, STRING),
    _layout(78, c.ReadTable, _REQUEST, 7, _ID, STRING, _TOKEN, KEYS),
    _layout(79, c.TableRead, _REPLY, 7, _ID, STRING, ENTRIES),
    _layout(83, c.ReadTableKeys, _REQUEST, 7,
            _ID, STRING, _TOKEN, INT32, _ARGUMENT, _ARGUMENT, _ARGUMENT, _ARGUMENT),
    _layout(84, c.TableKeysRead, _REPLY, 7, _ID, STRING, KEYS, BUFFER),
    _layout(85, c.ReadTableEntries, _REQUEST, 7,
            _ID, STRING, _TOKEN, INT32, _ARGUMENT, _ARGUMENT, _ARGUMENT, _ARGUMENT),
    _layout(86, c.TableEntriesRead, _REPLY, 7, _ID, STRING, ENTRIES, BUFFER),
    _layout(88, c.ReadTableEntriesDelta, _REQUEST, 10, _ID, STRING, _TOKEN, INT64, INT32),
    _layout(87, c.TableEntriesDeltaRead, _REPLY, 10, _ID, STRING, ENTRIES, BOOL, BOOL, INT64),

    _layout(50, c.WrongHost, _REPLY, 1, _ID, STRING, STRING, _STACK),
    _layout(51, c.SegmentIsSealed, _REPLY, 1, _ID, STRING, _STACK, _OFFSET),
    _layout(52, c.SegmentAlreadyExists, _REPLY, 1, _ID, STRING, _STACK),
    _layout(53, c.NoSuchSegment, _REPLY, 1, _ID, STRING, _STACK, _OFFSET),
    _layout(55, c.InvalidEventNumber, _REPLY, 16, UUID128, _ID, _STACK, optional(INT64, 8)),
    _layout(56, c.SegmentIsTruncated, _REPLY, 2, _ID, STRING, INT64, _STACK, _OFFSET),
    _layout(57, c.OperationUnsupported, _REPLY, 4, _ID, STRING, _STACK),
    _layout(60, c.AuthTokenCheckFailed, _REPLY, 5, _ID, _STACK, optional(INT32, 4)),
    _layout(61, c.ErrorMessage, _REPLY, 10, _ID, STRING, STRING, INT32),
    _layout(80, c.TableSegmentNotEmpty, _REPLY, 7, _ID, STRING, STRING),
    _layout(81, c.TableKeyDoesNotExist, _REPLY, 7, _ID, STRING, STRING),
    _layout(82, c.TableKeyBadVersion, _REPLY, 7, _ID, STRING, STRING),

    _layout(-3, c.FlushToStorage, _ADMIN, 13, INT32, _TOKEN, _ID),
    _layout(-4, c.StorageFlushed, _REPLY, 13, _ID),
    _layout(-5, c.ListStorageChunks, _ADMIN, 15, STRING, _TOKEN, _ID),
    _layout(-6, c.StorageChunksListed, _REPLY, 15, _ID, CHUNKS),
)
# fmt: on

BY_CODE: Final = {layout.code: layout for layout in TABLE}
BY_COMMAND: Final[dict[type[c.Command], Layout]] = {layout.command: layout for layout in TABLE}
CODES: Final[dict[type[c.Command], int]] = {layout.command: layout.code for layout in TABLE}

assert len(BY_CODE) == len(BY_COMMAND) == len(TABLE), "a code or a command is in the table twice"
