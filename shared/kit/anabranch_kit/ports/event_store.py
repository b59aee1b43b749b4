"""The controller's event log: one JetStream stream, one subject per aggregate.

A sequence is the position of a message in the whole stream. Optimistic concurrency is per
subject: an append names the sequence of the subject's last message that the decision was
made on (0 for none), and another instance's message in between makes it fail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One stored message: all events of one decision, atomic because it is one message."""

    sequence: int
    subject: str
    payload: bytes


class SequenceConflict(Exception):
    """Somebody else's message came first: load again and decide again."""

    def __init__(self, subject: str, expected: int) -> None:
        super().__init__(f"event log: {subject} has moved on from sequence {expected}")
        self.subject, self.expected = subject, expected


class EventStoreUnavailable(Exception):
    """The event log did not answer in time; whether an append was stored is unknown."""

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(f"event log: {operation}: {reason}")
        self.operation, self.reason = operation, reason


class EventStore(Protocol):
    async def append(
        self, subject: str, payload: bytes, *, expected_sequence: int, batch_id: str
    ) -> int:
        """Store one message and return its sequence.

        `batch_id` travels in a header: after a time-out the store reads the message at the
        subject's end from the leader and compares, so that its own success is not taken
        for a conflict. Raises SequenceConflict, or EventStoreUnavailable after its retries.
        """
        ...

    async def last_sequence(self, subject: str) -> int:
        """The sequence of the subject's last message, asked of the leader; 0 when there is none."""
        ...

    async def end(self) -> int:
        """The last sequence of the whole stream, asked of the leader."""
        ...

    def follow(self, *, after: int = 0, subject: str = "") -> AsyncIterator[Record]:
        """Every record above `after`, in order, for ever; rides out a restart of the server.

        `subject` narrows it to one subject or pattern. Without it the records of barriers are
        among them, with an empty payload: a projection counts their sequence and no more.
        Raises EventStoreUnavailable only when the connection under it was closed for good.
        """
        ...

    async def barrier(self, instance: str) -> int:
        """A quorum write; a projection that has reached the returned sequence missed nothing
        that was acknowledged before the call."""
        ...
