"""Group commit: what waits together becomes one frame of the log, and one sync.

Operations join the newest batch. While the log syncs as many frames as it takes at once, the
next batch collects; then it goes. A batch carries the replies that its operations earned, and
refusals join it too (they were decided on accepted state), so every answer leaves in log order,
and none before all that it stands on is durable. A batch with replies and no operation writes
nothing and just waits its turn; instead of a write, the log's check of the owner precedes its
replies.

Positions are dense and this object is the log's only writer, so the position of a frame is
known when its first operation is accepted; the log's own answer is checked against it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from anabranch_kit.ports.clock import Clock

from anabranch_segmentstore.api import APPEND_LENGTH_MAX
from anabranch_segmentstore.domain.frames import FOOTER_LENGTH, encode_footer
from anabranch_segmentstore.domain.state import Segment
from anabranch_segmentstore.ports import Buffer, DurableLog

FRAME_LENGTH_TARGET: Final = 8 * 1024 * 1024  # a larger batch makes nobody faster and all wait
FRAME_OVERHEAD_MAX: Final = 4096  # one operation and the footer, beside its data
PIECES_PER_FRAME_MAX: Final = 512  # half of what one vectored write takes
PIECE_LENGTH_MIN: Final = 4096  # when pieces are shorter on average, one copy is cheaper
LARGE_PART_LENGTH: Final = 16 * 1024  # not copied: these come in buffers of their own
BUSY_BYTES_DEFAULT: Final = 32 * 1024 * 1024  # accepted and not durable, per container

DRAIN_S_MAX: Final = 5.0  # below what supervisors grant a service for its stop

Reply = tuple[Callable[[Any], None], object]


@dataclass(slots=True)
class Run:
    """Bytes that lie side by side both in a segment and in the frame.

    A large part is a run of its own. It arrived in a buffer that holds nothing else and that
    nobody writes to again (anabranch_wire.framing), so log and cache share it without a copy.
    """

    segment: Segment
    start: int
    length: int
    parts: list[bytes | memoryview]
    is_large: bool

    def join(self) -> bytes | memoryview:
        """The one copy of small parts: out of the receive buffers, for log and cache."""
        first = self.parts[0]
        if len(self.parts) == 1 and (self.is_large or type(first) is bytes):
            return first
        joined = b"".join(self.parts)
        self.parts = [joined]
        return joined


@dataclass(slots=True)
class Batch:
    """`position` is 0 until there is an operation. `settlements` run when it is durable."""

    at_ms: int
    position: int = 0
    data_length: int = 0
    operations: list[bytes] = field(default_factory=list)
    operations_length: int = 0
    runs: list[Run] = field(default_factory=list)
    settlements: list[Callable[[], None]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    snapshot: list[Buffer] | None = None
    pending_bytes: int = 0
    is_durable: bool = False

    @property
    def length(self) -> int:
        return self.data_length + self.operations_length + FOOTER_LENGTH

    def add_data(self, segment: Segment, start: int, parts: Iterable[bytes | memoryview]) -> None:
        """Bytes of an operation that starts at the segment's offset `start`."""
        runs = self.runs
        for part in parts:
            length = len(part)
            self.data_length += length
            is_large = length >= LARGE_PART_LENGTH
            if runs and not is_large:
                last = runs[-1]
                is_neighbour = last.segment is segment and last.start + last.length == start
                if is_neighbour and not last.is_large:
                    last.parts.append(part)
                    last.length += length
                    start += length
                    continue
            if length:
                runs.append(Run(segment, start, length, [part], is_large))
                start += length

    def encode(self) -> list[Buffer]:
        if self.snapshot is not None:
            return self.snapshot
        operations = b"".join(self.operations)
        footer = encode_footer(
            at_ms=self.at_ms,
            operations_length=len(operations),
            operations_count=len(self.operations),
        )
        pieces: list[Buffer] = [run.join() for run in self.runs]
        assert sum(map(len, pieces)) == self.data_length, "a run lost or gained bytes"
        pieces.append(operations + footer)
        are_short = self.data_length < len(pieces) * PIECE_LENGTH_MIN
        if len(pieces) > PIECES_PER_FRAME_MAX or (are_short and len(pieces) > 2):
            return [b"".join(pieces)]
        return pieces


