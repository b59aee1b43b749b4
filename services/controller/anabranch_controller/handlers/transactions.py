"""Transactions: create, ping, commit, abort, look."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from anabranch_events.domain import TransactionBegun, TransactionIdsReserved, TransactionPinged
from anabranch_events.subjects import TRANSACTION_IDS

from anabranch_controller.api import (
    CompletedTransaction,
    PingOutcome,
    TransactionCreated,
    TransactionId,
    TransactionOutcome,
    TransactionStatus,
)
from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain import transaction as transactions
from anabranch_controller.domain.stream import Stream
from anabranch_controller.domain.transaction import (
    COUNTER_BLOCK,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    Transaction,
)
from anabranch_controller.errors import IllegalState, InvalidArgument, Unavailable
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.handlers.base import Handlers, is_stream_name, stores_needed
from anabranch_controller.keys import StreamKey, TransactionKey
from anabranch_controller.workflows.transactions import (
    delete_segments,
    request_abort,
    segment_names,
)

COMPLETED_SHOWN_MAX: Final = 500  # reference, 3.15

_PINGED: Final[PingOutcome] = "OK"


class TransactionHandlers(Handlers):
    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self._ids = IdBlocks(ctx)

    async def create_transaction(
        self, scope: str, stream: str, *, lease_ms: int
    ) -> TransactionCreated:
        if not LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX:
            raise InvalidArgument(
                "lease", f"{lease_ms} ms, must be {LEASE_MS_MIN} to {LEASE_MS_MAX}"
            )
        found = await self._need_stream(scope, stream)
        _check_open(found)
        epoch = found.active_epoch.reference
        identity = transactions.make_id(epoch=epoch, counter=await self._ids.next())
        text = transactions.id_text(identity)
        assert text is not None, "ids are made of non-negative halves"
        key = TransactionKey(scope, stream, text)
        begun_ms = self._ctx.clock.now_ms()
        begun = TransactionBegun(
            scope=scope,
            stream=stream,
            transaction=text,
            lease_ms=lease_ms,
            begun_ms=begun_ms,
            ends_at_most_ms=transactions.execution_end_ms(begun_ms=begun_ms, lease_ms=lease_ms),
        )
        await self._ctx.log.append(key.subject, write(begun))
        try:
            with stores_needed():
                await self._create_segments(key, found)
        except Unavailable:
            # Nobody will know this id: its lease would only hold resources.
            await request_abort(self._ctx, key, "request")
            raise
        return TransactionCreated(identity, decisions.transaction_segments(found, epoch))

    async def _create_segments(self, key: TransactionKey, seen: Stream) -> None:
        """Only now that a seal would find the transaction is it safe to give it segments.

        Raises IllegalState when the stream is being sealed or is gone, or the transaction was
        aborted meanwhile.
        """
        await self._ctx.log.load(key.stream_key.subject)
        now = self._stream(key.stream_key)
        if now is None or now.incarnation != seen.incarnation or now.stage != "active":
            await request_abort(self._ctx, key, "stream-sealed")
            raise IllegalState(f"stream {key.scope}/{key.stream}", "sealed", "no new transactions")
        await gather_bounded(
            partial(
                self._ctx.stores.create_segment,
                name,
                scale_type="fixed",
                target_rate=0,
                rollover_size_bytes=now.config.rollover_size_bytes,
            )
            for name in segment_names(now, key.transaction)
        )
        await self._ctx.log.load(key.subject)
        if self._ctx.projection.transactions[key].status != "OPEN":
            await delete_segments(self._ctx, key, now)
            raise IllegalState(f"stream {key.scope}/{key.stream}", "sealed", "no new transactions")

    async def ping_transaction(
        self, scope: str, stream: str, transaction: TransactionId, *, lease_ms: int
    ) -> PingOutcome:
        key = _key(scope, stream, transaction)
        if key is None:
            return "UNKNOWN"

        def decide() -> Write | PingOutcome:
            found = self._ctx.projection.transactions.get(key)
            if found is None:
                return "UNKNOWN"
            now_ms = self._ctx.clock.now_ms()
            decision = transactions.ping(found, lease_ms=lease_ms, now_ms=now_ms)
            return write(decision) if isinstance(decision, TransactionPinged) else decision

        result: Written | PingOutcome = await self._ctx.log.change(
            key.subject, decide, reads=(key.stream_key.subject,)
        )
        return _PINGED if isinstance(result, Written) else result

    async def commit_transaction(
        self,
        scope: str,
        stream: str,
        transaction: TransactionId,
        *,
        writer_id: str,
        timestamp: int,
    ) -> TransactionOutcome:
        key = _key(scope, stream, transaction)
        if key is None:
            return "FAILURE"

        def decide() -> Write | TransactionOutcome:
            found = self._ctx.projection.transactions.get(key)
            if found is None:
                return "FAILURE"
            decision = transactions.commit(found, writer=writer_id, timestamp=timestamp)
            if isinstance(decision, str):
                return decision
            now = self._stream(key.stream_key)
            return write(decision) if now is not None and now.stage == "active" else "FAILURE"

        result: Written | TransactionOutcome = await self._ctx.log.change(
            key.subject, decide, reads=(key.stream_key.subject,)
        )
        return "SUCCESS" if isinstance(result, Written) else result

    async def abort_transaction(
        self, scope: str, stream: str, transaction: TransactionId
    ) -> TransactionOutcome:
        key = _key(scope, stream, transaction)
        if key is None:
            return "FAILURE"
        return await request_abort(self._ctx, key, "request")

    async def transaction_state(
        self, scope: str, stream: str, transaction: TransactionId
    ) -> TransactionStatus:
        key = _key(scope, stream, transaction)
        if key is None:
            return "UNKNOWN"
        await self._ctx.log.load(key.subject, key.stream_key.subject)
        found = self._ctx.projection.transactions.get(key)
        return "UNKNOWN" if found is None else found.status

    async def list_completed_transactions(
        self, scope: str, stream: str
    ) -> tuple[CompletedTransaction, ...]:
        if not is_stream_name(scope, stream):
            return ()
        await self._ctx.log.load_all()
        done = self._ctx.projection.completed(StreamKey(scope, stream), COMPLETED_SHOWN_MAX)
        return tuple(_completed(one) for one in done)


class IdBlocks:
    """The counter of transaction ids, reserved in blocks through the event log."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._next = self._end = 0
        self._reserving = asyncio.Lock()

    async def next(self) -> int:
        async with self._reserving:
            if self._next == self._end:
                await self._reserve()
            self._next += 1
            return self._next - 1

    async def _reserve(self) -> None:
        reserved: list[TransactionIdsReserved] = []

        def decide() -> Write:
            first = self._ctx.projection.transaction_ids_end
            reserved[:] = [TransactionIdsReserved(first, first + COUNTER_BLOCK)]
            return write(*reserved)

        await self._ctx.log.change(TRANSACTION_IDS, decide)
        self._next, self._end = reserved[0].first, reserved[0].end


def _key(scope: str, stream: str, transaction: TransactionId) -> TransactionKey | None:
    """None for an id or a name that no transaction can have."""
    text = transactions.id_text(transaction)
    if text is None or not is_stream_name(scope, stream):
        return None
    return TransactionKey(scope, stream, text)


def _check_open(stream: Stream) -> None:
    """Raises IllegalState."""
    if stream.stage != "active":
        name = f"stream {stream.scope}/{stream.name}"
        raise IllegalState(name, stream.stage, "no transaction can begin")


def _completed(transaction: Transaction) -> CompletedTransaction:
    identity = transactions.parse_id(transaction.id)
    return CompletedTransaction(
        identity, "COMMITTED" if transaction.status == "COMMITTED" else "ABORTED"
    )
