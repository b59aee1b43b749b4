"""What can be wrong with bytes from a peer, and with a command that we try to send.

A `ProtocolError` is the peer's fault. Pravega closes the connection on each of them without a
reply, and clients reconnect and recover; so does a server built on this package. The one that a
server may prefer to answer is `EmptyTableKey`, whose fields are enough for an ErrorMessage.
"""

from uuid import UUID


class WireError(Exception):
    """Any fault found by this package."""


class ProtocolError(WireError):
    """The peer broke the protocol; the connection is of no further use."""


class EncodingError(WireError):
    """A command of ours does not fit into its frame or field; nothing was sent."""

    def __init__(self, command: str, field: str, problem: str) -> None:
        super().__init__(f"{command}.{field} cannot be written: {problem}")
        self.command, self.field, self.problem = command, field, problem


# --- Frames --------------------------------------------------------------------------------


class FrameTooLong(ProtocolError):
    """The header announces more bytes than a frame may have."""

    def __init__(self, code: int, length: int, limit: int) -> None:
        super().__init__(f"frame of type {code} announces {length} bytes, the limit is {limit}")
        self.code, self.length, self.limit = code, length, limit


class NegativeFrameLength(ProtocolError):
    """The header announces a negative number of bytes."""

    def __init__(self, code: int, length: int) -> None:
        super().__init__(f"frame of type {code} announces {length} bytes")
        self.code, self.length = code, length


# --- Commands ------------------------------------------------------------------------------


class UnknownCommand(ProtocolError):
    """No command has this type code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"no command has type {code}")
        self.code = code


class UnexpectedCommand(ProtocolError):
    """A command of the protocol that may not be sent in this direction or to this port."""

    def __init__(self, code: int, name: str, expected: str) -> None:
        super().__init__(f"{name} (type {code}) came where {expected} was expected")
        self.code, self.name, self.expected = code, name, expected


class MalformedFrame(ProtocolError):
    """The payload does not have the fields of its command."""

    def __init__(self, code: int, name: str, field: str, problem: str) -> None:
        super().__init__(f"{name} (type {code}): {field} {problem}")
        self.code, self.name, self.field, self.problem = code, name, field, problem


class EmptyTableKey(ProtocolError):
    """A table command holds an empty key, which Java and Rust write in different ways.

    The rest of the frame cannot be trusted, the frames behind it can: a server may answer with
    ErrorMessage(request_id, segment, ..., ERROR_ILLEGAL_ARGUMENT) and keep the connection.
    """

    def __init__(self, code: int, name: str, request_id: int, segment: str) -> None:
        super().__init__(f"{name} {request_id} for {segment}: table keys may not be empty")
        self.code, self.name, self.request_id, self.segment = code, name, request_id, segment


# --- Appends -------------------------------------------------------------------------------


class AppendError(ProtocolError):
    """A writer broke the rules of the append commands."""

    def __init__(self, writer_id: UUID, problem: str) -> None:
        super().__init__(f"writer {writer_id}: {problem}")
        self.writer_id, self.problem = writer_id, problem


class AppendBeforeSetup(AppendError):
    """An append of a writer that has no SetupAppend on this connection."""

    def __init__(self, writer_id: UUID, command: str) -> None:
        super().__init__(writer_id, f"{command} before SetupAppend")
        self.command = command


class EventNumberWentBack(AppendError):
    """The number of an append is below one that the same writer used before it."""

    def __init__(self, writer_id: UUID, event_number: int, remembered: int) -> None:
        super().__init__(writer_id, f"event number {event_number} after {remembered}")
        self.event_number, self.remembered = event_number, remembered


class EventCountNotPositive(AppendError):
    """An AppendBlockEnd claims to end zero events or fewer."""

    def __init__(self, writer_id: UUID, event_count: int) -> None:
        super().__init__(writer_id, f"a block of {event_count} events")
        self.event_count = event_count


class BlockStillOpen(AppendError):
    """An append command came between an AppendBlock and its AppendBlockEnd.

    `writer_id` is the writer of the open block.
    """

    def __init__(self, writer_id: UUID, command: str) -> None:
        super().__init__(writer_id, f"{command} before AppendBlockEnd")
        self.command = command


class BlockOfAnotherWriter(AppendError):
    """An AppendBlockEnd names another writer than the block that it ends."""

    def __init__(self, writer_id: UUID, block_writer_id: UUID) -> None:
        super().__init__(writer_id, f"ends a block of writer {block_writer_id}")
        self.block_writer_id = block_writer_id


class BlockSizeWrong(AppendError):
    """`size_of_whole_events` is negative or beyond the block."""

    def __init__(self, writer_id: UUID, size_bytes: int, block_bytes: int) -> None:
        super().__init__(writer_id, f"{size_bytes} bytes of whole events, block of {block_bytes}")
        self.size_bytes, self.block_bytes = size_bytes, block_bytes


class BlockRestMalformed(AppendError):
    """What follows the whole events of a block is neither Padding nor PartialEvent."""


class TooManyWriters(AppendError):
    """One connection set up more writers than anybody needs."""

    def __init__(self, writer_id: UUID, limit: int) -> None:
        super().__init__(writer_id, f"one writer more than the {limit} of a connection")
        self.limit = limit
