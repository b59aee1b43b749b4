"""Committing: merge a batch of transactions into the stream, in the order of their requests.

A batch holds transactions of one epoch. When the stream still has that epoch's segments
(same reference epoch), they are merged into the open segments. When a scale came between,
the batch is a *rolling transaction* (reference, 7.6): with A the active epoch, A+1 is a copy
of the transactions' epoch that takes the data, and A+2 a copy of A that takes over from
there; readers walk A → A+1 → A+2, and so do writers by the seals.

Every step is idempotent: creating what exists, merging what was merged (its segment is gone)
and sealing what is sealed succeed.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from anabranch_events.domain import CommitCompleted, DomainEvent, WriterTimestampNoted
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig

from anabranch_controller.api import TIMESTAMP_NONE
from anabranch_controller.context import Context, gather_bounded
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.stream import OpenCommit, Stream
from anabranch_controller.domain.stream_decisions import Busy
from anabranch_controller.domain.transaction import next_batch
from anabranch_controller.keys import StreamKey, TransactionKey
from anabranch_controller.workflows import segments
from anabranch_controller.workflows.recording import record
from anabranch_controller.workflows.transactions import segment_name

Lengths = dict[int, tuple[int, ...]]
"""The length of a segment in bytes after each transaction of the batch, by segment id."""

UNSCALED: Final = StreamConfig(scaling=ScalingPolicy())
"""Of the segments that only take transactions in: no load is ever measured on them."""


async def start_commit(ctx: Context, key: StreamKey, stream: Stream) -> None:
    """Take the slot for the next batch, if transactions wait."""
    batch = next_batch(ctx.projection.committing(key))
    if not batch:
        return
    decision = decisions.commit(
        stream,
        transaction_epoch=batch[0].epoch,
        transactions=tuple(transaction.id for transaction in batch),
    )
    if not isinstance(decision, Busy):
        await record(ctx, key, stream, decision)


async def advance_commit(ctx: Context, key: StreamKey, stream: Stream, work: OpenCommit) -> None:
    started = work.started
    if not started.rolling:
        lengths = await _merge(ctx, key, work, stream.epochs[started.active_epoch].segments)
        await record(ctx, key, stream, *_completed(ctx, key, stream, work, lengths, ()))
    elif not work.appended:
        await _append_epochs(ctx, key, stream, work)
    else:
        sizes = await _seal_passed(ctx, key, stream, work)
        await record(ctx, key, stream, *_completed(ctx, key, stream, work, {}, sizes))


async def _append_epochs(ctx: Context, key: StreamKey, stream: Stream, work: OpenCommit) -> None:
    epochs = decisions.rolling_epochs(stream, work, created_ms=ctx.clock.now_ms())
    taking = epochs.transaction_epoch_copy.segments
    await segments.create(ctx, key, taking, UNSCALED)
    await _merge(ctx, key, work, taking)
    await segments.seal(ctx, key, taking)
    await segments.create(ctx, key, epochs.active_epoch_copy.segments, stream.config)
    await record(ctx, key, stream, epochs)


async def _seal_passed(
    ctx: Context, key: StreamKey, stream: Stream, work: OpenCommit
) -> tuple[tuple[int, int], ...]:
    """Seal the epoch that was active; the sizes of its segments and of those merged into."""
    active = work.started.active_epoch
    passed = (*stream.epochs[active].segments, *stream.epochs[active + 1].segments)
    return await segments.seal(ctx, key, passed)


async def _merge(
    ctx: Context, key: StreamKey, work: OpenCommit, targets: tuple[SegmentRange, ...]
) -> Lengths:
    """A sealed target has taken everything already: this step was cut after its seal."""
    transactions = work.started.transactions

    async def one(target: SegmentRange) -> tuple[int, tuple[int, ...]]:
        name = segments.name_of_segment(key, target.id)
        info = await ctx.stores.info(name)
        if info.sealed:
            return target.id, (info.length_bytes,) * len(transactions)
        sources = [segment_name(key, target.number, identity) for identity in transactions]
        return target.id, await ctx.stores.merge_batch(name, sources)

    return dict(await gather_bounded(partial(one, target) for target in targets))


def _completed(
    ctx: Context,
    key: StreamKey,
    stream: Stream,
    work: OpenCommit,
    lengths: Lengths,
    sizes: tuple[tuple[int, int], ...],
) -> list[DomainEvent]:
    """The end of the batch, after the times that writers noted with their commits.

    Those of a rolling transaction are noted at the end of the epoch that took the data.
    """
    if sizes:
        copies = {segment.id for segment in stream.epochs[work.started.active_epoch + 1].segments}
        count = len(work.started.transactions)
        lengths = {identity: (size,) * count for identity, size in sizes if identity in copies}
    marks: dict[str, WriterTimestampNoted] = {}
    for index, identity in enumerate(work.started.transactions):
        transaction = ctx.projection.transactions[TransactionKey(key.scope, key.stream, identity)]
        if transaction.timestamp == TIMESTAMP_NONE or not transaction.writer:
            continue
        before = stream.writers.get(transaction.writer)
        if before is not None and before.timestamp > transaction.timestamp:
            continue
        marks[transaction.writer] = WriterTimestampNoted(
            transaction.writer,
            transaction.timestamp,
            tuple((identity, after[index]) for identity, after in sorted(lengths.items())),
        )
    completed = CommitCompleted(work.started.transactions, sizes, ctx.clock.now_ms())
    return [*marks.values(), completed]
