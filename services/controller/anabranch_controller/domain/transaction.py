"""A transaction: its life, its lease, its id.

The upper 32 bits of the id's high half are the reference epoch in which it began; the rest
is a 96-bit counter whose low half stays non-negative, because the Rust client extends its
sign (reference, 7.2).

A lease is judged by the clock of the instance that hears the event, in monotonic time from
the moment of hearing: clocks may jump, and a restart only lengthens a lease. The event log
settles the race of a ping with the time-out: whichever is written first wins.
"""

from __future__ import annotations

from typing import Final, Literal, assert_never

import msgspec
from anabranch_events.domain import (
    TransactionAborted,
    TransactionAbortRequested,
    TransactionBatch,
    TransactionBegun,
    TransactionCommitRequested,
    TransactionEvent,
    TransactionPinged,
    WorkTakenOver,
)

from anabranch_controller.api import PingOutcome, TransactionId

LEASE_MS_MIN: Final = 10_000  # reference, 7.1
LEASE_MS_MAX: Final = 600_000
EXECUTION_LEASES_MAX: Final = 1000
EXECUTION_MS_MAX: Final = 24 * 3600 * 1000
GRACE_MS: Final = 3_000
"""Beyond the lease: the Rust client pings at the very moment at which it ends (7.9)."""

COMMIT_BATCH_MAX: Final = 100  # transactions in one batch (reference, 7.1)
REMEMBERED_MS: Final = 24 * 3600 * 1000  # a completed one; then its state is unknown
COUNTER_BLOCK: Final = 1000  # ids that an instance reserves at a time

Status = Literal["OPEN", "COMMITTING", "COMMITTED", "ABORTING", "ABORTED"]
AbortCause = Literal["timeout", "request", "stream-sealed"]


class Transaction(msgspec.Struct, frozen=True):
    """`position` orders commits: the sequence of the message that asked for it."""

    scope: str
    stream: str
    id: str
    status: Status
    lease_ms: int
    ends_at_most_ms: int
    owner: str
    position: int = 0
    writer: str = ""
    timestamp: int = 0
    completed_ms: int = 0

    @property
    def epoch(self) -> int:
        return int(self.id[:8], 16)

    @property
    def is_completed(self) -> bool:
        return self.status in ("COMMITTED", "ABORTED")


def fold(transaction: Transaction | None, batch: TransactionBatch, sequence: int) -> Transaction:
    for event in batch.events:
        transaction = evolve(transaction, event, by=batch.by, sequence=sequence)
    assert transaction is not None, "a message holds at least one event"
    return transaction


def evolve(
    transaction: Transaction | None, event: TransactionEvent, *, by: str, sequence: int
) -> Transaction:
    if isinstance(event, TransactionBegun):
        assert transaction is None, "ids are never used again"
        return Transaction(
            scope=event.scope,
            stream=event.stream,
            id=event.transaction,
            status="OPEN",
            lease_ms=event.lease_ms,
            ends_at_most_ms=event.ends_at_most_ms,
            owner=by,
        )
    assert transaction is not None, "the first event of a transaction begins it"
    replace = msgspec.structs.replace
    match event:
        case TransactionPinged(lease_ms=lease_ms):
            return replace(transaction, lease_ms=lease_ms, owner=by)
        case TransactionCommitRequested(writer=writer, timestamp=timestamp):
            return replace(
                transaction,
                status="COMMITTING",
                position=sequence,
                writer=writer,
                timestamp=timestamp,
                owner=by,
            )
        case TransactionAbortRequested():
            return replace(transaction, status="ABORTING", owner=by)
        case TransactionAborted(aborted_ms=aborted_ms):
            return replace(transaction, status="ABORTED", owner=by, completed_ms=aborted_ms)
        case WorkTakenOver():
            return replace(transaction, owner=by)
        case _:
            assert_never(event)


def committed(transaction: Transaction, *, completed_ms: int) -> Transaction:
    """What the stream's CommitCompleted makes of the transactions that it names."""
    return msgspec.structs.replace(transaction, status="COMMITTED", completed_ms=completed_ms)


# --- decisions ---------------------------------------------------------------------------------


def ping(
    transaction: Transaction, *, lease_ms: int, now_ms: int
) -> TransactionPinged | PingOutcome:
    """No lower bound is applied to a pinged lease (reference, 7.4)."""
    match transaction.status:
        case "COMMITTING" | "COMMITTED":
            return "COMMITTED"
        case "ABORTING" | "ABORTED":
            return "ABORTED"
        case "OPEN":
            if lease_ms > LEASE_MS_MAX:
                return "LEASE_TOO_LARGE"
            if now_ms + lease_ms > transaction.ends_at_most_ms:
                return "MAX_EXECUTION_TIME_EXCEEDED"
            return TransactionPinged(lease_ms)


def commit(
    transaction: Transaction, *, writer: str, timestamp: int
) -> TransactionCommitRequested | Literal["SUCCESS", "FAILURE"]:
    match transaction.status:
        case "OPEN":
            return TransactionCommitRequested(writer, timestamp)
        case "COMMITTING" | "COMMITTED":
            return "SUCCESS"
        case "ABORTING" | "ABORTED":
            return "FAILURE"


def abort(
    transaction: Transaction, cause: AbortCause
) -> TransactionAbortRequested | Literal["SUCCESS", "FAILURE"]:
    match transaction.status:
        case "OPEN":
            return TransactionAbortRequested(cause)
        case "COMMITTING" | "COMMITTED":
            return "FAILURE"
        case "ABORTING" | "ABORTED":
            return "SUCCESS"


def execution_end_ms(*, begun_ms: int, lease_ms: int) -> int:
    return begun_ms + min(EXECUTION_LEASES_MAX * lease_ms, EXECUTION_MS_MAX)


def deadline_s(lease_ms: int) -> float:
    """How long after its event a lease is over, in seconds."""
    return (max(lease_ms, 0) + GRACE_MS) / 1000


# --- ids ------------------------------------------------------------------------------------


def make_id(*, epoch: int, counter: int) -> TransactionId:
    """The counter's lower 63 bits are the low half, what is above goes into the high half."""
    assert 0 <= epoch < 2**31, "epochs are non-negative 32-bit numbers"
    assert 0 < counter < 2**95, "the counter has 32 + 63 bits"
    return TransactionId(epoch << 32 | counter >> 63, counter & (2**63 - 1))


def id_text(transaction: TransactionId) -> str | None:
    """The id as 32 hex digits; None for one that no transaction can have."""
    if not (0 <= transaction.high < 2**63 and 0 <= transaction.low < 2**63):
        return None
    return f"{transaction.high:016x}{transaction.low:016x}"


def parse_id(text: str) -> TransactionId:
    return TransactionId(int(text[:16], 16), int(text[16:], 16))


def next_batch(committing: list[Transaction]) -> tuple[Transaction, ...]:
    """Of those that wait for their commit, the ones to commit next: of the lowest epoch, in
    the order in which commits were asked for."""
    if not committing:
        return ()
    lowest = min(transaction.epoch for transaction in committing)
    batch = sorted(
        (transaction for transaction in committing if transaction.epoch == lowest),
        key=lambda transaction: transaction.position,
    )
    return tuple(batch[:COMMIT_BATCH_MAX])