class GroupCommit:
    """Owned by a container. `settle` moves the durable view; `ended` hears the first failure."""

    def __init__(
        self,
        log: DurableLog,
        *,
        clock: Clock,
        settle: Callable[[Batch], None],
        ended: Callable[[Exception], None],
        busy_bytes: int = BUSY_BYTES_DEFAULT,
    ) -> None:
        if log.frame_length_max < APPEND_LENGTH_MAX + FRAME_OVERHEAD_MAX:
            raise ValueError(
                f"the log takes frames of {log.frame_length_max} bytes; an append alone can be "
                f"{APPEND_LENGTH_MAX} long"
            )
        self._log, self._clock = log, clock
        self._settle, self._ended = settle, ended
        self._busy_bytes = busy_bytes
        self._frame_length = min(log.frame_length_max, FRAME_LENGTH_TARGET)
        self._next_position: int = log.last_position + 1
        self._queue: deque[Batch] = deque()  # the last one is open
        self._in_flight: deque[Batch] = deque()
        self._writes: set[asyncio.Task[None]] = set()
        self._is_pump_due = False
        self._resume_when_idle: list[Callable[[], None]] = []
        self._loop = asyncio.get_running_loop()
        self.failure: Exception | None = None
        self.durable_position: int = log.last_position
        self.pending_bytes = 0
        self.is_held_back = False  # too much waits for tier 2 (tiering.py)
        self.frames_count = 0
        self.frames_bytes = 0

    # --- what the container calls ---

    @property
    def next_position(self) -> int:
        """The position of the next frame that has none yet."""
        return self._next_position

    def batch_for(self, length: int) -> Batch:
        """The open batch, with room for `length` bytes and with a position."""
        batch = self._open()
        if batch.operations and batch.length + length > self._frame_length:
            batch = self._add_batch()
        if batch.position == 0:
            batch.position = self._next_position
            self._next_position += 1
        batch.pending_bytes += length
        self.pending_bytes += length
        return batch

    def reply(self, done: Callable[[Any], None], outcome: object) -> None:
        """Call `done(outcome)` once all that was accepted so far is durable."""
        self._open().replies.append((done, outcome))

    def add_snapshot(self, pieces: list[Buffer], settled: Callable[[], None]) -> int:
        """A frame of its own behind all that was accepted so far; returns its position."""
        batch = self._open()
        if batch.operations:
            batch = self._add_batch()
        batch.position = self._next_position
        self._next_position += 1
        batch.snapshot = pieces
        batch.settlements.append(settled)
        self._add_batch()
        return batch.position

    @property
    def is_busy(self) -> bool:
        return self.is_held_back or self.pending_bytes > self._busy_bytes

    def when_idle(self, resume: Callable[[], None]) -> None:
        if self.is_busy:
            self._resume_when_idle.append(resume)
        else:
            self._loop.call_soon(resume)

    def hold_back(self, is_held_back: bool) -> None:
        self.is_held_back = is_held_back
        self._wake_idle()

    def fail(self, error: Exception) -> None:
        """End: every reply that waits gets the error. Idempotent."""
        if self.failure is not None:
            return
        self.failure = error
        batches = [*self._in_flight, *self._queue]
        self._in_flight.clear()
        self._queue.clear()
        self._ended(error)
        for batch in batches:
            for done, _ in batch.replies:
                self._call(done, error)
        self.pending_bytes = 0
        self.is_held_back = False
        self._wake_idle()

    async def drain(self) -> None:
        """Until all that was accepted before this call is durable, or failed.

        Gives up after DRAIN_S_MAX: a full disk keeps the log waiting for as long as it is full.
        """
        if self.failure is None and (self._queue or self._in_flight):
            waiter: asyncio.Future[None] = self._loop.create_future()
            self.reply(resolver(waiter), None)
            await asyncio.wait([waiter], timeout=DRAIN_S_MAX)
            if waiter.done():
                waiter.exception()  # a failure was told to `ended`

    async def close(self) -> None:
        """End the writes that are under way; after `fail`. What became of them is unknown."""
        for write in self._writes:
            write.cancel()
        if self._writes:
            await asyncio.wait(self._writes)

    # --- the pump ---

    def _open(self) -> Batch:
        assert self.failure is None, "the container takes nothing after it ended"
        if not self._queue:
            return self._add_batch()
        return self._queue[-1]

    def _add_batch(self) -> Batch:
        batch = Batch(self._clock.now_ms())
        self._queue.append(batch)
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)
        return batch

    def _pump(self) -> None:
        self._is_pump_due = False
        while self._queue and self.failure is None:
            batch = self._queue[0]
            writes = batch.position != 0
            if writes and len(self._writes) >= self._log.frames_in_flight_max:
                return
            self._queue.popleft()
            self._in_flight.append(batch)
            if writes:
                write = self._loop.create_task(self._write(batch))
                self._writes.add(write)
                write.add_done_callback(self._written)
            else:
                batch.is_durable = True
        self._settle_durable()

    async def _write(self, batch: Batch) -> None:
        position = await self._log.append(batch.encode(), snapshot=batch.snapshot is not None)
        assert position == batch.position, "somebody else writes to this log"
        batch.is_durable = True

    def _written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if write.cancelled():
            self.fail(RuntimeError("a write to the log was cancelled; what it did is unknown"))
            return
        error = write.exception()
        if isinstance(error, Exception):
            self.fail(error)
        elif error is not None:
            raise error
        elif self.failure is None:
            self._settle_durable()
            self._pump()

    def _settle_durable(self) -> None:
        """Answer all batches at the head that are durable, in order."""
        in_flight = self._in_flight
        while in_flight and in_flight[0].is_durable and self.failure is None:
            batch = in_flight.popleft()
            if batch.position:
                self.durable_position = batch.position
                self.frames_count += 1
                self.frames_bytes += batch.length
            self.pending_bytes -= batch.pending_bytes
            try:
                if batch.replies and not batch.position:
                    self._log.check_owner()
                self._settle(batch)
            except Exception as error:  # noqa: BLE001 - the edge of the container's failure domain
                in_flight.appendleft(batch)
                self.fail(error)
                return
            for done, outcome in batch.replies:
                self._call(done, outcome)
        if self._resume_when_idle:
            self._wake_idle()

    def _call(self, done: Callable[[Any], None], outcome: object) -> None:
        try:
            done(outcome)
        except Exception as error:  # noqa: BLE001 - a connection's bug must not end the container
            self._loop.call_exception_handler(
                {"message": "the receiver of a container's answer failed", "exception": error}
            )

    def _wake_idle(self) -> None:
        if self.is_held_back or self.pending_bytes > self._busy_bytes // 2:
            return
        resumes, self._resume_when_idle = self._resume_when_idle, []
        for resume in resumes:
            self._loop.call_soon(resume)


def resolver(waiter: asyncio.Future[Any]) -> Callable[[object], None]:
    """A reply that resolves a future, which nobody may be waiting for any more."""

    def resolve(outcome: object) -> None:
        if waiter.done():
            return
        if isinstance(outcome, Exception):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)

    return resolve
