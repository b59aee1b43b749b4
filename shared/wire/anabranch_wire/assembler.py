"""Puts appends together from the append commands of one connection.

Three commands carry an append: AppendBlockEnd, alone (Rust) or after an AppendBlock (Java),
ConditionalAppend and ConditionalBlockEnd. A Java client announces the size of an AppendBlock
before it knows what will be inside, so a block ends in one of three ways: exactly full; with an
embedded Padding frame that fills it; or with an embedded PartialEvent frame, the beginning of an
append whose rest is in AppendBlockEnd.

The rules, from Pravega's `AppendDecoder`:

- Per writer id (not per segment) the connection remembers the segment of its last SetupAppend
  and the highest event number, which starts at 0 with each SetupAppend. A number may repeat but
  not go back. It is remembered when it is decoded, so those of appends that fail later count.
- While a block is open no other append command may come; everything else may.
- What breaks a rule closes the connection without a reply: each raises a ProtocolError.

The data of an append is handed on in the pieces it came in, so that nothing is copied.

Memory: one open block, and one entry per writer, of which a connection may set up
WRITERS_COUNT_MAX. (A Java client closes the connection itself at 2000.)
"""

from struct import Struct
from typing import Final, NamedTuple, assert_never
from uuid import UUID

from anabranch_wire import commands as c
from anabranch_wire.constants import FRAME_HEADER_BYTES
from anabranch_wire.errors import (
    AppendBeforeSetup,
    BlockOfAnotherWriter,
    BlockRestMalformed,
    BlockSizeWrong,
    BlockStillOpen,
    EventCountNotPositive,
    EventNumberWentBack,
    TooManyWriters,
)

WRITERS_COUNT_MAX: Final = 16_384  # per connection; eight times what a Java client sets up

_HEADER = Struct(">ii")
_PADDING_CODE: Final = -1
_PARTIAL_EVENT_CODE: Final = -2


class Append(NamedTuple):
    """Data for the end of a segment, with the number that the writer's last event then has.

    `data_parts` belong together in this order; there may be none, an empty append is legal.
    `expected_offset` None means unconditional, and so does a negative one.
    """

    writer_id: UUID
    segment: str
    event_number: int
    event_count: int
    data_parts: tuple[c.Data, ...]
    expected_offset: int | None
    request_id: int

    @property
    def length_bytes(self) -> int:
        return sum(map(len, self.data_parts))


class _Writer:
    __slots__ = ("event_number", "segment")

    def __init__(self, segment: str) -> None:
        self.segment, self.event_number = segment, 0


class AppendAssembler:
    """The append commands of one connection, in the order of their arrival."""

    __slots__ = ("_block", "_writers")

    def __init__(self) -> None:
        self._writers: dict[UUID, _Writer] = {}
        self._block: c.AppendBlock | None = None

    def handle(self, command: c.AppendFamily) -> Append | None:
        """The append that `command` completes, if it does; raises a ProtocolError.

        A SetupAppend is remembered here and needs its reply all the same.
        """
        if isinstance(command, c.AppendBlockEnd):
            return self._block_end(command)
        if self._block is not None:
            raise BlockStillOpen(self._block.writer_id, type(command).__name__)
        match command:
            case c.AppendBlock():
                self._known(command.writer_id, command)
                self._block = command
            case c.SetupAppend():
                self._set_up(command)
            case c.ConditionalAppend():
                # The event header is part of what is stored; a Java reader parses it back.
                header = _HEADER.pack(0, len(command.event))
                return self._conditional(command, (header, command.event))
            case c.ConditionalBlockEnd():
                return self._conditional(command, (command.data,))
            case c.Padding():
                pass
            case _:
                assert_never(command)
        return None

    def _set_up(self, command: c.SetupAppend) -> None:
        if command.writer_id not in self._writers and len(self._writers) >= WRITERS_COUNT_MAX:
            raise TooManyWriters(command.writer_id, WRITERS_COUNT_MAX)
        self._writers[command.writer_id] = _Writer(command.segment)

    def _known(self, writer_id: UUID, command: c.AppendFamily) -> _Writer:
        writer = self._writers.get(writer_id)
        if writer is None:
            raise AppendBeforeSetup(writer_id, type(command).__name__)
        return writer

    def _conditional(
        self, command: c.ConditionalAppend | c.ConditionalBlockEnd, parts: tuple[c.Data, ...]
    ) -> Append:
        writer = self._known(command.writer_id, command)
        _advance(writer, command.writer_id, command.event_number)
        return Append(
            command.writer_id,
            writer.segment,
            command.event_number,
            1,
            parts,
            command.expected_offset,
            command.request_id,
        )

    def _block_end(self, end: c.AppendBlockEnd) -> Append:
        writer_id, _, data, event_count, event_number, request_id = end
        writer = self._writers.get(writer_id)
        if writer is None:
            raise AppendBeforeSetup(writer_id, type(end).__name__)
        if event_count <= 0:
            raise EventCountNotPositive(writer_id, event_count)
        parts: tuple[c.Data, ...] = (data,)
        if self._block is not None:
            block, self._block = self._block, None
            parts = _parts_of(block, end)
        _advance(writer, writer_id, event_number)
        return Append(writer_id, writer.segment, event_number, event_count, parts, None, request_id)


def _advance(writer: _Writer, writer_id: UUID, event_number: int) -> None:
    if event_number < writer.event_number:
        raise EventNumberWentBack(writer_id, event_number, writer.event_number)
    writer.event_number = event_number


def _parts_of(block: c.AppendBlock, end: c.AppendBlockEnd) -> tuple[c.Data, ...]:
    if block.writer_id != end.writer_id:
        raise BlockOfAnotherWriter(end.writer_id, block.writer_id)
    size_bytes, block_bytes = end.size_of_whole_events, len(block.data)
    if not 0 <= size_bytes <= block_bytes:
        raise BlockSizeWrong(end.writer_id, size_bytes, block_bytes)
    if size_bytes == block_bytes:
        return (block.data,)  # what AppendBlockEnd carries is then ignored
    whole = block.data[:size_bytes]
    code, rest = _embedded_frame(end.writer_id, block.data[size_bytes:])
    if code == _PARTIAL_EVENT_CODE:
        return (whole, rest, end.data)
    if code != _PADDING_CODE:
        raise BlockRestMalformed(end.writer_id, f"a frame of type {code} inside a block")
    if len(end.data):
        raise BlockRestMalformed(end.writer_id, f"{len(end.data)} bytes of data after padding")
    return (whole,)


def _embedded_frame(writer_id: UUID, rest: c.Data) -> tuple[int, c.Data]:
    """Type and payload of the frame at the end of a block; what follows it is ignored."""
    if len(rest) < FRAME_HEADER_BYTES:
        raise BlockRestMalformed(writer_id, f"{len(rest)} bytes after the whole events of a block")
    code, length = _HEADER.unpack_from(rest)
    if not 0 <= length <= len(rest) - FRAME_HEADER_BYTES:
        raise BlockRestMalformed(writer_id, f"a frame of {length} bytes in {len(rest)} of a block")
    return code, rest[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + length]
