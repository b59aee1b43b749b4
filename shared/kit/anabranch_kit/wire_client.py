"""What services ask of segment stores, with the retries that this takes.

Each method looks up who holds the segment (`locate`), asks there, and sorts the reply into one
of three: success, refusal (final, raised as Refused), or neither. WrongHost, a lost connection,
a time-out and any other reply are neither: after a pause the segment is looked up anew, because
its container may have moved, until the deadline (StoreUnavailable). The pauses double, from
PAUSE_FIRST_S to PAUSE_MAX_S, and vary by half.

A request may be carried out twice: once before its reply was lost, once by the retry. So what
the first one leaves behind counts as success: SegmentAlreadyExists after a create, NoSuchSegment
after a delete, SegmentIsSealed after a seal, SegmentIsTruncated after a truncate. These sets are
those of Pravega's controller (`SegmentHelper`). Two things differ: what cannot get better by
waiting (NoSuchSegment, a bad token, an unsupported operation, an illegal argument) is a refusal
at once, where Pravega would retry; and a merged batch whose reply was lost may answer with fewer
offsets, for the store skips sources that are gone.

An append is stored once: its number is compared with what AppendSetup reports before it is sent
again.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar
from uuid import UUID

import structlog
from anabranch_wire import commands as c

from anabranch_kit.ports.clock import Clock
from anabranch_kit.wire_connection import (
    REQUEST_TIMEOUT_S,
    Address,
    ClientRequest,
    ConnectFailed,
    ConnectionLost,
    RequestTimedOut,
    SegmentStoreConnection,
    SegmentStoreError,
    SegmentStorePool,
)

__all__ = [
    "Address",
    "ConnectFailed",
    "ConnectionLost",
    "Locate",
    "ReadEndedEarly",
    "Refused",
    "RequestTimedOut",
    "SegmentNotLocated",
    "SegmentStoreClient",
    "SegmentStoreConnection",
    "SegmentStoreError",
    "SegmentStorePool",
    "StoreUnavailable",
    "UnexpectedReply",
]

DEADLINE_S: Final = 60.0  # of one call with all its retries
PAUSE_FIRST_S: Final = 0.05
PAUSE_MAX_S: Final = 2.0

Locate = Callable[[str], Awaitable[tuple[str, int]]]
"""Host and port of the store that holds a segment; raises SegmentNotLocated to be asked again."""

ReplyT = TypeVar("ReplyT")

log = structlog.stdlib.get_logger("anabranch.wire")


class SegmentNotLocated(SegmentStoreError):
    """Nobody holds the container of the segment now; raised by a `Locate`."""

    def __init__(self, segment: str, reason: str) -> None:
        super().__init__(f"nobody serves {segment} now: {reason}")
        self.segment, self.reason = segment, reason


class Refused(SegmentStoreError):
    """The store said no, and would say it again. `reply` says why."""

    def __init__(self, segment: str, request: str, reply: c.Reply) -> None:
        super().__init__(f"{request} of {segment} refused: {reply}")
        self.segment, self.request, self.reply = segment, request, reply


class UnexpectedReply(SegmentStoreError):
    """Neither success nor refusal, WrongHost above all; worth another try."""

    def __init__(self, address: Address, request: str, reply: c.Reply) -> None:
        super().__init__(f"segment store {address} answered {request} with {reply}")
        self.address, self.request, self.reply = address, request, reply


class StoreUnavailable(SegmentStoreError):
    """The deadline passed. Whether one of the attempts was carried out is unknown."""

    def __init__(
        self, segment: str, request: str, attempts_count: int, last: SegmentStoreError
    ) -> None:
        super().__init__(f"{request} of {segment}: {attempts_count} attempts failed; last: {last}")
        self.segment, self.request = segment, request
        self.attempts_count, self.last = attempts_count, last


class ReadEndedEarly(SegmentStoreError):
    """The segment has fewer bytes than were asked for."""

    def __init__(self, segment: str, wanted_end: int, offset: int) -> None:
        super().__init__(f"{segment} ends at {offset}, {wanted_end} was asked for")
        self.segment, self.wanted_end, self.offset = segment, wanted_end, offset


_REFUSALS: Final = (
    c.NoSuchSegment,
    c.OperationUnsupported,
    c.AuthTokenCheckFailed,
    c.ErrorMessage,
    c.TableSegmentNotEmpty,
    c.TableKeyDoesNotExist,
    c.TableKeyBadVersion,
    c.InvalidEventNumber,
)
_RETRIED: Final = (
    SegmentNotLocated,
    ConnectFailed,
    ConnectionLost,
    RequestTimedOut,
    UnexpectedReply,
)


class SegmentStoreClient:
    """The requests of a service to whichever store holds a segment.

    All methods raise Refused, StoreUnavailable, and what `locate` raises besides
    SegmentNotLocated. `token` gives the delegation token of each request. The pool's owner
    closes it.
    """

    def __init__(
        self,
        pool: SegmentStorePool,
        locate: Locate,
        clock: Clock,
        *,
        chance: random.Random,
        token: Callable[[], str] = str,
        deadline_s: float = DEADLINE_S,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._pool, self._locate, self._clock = pool, locate, clock
        self._chance, self._token = chance, token
        self._deadline_s, self._request_timeout_s = deadline_s, request_timeout_s

    # --- Segments ---

    async def create_segment(
        self,
        segment: str,
        *,
        scale_type: int = 0,
        target_rate: int = 0,
        rollover_size_bytes: int = 0,
    ) -> bool:
        """False if it existed already, perhaps by an attempt whose reply was lost."""
        request = c.CreateSegment(
            0, segment, target_rate, scale_type, self._token(), rollover_size_bytes
        )
        reply = await self._ask(segment, request, (c.SegmentCreated, c.SegmentAlreadyExists))
        return isinstance(reply, c.SegmentCreated)

    async def seal_segment(self, segment: str) -> None:
        request = c.SealSegment(0, segment, self._token())
        await self._ask(segment, request, (c.SegmentSealed, c.SegmentIsSealed))

    async def delete_segment(self, segment: str) -> bool:
        """False if there was none, perhaps because an attempt whose reply was lost deleted it."""
        request = c.DeleteSegment(0, segment, self._token())
        reply = await self._ask(segment, request, (c.SegmentDeleted, c.NoSuchSegment))
        return isinstance(reply, c.SegmentDeleted)

    async def truncate_segment(self, segment: str, offset: int) -> None:
        """Success also if the segment begins behind `offset` already, or ends before it."""
        request = c.TruncateSegment(0, segment, offset, self._token())
        await self._ask(segment, request, (c.SegmentTruncated, c.SegmentIsTruncated))

    async def merge_segments_batch(
        self, target: str, sources: Sequence[str]
    ) -> tuple[c.MergedSource, ...]:
        """Merge the sources, in order, and delete them. Those that are gone are skipped.

        A sealed target is Refused.
        """
        request = c.MergeSegmentsBatch(0, target, tuple(sources), self._token())
        reply = await self._ask(target, request, (c.SegmentsBatchMerged,), (c.SegmentIsSealed,))
        return reply.merged

    async def update_segment_policy(
        self, segment: str, *, scale_type: int, target_rate: int
    ) -> None:
        """A sealed segment is Refused."""
        request = c.UpdateSegmentPolicy(0, segment, target_rate, scale_type, self._token())
        await self._ask(segment, request, (c.SegmentPolicyUpdated,), (c.SegmentIsSealed,))

    async def segment_info(self, segment: str) -> c.StreamSegmentInfo:
        request = c.GetStreamSegmentInfo(0, segment, self._token())
        return await self._ask(segment, request, (c.StreamSegmentInfo,))

    async def segment_attribute(self, segment: str, attribute: UUID) -> int:
        """NULL_ATTRIBUTE when it is not set."""
        request = c.GetSegmentAttribute(0, segment, attribute, self._token())
        return (await self._ask(segment, request, (c.SegmentAttribute,))).value

    async def update_segment_attribute(
        self, segment: str, attribute: UUID, value: int, *, expected: int
    ) -> bool:
        """False if the attribute was not as expected, perhaps because an attempt whose reply
        was lost had set it."""
        request = c.UpdateSegmentAttribute(0, segment, attribute, value, expected, self._token())
        return (await self._ask(segment, request, (c.SegmentAttributeUpdated,))).success

    # --- Table segments ---

    async def create_table_segment(
        self, segment: str, *, key_length: int = 0, rollover_size_bytes: int = 0
    ) -> bool:
        """`key_length` 0 makes a hash table. False if the segment existed already."""
        request = c.CreateTableSegment(
            0, segment, self._token(), False, key_length, rollover_size_bytes
        )
        reply = await self._ask(segment, request, (c.SegmentCreated, c.SegmentAlreadyExists))
        return isinstance(reply, c.SegmentCreated)

    async def delete_table_segment(self, segment: str, *, must_be_empty: bool) -> bool:
        """False if there was none. A table that is not empty is Refused."""
        request = c.DeleteTableSegment(0, segment, must_be_empty, self._token())
        reply = await self._ask(segment, request, (c.SegmentDeleted, c.NoSuchSegment))
        return isinstance(reply, c.SegmentDeleted)

    # --- Data ---

    async def read(self, segment: str, offset: int, length: int) -> c.SegmentRead:
        """Some bytes from `offset` on, at most `length` and at most 2 MiB.

        Beyond the end of an open segment the store holds the request until there are bytes.
        Raises Refused with SegmentIsTruncated when the segment begins behind `offset`.
        """
        request = c.ReadSegment(segment, offset, length, self._token())
        return await self._ask(segment, request, (c.SegmentRead,), (c.SegmentIsTruncated,))

    async def read_range(self, segment: str, offset: int, length: int) -> AsyncIterator[c.Data]:
        """All `length` bytes from `offset` on, piece by piece; raises ReadEndedEarly.

        The range should exist: see `read` for what happens beyond the end.
        """
        end = offset + length
        while offset < end:
            piece = (await self.read(segment, offset, end - offset)).data[: end - offset]
            if not piece:
                raise ReadEndedEarly(segment, end, offset)
            offset += len(piece)
            yield piece

    async def append(
        self,
        segment: str,
        writer_id: UUID,
        data: c.Data,
        *,
        event_number: int,
        event_count: int = 1,
    ) -> int | None:
        """Store `data` once under this event number.

        Returns the length of the segment behind it; None if an earlier attempt, or the same
        writer before, had stored the number. One append of a writer at a time. Meant for tests
        and tools: it sets the writer up each time.
        """

        async def attempt(address: Address) -> c.DataAppended | None:
            connection = await self._pool.connection(address)
            setup = c.SetupAppend(0, writer_id, segment, self._token())
            ready = await self._exchange(connection, segment, setup, (c.AppendSetup,), ())
            if ready.last_event_number >= event_number:
                return None
            block = c.AppendBlockEnd(writer_id, len(data), data, event_count, event_number)
            return await self._exchange(
                connection, segment, block, (c.DataAppended,), (c.SegmentIsSealed,)
            )

        appended = await self._retry(segment, c.AppendBlockEnd.__name__, attempt)
        return None if appended is None else appended.current_segment_write_offset

    async def append_event_at(
        self, segment: str, writer_id: UUID, event: c.Data, *, expected_offset: int
    ) -> bool:
        """Store the event with its header if the segment ends at this offset, else False.

        `writer_id` must be a new one: it tells an earlier attempt's success from another's.
        """
        number = 1

        async def attempt(address: Address) -> bool:
            connection = await self._pool.connection(address)
            setup = c.SetupAppend(0, writer_id, segment, self._token())
            ready = await self._exchange(connection, segment, setup, (c.AppendSetup,), ())
            if ready.last_event_number >= number:
                return True
            request = c.ConditionalAppend(writer_id, number, expected_offset, event)
            reply = await self._exchange(
                connection,
                segment,
                request,
                (c.DataAppended, c.ConditionalCheckFailed),
                (c.SegmentIsSealed,),
            )
            return isinstance(reply, c.DataAppended)

        return await self._retry(segment, c.ConditionalAppend.__name__, attempt)

    # --- The retry loop ---

    async def _ask(
        self,
        segment: str,
        request: ClientRequest,
        success: tuple[type[ReplyT], ...],
        refusal: tuple[type[c.Reply], ...] = (),
    ) -> ReplyT:
        async def attempt(address: Address) -> ReplyT:
            connection = await self._pool.connection(address)
            return await self._exchange(connection, segment, request, success, refusal)

        return await self._retry(segment, type(request).__name__, attempt)

    async def _retry(
        self, segment: str, request: str, attempt: Callable[[Address], Awaitable[ReplyT]]
    ) -> ReplyT:
        deadline = self._clock.monotonic() + self._deadline_s
        pause_s, attempts_count = PAUSE_FIRST_S, 0
        while True:
            attempts_count += 1
            try:
                return await attempt(Address(*await self._locate(segment)))
            except _RETRIED as error:
                failure = error
            wait_s = pause_s * self._chance.uniform(0.5, 1.5)
            if self._clock.monotonic() + wait_s > deadline:
                raise StoreUnavailable(segment, request, attempts_count, failure) from failure
            log.info(
                "wire.retry",
                segment=segment,
                request=request,
                attempts_count=attempts_count,
                error=str(failure),
            )
            await self._clock.sleep(wait_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _exchange(
        self,
        connection: SegmentStoreConnection,
        segment: str,
        request: ClientRequest,
        success: tuple[type[ReplyT], ...],
        refusal: tuple[type[c.Reply], ...],
    ) -> ReplyT:
        reply = await connection.request(request, timeout_s=self._request_timeout_s)
        name = type(request).__name__
        if isinstance(reply, success):
            return reply
        if isinstance(reply, refusal + _REFUSALS):
            raise Refused(segment, name, reply)
        raise UnexpectedReply(connection.address, name, reply)
