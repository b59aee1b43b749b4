"""The writers of one connection: what each has stored, what is under way, what it is told.

Exactly once needs equality (architecture, section 3): an append names the number that this
connection believes to be stored (`after`): AppendSetup's, then that of its own last append. The
container accepts it only if that is so. A failed conditional append sets the number back once
nothing else of the writer is under way.

Replies (wire-protocol.md 3.7 to 3.10): acknowledgements in order, each naming the one before it;
those of one request id that are due together are merged. An append that fails for good waits
until everything before it was answered, failures that follow each other are merged into the
last one, and then the writer is forgotten: its next append without a new SetupAppend closes the
connection. No IO here.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol
from uuid import UUID

from anabranch_wire import assembler
from anabranch_wire import commands as c
from anabranch_wire import errors as wire_errors

from anabranch_segmentstore.api import Append, Appended, AppendOutcome, SegmentContainer
from anabranch_segmentstore.domain import errors

APPEND_OPERATION: Final = "appending data"
SETUP_OPERATION: Final = "setting up append"


class Owner(Protocol):
    """The connection, as its writers see it."""

    def send(self, reply: c.Reply) -> None:
        """Behind all acknowledgements that are due."""
        ...

    def acknowledge(self, reply: c.DataAppended) -> None:
        """An acknowledgement alone, in its place."""
        ...

    def acknowledgement_due(self, writer: Writer) -> None:
        """Call the writer's `flush` before the replies leave."""
        ...

    def finished(self, length_bytes: int) -> None: ...

    def close_after_replies(self, reason: str) -> None: ...

    def forget(self, writer: Writer) -> None: ...


class WriterForgotten(wire_errors.AppendError):
    """An append of a writer that failed before, or was never set up at a container."""

    def __init__(self, writer_id: UUID) -> None:
        super().__init__(writer_id, "an append without SetupAppend after a failure")


class Writer:
    """One writer on one segment; made anew by each SetupAppend."""

    __slots__ = (
        "_acknowledged",
        "_conditional_in_flight",
        "_due",
        "_failed",
        "_in_flight",
        "_owner",
        "_sent",
        "container",
        "segment",
        "writer_id",
    )

    def __init__(
        self,
        owner: Owner,
        container: SegmentContainer,
        segment: str,
        writer_id: UUID,
        stored: int,
    ) -> None:
        """`stored` is the number that AppendSetup reports."""
        self._owner, self.container = owner, container
        self.segment, self.writer_id = segment, writer_id
        self._sent = self._acknowledged = stored
        self._in_flight = self._conditional_in_flight = 0
        self._due: c.DataAppended | None = None
        self._failed: c.Reply | None = None

    def append(self, append: assembler.Append) -> int:
        """Hand an append to the container; returns its length in bytes, which `finished` gives
        back, or 0 when it was there before. Raises EventNumberWentBack."""
        number = append.event_number
        if number == self._sent and not self._conditional_in_flight:
            return 0  # stored or on its way; the answer to the first one covers it
        if number < self._sent:
            raise wire_errors.EventNumberWentBack(self.writer_id, number, self._sent)
        offset = append.expected_offset
        is_conditional = offset is not None
        length = append.length_bytes
        request = Append(
            self.segment,
            self.writer_id,
            self._sent,
            number,
            append.event_count,
            append.data_parts,
            length,
            offset if offset is not None and offset >= 0 else None,
        )
        self._sent = number
        self._in_flight += 1
        self._conditional_in_flight += is_conditional
        done = partial(self._done, number, append.request_id, length, is_conditional)
        self.container.append(request, done)
        return length

    def _done(
        self,
        number: int,
        request_id: int,
        length: int,
        is_conditional: bool,
        outcome: AppendOutcome,
    ) -> None:
        self._in_flight -= 1
        self._conditional_in_flight -= is_conditional
        if isinstance(outcome, Appended):
            self._acknowledge(number, request_id, outcome.end_offset, is_conditional)
        else:
            self._refused(number, request_id, outcome)
        if self._failed is not None and self._in_flight == 0:
            self._owner.send(self._failed)
            self._owner.forget(self)
        self._owner.finished(length)

    def _acknowledge(
        self, number: int, request_id: int, end_offset: int, is_conditional: bool
    ) -> None:
        before, self._acknowledged = self._acknowledged, number
        due = self._due
        if due is not None and (is_conditional or due.request_id != request_id):
            self.flush()
            due = None
        if due is not None:
            before = due.previous_event_number
        self._due = c.DataAppended(self.writer_id, number, before, request_id, end_offset)
        if is_conditional:
            self.flush()
        else:
            self._owner.acknowledgement_due(self)

    def flush(self) -> None:
        """Send the acknowledgement that is due."""
        due, self._due = self._due, None
        if due is not None:
            self._owner.acknowledge(due)

    def _refused(self, number: int, request_id: int, problem: Exception) -> None:
        match problem:
            case errors.WrongOffset():
                self._owner.send(c.ConditionalCheckFailed(self.writer_id, number, request_id))
                if self._in_flight == 0:
                    self._sent = self._acknowledged
            case errors.StaleWriter():
                self._owner.send(c.InvalidEventNumber(self.writer_id, request_id, "", number))
                self._owner.close_after_replies(str(problem))
            case errors.NoSuchSegment():
                self._failed = c.NoSuchSegment(request_id, self.segment)
            case errors.SegmentSealed():
                # The event number stands where other requests have an offset (recorded).
                self._failed = c.SegmentIsSealed(request_id, self.segment, "", number)
            case errors.OperationUnsupported() | errors.IsATable():
                self._failed = c.OperationUnsupported(request_id, APPEND_OPERATION)
            case _:
                # Stopped, failed, or a bug that the container has logged: the client
                # reconnects, asks what is stored, and sends the rest again.
                self._owner.close_after_replies(str(problem))


def setup_refusal(refusal: errors.Refusal, command: c.SetupAppend) -> c.Reply | None:
    """The reply to a refused SetupAppend; None: close the connection."""
    match refusal:
        case errors.NoSuchSegment():
            return c.NoSuchSegment(command.request_id, command.segment)
        case errors.IsATable() | errors.OperationUnsupported():
            return c.OperationUnsupported(command.request_id, SETUP_OPERATION)
        case _:
            return None
