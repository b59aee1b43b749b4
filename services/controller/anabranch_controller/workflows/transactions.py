"""Aborting transactions: on request, by time-out, and when their stream is sealed.

Deleting the segments and writing the end may be done by several instances at once.
"""

from __future__ import annotations

from functools import partial
from typing import Literal
from uuid import UUID

from anabranch_events.domain import TransactionAborted, TransactionAbortRequested
from anabranch_wire.names import SegmentNumber, generalised_parent_name, transaction_segment_name
from anabranch_wire.names import TransactionId as WireTransactionId

from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain import transaction as transactions
from anabranch_controller.domain.stream import Stream
from anabranch_controller.domain.transaction import AbortCause, Transaction
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.keys import StreamKey, TransactionKey


async def advance_transaction(ctx: Context, key: TransactionKey) -> bool:
    """Finish an abort; False when there is nothing for this instance to do."""
    transaction = ctx.projection.transactions.get(key)
    if transaction is None or transaction.status != "ABORTING":
        return False
    if transaction.owner != ctx.instance:
        return False
    await finish_abort(ctx, key)
    return False


async def request_abort(
    ctx: Context, key: TransactionKey, cause: AbortCause, *, pinged_at: int | None = None
) -> Literal["SUCCESS", "FAILURE"]:
    """SUCCESS when the transaction is or will be aborted, FAILURE when it cannot be.

    With `pinged_at`, only if nothing was written to the transaction since that sequence.
    """

    def decide() -> Write | Literal["SUCCESS", "FAILURE"]:
        transaction = ctx.projection.transactions.get(key)
        if transaction is None:
            return "FAILURE"
        if pinged_at is not None and ctx.projection.sequence_of(key.subject) != pinged_at:
            return "FAILURE"
        decision = transactions.abort(transaction, cause)
        return write(decision) if isinstance(decision, TransactionAbortRequested) else decision

    result: Written | Literal["SUCCESS", "FAILURE"] = await ctx.log.change(
        key.subject, decide, reads=(key.stream_key.subject,)
    )
    return "SUCCESS" if isinstance(result, Written) else result


async def finish_abort(ctx: Context, key: TransactionKey) -> None:
    """Delete the segments and say so. Nothing when it is over already."""
    stream = ctx.projection.streams.get(key.stream_key)
    if stream is not None and stream.exists:
        await delete_segments(ctx, key, stream)

    def decide() -> Write | None:
        transaction = ctx.projection.transactions.get(key)
        if transaction is None or transaction.status != "ABORTING":
            return None
        return write(TransactionAborted(ctx.clock.now_ms()))

    await ctx.log.change(key.subject, decide)


async def abort_all(ctx: Context, key: StreamKey) -> None:
    """Abort every open transaction of a stream that is being sealed or deleted."""

    async def one(transaction_key: TransactionKey, transaction: Transaction) -> None:
        if transaction.status == "OPEN":
            await request_abort(ctx, transaction_key, "stream-sealed")
        await finish_abort(ctx, transaction_key)

    live = ctx.projection.live_transactions(key)
    await gather_bounded(partial(one, *item) for item in list(live.items()))


async def delete_segments(ctx: Context, key: TransactionKey, stream: Stream) -> None:
    await gather_bounded(
        partial(ctx.stores.delete, name) for name in segment_names(stream, key.transaction)
    )


def segment_names(stream: Stream, transaction: str) -> list[str]:
    """The segments of a transaction, in the key order of the epoch that it began in."""
    epoch = stream.epochs[int(transaction[:8], 16)]
    return [
        segment_name(StreamKey(stream.scope, stream.name), segment.number, transaction)
        for segment in epoch.segments
    ]


def segment_name(key: StreamKey, number: int, transaction: str) -> str:
    identity = WireTransactionId(UUID(hex=transaction))
    parent = generalised_parent_name(key.scope, key.stream, SegmentNumber(number), identity)
    return transaction_segment_name(parent, identity)
