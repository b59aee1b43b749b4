"""Names of scopes, streams and segments: how they are built, taken apart and checked.

A stream segment is `scope/stream/<number>.#epoch.<epoch>`. What belongs to one hangs behind it:
`#transaction.<32 hex digits>`, `#transient.<32 hex digits>.<32 hex digits>`, `#index`. Clients
build these names themselves from the 64-bit ids that the controller gives them (`epoch << 32 |
number`), so the scheme is fixed. Two legacy forms are still understood: without `.#epoch.` the
epoch is 0, and with two path parts there is no scope.

`primary_name` cuts everything behind the number off. The container of a segment is chosen by it
(`hashing.container_of`), so that all epochs of a number, its transactions and its index live in
one container and can be merged there. Source: Pravega's `NameUtils`.
"""

import re
from typing import Final, NamedTuple, NewType
from uuid import UUID

SegmentId = NewType("SegmentId", int)  # epoch << 32 | number
SegmentNumber = NewType("SegmentNumber", int)
Epoch = NewType("Epoch", int)
ContainerId = NewType("ContainerId", int)
TransactionId = NewType("TransactionId", UUID)

EPOCH_DELIMITER: Final = ".#epoch."
TRANSACTION_DELIMITER: Final = "#transaction."
TRANSIENT_DELIMITER: Final = "#transient."
INDEX_SUFFIX: Final = "#index"
TABLE_SUFFIX: Final = "_kvtable"
READER_GROUP_PREFIX: Final = "_RG"
MARK_PREFIX: Final = "_MARK"
INTERNAL_PREFIX: Final = "_"  # one of these in front, and only there, marks an internal name
INTERNAL_SCOPE: Final = "_system"
TABLES_MARKER: Final = "_tables"

NAME_LENGTH_MAX: Final = 255  # characters of a scope or stream, internal prefix included
GIVEN_NAME_LENGTH_MAX: Final = 250  # of a name that users give: room for the longest prefix
NUMBER_MAX: Final = 2**31 - 1  # segment numbers and epochs are non-negative Java ints

_NAME = re.compile(r"[A-Za-z0-9.\-]+")
_SEGMENT = re.compile(r"(\d{1,10})(?:\.#epoch\.(\d{1,10}))?", re.ASCII)
_OWNED = re.compile(
    r"#transaction\.(?P<transaction>[0-9a-f]{32})"
    r"|#transient\.(?P<writer>[0-9a-f]{32})\.(?P<random>[0-9a-f]{32})"
)
_UUID_DIGITS_COUNT: Final = 32


class InvalidName(ValueError):
    """A name that breaks the rules; `what` it should name, and the rule."""

    def __init__(self, what: str, name: str, rule: str) -> None:
        super().__init__(f"{name!r} is no name for a {what}: {rule}")
        self.what, self.name, self.rule = what, name, rule


# --- Segment ids -----------------------------------------------------------------------------


def segment_id(epoch: Epoch, number: SegmentNumber) -> SegmentId:
    assert 0 <= epoch <= NUMBER_MAX, "epochs are non-negative 32-bit numbers"
    assert 0 <= number <= NUMBER_MAX, "segment numbers are non-negative 32-bit numbers"
    return SegmentId(epoch << 32 | number)


def epoch_of(identity: SegmentId) -> Epoch:
    return Epoch(identity >> 32)


def number_of(identity: SegmentId) -> SegmentNumber:
    return SegmentNumber(identity & 0xFFFF_FFFF)


# --- Building names --------------------------------------------------------------------------


def scoped_stream_name(scope: str, stream: str) -> str:
    return f"{scope}/{stream}"


def segment_name(scope: str, stream: str, identity: SegmentId) -> str:
    return f"{scope}/{stream}/{number_of(identity)}{EPOCH_DELIMITER}{epoch_of(identity)}"


def table_segment_name(scope: str, table: str, identity: SegmentId) -> str:
    """The name of a segment of a key-value table; Rust names its own tables so too, with id 0."""
    return segment_name(scope, table + TABLE_SUFFIX, identity)


def transaction_segment_name(parent: str, transaction_id: TransactionId) -> str:
    """The segment of a transaction. `parent` is what `generalised_parent_name` gives."""
    return f"{parent}{TRANSACTION_DELIMITER}{transaction_id.hex}"


def transaction_epoch(transaction_id: TransactionId) -> Epoch:
    """The epoch in which a transaction began: the upper 32 bits of its id."""
    return Epoch(transaction_id.int >> 96)


def generalised_parent_name(
    scope: str, stream: str, number: SegmentNumber, transaction_id: TransactionId
) -> str:
    """The name that a transaction segment hangs behind.

    It has the epoch of the transaction, not that of the segment it will be merged into, so
    that clients can name it without knowing whether the stream was scaled meanwhile.
    """
    return segment_name(scope, stream, segment_id(transaction_epoch(transaction_id), number))


