"""The controller's inner interface: every rpc in terms of the domain.

The gRPC and REST entry points translate, authorise, call one of these methods, and
translate back. Outcomes that the gRPC contract carries in-band are literals spelled like
the values of its enums, so that the edge maps them by name; everything else is an
exception of `errors` (NotFound, InvalidArgument, IllegalState, Conflict, Unavailable,
Timeout). Every method can raise Unavailable and Timeout; the docstrings name the others.

Segment ids are `epoch << 32 | number`, offsets are bytes, -1 in a stream cut stands for
a segment of the future. Names are checked here, not at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol
from uuid import UUID

from anabranch_events.bus import KeyRange, ScaleAnswer, ScaleCommand
from anabranch_events.model import GroupConfig, SegmentRange, StreamConfig, TableConfig

CALL_LIMIT_S: Final = 120.0
"""How long a call waits for the end of the work that it started (reference, 3.0)."""

GET_URI_LIMIT_S: Final = 20.0
"""How long getURI holds a call until the owner of the container serves."""

LIST_PAGE_MAX: Final = 1000
"""Names in one page of a listing (reference, 12.1)."""

TIMESTAMP_NONE: Final = -(2**63)
"""A commit without a time for the watermarks (reference, 7.4)."""

CreateScopeOutcome = Literal["SUCCESS", "FAILURE", "SCOPE_EXISTS", "INVALID_SCOPE_NAME"]
DeleteScopeOutcome = Literal["SUCCESS", "FAILURE", "SCOPE_NOT_FOUND", "SCOPE_NOT_EMPTY"]
CreateStreamOutcome = Literal[
    "SUCCESS", "FAILURE", "STREAM_EXISTS", "SCOPE_NOT_FOUND", "INVALID_STREAM_NAME"
]
UpdateStreamOutcome = Literal[
    "SUCCESS", "FAILURE", "STREAM_NOT_FOUND", "SCOPE_NOT_FOUND", "STREAM_SEALED"
]
DeleteStreamOutcome = Literal["SUCCESS", "FAILURE", "STREAM_NOT_FOUND", "STREAM_NOT_SEALED"]
ListOutcome = Literal["SUCCESS", "FAILURE", "SCOPE_NOT_FOUND"]
ScaleOutcome = Literal["STARTED", "FAILURE", "PRECONDITION_FAILED"]
ScaleStatus = Literal["IN_PROGRESS", "SUCCESS", "INVALID_INPUT", "INTERNAL_ERROR"]
TransactionOutcome = Literal["SUCCESS", "FAILURE", "STREAM_NOT_FOUND", "TRANSACTION_NOT_FOUND"]
PingOutcome = Literal[
    "OK",
    "LEASE_TOO_LARGE",
    "MAX_EXECUTION_TIME_EXCEEDED",
    "DISCONNECTED",
    "COMMITTED",
    "ABORTED",
    "UNKNOWN",
]
TransactionStatus = Literal["UNKNOWN", "OPEN", "COMMITTING", "COMMITTED", "ABORTING", "ABORTED"]
CreateGroupOutcome = Literal["SUCCESS", "FAILURE", "SCOPE_NOT_FOUND", "INVALID_RG_NAME"]
GroupOutcome = Literal["SUCCESS", "FAILURE", "RG_NOT_FOUND"]
UpdateGroupOutcome = Literal["SUCCESS", "FAILURE", "RG_NOT_FOUND", "INVALID_CONFIG"]
SubscribersOutcome = Literal["SUCCESS", "FAILURE", "STREAM_NOT_FOUND"]
UpdateSubscriberOutcome = Literal[
    "SUCCESS",
    "FAILURE",
    "STREAM_NOT_FOUND",
    "SUBSCRIBER_NOT_FOUND",
    "STREAM_CUT_NOT_VALID",
    "GENERATION_MISMATCH",
]
CreateTableOutcome = Literal[
    "SUCCESS", "FAILURE", "TABLE_EXISTS", "SCOPE_NOT_FOUND", "INVALID_TABLE_NAME"
]
TableOutcome = Literal["SUCCESS", "FAILURE", "TABLE_NOT_FOUND"]
NoteTimestampOutcome = Literal["SUCCESS", "INVALID_TIME", "INVALID_POSITION", "INTERNAL_ERROR"]
RemoveWriterOutcome = Literal[
    "SUCCESS", "UNKNOWN_WRITER", "STREAM_DOES_NOT_EXIST", "INTERNAL_ERROR"
]

StreamCut = Mapping[int, int]
"""Segment id to offset."""


class Endpoint(NamedTuple):
    host: str
    port: int


class Page(NamedTuple):
    """One page of names, ascending. `token` continues after it; an empty page ends a listing
    and carries the token that it was asked with."""

    outcome: ListOutcome
    names: tuple[str, ...]
    token: str


class SegmentOffset(NamedTuple):
    id: int
    offset: int


class Successor(NamedTuple):
    """`predecessors` are all segments that gave way to this one, not only the one asked about."""

    segment: SegmentRange
    predecessors: tuple[int, ...]


class ScaleReply(NamedTuple):
    """`epoch` is the one before the scale; 0 and no segments unless it was started."""

    outcome: ScaleOutcome
    epoch: int
    segments: tuple[SegmentRange, ...]


class TransactionId(NamedTuple):
    """Two signed 64-bit halves, neither negative; the epoch is in the upper half of `high`."""

    high: int
    low: int


class TransactionCreated(NamedTuple):
    id: TransactionId
    segments: tuple[SegmentRange, ...]


class CompletedTransaction(NamedTuple):
    id: TransactionId
    outcome: Literal["COMMITTED", "ABORTED"]


class GroupReply(NamedTuple):
    """`config` is the stored one, None unless the outcome is SUCCESS."""

    outcome: CreateGroupOutcome | GroupOutcome
    config: GroupConfig | None


class UpdateGroupReply(NamedTuple):
    outcome: UpdateGroupOutcome
    generation: int


class SubscribersReply(NamedTuple):
    outcome: SubscribersOutcome
    subscribers: tuple[str, ...]


class TableReply(NamedTuple):
    """`config` is None unless the outcome is SUCCESS."""

    outcome: TableOutcome
    config: TableConfig | None


class SegmentHistory(NamedTuple):
    """A segment as REST shows it."""

    number: int
    epoch: int
    created_ms: int
    low: float
    high: float


class ScaleHistory(NamedTuple):
    """One epoch as REST shows it. `splits` and `merges` are the increase over the epoch
    before it in the reply; the first one of a reply has zeros."""

    at_ms: int
    segments: tuple[SegmentHistory, ...]
    splits: int
    merges: int


class Controller(Protocol):
    # --- scopes --------------------------------------------------------------------------

    async def create_scope(self, scope: str) -> CreateScopeOutcome:
        """Raises InvalidArgument for the empty name."""
        ...

    async def delete_scope(self, scope: str) -> DeleteScopeOutcome: ...

    async def delete_scope_recursive(self, scope: str) -> DeleteScopeOutcome:
        """Seals and deletes everything in the scope, then the scope; waits for the end."""
        ...

    async def scope_exists(self, scope: str) -> bool: ...

    async def list_scopes(self, token: str) -> Page: ...

    # --- streams -------------------------------------------------------------------------

    async def create_stream(
        self, scope: str, stream: str, config: StreamConfig
    ) -> CreateStreamOutcome:
        """Raises InvalidArgument for a bad configuration."""
        ...

    async def update_stream(
        self, scope: str, stream: str, config: StreamConfig
    ) -> UpdateStreamOutcome: ...

    async def truncate_stream(
        self, scope: str, stream: str, cut: StreamCut
    ) -> UpdateStreamOutcome: ...

    async def seal_stream(self, scope: str, stream: str) -> UpdateStreamOutcome: ...

    async def delete_stream(self, scope: str, stream: str) -> DeleteStreamOutcome: ...

    async def stream_exists(self, scope: str, stream: str) -> bool: ...

    async def list_streams(self, scope: str, token: str) -> Page: ...

    async def list_streams_for_tag(self, scope: str, tag: str, token: str) -> Page: ...

    async def stream_configuration(self, scope: str, stream: str) -> StreamConfig:
        """Raises NotFound."""
        ...

    # --- segments ------------------------------------------------------------------------

    async def current_segments(self, scope: str, stream: str) -> tuple[SegmentRange, ...]:
        """Ordered by key; empty for a sealed stream. Raises NotFound, IllegalState (creating)."""
        ...

    async def epoch_segments(self, scope: str, stream: str, epoch: int) -> tuple[SegmentRange, ...]:
        """Raises NotFound (stream or epoch), InvalidArgument (negative epoch)."""
        ...

    async def head_segments(self, scope: str, stream: str) -> tuple[SegmentOffset, ...]:
        """Where the stream begins now. Raises NotFound."""
        ...

    async def successors(self, scope: str, stream: str, segment_id: int) -> tuple[Successor, ...]:
        """Empty for an open, last or unknown segment. Raises NotFound (stream)."""
        ...

    async def segments_between(
        self, scope: str, stream: str, start: StreamCut, end: StreamCut
    ) -> tuple[int, ...]:
        """An empty cut is unbounded. Raises NotFound, InvalidArgument (cuts)."""
        ...

    async def is_segment_valid(self, scope: str, stream: str, segment_id: int) -> bool:
        """Raises NotFound (stream)."""
        ...

    async def is_stream_cut_valid(self, scope: str, stream: str, cut: StreamCut) -> bool:
        """Raises NotFound (stream), InvalidArgument (empty cut, unknown segment)."""
        ...

    async def get_uri(self, scope: str, stream: str, segment_id: int) -> Endpoint:
        """Answers for segments that the controller does not know, too. Holds the call up to
        GET_URI_LIMIT_S until the owner serves, then raises Unavailable."""
        ...

    # --- scaling -------------------------------------------------------------------------

    async def scale(
        self,
        scope: str,
        stream: str,
        *,
        seal: Sequence[int],
        ranges: Sequence[KeyRange],
        requested_ms: int,
    ) -> ScaleReply:
        """Raises InvalidArgument (a range with start > end, two with the same start)."""
        ...

    async def scale_by_command(self, command: ScaleCommand) -> ScaleAnswer:
        """A scale that the autoscaler decided on. Never raises NotFound or Conflict."""
        ...

    async def check_scale(self, scope: str, stream: str, epoch: int) -> ScaleStatus:
        """`epoch` is the one before the scale. Raises InvalidArgument (negative epoch)."""
        ...

    async def scaling_events(
        self, scope: str, stream: str, from_ms: int, to_ms: int
    ) -> tuple[ScaleHistory, ...]:
        """Epochs that began in [from_ms, to_ms], led by the last one before, unless one began
        exactly at `from_ms` (reference, 10.1). Raises NotFound."""
        ...

    # --- transactions --------------------------------------------------------------------

    async def create_transaction(
        self, scope: str, stream: str, *, lease_ms: int
    ) -> TransactionCreated:
        """Raises NotFound, IllegalState (sealed), InvalidArgument (lease)."""
        ...

    async def ping_transaction(
        self, scope: str, stream: str, transaction: TransactionId, *, lease_ms: int
    ) -> PingOutcome: ...

    async def commit_transaction(
        self,
        scope: str,
        stream: str,
        transaction: TransactionId,
        *,
        writer_id: str,
        timestamp: int,
    ) -> TransactionOutcome:
        """Returns once the commit is requested for good; poll transaction_state for its end."""
        ...

    async def abort_transaction(
        self, scope: str, stream: str, transaction: TransactionId
    ) -> TransactionOutcome: ...

    async def transaction_state(
        self, scope: str, stream: str, transaction: TransactionId
    ) -> TransactionStatus: ...

    async def list_completed_transactions(
        self, scope: str, stream: str
    ) -> tuple[CompletedTransaction, ...]: ...

    # --- reader groups -------------------------------------------------------------------

    async def create_reader_group(self, scope: str, group: str, config: GroupConfig) -> GroupReply:
        """Raises InvalidArgument (no starting cut, outstanding checkpoints < 1)."""
        ...

    async def reader_group(self, scope: str, group: str) -> GroupReply:
        """Raises NotFound (scope)."""
        ...

    async def update_reader_group(
        self, scope: str, group: str, config: GroupConfig
    ) -> UpdateGroupReply:
        """Raises NotFound (scope), InvalidArgument."""
        ...

    async def delete_reader_group(self, scope: str, group: str, group_id: str) -> GroupOutcome:
        """`group_id` is compared as text. Raises NotFound (scope)."""
        ...

    async def list_subscribers(self, scope: str, stream: str) -> SubscribersReply: ...

    async def update_subscriber_stream_cut(
        self,
        scope: str,
        stream: str,
        *,
        subscriber: str,
        group_id: UUID,
        generation: int,
        cut: StreamCut,
    ) -> UpdateSubscriberOutcome:
        """`subscriber` is "scope/group". Raises InvalidArgument (empty cut)."""
        ...

    # --- key-value tables ----------------------------------------------------------------

    async def create_table(self, scope: str, table: str, config: TableConfig) -> CreateTableOutcome:
        """Raises InvalidArgument (counts and lengths)."""
        ...

    async def table(self, scope: str, table: str) -> TableReply: ...

    async def list_tables(self, scope: str, token: str) -> Page: ...

    async def delete_table(self, scope: str, table: str) -> TableOutcome: ...

    async def table_segments(self, scope: str, table: str) -> tuple[SegmentRange, ...]:
        """Raises NotFound, IllegalState (creating)."""
        ...

    # --- watermarks ----------------------------------------------------------------------

    async def note_timestamp_from_writer(
        self, scope: str, stream: str, *, writer: str, timestamp: int, position: StreamCut
    ) -> NoteTimestampOutcome:
        """Raises NotFound (stream), InvalidArgument (empty writer name)."""
        ...

    async def remove_writer(self, scope: str, stream: str, writer: str) -> RemoveWriterOutcome: ...
