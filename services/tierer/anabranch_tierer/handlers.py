"""Doing an order: read, write one object, report, and say what becomes of the order.

Each handler returns a Settlement and raises nothing that can happen in a healthy cluster with
something away; what it does raise is a bug, and costs the one order (adapters/faststream_orders).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

import google_crc32c
import msgspec
import prometheus_client
import structlog
from anabranch_events import subjects
from anabranch_events.bus import ChunkAnswer, ChunkReport, DeleteOrder, FlushOrder
from anabranch_events.feed import Tier2Down, Tier2Recovered
from anabranch_kit.feed_outbox import FeedOutbox
from anabranch_kit.ports.bus import Bus, BusUnavailable
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectExists,
    ObjectNotFound,
    ObjectStore,
    ObjectStoreUnavailable,
)

from anabranch_tierer.domain.backoff import Backoff
from anabranch_tierer.domain.orders import (
    Again,
    Content,
    Done,
    Dropped,
    OrderRefused,
    Read,
    Settlement,
    is_same_object,
    name_taken_report,
    plan_reads,
    settle,
    written_report,
)
from anabranch_tierer.ports import OwnerUnreachable, RangeGone, SegmentReader

# Per order: hides the round trips of many small ranges, and leaves a store's other
# connections their share.
READS_AT_ONCE_MAX: Final = 8
REPORT_TIMEOUT_S: Final = 10.0  # the owner journals before it answers
OWNER_AWAY_PAUSE_S: Final = 1.0
# Together some 10 MB.
REMEMBERED_ORDERS_MAX: Final = 256
REMEMBERED_RANGES_MAX: Final = 256
COMPARE_BLOCK_BYTES: Final = 8 * 1024 * 1024

ORDERS = prometheus_client.Counter(
    "anabranch_tierer_orders", "Orders by what became of them", ["kind", "outcome"]
)
BYTES = prometheus_client.Counter("anabranch_tierer_bytes", "Bytes written to tier 2")
TIER2_DOWN = prometheus_client.Gauge("anabranch_tierer_tier2_down", "1 while tier 2 is away")

log = structlog.stdlib.get_logger("anabranch.tierer")


class Tierer:
    """Stateless, but for the pause that an unavailable tier 2 asks for and what saves work."""

    def __init__(
        self,
        *,
        reader: SegmentReader,
        objects: ObjectStore,
        bus: Bus,
        clock: Clock,
        worker: str,
        incarnation: str = "",
        outbox: FeedOutbox | None = None,
    ) -> None:
        """`incarnation` is new for each start; what is told on the feed is named after it."""
        self._reader, self._objects, self._bus, self._clock = reader, objects, bus, clock
        self._worker, self._incarnation, self._outbox = worker, incarnation, outbox
        self._down_since = 0.0
        self._told_count = 0
        self._tier2 = Backoff()
        # A long outage leaves the queue with many copies of an order; only one costs reads.
        self._recent: OrderedDict[FlushOrder, ChunkReport] = OrderedDict()

    @property
    def tier2_is_down(self) -> bool:
        return self._tier2.is_down

    async def flush(self, order: FlushOrder) -> Settlement:
        """Move the ranges of an order into its object."""
        settlement = await self._flush(order)
        _count("flush", order.container, order.object_name, settlement)
        return settlement

    async def delete(self, order: DeleteOrder) -> Settlement:
        """Remove objects that nothing refers to."""
        settlement = await self._delete(order)
        _count("delete", order.container, f"{len(order.object_names)} objects", settlement)
        return settlement

    async def _flush(self, order: FlushOrder) -> Settlement:
        pause_s = self._tier2.pause_s(self._clock.monotonic())
        if pause_s > 0:
            return Again("tier 2 is away", pause_s)
        try:
            report = self._recent.get(order)
            if report is None:
                report = await self._store(order, await self._read_ranges(order))
                self._remember(order, report)
            return settle(await self._report(report))
        except OrderRefused as refusal:
            return Dropped(refusal.reason)
        except RangeGone as gone:
            # The owner voids the name with the change that took the range away.
            return Dropped(str(gone))
        except OwnerUnreachable as away:
            return Again(str(away), OWNER_AWAY_PAUSE_S)
        except BusUnavailable as away:
            return Again(f"the report was not answered: {away.reason}", OWNER_AWAY_PAUSE_S)
        except ObjectStoreUnavailable as away:
            return self._tier2_failed(away)

    async def _delete(self, order: DeleteOrder) -> Settlement:
        pause_s = self._tier2.pause_s(self._clock.monotonic())
        if pause_s > 0:
            return Again("tier 2 is away", pause_s)
        try:
            for name in order.object_names:
                await self._objects.delete(name)
        except ObjectStoreUnavailable as away:
            return self._tier2_failed(away)
        self._tier2_answered()
        return Done()

    async def _read_ranges(self, order: FlushOrder) -> list[list[bytes]]:
        """The pieces of each range, in order."""
        reads = plan_reads(order)
        pieces: list[bytes] = [b""] * len(reads)
        todo = iter(enumerate(reads))

        async def work(todo: Iterator[tuple[int, Read]]) -> None:
            for number, one in todo:
                data = await self._reader.read(order.container, one.segment, one.offset, one.length)
                assert len(data) == one.length, "the reader gives what was asked for, or raises"
                pieces[number] = data

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(READS_AT_ONCE_MAX, len(reads))):
                    workers.create_task(work(todo))
        except* (OwnerUnreachable, RangeGone) as failures:
            raise _gravest(failures) from None

        ranges: list[list[bytes]] = [[] for _ in order.ranges]
        for one, data in zip(reads, pieces, strict=True):
            ranges[one.range_index].append(data)
        return ranges

    async def _store(self, order: FlushOrder, ranges: Sequence[Sequence[bytes]]) -> ChunkReport:
        """Create the object, or find out whether it is there already."""
        parts = [piece for pieces in ranges for piece in pieces]
        crcs = [_crc32c(pieces) for pieces in ranges]
        wanted = Content(sum(map(len, parts)), _crc32c(parts))
        try:
            info = await self._objects.create(order.object_name, parts)
        except ObjectExists:
            if not is_same_object(wanted, await self._present(order.object_name)):
                log.warning(
                    "tierer.name_taken", container=order.container, object=order.object_name
                )
                return name_taken_report(order, worker=self._worker)
        else:
            assert Content(info.length_bytes, info.crc32c) == wanted, "what was sent is stored"
            BYTES.inc(info.length_bytes)
        self._tier2_answered()
        return written_report(order, content=wanted, crcs=crcs, worker=self._worker)

    async def _present(self, name: str) -> Content:
        """What the object holds now, by its bytes and not by what was once said of them."""
        try:
            info = await self._objects.head(name)
            crc, offset = 0, 0
            while offset < info.length_bytes:
                length = min(COMPARE_BLOCK_BYTES, info.length_bytes - offset)
                crc = google_crc32c.extend(crc, await self._objects.read(name, offset, length))
                offset += length
        except ObjectDamaged as damage:
            log.error("tierer.object_damaged", object=name, reason=damage.reason)  # noqa: TRY400
            return Content(-1, 0)  # the same as nothing that was ever wanted
        except ObjectNotFound as gone:
            # Deleted since the creation was refused: the name has had its use.
            log.warning("tierer.object_vanished", object=name, reason=str(gone))
            return Content(-1, 0)
        return Content(info.length_bytes, crc)

    async def _report(self, report: ChunkReport) -> ChunkAnswer:
        subject = subjects.chunk_reports(report.container)
        payload = msgspec.json.encode(report)
        answer = await self._bus.request(subject, payload, timeout_s=REPORT_TIMEOUT_S)
        try:
            return msgspec.json.decode(answer, type=ChunkAnswer)
        except msgspec.DecodeError as error:
            raise BusUnavailable(subject, f"an answer that cannot be read: {error}") from error

    def _remember(self, order: FlushOrder, report: ChunkReport) -> None:
        if report.outcome == "written" and len(order.ranges) <= REMEMBERED_RANGES_MAX:
            self._recent[order] = report
            if len(self._recent) > REMEMBERED_ORDERS_MAX:
                self._recent.popitem(last=False)

    def _tier2_failed(self, away: ObjectStoreUnavailable) -> Settlement:
        was_down = self._tier2.is_down
        pause_s = self._tier2.failed(self._clock.monotonic())
        TIER2_DOWN.set(1)
        if not was_down:
            log.error("tier2.unavailable", operation=away.operation, reason=away.reason)
            self._down_since = self._clock.monotonic()
            self._tell(Tier2Down(self._worker, away.operation, away.reason))
        return Again(str(away), pause_s)

    def _tier2_answered(self) -> None:
        TIER2_DOWN.set(0)
        if self._tier2.succeeded():
            log.info("tier2.recovered")
            after_ms = round((self._clock.monotonic() - self._down_since) * 1000)
            self._tell(Tier2Recovered(self._worker, None, after_ms))

    def _tell(self, data: Tier2Down | Tier2Recovered) -> None:
        if self._outbox is not None:
            self._told_count += 1
            self._outbox.tell(data, event_id=f"tier2-{self._incarnation}-{self._told_count}")


def _gravest(failures: ExceptionGroup[OwnerUnreachable | RangeGone]) -> Exception:
    """One of the reads' failures; a range that is gone does not come back with its owner."""
    flat = [one for one in failures.exceptions if isinstance(one, OwnerUnreachable | RangeGone)]
    assert len(flat) == len(failures.exceptions), "the workers have no groups of their own"
    return next((one for one in flat if isinstance(one, RangeGone)), flat[0])


def _crc32c(pieces: Sequence[bytes]) -> int:
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece)
    return crc


def _count(kind: str, container: int, what: str, settlement: Settlement) -> None:
    outcome = type(settlement).__name__.lower()
    ORDERS.labels(kind, outcome).inc()
    detail = "" if isinstance(settlement, Done) else settlement.reason
    level = "warning" if isinstance(settlement, Dropped) else "info"
    getattr(log, level)(f"{kind}.{outcome}", container=container, object=what, detail=detail)
