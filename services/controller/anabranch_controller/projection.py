"""All aggregates in memory, folded from one ordered consumer of the event log.

Each instance has one. It is behind the log by a moment; who needs to see his own writes, or
anybody's, asks the log for a sequence and waits until the projection has reached it. Waiting
is by event: whoever waits for a subject is woken by the message that changes it.

Besides the aggregates it keeps what would be dear to search for: the transactions that are
not over, per stream, and the *open work* with its owner, which is what the instances sweep.

A message that cannot be understood ends the projection, and with it the process: a
controller that skips what it does not understand would decide on a wrong state.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar, assert_never

import msgspec
from anabranch_events.domain import (
    Batch,
    CommitCompleted,
    GroupBatch,
    GroupReleased,
    GroupReserved,
    NewerVersion,
    ScopeBatch,
    ScopeCreated,
    ScopeDeleted,
    ScopeDeletionStarted,
    StreamBatch,
    StreamReleased,
    StreamReserved,
    TableBatch,
    TableReleased,
    TableReserved,
    TransactionBatch,
    TransactionIdsBatch,
    WorkTakenOver,
    decode_batch,
)
from anabranch_events.subjects import name_of
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.event_store import EventStore, Record

from anabranch_controller.domain import group as groups
from anabranch_controller.domain import scope as scopes
from anabranch_controller.domain import stream as streams
from anabranch_controller.domain import table as tables
from anabranch_controller.domain import transaction as transactions
from anabranch_controller.domain.group import Group
from anabranch_controller.domain.scope import Kind, Scope
from anabranch_controller.domain.stream import Stream
from anabranch_controller.domain.table import Table
from anabranch_controller.domain.transaction import REMEMBERED_MS, Transaction
from anabranch_controller.keys import (
    GroupKey,
    Key,
    ReservationKey,
    ScopeKey,
    StreamKey,
    TableKey,
    TransactionKey,
)
from anabranch_controller.waiting import OutOfTime, within

COMPLETED_MAX: Final = 200_000  # transactions remembered after their end, about 100 MB
CATCH_UP_LIMIT_S: Final = 20.0

T = TypeVar("T")


class DamagedEvent(Exception):
    """A message of the event log that is not what it should be. Nothing is skipped."""

    def __init__(self, record: Record, reason: str) -> None:
        super().__init__(
            f"event log: message {record.sequence} on {record.subject} cannot be read: {reason}."
            " Restore the event log, or run the version that wrote it"
        )
        self.sequence, self.subject, self.reason = record.sequence, record.subject, reason


class OpenWork(NamedTuple):
    """`since_s` is when it last moved, by this instance's monotonic clock."""

    owner: str
    since_s: float


Observer = Callable[[Key], None]


