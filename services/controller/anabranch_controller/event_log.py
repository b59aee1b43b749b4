"""The event log as handlers and workflows use it: load, decide, append, see it folded.

* `load` asks the leader for the last sequence of each subject and waits until the projection
  has it, so that a decision and a reply see every write that was acknowledged before.
* `change` runs a decision and writes its events; when somebody was faster it loads again and
  decides again.
* While the log does not answer (NATS restarts), calls are held instead of refused.

A message is written under an id, so an attempt whose outcome was lost is repeated with the
same id and is stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Final, NamedTuple, TypeVar

import msgspec
from anabranch_events.domain import (
    DomainEvent,
    GroupBatch,
    ScopeBatch,
    StreamBatch,
    TableBatch,
    TransactionBatch,
    TransactionIdsBatch,
)
from anabranch_kit.ids import NewId
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.event_store import EventStore, EventStoreUnavailable, SequenceConflict

from anabranch_controller.errors import Conflict, Unavailable
from anabranch_controller.projection import Projection
from anabranch_controller.waiting import OutOfTime

HOLD_S: Final = 20.0
"""How long a call waits for an event log that does not answer (architecture, section 4)."""

HOLD_PAUSE_S: Final = 0.25
ATTEMPTS_MAX: Final = 30  # of one decision; a busy scope directory loses some races
JITTER_S_MAX: Final = 0.02

_encoder = msgspec.json.Encoder()
_BATCHES: Final[dict[str, Callable[..., msgspec.Struct]]] = {
    "stream": StreamBatch,
    "scope": ScopeBatch,
    "transaction": TransactionBatch,
    "group": GroupBatch,
    "table": TableBatch,
    "transaction-ids": TransactionIdsBatch,
}

R = TypeVar("R")


class Write(NamedTuple):
    """A decision to write these events, all or none."""

    events: tuple[DomainEvent, ...]


class Written(NamedTuple):
    sequence: int


def write(*events: DomainEvent) -> Write:
    return Write(events)


class EventLog:
    """`instance` is the incarnation of this controller: it signs every message."""

    def __init__(
        self,
        store: EventStore,
        projection: Projection,
        *,
        clock: Clock,
        random: Random,
        new_id: NewId,
        instance: str,
    ) -> None:
        self._store, self._projection = store, projection
        self._clock, self._random, self._new_id = clock, random, new_id
        self.instance = instance
        self._barrier_next: asyncio.Task[None] | None = None
        self._barriers: set[asyncio.Task[None]] = set()
        self._barrier_running = asyncio.Lock()

    # --- reading -------------------------------------------------------------------------

    async def load(self, *subjects: str) -> None:
        """Bring the projection up to the last message of each subject. Raises Unavailable."""
        last = await asyncio.gather(
            *(self._held(partial(self._store.last_sequence, subject)) for subject in subjects)
        )
        await self._caught_up(max(last, default=0))

    async def load_all(self) -> None:
        """Bring the projection up to the end of the log. Raises Unavailable."""
        await self._caught_up(await self._held(self._store.end))

    async def pass_barrier(self) -> None:
        """As load_all, but judged by a quorum write: no deposed leader can answer it.

        Calls that come while a barrier is being written share the next one.
        """
        if self._barrier_next is None:
            self._barrier_next = asyncio.create_task(self._barrier())
            self._barriers.add(self._barrier_next)
            self._barrier_next.add_done_callback(self._barriers.discard)
        await asyncio.shield(self._barrier_next)

    async def _barrier(self) -> None:
        async with self._barrier_running:
            self._barrier_next = None
            sequence = await self._held(lambda: self._store.barrier(self.instance))
            await self._caught_up(sequence)

    async def _caught_up(self, sequence: int) -> None:
        try:
            await self._projection.caught_up(sequence)
        except OutOfTime as error:
            raise Unavailable("event log", f"its messages arrive late: {error}") from error

    # --- writing -------------------------------------------------------------------------

    async def append(self, subject: str, decision: Write) -> Written:
        """Write on top of what is folded, and see it folded. Raises SequenceConflict."""
        batch_id = self._new_id().hex
        batch = _BATCHES[subject.split(".")[2]](
            id=batch_id, by=self.instance, at_ms=self._clock.now_ms(), events=decision.events
        )
        payload = _encoder.encode(batch)
        expected = self._projection.sequence_of(subject)
        sequence = await self._held(
            lambda: self._store.append(
                subject, payload, expected_sequence=expected, batch_id=batch_id
            )
        )
        await self._caught_up(sequence)
        return Written(sequence)

    async def change(
        self, subject: str, decide: Callable[[], Write | R], *, reads: Sequence[str] = ()
    ) -> Written | R:
        """Decide on fresh state and write what was decided, again when somebody was faster.

        `reads` are further subjects that the decision looks at. Raises Conflict, Unavailable.
        """
        for _ in range(ATTEMPTS_MAX):
            await self.load(subject, *reads)
            decision = decide()
            if not isinstance(decision, Write):
                return decision
            try:
                return await self.append(subject, decision)
            except SequenceConflict:
                await self._clock.sleep(self._random.uniform(0, JITTER_S_MAX))
        raise Conflict(subject, ATTEMPTS_MAX)

    async def _held(self, operation: Callable[[], Awaitable[R]]) -> R:
        """Repeat while the log is away, at most HOLD_S. Raises Unavailable."""
        ends_at = self._clock.monotonic() + HOLD_S
        while True:
            try:
                return await operation()
            except EventStoreUnavailable as error:
                if self._clock.monotonic() >= ends_at:
                    raise Unavailable("event log", error.reason) from error
                await self._clock.sleep(HOLD_PAUSE_S)
