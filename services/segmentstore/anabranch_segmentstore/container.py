"""A running segment container: requests in, one log below, answers in log order.

Every request that changes something is judged at once against the accepted state, becomes an
operation, changes the accepted state, and joins the open batch of the log (group_commit.py).
Once the batch is durable `_settle` moves what readers may see, and then the replies leave.
Refusals were decided on accepted state, so they wait for it in the same queue.

A container ends at the first failure: fenced by another owner, a log that failed, or a bug. It
then answers nothing more; whoever started it learns the reason from `wait_ended` and may open
the log anew (architecture, "Three failure domains").
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from anabranch_events.bus import ChunkAnswer, ChunkReport
from anabranch_kit.feed_outbox import FeedOutbox
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.object_store import ObjectStore
from anabranch_wire.attributes import SEGMENT_TYPE, SegmentType
from anabranch_wire.names import is_transient_segment

from anabranch_segmentstore.api import (
    READ_LENGTH_MAX,
    READ_LENGTH_MIN,
    Append,
    Appended,
    AppendOutcome,
    AttributeUpdate,
    ReadResult,
    SegmentInfo,
    StoredChunk,
    TableDelta,
    TableEntry,
    TableInfo,
    TableKey,
    TablePage,
)
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.domain import rules
from anabranch_segmentstore.domain.attributes import EVENT_COUNT
from anabranch_segmentstore.domain.errors import (
    ContainerStopped,
    IsATable,
    Misuse,
    NoSuchSegment,
    Refusal,
    SegmentTruncated,
)
from anabranch_segmentstore.domain.operations import (
    APPENDED,
    KIND_EVENTS,
    RareOperation,
    SegmentCreated,
    SegmentDeleted,
    SegmentMerged,
    encode,
)
from anabranch_segmentstore.domain.operations import SegmentSealed as SealOperation
from anabranch_segmentstore.domain.operations import SegmentTruncated as TruncateOperation
from anabranch_segmentstore.domain.state import ContainerState, Segment
from anabranch_segmentstore.group_commit import BUSY_BYTES_DEFAULT, Batch, GroupCommit, resolver
from anabranch_segmentstore.held_reads import HeldReads
from anabranch_segmentstore.load import LoadBook, SegmentTaken
from anabranch_segmentstore.ports import ContainerId, DurableLog, TieringBus
from anabranch_segmentstore.reads import NoTierTwo, SegmentReader, SegmentVanished
from anabranch_segmentstore.recovery import Recovered, recover
from anabranch_segmentstore.stored_chunks import stored_chunks
from anabranch_segmentstore.table_requests import TableRequests
from anabranch_segmentstore.tiering import Tiering, TieringSettings
from anabranch_segmentstore.upkeep import Upkeep

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """Limits and intervals of one container."""

    busy_bytes: int = BUSY_BYTES_DEFAULT
    snapshot_after_bytes: int = 64 * 1024 * 1024
    snapshot_after_frames: int = 20_000


@dataclass(slots=True)
class Container:
    """Implements `SegmentContainer` (api.py). Make one with `open_container`."""

    id: ContainerId
    log: DurableLog
    clock: Clock
    cache: BlockCache
    objects: ObjectStore | None
    settings: ContainerSettings
    recovered: InitVar[Recovered]
    state: ContainerState = field(init=False)
    load: LoadBook = field(init=False)
    reader: SegmentReader = field(init=False)
    tables: TableRequests = field(init=False)
    commits: GroupCommit = field(init=False)
    upkeep: Upkeep = field(init=False)
    tiering: Tiering | None = None
    _held: HeldReads = field(default_factory=HeldReads)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _reason: Exception | None = None

    def __post_init__(self, recovered: Recovered) -> None:
        self.state = recovered.state
        self.load = LoadBook()
        self.reader = SegmentReader(self.id, self.log, self.objects, self.cache)
        self.tables = TableRequests(self)
        self.commits = GroupCommit(
            self.log,
            clock=self.clock,
            settle=self._settle,
            ended=self._end,
            busy_bytes=self.settings.busy_bytes,
        )
        self.upkeep = Upkeep(self, recovered)

    # --- life ---

    async def run(self) -> Exception:
        """Snapshots, tiering and cuts of the log until the container ended; why it did.

        Whoever opened the container runs this in a task of its own. The container serves
        without it, and its log grows.
        """
        try:
            await self.upkeep.run(self.tiering)
        except Exception as error:  # noqa: BLE001 - the edge of the container's failure domain
            self.fail(error)
        return await self.wait_ended()

    def delete_orphans(self) -> None:
        """Before it serves: the transient segments that are there belong to connections of an
        earlier opening of the log, which are gone, and with them whoever would delete them."""
        names = [
            segment.name
            for segment in self.state.segments.values()
            if is_transient_segment(segment.name)
            # A user may give such a name, or change such an attribute, but hardly both.
            and segment.attribute(SEGMENT_TYPE.bytes) == SegmentType.TRANSIENT
        ]
        for name in names:
            self.record(rules.delete(self.state, name, must_be_empty=False))

    def start_tiering(
        self,
        bus: TieringBus,
        settings: TieringSettings | None = None,
        outbox: FeedOutbox | None = None,
    ) -> None:
        """Before `run`: move bytes to tier 2. Its reports go to `chunk_report`."""
        self.tiering = Tiering(self, bus, settings or TieringSettings(), outbox)

    async def chunk_report(self, report: ChunkReport) -> ChunkAnswer:
        """Answer a worker; "not-owner" when this container cannot know (any more)."""
        if self.tiering is None or self._reason is not None:
            return ChunkAnswer("not-owner", "the container does not run here")
        try:
            return await self.tiering.report(report)
        except ContainerStopped as stopped:
            return ChunkAnswer("not-owner", str(stopped))

    async def wait_ended(self) -> Exception:
        """Until the container ended; the reason: LogFenced, LogFailed, a bug, or a stop."""
        await self._ended.wait()
        assert self._reason is not None, "ended for a reason"
        return self._reason

    async def stop(self) -> None:
        """Finish what was accepted, answer it, and take nothing more. The log stays open."""
        if self._reason is None:
            await self.commits.drain()
            self.fail(ContainerStopped("", "it was stopped"))
        await self.commits.close()

    def fail(self, error: Exception) -> None:
        """End at once: everything that waits is answered with `error`."""
        self.commits.fail(error)

    def _end(self, error: Exception) -> None:
        self._reason = error
        self._held.end()
        self.cache.drop_container(self.id)
        self._ended.set()

    # --- segments ---

    async def create_segment(
        self, name: str, *, attributes: Mapping[UUID, int], table_key_length: int | None = None
    ) -> None:
        await self.change(
            lambda: self.record(rules.create(self.state, name, attributes, table_key_length))
        )

    async def segment_info(self, name: str) -> SegmentInfo:
        return await self.look(name, _info)

    async def seal_segment(self, name: str) -> None:
        await self.change(lambda: self.record(rules.seal(self.state, name)))

    async def truncate_segment(self, name: str, offset: int) -> None:
        def accept() -> None:
            operation = rules.truncate(self.state, name, offset)
            if operation is not None:
                self.record(operation)

        await self.change(accept)

    async def delete_segment(self, name: str, *, must_be_empty: bool = False) -> None:
        await self.change(
            lambda: self.record(rules.delete(self.state, name, must_be_empty=must_be_empty))
        )

    async def merge_segment(
        self, target: str, source: str, updates: Sequence[AttributeUpdate] = ()
    ) -> int:
        def accept() -> int:
            done = rules.merged_before(self.state, target, source)
            if done is not None:
                return done.length
            merge = rules.merge(self.state, target, source, updates)
            if merge.seal is not None:
                self.record(merge.seal)
            if isinstance(merge.merged, Refusal):
                raise merge.merged
            events_count = max(merge.source.attribute(EVENT_COUNT), 0)
            self.load.take(merge.target, merge.source.length, events_count)
            self.record(merge.merged)
            return merge.target.length

        return await self.change(accept)

    async def attribute(self, name: str, attribute: UUID) -> int:
        return await self.look(name, lambda segment: segment.attribute(attribute.bytes))

    async def update_attributes(self, name: str, updates: Sequence[AttributeUpdate]) -> None:
        await self.change(lambda: self.record(rules.update_attributes(self.state, name, updates)))

    # --- append ---

    async def setup_append(self, segment: str, writer: UUID) -> int:
        def look(found: Segment) -> int:
            if found.table is not None:
                raise IsATable(segment)
            return found.last_event(writer.bytes)

        return await self.look(segment, look)

    def append(self, append: Append, done: Callable[[AppendOutcome], None]) -> None:
        if self._reason is not None:
            stopped = ContainerStopped(append.segment, str(self._reason))
            asyncio.get_running_loop().call_soon(done, stopped)
            return
        try:
            outcome: AppendOutcome = self._accept_append(append)
        except Refusal as refusal:
            outcome = refusal
        except Exception as error:  # noqa: BLE001 - the edge of the container's failure domain
            self.fail(error)
            asyncio.get_running_loop().call_soon(done, error)
            return
        self.commits.reply(done, outcome)

    def _accept_append(self, append: Append) -> Appended:
        writer = append.writer.bytes
        segment = rules.judge_append(self.state, append, writer)
        start, length = segment.length, append.length
        batch = self.commits.batch_for(length + APPENDED.size)
        self.state.append_events(
            segment,
            writer,
            append.number,
            append.events_count,
            length,
            batch.position,
            batch.data_length,
            batch.at_ms,
        )
        batch.operations.append(
            APPENDED.pack(
                KIND_EVENTS, segment.id, writer, append.number, append.events_count, length
            )
        )
        batch.operations_length += APPENDED.size
        if length:
            before = batch.data_length
            batch.add_data(segment, start, append.parts)
            assert batch.data_length == before + length, "an append is not as long as it says"
        self.load.take(segment, length, append.events_count)
        return Appended(segment.length)

    @property
    def is_busy(self) -> bool:
        return self.commits.is_busy

    def when_idle(self, resume: Callable[[], None]) -> None:
        self.commits.when_idle(resume)

    @property
    def held_reads_count(self) -> int:
        """Reads that wait at a tail."""
        return self._held.count

    def take_load(self) -> list[SegmentTaken]:
        """What each open segment of a user's stream took in since the last call."""
        return self.load.report(self.state)

    # --- read ---

    async def read(
        self,
        segment: str,
        offset: int,
        length: int,
        *,
        admit: Callable[[int], Awaitable[None]] | None = None,
    ) -> ReadResult:
        size = min(max(length, READ_LENGTH_MIN), READ_LENGTH_MAX)
        found = await self._find_durable(segment)
        at_tail = False
        while True:
            if offset < 0:
                raise Misuse(segment, f"read at the negative offset {offset}")
            if offset < found.start_offset:
                await self.settled(found)
                raise SegmentTruncated(segment, found.start_offset, offset)
            if offset < found.durable_length:
                if admit is None:
                    break
                await admit(size)
                admit = None  # once; what was seen before the wait is looked at again
                continue
            if found.is_durably_sealed:
                if offset > found.durable_length:
                    raise Misuse(segment, f"read at {offset}, behind the sealed end")
                return ReadResult(offset, b"", at_tail=False, end_of_segment=True)
            outcome = await self._held.hold(found, offset)
            if outcome != "data":
                is_sealed = outcome == "sealed"
                return ReadResult(offset, b"", True, False, sealed_while_waiting=is_sealed)
            at_tail = offset < found.durable_length
        result = await self._read_data(found, offset, size)
        return result._replace(at_tail=True, end_of_segment=False) if at_tail else result

    async def _read_data(self, segment: Segment, offset: int, size: int) -> ReadResult:
        end = min(offset + size, segment.durable_length)
        try:
            data = self.reader.cached(segment, offset, end)
            if not data:
                data = await self.reader.read(segment, offset, end)
        except SegmentVanished:
            await self.settled(segment)
            if segment.is_deleted:
                raise NoSuchSegment(segment.name) from None
            raise SegmentTruncated(segment.name, segment.start_offset, offset) from None
        is_end = offset + len(data) == segment.durable_length and len(data) < size
        is_sealed = segment.is_durably_sealed
        return ReadResult(offset, data, is_end and not is_sealed, is_end and is_sealed)

    async def _find_durable(self, name: str) -> Segment:
        """The segment, once it is certain that it exists."""
        self.check_running(name)
        segment = self.state.segments.get(name)
        if segment is None:
            await self.barrier()
            raise NoSuchSegment(name)
        if not segment.is_durably_created:
            await self.settled(segment)
        return segment

    # --- administration ---

    async def flush_to_storage(self) -> None:
        if self.tiering is None:
            raise NoTierTwo(f"container {self.id} runs without tier 2")
        await self.tiering.flush()

    async def stored_chunks(self, name: str) -> Sequence[StoredChunk]:
        extents = await self.look(name, lambda segment: segment.extents.all())
        return await stored_chunks(extents, self.objects)

    # --- tables ---

    async def table_update(
        self, segment: str, entries: Sequence[TableEntry], *, expected_length: int | None
    ) -> Sequence[int]:
        return await self.tables.update(segment, entries, expected_length)

    async def table_remove(
        self, segment: str, keys: Sequence[TableKey], *, expected_length: int | None
    ) -> None:
        await self.tables.remove(segment, keys, expected_length)

    async def table_get(self, segment: str, keys: Sequence[bytes]) -> Sequence[TableEntry | None]:
        return await self.tables.get(segment, keys)

    async def table_iterate(
        self,
        segment: str,
        *,
        count: int,
        token: bytes,
        low: bytes,
        high: bytes,
        keys_only: bool = False,
    ) -> TablePage:
        return await self.tables.iterate(segment, count, token, low, high, keys_only=keys_only)

    async def table_delta(self, segment: str, *, position: int, count: int) -> TableDelta:
        return await self.tables.delta(segment, position, count)

    async def table_info(self, segment: str) -> TableInfo:
        return await self.tables.info(segment)

    # --- the machinery that requests share ---

    async def change(self, accept: Callable[[], T]) -> T:
        """Run `accept` at once; return or raise what it did, when that is durable."""
        self.check_running("")
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            outcome: object = accept()
        except Refusal as refusal:
            outcome = refusal
        except Exception as error:
            self.fail(error)
            raise
        self.commits.reply(resolver(waiter), outcome)
        result: T = await self._answer(waiter)
        return result

    async def look(self, name: str, look: Callable[[Segment], T]) -> T:
        """What `look` sees in the segment now, once all that it stands on is durable."""
        self.check_running(name)
        segment = self.state.segments.get(name)
        if segment is None:
            await self.barrier()
            raise NoSuchSegment(name)
        seen = look(segment)
        await self.settled(segment)
        return seen

    async def settled(self, segment: Segment) -> None:
        """Until every accepted change of the segment is durable."""
        if segment.position > self.commits.durable_position:
            await self.barrier()

    async def barrier(self) -> None:
        """Until everything accepted so far is durable."""
        self.check_running("")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commits.reply(resolver(waiter), None)
        await self._answer(waiter)

    async def _answer(self, waiter: Awaitable[T]) -> T:
        try:
            return await waiter
        except Refusal:
            raise
        except Exception as error:
            raise ContainerStopped("", str(error)) from error

    def check_running(self, name: str) -> None:
        if self._reason is not None:
            raise ContainerStopped(name, str(self._reason))

    def record(
        self,
        operation: RareOperation,
        *,
        segment: Segment | None = None,
        parts: Sequence[bytes] = (),
        length: int = 0,
    ) -> None:
        """Accept an operation: into the batch and into the state. `parts` are its bytes."""
        encoded = encode(operation)
        batch = self.commits.batch_for(length + len(encoded))
        start = 0 if segment is None else segment.length
        data = b"".join(parts)
        self._prepare_settlement(operation, batch)
        self.state.apply(
            operation,
            position=batch.position,
            data_offset=batch.data_length,
            at_ms=batch.at_ms,
            data=data,
        )
        batch.operations.append(encoded)
        batch.operations_length += len(encoded)
        if segment is not None and length:
            batch.add_data(segment, start, [data])

    def _prepare_settlement(self, operation: RareOperation, batch: Batch) -> None:
        """What becomes visible when the operation is durable; looked up while it can be."""
        settlements = batch.settlements
        match operation:
            case SegmentCreated():
                number = operation.segment
                settlements.append(lambda: self._settle_created(number))
            case SealOperation():
                segment = self.state.segments_by_id[operation.segment]
                settlements.append(lambda: self._settle_sealed(segment))
            case TruncateOperation():
                segment = self.state.segments_by_id[operation.segment]
                key, offset = self.reader.key(segment), operation.offset
                settlements.append(lambda: self.cache.drop(key, before=offset))
            case SegmentDeleted():
                segment = self.state.segments_by_id[operation.segment]
                settlements.append(lambda: self._settle_deleted(segment))
            case SegmentMerged():
                source = self.state.segments_by_id[operation.source]
                target = self.state.segments_by_id[operation.target]
                base = target.length
                settlements.append(lambda: self._settle_merged(target, source, base))
            case _:
                pass

    def _settle(self, batch: Batch) -> None:
        """The batch is durable: let readers see it, then wake those who waited for it."""
        for run in batch.runs:
            segment = run.segment
            self.cache.put((self.id, segment.id), run.start, run.join())
            segment.durable_length = max(segment.durable_length, run.start + run.length)
        for settlement in batch.settlements:
            settlement()
        if self._held:
            for run in batch.runs:
                self._held.wake(run.segment, "data")

    def _settle_created(self, number: int) -> None:
        segment = self.state.segments_by_id.get(number)
        if segment is not None:
            segment.is_durably_created = True

    def _settle_sealed(self, segment: Segment) -> None:
        segment.is_durably_sealed = True
        self._held.wake(segment, "data")
        self._held.wake(segment, "sealed")

    def _settle_deleted(self, segment: Segment) -> None:
        self.cache.drop(self.reader.key(segment))
        self._held.wake(segment, "gone")

    def _settle_merged(self, target: Segment, source: Segment, base: int) -> None:
        self.cache.move(self.reader.key(source), self.reader.key(target), base)
        target.durable_length = max(target.durable_length, base + source.length)
        self._held.wake(source, "gone")
        self._held.wake(target, "data")


def _info(segment: Segment) -> SegmentInfo:
    table = segment.table
    return SegmentInfo(
        segment.name,
        segment.is_sealed,
        segment.last_modified_ms,
        segment.length,
        segment.start_offset,
        table is not None,
        0 if table is None else table.key_length,
    )


async def open_container(
    container: ContainerId,
    log: DurableLog,
    *,
    clock: Clock,
    cache: BlockCache,
    objects: ObjectStore | None = None,
    settings: ContainerSettings | None = None,
) -> Container:
    """Recover the state from an opened log, and serve. Raises what the log's replay raises."""
    state = await recover(log)
    opened = Container(
        container, log, clock, cache, objects, settings or ContainerSettings(), state
    )
    opened.delete_orphans()
    return opened
