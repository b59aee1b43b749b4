"""Why a container refuses a request. Each is mapped once, in the connection, to a wire reply.

A refusal is an answer about *durable* state: the container gives it only after everything
that it was decided on is durable (architecture, "Two states").
"""

from __future__ import annotations


class Refusal(Exception):
    """Base of all refusals; `segment` is the name as the request gave it."""

    def __init__(self, segment: str, message: str) -> None:
        super().__init__(f"{segment}: {message}")
        self.segment = segment


class NoSuchSegment(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "no such segment (never created, deleted, or merged away)")


class SegmentExists(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "the segment exists already")


class SegmentSealed(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "the segment is sealed")


class SegmentTruncated(Refusal):
    """The offset lies outside [start_offset, length]; `start_offset` is what the reply carries."""

    def __init__(self, segment: str, start_offset: int, offset: int) -> None:
        super().__init__(segment, f"offset {offset} is outside; readable from {start_offset}")
        self.start_offset, self.offset = start_offset, offset


class WrongOffset(Refusal):
    """A conditional append's expected offset is not the segment's length."""

    def __init__(self, segment: str, expected: int, length: int) -> None:
        super().__init__(segment, f"expected offset {expected}, the length is {length}")
        self.expected, self.length = expected, length


class StaleWriter(Refusal):
    """An append does not follow the stored event number; the connection must close."""

    def __init__(self, segment: str, after: int, number: int, stored: int) -> None:
        super().__init__(segment, f"event {number} after {after}, but {stored} is stored")
        self.after, self.number, self.stored = after, number, stored


class AttributeConditionFailed(Refusal):
    def __init__(self, segment: str, attribute: str) -> None:
        super().__init__(segment, f"attribute {attribute} has another value than expected")
        self.attribute = attribute


class NotATable(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "not a table segment")


class IsATable(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "a table segment takes no plain appends and no merges")


class TableNotEmpty(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "the table has entries")


class TableKeyMissing(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "a key with an expected version does not exist")


class TableKeyBadVersion(Refusal):
    def __init__(self, segment: str) -> None:
        super().__init__(segment, "a key has another version than expected")


class BadArgument(Refusal):
    """The request can never succeed; the message goes to the client."""

    def __init__(self, segment: str, message: str) -> None:
        super().__init__(segment, message)
        self.message = message


class Misuse(BadArgument):
    """A request that no correct client sends and that the protocol has no reply for (reads at
    a negative offset or behind a sealed end, unknown update types): close the connection."""


class OperationUnsupported(Refusal):
    def __init__(self, segment: str, operation: str) -> None:
        super().__init__(segment, f"{operation} is not supported here")
        self.operation = operation


class ContainerStopped(Refusal):
    """The container does not run here (any more); the client asks the controller again."""

    def __init__(self, segment: str, reason: str) -> None:
        super().__init__(segment, f"its container does not run here: {reason}")
        self.reason = reason