class Projection:
    """Owned by one task that calls `run`; everyone else reads and waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.position = 0
        self.scopes: dict[str, Scope] = {}
        self.streams: dict[StreamKey, Stream] = {}
        self.groups: dict[GroupKey, Group] = {}
        self.tables: dict[TableKey, Table] = {}
        self.transactions: dict[TransactionKey, Transaction] = {}
        self.live: dict[StreamKey, dict[TransactionKey, Transaction]] = {}
        self.open_work: dict[Key, OpenWork] = {}
        self.transaction_ids_end = 1
        self._completed: OrderedDict[StreamKey, deque[TransactionKey]] = OrderedDict()
        self._completion_order: deque[TransactionKey] = deque()
        self._sequences: dict[str, int] = {}
        self._observers: list[Observer] = []
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._catching_up: list[tuple[int, asyncio.Future[None]]] = []

    # --- folding -------------------------------------------------------------------------

    async def run(self, store: EventStore) -> None:
        """Follow the log for ever. Raises DamagedEvent."""
        async for record in store.follow(after=self.position):
            self.apply(record)

    def observe(self, observer: Observer) -> None:
        """Call `observer` with each key that a message changed, after it is folded."""
        self._observers.append(observer)

    def forget(self, observer: Observer) -> None:
        self._observers.remove(observer)

    def apply(self, record: Record) -> None:
        if record.sequence <= self.position:
            return
        try:
            batch = decode_batch(record.subject, record.payload)
            changed = () if batch is None else tuple(self._fold(batch, record))
        except (NewerVersion, msgspec.DecodeError, AssertionError, LookupError) as error:
            raise DamagedEvent(record, f"{type(error).__name__}: {error}") from error
        self.position = record.sequence
        for key in changed:
            for observer in self._observers:
                observer(key)
        self._wake(record.subject)
        for key in changed:
            if key.subject != record.subject:
                self._wake(key.subject)

    def _fold(self, batch: Batch, record: Record) -> Iterator[Key]:
        self._sequences[record.subject] = record.sequence
        match batch:
            case StreamBatch():
                yield from self._fold_stream(batch, record)
            case ScopeBatch():
                yield from self._fold_scope(batch, record)
            case TransactionBatch():
                yield from self._fold_transaction(batch, record)
            case GroupBatch():
                yield from self._fold_group(batch, record)
            case TableBatch():
                yield from self._fold_table(batch, record)
            case TransactionIdsBatch(events=events):
                self.transaction_ids_end = max(event.end for event in events)
            case _:
                assert_never(batch)

    def _fold_stream(self, batch: StreamBatch, record: Record) -> Iterator[Key]:
        key = StreamKey(*_names(record.subject))
        stream = streams.fold(self.streams.get(key), batch)
        self.streams[key] = stream
        self._note(key, stream.owner if stream.has_open_work else None)
        yield key
        for event in batch.events:
            if isinstance(event, CommitCompleted):
                for identity in event.transactions:
                    transaction_key = TransactionKey(key.scope, key.stream, identity)
                    done = self.transactions.get(transaction_key)
                    if done is not None and not done.is_completed:
                        committed = transactions.committed(done, completed_ms=event.completed_ms)
                        self._set_transaction(transaction_key, committed, batch.at_ms)
                        yield transaction_key
        yield from self._settle(key.scope, "stream", key.stream)

    def _fold_scope(self, batch: ScopeBatch, record: Record) -> Iterator[Key]:
        key = ScopeKey(*_names(record.subject))
        scope = scopes.fold(self.scopes.get(key.scope), batch)
        self.scopes[key.scope] = scope
        self._note(key, scope.owner if scope.stage == "deleting" else None)
        yield key
        for event in batch.events:
            match event:
                case StreamReserved(stream=name) | StreamReleased(stream=name):
                    yield from self._settle(key.scope, "stream", name)
                    yield StreamKey(key.scope, name)
                case GroupReserved(group=name) | GroupReleased(group=name):
                    yield from self._settle(key.scope, "group", name)
                    yield GroupKey(key.scope, name)
                case TableReserved(table=name) | TableReleased(table=name):
                    yield from self._settle(key.scope, "table", name)
                    yield TableKey(key.scope, name)
                case ScopeCreated() | ScopeDeletionStarted() | ScopeDeleted() | WorkTakenOver():
                    pass
                case _:
                    assert_never(event)

    def _fold_transaction(self, batch: TransactionBatch, record: Record) -> Iterator[Key]:
        key = TransactionKey(*_names(record.subject))
        before = self.transactions.get(key)
        if before is not None and before.status == "COMMITTED":
            return
        folded = transactions.fold(before, batch, record.sequence)
        self._set_transaction(key, folded, batch.at_ms)
        yield key

    def _fold_group(self, batch: GroupBatch, record: Record) -> Iterator[Key]:
        scope, name = _names(record.subject)
        key = GroupKey(scope, name)
        group = groups.fold(self.groups.get(key), batch)
        self.groups[key] = group
        self._note(key, group.owner if group.has_open_work else None)
        yield key
        yield from self._settle(scope, "group", name)

    def _fold_table(self, batch: TableBatch, record: Record) -> Iterator[Key]:
        scope, name = _names(record.subject)
        key = TableKey(scope, name)
        table = tables.fold(self.tables.get(key), batch)
        self.tables[key] = table
        self._note(key, table.owner if table.has_open_work else None)
        yield key
        yield from self._settle(scope, "table", name)

    def _set_transaction(self, key: TransactionKey, folded: Transaction, at_ms: int) -> None:
        self.transactions[key] = folded
        live = self.live.setdefault(key.stream_key, {})
        if folded.is_completed:
            live.pop(key, None)
            self._completed.setdefault(key.stream_key, deque()).append(key)
            self._completion_order.append(key)
            self._forget(at_ms)
        else:
            live[key] = folded
        if not live:
            del self.live[key.stream_key]
        waits = folded.status in ("COMMITTING", "ABORTING")
        self._note(key, folded.owner if waits else None)

    def _forget(self, now_ms: int) -> None:
        """Drop what was completed long ago; its state is then unknown."""
        while self._completion_order:
            key = self._completion_order[0]
            oldest = self.transactions[key]
            recent = oldest.completed_ms + REMEMBERED_MS > now_ms
            if recent and len(self._completion_order) <= COMPLETED_MAX:
                return
            self._completion_order.popleft()
            del self.transactions[key]
            self._sequences.pop(key.subject, None)
            of_stream = self._completed[key.stream_key]
            of_stream.popleft()
            if not of_stream:
                del self._completed[key.stream_key]

    def _settle(self, scope_name: str, kind: Kind, name: str) -> Iterator[Key]:
        """Is what the directory says so? If not, it is work: for the author of a reservation
        to create the thing, for who deleted the thing to release its name."""
        key = ReservationKey(scope_name, kind, name)
        scope = self.scopes.get(scope_name)
        entry = None if scope is None else scope.reservation(kind, name)
        thing = self.thing(scope_name, kind, name)
        if entry is None:
            self._note(key, None)
        elif thing is None or thing.incarnation != entry.incarnation:
            self._note(key, entry.owner)
            yield key
        else:
            self._note(key, None if thing.exists else thing.owner)
            yield key

    def _note(self, key: Key, owner: str | None) -> None:
        if owner is None:
            self.open_work.pop(key, None)
        else:
            self.open_work[key] = OpenWork(owner, self._clock.monotonic())

    # --- reading -------------------------------------------------------------------------

    def sequence_of(self, subject: str) -> int:
        """The last message of the subject that is folded; 0 for none."""
        return self._sequences.get(subject, 0)

    def thing(self, scope: str, kind: Kind, name: str) -> Stream | Group | Table | None:
        match kind:
            case "stream":
                return self.streams.get(StreamKey(scope, name))
            case "group":
                return self.groups.get(GroupKey(scope, name))
            case "table":
                return self.tables.get(TableKey(scope, name))

    def live_transactions(self, key: StreamKey) -> dict[TransactionKey, Transaction]:
        """Those of the stream that are not over."""
        return self.live.get(key, {})

    def committing(self, key: StreamKey) -> list[Transaction]:
        return [one for one in self.live_transactions(key).values() if one.status == "COMMITTING"]

    def completed(self, key: StreamKey, count_max: int) -> list[Transaction]:
        """The newest completed transactions of the stream, newest first."""
        done = self._completed.get(key, deque())
        newest = list(done)[-count_max:]
        return [self.transactions[one] for one in reversed(newest)]

    # --- waiting -------------------------------------------------------------------------

    async def caught_up(self, sequence: int, *, limit_s: float = CATCH_UP_LIMIT_S) -> None:
        """Return once everything up to `sequence` is folded. Raises OutOfTime."""
        if sequence <= self.position:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (sequence, reached)
        self._catching_up.append(entry)
        try:
            await within(self._clock, limit_s, reached)
        finally:
            self._catching_up.remove(entry)

    async def until(self, subject: str, predicate: Callable[[], T | None], *, limit_s: float) -> T:
        """The first result of `predicate` that is not None, looked at now and after each
        message that changes the subject. Raises OutOfTime."""
        ends_at = self._clock.monotonic() + limit_s
        while True:
            result = predicate()
            if result is not None:
                return result
            remaining_s = ends_at - self._clock.monotonic()
            if remaining_s <= 0:
                raise OutOfTime(limit_s)
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(subject, []).append(changed)
            try:
                await within(self._clock, remaining_s, changed)
            finally:
                self._unwait(subject, changed)

    def _unwait(self, subject: str, changed: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(subject, [])
        if changed in waiting:
            waiting.remove(changed)
            if not waiting:
                del self._waiting[subject]

    def _wake(self, subject: str) -> None:
        for changed in self._waiting.pop(subject, []):
            if not changed.done():
                changed.set_result(None)
        for sequence, reached in self._catching_up:
            if sequence <= self.position and not reached.done():
                reached.set_result(None)


def _names(subject: str) -> list[str]:
    """The names in the subject of an aggregate, outermost first."""
    return [name_of(token) for token in subject.split(".")[3:]]
