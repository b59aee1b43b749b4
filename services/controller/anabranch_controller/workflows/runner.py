"""Who does the open work: this instance its own, and that of instances that fell silent.

Three sources wake a worker, one worker per aggregate at a time:

* the projection: a message made or moved work that is ours;
* the sweep: work whose owner is no longer a member (or, when nobody can say who is, work
  that has not moved for long) is taken over by an event, which makes it ours;
* the leases: a transaction whose lease ran out is aborted.

Nothing here is remembered across a restart: what is open is in the log.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable
from functools import partial
from typing import Final, NamedTuple, assert_never

import structlog
from anabranch_events.domain import WorkTakenOver
from anabranch_kit.ports.event_store import SequenceConflict

from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain.transaction import deadline_s
from anabranch_controller.errors import ControllerError
from anabranch_controller.event_log import Write, write
from anabranch_controller.keys import (
    GroupKey,
    Key,
    ReservationKey,
    ScopeKey,
    StreamKey,
    TableKey,
    TransactionKey,
)
from anabranch_controller.ports import SegmentMissing, SegmentStoreUnavailable
from anabranch_controller.projection import OpenWork
from anabranch_controller.waiting import OutOfTime, within
from anabranch_controller.workflows.groups import advance_group
from anabranch_controller.workflows.recording import Superseded
from anabranch_controller.workflows.reservations import advance_reservation
from anabranch_controller.workflows.scopes import advance_scope
from anabranch_controller.workflows.streams import advance_stream
from anabranch_controller.workflows.tables import advance_table
from anabranch_controller.workflows.transactions import advance_transaction, request_abort

SWEEP_S: Final = 1.0
MISSED_S: Final = 2.0  # how long an owner must be missing: a member may announce itself late
SILENT_S: Final = 15.0  # without news of members: work that has not moved for so long
STALLED_COMMIT_S: Final = 5.0  # a commit that nobody started, although the slot is free
FOREIGN_LEASE_S: Final = 5.0  # more than the lease, for a transaction of another instance
LATE_S: Final = 1.0
"""When we learn so late that a lease is over, we or the log were away, and a ping may be on
its way that would have come in time: the lease gets as long as the pings need to arrive."""

AFTER_ABSENCE_S: Final = 10.0
BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 5.0
BACKOFF_BUG_S: Final = 30.0  # after a failure that only our own mistake can explain

log = structlog.stdlib.get_logger("anabranch.workflows")


class _Lease(NamedTuple):
    ends_at_s: float
    key: TransactionKey
    sequence: int


class Runner:
    """Runs inside one task (`run`); cancelling it stops all work where it is."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._workers: dict[Key, asyncio.Task[None]] = {}
        self._again: set[Key] = set()
        self._group: asyncio.TaskGroup | None = None
        self._missed: dict[str, float] = {}
        self._leases: list[_Lease] = []
        self._earlier_lease = asyncio.Event()

    async def run(self) -> None:
        """Work for ever. The projection must have caught up with the log before."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._ctx.projection.observe(self._notice)
            try:
                self._begin()
                group.create_task(self._sweep_forever())
                group.create_task(self._watch_leases())
                await asyncio.get_running_loop().create_future()
            finally:
                self._ctx.projection.forget(self._notice)
                self._group = None

    def _begin(self) -> None:
        """Leases begin anew, and owners that are no members now died before we came."""
        projection = self._ctx.projection
        for live in projection.live.values():
            for key in live:
                self._note_lease(key)
        long_ago_s = self._ctx.clock.monotonic() - MISSED_S
        self._missed = {work.owner: long_ago_s for work in projection.open_work.values()}

    # --- what wakes a worker -------------------------------------------------------------

    def _notice(self, key: Key) -> None:
        ctx = self._ctx
        work = ctx.projection.open_work.get(key)
        if (work is not None and work.owner == ctx.instance) or (
            isinstance(key, StreamKey)
            and any(
                transaction.owner == ctx.instance for transaction in ctx.projection.committing(key)
            )
        ):
            self._start(key)
        if isinstance(key, TransactionKey):
            self._note_lease(key)

    def _start(self, key: Key) -> None:
        """See that a worker looks at this key after now."""
        if isinstance(key, TransactionKey):
            transaction = self._ctx.projection.transactions.get(key)
            if transaction is not None and transaction.status == "COMMITTING":
                key = key.stream_key
        if self._group is None:
            return
        self._again.add(key)
        if key not in self._workers:
            worker = self._group.create_task(self._work(key), name=f"work {key}")
            self._workers[key] = worker

    async def _work(self, key: Key) -> None:
        """Step after step until nothing is left; the edge of a workflow's failure domain."""
        backoff_s = BACKOFF_S_MIN
        bound = log.bind(work=type(key).__name__.removesuffix("Key").lower(), key=key[:3])
        try:
            while key in self._again:
                self._again.discard(key)
                pause_s = 0.0
                try:
                    while await _advance(self._ctx, key):
                        backoff_s = BACKOFF_S_MIN
                except (SequenceConflict, Superseded) as error:
                    bound.debug("workflow.superseded", reason=str(error))
                    pause_s = self._ctx.random.uniform(0, BACKOFF_S_MIN)
                except (ControllerError, SegmentStoreUnavailable, SegmentMissing) as error:
                    pause_s = self._ctx.random.uniform(backoff_s / 2, backoff_s)
                    bound.warning("workflow.retried", reason=str(error), pause_s=round(pause_s, 3))
                    backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
                except Exception:  # noqa: BLE001 (the edge of the failure domain, logged)
                    pause_s = BACKOFF_BUG_S
                    bound.exception("workflow.failed", pause_s=pause_s)
                if pause_s:
                    self._again.add(key)
                    await self._ctx.clock.sleep(pause_s)
                    await self._refresh(key)
        finally:
            del self._workers[key]

    async def _refresh(self, key: Key) -> None:
        try:
            await self._ctx.log.load(key.subject)
        except ControllerError as error:
            log.warning("workflow.blind", subject=key.subject, reason=str(error))

    # --- the sweep -----------------------------------------------------------------------

    async def _sweep_forever(self) -> None:
        while True:
            await self._sweep()
            await self._ctx.clock.sleep(SWEEP_S)

    async def _sweep(self) -> None:
        live = await self._ctx.members.live_instances()
        now_s = self._ctx.clock.monotonic()
        for key, work in list(self._ctx.projection.open_work.items()):
            if work.owner == self._ctx.instance:
                if key not in self._workers:
                    self._start(key)
            elif self._is_silent(work, live, now_s):
                await self._take_over(key, work)
            elif isinstance(key, TransactionKey) and now_s - work.since_s > STALLED_COMMIT_S:
                self._start(key)
        if live is not None:
            owners = {work.owner for work in self._ctx.projection.open_work.values()}
            self._missed = {
                owner: since
                for owner, since in self._missed.items()
                if owner in owners and owner not in live
            }

    def _is_silent(self, work: OpenWork, live: frozenset[str] | None, now_s: float) -> bool:
        if live is None:
            return now_s - work.since_s > SILENT_S
        if work.owner in live:
            return False
        return now_s - self._missed.setdefault(work.owner, now_s) >= MISSED_S

    async def _take_over(self, key: Key, work: OpenWork) -> None:
        """Make the work ours. What has no owner in its state is simply done, by whoever is
        first."""
        if isinstance(key, ReservationKey) or self._is_committing(key):
            self._start(key)
            return

        def decide() -> Write | None:
            now = self._ctx.projection.open_work.get(key)
            still = now is not None and now.owner == work.owner
            return write(WorkTakenOver(work.owner)) if still else None

        try:
            await self._ctx.log.change(key.subject, decide)
        except ControllerError as error:
            log.warning("workflow.not_taken_over", subject=key.subject, reason=str(error))
        else:
            log.info("workflow.taken_over", subject=key.subject, silent=work.owner)

    def _is_committing(self, key: Key) -> bool:
        if not isinstance(key, TransactionKey):
            return False
        transaction = self._ctx.projection.transactions.get(key)
        return transaction is not None and transaction.status == "COMMITTING"

    # --- leases --------------------------------------------------------------------------

    def _note_lease(self, key: TransactionKey) -> None:
        """A lease counts from the moment at which this instance hears of it."""
        transaction = self._ctx.projection.transactions.get(key)
        if transaction is None or transaction.status != "OPEN":
            return
        length_s = deadline_s(transaction.lease_ms)
        if transaction.owner != self._ctx.instance:
            length_s += FOREIGN_LEASE_S
        sequence = self._ctx.projection.sequence_of(key.subject)
        lease = _Lease(self._ctx.clock.monotonic() + length_s, key, sequence)
        if not self._leases or lease.ends_at_s < self._leases[0].ends_at_s:
            self._earlier_lease.set()
        heapq.heappush(self._leases, lease)

    async def _watch_leases(self) -> None:
        while True:
            self._earlier_lease.clear()
            now_s = self._ctx.clock.monotonic()
            due: list[_Lease] = []
            while self._leases and self._leases[0].ends_at_s <= now_s:
                due.append(heapq.heappop(self._leases))
            await gather_bounded(partial(self._expire, lease, now_s) for lease in due)
            now_s = self._ctx.clock.monotonic()
            pause_s = self._leases[0].ends_at_s - now_s if self._leases else SILENT_S
            await self._pause(max(pause_s, 0.0), self._earlier_lease.wait())

    async def _pause(self, pause_s: float, awaited: Awaitable[object]) -> None:
        try:
            await within(self._ctx.clock, pause_s, awaited)
        except OutOfTime:
            return

    async def _expire(self, lease: _Lease, noticed_s: float) -> None:
        """Abort the transaction, unless it was pinged or is over."""
        ctx = self._ctx
        try:
            if await self._was_away(lease, noticed_s):
                again_s = ctx.clock.monotonic() + AFTER_ABSENCE_S
                heapq.heappush(self._leases, _Lease(again_s, lease.key, lease.sequence))
            elif self._is_current(lease):
                await request_abort(ctx, lease.key, "timeout", pinged_at=lease.sequence)
                log.info("transaction.expired", key=lease.key)
        except ControllerError as error:
            log.warning("transaction.not_expired", key=lease.key, reason=str(error))
            again_s = ctx.clock.monotonic() + BACKOFF_S_MAX
            heapq.heappush(self._leases, _Lease(again_s, lease.key, lease.sequence))

    async def _was_away(self, lease: _Lease, noticed_s: float) -> bool:
        """Were we, or is the log, away at the end of this lease? Raises Unavailable."""
        if not self._is_current(lease):
            return False
        asked_s = self._ctx.clock.monotonic()
        await self._ctx.log.load(lease.key.subject)
        answered_s = self._ctx.clock.monotonic()
        return noticed_s - lease.ends_at_s > LATE_S or answered_s - asked_s > LATE_S

    def _is_current(self, lease: _Lease) -> bool:
        projection = self._ctx.projection
        transaction = projection.transactions.get(lease.key)
        is_open = transaction is not None and transaction.status == "OPEN"
        return is_open and projection.sequence_of(lease.key.subject) == lease.sequence


async def _advance(ctx: Context, key: Key) -> bool:
    match key:
        case ScopeKey():
            return await advance_scope(ctx, key)
        case StreamKey():
            return await advance_stream(ctx, key)
        case TransactionKey():
            return await advance_transaction(ctx, key)
        case GroupKey():
            return await advance_group(ctx, key)
        case TableKey():
            return await advance_table(ctx, key)
        case ReservationKey():
            return await advance_reservation(ctx, key)
        case _:
            assert_never(key)
