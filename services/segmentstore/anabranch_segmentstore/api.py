"""What a container offers to the connections: the seam between protocol and engine.

`Container` (container.py) implements `SegmentContainer`; connection.py and requests.py use
nothing else of it. All methods run on the container's event loop. A method that changes
something returns once the change is durable; a method that refuses raises a Refusal of
domain/errors.py once everything that the refusal was decided on is durable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol
from uuid import UUID

NO_EVENT: Final = -(2**63)  # the event number of a writer that has stored nothing
NULL_ATTRIBUTE: Final = -(2**63)
NO_VERSION: Final = -(2**63)  # unconditional table update
NOT_EXISTS: Final = -1  # table update only if the key is absent
APPEND_LENGTH_MAX: Final = 16_777_207  # the frame limit of the wire protocol
READ_LENGTH_MAX: Final = 2_097_152  # wire-protocol.md 4.5
READ_LENGTH_MIN: Final = 8


class AttributeUpdate(NamedTuple):
    """`update_type` as in wire-protocol.md 6.3; `expected` counts for replace-if-equals."""

    attribute: UUID
    update_type: int
    value: int
    expected: int = NULL_ATTRIBUTE


class Append(NamedTuple):
    """Events `after` + 1 to `number` of a writer, as one block of bytes.

    `after` is the number that the sending connection believes to be stored. `parts` is
    stored as it came; its length may be 0. Nobody may write to the parts' memory any more:
    large ones are kept as they are, for the log and the cache. `expected_offset` None means
    unconditional.
    """

    segment: str
    writer: UUID
    after: int
    number: int
    events_count: int
    parts: Sequence[bytes | memoryview]
    length: int
    expected_offset: int | None = None


class Appended(NamedTuple):
    """The append is durable; `end_offset` is the segment's length after it."""

    end_offset: int


AppendOutcome = Appended | Exception
"""Appended, a Refusal, or the error that ended the container (then close the connection)."""


class SegmentInfo(NamedTuple):
    name: str
    is_sealed: bool
    last_modified_ms: int
    length: int
    start_offset: int
    is_table: bool
    key_length: int


class ReadResult(NamedTuple):
    """One piece of a segment, from `offset` on; flags as in wire-protocol.md 4.5.

    `sealed_while_waiting`: the read was held at the tail when the segment was sealed, which
    the protocol answers with SegmentIsSealed and not with an empty read.
    """

    offset: int
    data: bytes | memoryview
    at_tail: bool
    end_of_segment: bool
    sealed_while_waiting: bool = False


class StoredChunk(NamedTuple):
    """A run of a segment's bytes in one object of tier 2. `stored_length`: how many of them the
    object has, None when it is not there."""

    object_name: str
    start_offset: int
    length: int
    stored_length: int | None


class TableKey(NamedTuple):
    key: bytes
    version: int = NO_VERSION


class TableEntry(NamedTuple):
    key: bytes
    value: bytes
    version: int = NO_VERSION


class TablePage(NamedTuple):
    """`token` continues behind the last entry; empty with an empty page."""

    entries: Sequence[TableEntry]
    token: bytes


class TableDelta(NamedTuple):
    entries: Sequence[TableEntry]
    should_clear: bool
    reached_end: bool
    last_position: int


class TableInfo(NamedTuple):
    start_offset: int
    length: int
    entries_count: int
    key_length: int


class SegmentContainer(Protocol):
    """A running container. After it stopped, every method raises ContainerStopped."""

    # --- segments ---
    async def create_segment(
        self, name: str, *, attributes: Mapping[UUID, int], table_key_length: int | None = None
    ) -> None:
        """`table_key_length`: None = plain segment, 0 = hash table, > 0 = fixed-key table."""
        ...

    async def segment_info(self, name: str) -> SegmentInfo: ...

    async def seal_segment(self, name: str) -> None: ...

    async def truncate_segment(self, name: str, offset: int) -> None: ...

    async def delete_segment(self, name: str, *, must_be_empty: bool = False) -> None: ...

    async def merge_segment(
        self, target: str, source: str, updates: Sequence[AttributeUpdate] = ()
    ) -> int:
        """Append all of `source` to `target`, delete `source`; returns the new length.

        A source that was merged into this target before counts as merged (returns the
        current length) as long as the container remembers it, else NoSuchSegment(source).
        """
        ...

    async def attribute(self, name: str, attribute: UUID) -> int:
        """NULL_ATTRIBUTE when it is not set."""
        ...

    async def update_attributes(self, name: str, updates: Sequence[AttributeUpdate]) -> None:
        """All or none; raises AttributeConditionFailed."""
        ...

    # --- append and read ---
    async def setup_append(self, segment: str, writer: UUID) -> int:
        """The writer's last stored event number, once all its accepted appends are durable."""
        ...

    def append(self, append: Append, done: Callable[[AppendOutcome], None]) -> None:
        """Accept or refuse at once, answer later: `done` is called in log order, on the
        event loop, exactly once. Never raises a Refusal itself.

        The caller throttles by `is_busy` before it reads more from its peer.
        """
        ...

    @property
    def is_busy(self) -> bool:
        """Too many bytes wait for the log: stop reading from sockets until `when_idle`."""
        ...

    def when_idle(self, resume: Callable[[], None]) -> None:
        """Call `resume` once when the container can take more."""
        ...

    async def read(
        self,
        segment: str,
        offset: int,
        length: int,
        *,
        admit: Callable[[int], Awaitable[None]] | None = None,
    ) -> ReadResult:
        """Up to `length` bytes; held at the tail until there are some, for as long as the
        caller waits (cancel to give up). Deleted or stopped meanwhile: empty, at_tail.

        `admit` is awaited once, when there is something to fetch, with the most bytes that
        the result can have: the caller's way to bound what it holds for slow readers.
        """
        ...

    # --- administration ---
    async def flush_to_storage(self) -> None:
        """Until all that is accepted now is in tier 2, for as long as the caller waits."""
        ...

    async def stored_chunks(self, name: str) -> Sequence[StoredChunk]:
        """Where the segment's bytes are in tier 2, in their order; looks at each object."""
        ...

    # --- tables (wire-protocol.md section 7) ---
    async def table_update(
        self, segment: str, entries: Sequence[TableEntry], *, expected_length: int | None
    ) -> Sequence[int]:
        """The new version of each entry, in order."""
        ...

    async def table_remove(
        self, segment: str, keys: Sequence[TableKey], *, expected_length: int | None
    ) -> None: ...

    async def table_get(
        self, segment: str, keys: Sequence[bytes]
    ) -> Sequence[TableEntry | None]: ...

    async def table_iterate(
        self,
        segment: str,
        *,
        count: int,
        token: bytes,
        low: bytes,
        high: bytes,
        keys_only: bool = False,
    ) -> TablePage:
        """`keys_only` leaves the values out (empty), and does not read them."""
        ...

    async def table_delta(self, segment: str, *, position: int, count: int) -> TableDelta: ...

    async def table_info(self, segment: str) -> TableInfo: ...