def transient_segment_name(parent: str, writer_id: UUID, random_id: UUID) -> str:
    return f"{parent}{TRANSIENT_DELIMITER}{writer_id.hex}.{random_id.hex}"


def index_segment_name(segment: str) -> str:
    return segment + INDEX_SUFFIX


def reader_group_stream_name(reader_group: str) -> str:
    return READER_GROUP_PREFIX + reader_group


def mark_stream_name(stream: str) -> str:
    return MARK_PREFIX + stream


# --- Taking names apart ----------------------------------------------------------------------


class SegmentName(NamedTuple):
    """A segment of a stream or key-value table. `scope` is empty in the legacy form without."""

    scope: str
    stream: str
    number: SegmentNumber
    epoch: Epoch

    @property
    def segment_id(self) -> SegmentId:
        return segment_id(self.epoch, self.number)


def parse_segment_name(name: str) -> SegmentName:
    """The parts of a stream segment's name, or of the segment it belongs to.

    A transaction, transient or index segment gives its parent. Raises InvalidName for what is
    no stream segment, such as the tables of a controller.
    """
    parts = parent_name(name.removesuffix(INDEX_SUFFIX)).split("/")
    if len(parts) not in (2, 3) or "" in parts:
        raise InvalidName("segment", name, "it must be scope/stream/number.#epoch.epoch")
    found = _SEGMENT.fullmatch(parts[-1])
    if found is None:
        raise InvalidName("segment", name, "it must end in number.#epoch.epoch")
    number, epoch = int(found[1]), int(found[2] or 0)
    if number > NUMBER_MAX or epoch > NUMBER_MAX:
        raise InvalidName("segment", name, f"number and epoch must be at most {NUMBER_MAX}")
    scope = parts[0] if len(parts) == 3 else ""
    return SegmentName(scope, parts[-2], SegmentNumber(number), Epoch(epoch))


def _cut(name: str, delimiter: str) -> str:
    """The name without its last `delimiter` and what follows, if 32 characters or more do."""
    at = name.rfind(delimiter)
    if at < 0 or len(name) - at - len(delimiter) < _UUID_DIGITS_COUNT:
        return name
    return name[:at]


def parent_name(name: str) -> str:
    """The name without transaction and transient parts; the name itself if it has none."""
    while True:
        shorter = _cut(_cut(name, TRANSACTION_DELIMITER), TRANSIENT_DELIMITER)
        if shorter == name:
            return name
        name = shorter


def primary_name(name: str) -> str:
    """What all segments of a number have in common: `scope/stream/number` for a stream's."""
    parent = parent_name(name)
    at = parent.rfind(EPOCH_DELIMITER)
    return parent if at < 0 else parent[:at]


def transaction_of(name: str) -> TransactionId | None:
    """The transaction that a segment belongs to, if it belongs to one."""
    at = name.rfind(TRANSACTION_DELIMITER)
    found = _OWNED.fullmatch(name, at) if at >= 0 else None
    return None if found is None else TransactionId(UUID(hex=found["transaction"]))


def is_transaction_segment(name: str) -> bool:
    return transaction_of(name) is not None


def is_transient_segment(name: str) -> bool:
    at = name.rfind(TRANSIENT_DELIMITER)
    return at >= 0 and _OWNED.fullmatch(name, at) is not None


def is_index_segment(name: str) -> bool:
    return name.endswith(INDEX_SUFFIX)


def is_internal(name: str) -> bool:
    """Is this the name of a scope or stream that users did not make?"""
    return name.startswith(INTERNAL_PREFIX)


# --- Checking names --------------------------------------------------------------------------


def check_given_name(what: str, name: str) -> str:
    """The rule for names that users give to streams, tables, reader groups and writers.

    `what` goes into the message of InvalidName.
    """
    return _check(what, name, name, GIVEN_NAME_LENGTH_MAX)


def check_scope_name(name: str) -> str:
    """The rule of the controller's createScope: one `_` in front is allowed."""
    return _check("scope", name, name.removeprefix(INTERNAL_PREFIX), NAME_LENGTH_MAX)


def check_stream_name(name: str) -> str:
    """The rule of the controller's createStream: one `_` in front is allowed."""
    return _check("stream", name, name.removeprefix(INTERNAL_PREFIX), NAME_LENGTH_MAX)


def _check(what: str, name: str, without_prefix: str, length_max: int) -> str:
    if _NAME.fullmatch(without_prefix) is None:
        raise InvalidName(what, name, "use letters, digits, '.' and '-'")
    if len(name) > length_max:
        raise InvalidName(what, name, f"{len(name)} characters, at most {length_max}")
    return name
