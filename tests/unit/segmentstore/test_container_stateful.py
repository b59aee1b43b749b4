"""A container against a small model: connections, crashes, cuts of the log, tier 2.

Each request is asked of the model's accepted state when it is sent, which predicts the answer;
when the answer comes (its frame is durable) the model's durable state takes the same step. A
crash sets accepted back to durable. What readers see must be the durable state, always.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import google_crc32c
from anabranch_events.bus import ChunkReport, DeleteOrder, FlushOrder
from anabranch_segmentstore.adapters.memory_log import MemoryLog, MemoryLogStore
from anabranch_segmentstore.api import (
    NO_EVENT,
    NO_VERSION,
    Append,
    Appended,
    TableEntry,
    TableKey,
)
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.container import Container, ContainerSettings, open_container
from anabranch_segmentstore.domain import errors
from anabranch_segmentstore.domain.flushing import FlushRules
from anabranch_segmentstore.domain.snapshot import encode_snapshot
from anabranch_segmentstore.ports import ContainerId
from anabranch_segmentstore.recovery import recover
from anabranch_segmentstore.tiering import TieringSettings
from anabranch_testkit.fakes.object_store import MemoryObjectStore
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

NAMES = ["a/s/0.#epoch.0", "a/s/1.#epoch.0", "a/s/2.#epoch.0"]
TABLES = ["a/t_kvtable/0.#epoch.0"]
EVENT_LENGTH = 12
FOREVER_TURNS = 60  # turns of the loop in which everything that can happen has happened


def event(writer: int, number: int) -> bytes:
    return b"%03d:%08d" % (writer, number)


# --- The model -------------------------------------------------------------------------------


@dataclass
class ModelSegment:
    data: bytearray = field(default_factory=bytearray)
    start: int = 0
    is_sealed: bool = False
    writers: dict[int, int] = field(default_factory=dict)
    table: dict[bytes, bytes] | None = None
    was_merged_into: bool = False


@dataclass
class Model:
    """Answers with a value, or with the class of the refusal."""

    segments: dict[str, ModelSegment] = field(default_factory=dict)

    def create(self, name: str) -> object:
        if name in self.segments:
            return errors.SegmentExists
        table: dict[bytes, bytes] | None = {} if name in TABLES else None
        self.segments[name] = ModelSegment(table=table)
        return None

    def append(self, name: str, writer: int, after: int, number: int, offset: int | None) -> object:
        segment = self.segments.get(name)
        if segment is None:
            return errors.NoSuchSegment
        if segment.is_sealed:
            return errors.SegmentSealed
        stored = segment.writers.get(writer, NO_EVENT)
        if after != stored or number <= stored:
            return errors.StaleWriter
        if offset is not None and offset != len(segment.data):
            return errors.WrongOffset
        first = max(after, 0) + 1
        for one in range(first, number + 1):
            segment.data += event(writer, one)
        segment.writers[writer] = number
        return len(segment.data)

    def seal(self, name: str) -> object:
        segment = self.segments.get(name)
        if segment is None:
            return errors.NoSuchSegment
        if segment.is_sealed:
            return errors.SegmentSealed
        segment.is_sealed = True
        return None

    def truncate(self, name: str, offset: int) -> object:
        segment = self.segments.get(name)
        if segment is None:
            return errors.NoSuchSegment
        if not segment.start <= offset <= len(segment.data):
            return errors.SegmentTruncated
        segment.start = offset
        return None

    def delete(self, name: str) -> object:
        return errors.NoSuchSegment if self.segments.pop(name, None) is None else None

    def merge(self, target: str, source: str) -> object:
        into, what = self.segments.get(target), self.segments.get(source)
        if into is None or what is None:
            return errors.NoSuchSegment
        what.is_sealed = True
        if into.is_sealed:
            return errors.SegmentSealed
        if what.start > 0:
            return errors.Misuse
        into.data += what.data
        into.was_merged_into = True
        del self.segments[source]
        return len(into.data)

    def put(self, name: str, key: bytes, value: bytes) -> object:
        segment = self.segments.get(name)
        if segment is None:
            return errors.NoSuchSegment
        if segment.is_sealed:
            return errors.SegmentSealed
        assert segment.table is not None
        segment.table[key] = value
        return None

    def remove(self, name: str, key: bytes) -> object:
        segment = self.segments.get(name)
        if segment is None:
            return errors.NoSuchSegment
        if segment.is_sealed:
            return errors.SegmentSealed
        assert segment.table is not None
        segment.table.pop(key, None)
        return None


@dataclass
class Pending:
    """A request on its way; `step` is what the model does for it."""

    answer: asyncio.Future[Any]
    step: Callable[[Model], object]
    predicted: object


# --- The machine -----------------------------------------------------------------------------


class Worker:
    """The bus: orders wait here; some are lost, some are done twice."""

    def __init__(self) -> None:
        self.orders: deque[FlushOrder] = deque()
        self.reports: list[ChunkReport] = []
        self.deletions: list[DeleteOrder] = []

    async def order_flush(self, order: FlushOrder) -> None:
        self.orders.append(order)

    async def order_deletion(self, order: DeleteOrder) -> None:
        self.deletions.append(order)


class StillClock:
    def now_ms(self) -> int:
        return 1_700_000_000_000

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class ContainerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryLogStore(frames_in_flight_max=2)
        self.objects = MemoryObjectStore()
        self.worker = Worker()
        self.accepted, self.durable = Model(), Model()
        self.pending: deque[Pending] = deque()
        self.believed: dict[tuple[str, int, int], int] = {}  # (segment, writer, connection)
        self.container: Container
        self.open()
        for name in NAMES + TABLES:
            self.make(name)
        self.finish()

    def open(self) -> None:
        async def opened() -> Container:
            log = await self.store.open(ContainerId(0), owner="test")
            log.hold_syncs = True
            container = await open_container(
                ContainerId(0),
                log,
                clock=StillClock(),
                cache=BlockCache(1500),
                objects=self.objects,
                settings=ContainerSettings(snapshot_after_frames=10**9),
            )
            rules = FlushRules(age_s=0.0, object_bytes=4096)
            container.start_tiering(self.worker, TieringSettings(rules=rules, reissue_after_s=0.0))
            return container

        self.container = self.run(opened())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @property
    def log(self) -> MemoryLog:
        assert isinstance(self.container.log, MemoryLog)
        return self.container.log

    async def turns(self) -> None:
        for _ in range(FOREVER_TURNS):
            await asyncio.sleep(0)

    def turn(self) -> None:
        """Let happen what can happen, then compare the answers that came."""
        self.run(self.turns())
        while self.pending and self.pending[0].answer.done():
            pending = self.pending.popleft()
            assert pending.step(self.durable) == pending.predicted, "the model is inconsistent"
            self.compare(pending)
        assert not any(pending.answer.done() for pending in self.pending), "an answer overtook"

    def compare(self, pending: Pending) -> None:
        error = pending.answer.exception()
        outcome = error if error is not None else pending.answer.result()
        if isinstance(pending.predicted, type):
            assert type(outcome) is pending.predicted, (outcome, pending.predicted)
        elif isinstance(outcome, Appended):
            assert outcome.end_offset == pending.predicted
        else:
            assert not isinstance(outcome, Exception), outcome
            if pending.predicted is not None:
                assert outcome == pending.predicted

    def ask(self, step: Callable[[Model], object], request: Coroutine[Any, Any, Any]) -> None:
        answer = self.loop.create_task(request)
        self.pending.append(Pending(answer, step, step(self.accepted)))
        self.run(self.turns())

    def finish(self) -> None:
        """Make all that waits durable."""
        self.turn()
        while self.log.sync():
            self.turn()
        assert not self.pending

    # --- requests ---

    @rule(name=st.sampled_from(NAMES + TABLES))
    def create(self, name: str) -> None:
        self.make(name)

    def make(self, name: str) -> None:
        key_length = 0 if name in TABLES else None
        self.ask(
            lambda model: model.create(name),
            self.container.create_segment(name, attributes={}, table_key_length=key_length),
        )

    @rule(name=st.sampled_from(NAMES), writer=st.integers(1, 2), connection=st.integers(0, 1))
    def set_up(self, name: str, writer: int, connection: int) -> None:
        self.set_up_now(name, writer, connection)

    def set_up_now(self, name: str, writer: int, connection: int) -> None:
        segment = self.accepted.segments.get(name)
        if segment is None:
            return
        request = self.loop.create_task(self.container.setup_append(name, UUID(int=writer)))
        self.run(self.turns())
        while not request.done():
            assert self.log.sync(), "a set-up waits for nothing"
            self.turn()
        assert request.result() == segment.writers.get(writer, NO_EVENT)
        self.believed[name, writer, connection] = request.result()

    @rule(
        name=st.sampled_from(NAMES),
        writer=st.integers(1, 2),
        connection=st.integers(0, 1),
        events=st.integers(1, 4),
        offset=st.none() | st.none() | st.integers(0, 5).map(lambda count: count * EVENT_LENGTH),
    )
    def append(
        self, name: str, writer: int, connection: int, events: int, offset: int | None
    ) -> None:
        if (name, writer, connection) not in self.believed:
            self.set_up_now(name, writer, connection)
        after = self.believed.get((name, writer, connection))
        if after is None:
            return
        first = max(after, 0) + 1
        number = first + events - 1
        data = b"".join(event(writer, one) for one in range(first, number + 1))
        answer: asyncio.Future[Any] = self.loop.create_future()

        def step(model: Model) -> object:
            return model.append(name, writer, after, number, offset)

        self.pending.append(Pending(answer, step, step(self.accepted)))
        if isinstance(self.pending[-1].predicted, int):
            self.believed[name, writer, connection] = number
        elif self.pending[-1].predicted is not errors.WrongOffset:
            del self.believed[name, writer, connection]

        async def send() -> None:
            self.container.append(
                Append(
                    name,
                    UUID(int=writer),
                    after,
                    number,
                    events,
                    [memoryview(data)[:5], data[5:]],
                    len(data),
                    offset,
                ),
                answer.set_result,
            )

        self.run(send())

    @rule(name=st.sampled_from(NAMES), is_meant=st.sampled_from([False, False, True]))
    def seal(self, name: str, is_meant: bool) -> None:
        if not is_meant:
            return
        self.ask(lambda model: model.seal(name), self.container.seal_segment(name))

    @rule(name=st.sampled_from(NAMES), events=st.integers(0, 8))
    def truncate(self, name: str, events: int) -> None:
        offset = events * EVENT_LENGTH
        self.ask(
            lambda model: model.truncate(name, offset),
            self.container.truncate_segment(name, offset),
        )

    @rule(name=st.sampled_from(NAMES + TABLES), is_meant=st.sampled_from([False, False, True]))
    def delete(self, name: str, is_meant: bool) -> None:
        if not is_meant:
            return
        for key in [key for key in self.believed if key[0] == name]:
            del self.believed[key]
        self.ask(lambda model: model.delete(name), self.container.delete_segment(name))

    @rule(into=st.sampled_from(NAMES), source=st.sampled_from(NAMES), may_be_empty=st.booleans())
    def merge(self, into: str, source: str, may_be_empty: bool) -> None:
        found = self.accepted.segments.get(source)
        if found is None:
            return  # remembered merges are tried in test_container_segments
        if not found.data and not may_be_empty:
            return
        self.ask(
            lambda model: model.merge(into, source),
            self.container.merge_segment(into, source),
        )

    @rule(key=st.sampled_from([b"k1", b"k2", b"k3"]), value=st.binary(max_size=40))
    def put(self, key: bytes, value: bytes) -> None:
        async def put() -> None:
            await self.container.table_update(
                TABLES[0], [TableEntry(key, value, NO_VERSION)], expected_length=None
            )

        self.ask(lambda model: model.put(TABLES[0], key, value), put())

    @rule(key=st.sampled_from([b"k1", b"k2", b"k3"]))
    def remove(self, key: bytes) -> None:
        async def remove() -> None:
            await self.container.table_remove(TABLES[0], [TableKey(key)], expected_length=None)

        self.ask(lambda model: model.remove(TABLES[0], key), remove())

    # --- the world ---

    @rule()
    def sync(self) -> None:
        self.turn()
        self.log.sync()
        self.turn()

    @rule()
    def crash(self) -> None:
        self.turn()
        self.log.crash()
        self.turn_after_crash()
        self.open()

    def turn_after_crash(self) -> None:
        """Everything that waited is refused; nothing of it is there later."""
        self.run(self.turns())
        for pending in self.pending:
            assert pending.answer.done(), "a request hangs after the crash"
            error = pending.answer.exception()
            outcome = error if error is not None else pending.answer.result()
            assert isinstance(outcome, Exception), "acknowledged after the crash"
        self.pending.clear()
        self.believed.clear()
        self.accepted = copy.deepcopy(self.durable)

    @rule()
    def snapshot(self) -> None:
        async def snapshot() -> None:
            self.container.upkeep.snapshot()

        self.run(snapshot())

    @rule()
    def upkeep(self) -> None:
        """Tiering and the cut of the log; needs syncs, which also answer what waits."""
        tick = self.loop.create_task(self.container.upkeep.tick(self.container.tiering))
        self.turn()
        while not tick.done():
            assert self.log.sync(), "upkeep waits for nothing"
            self.turn()
        tick.result()
        for deletion in self.worker.deletions:
            for name in deletion.object_names:
                self.objects.objects.pop(name, None)
        self.worker.deletions.clear()

    @precondition(lambda self: self.worker.orders)
    @rule(is_lost=st.booleans())
    def write_object(self, is_lost: bool) -> None:
        order = self.worker.orders.popleft()
        if is_lost or order.object_name in self.objects.objects:
            return
        pieces: list[bytes] = []
        for one in order.ranges:
            segment = self.durable.segments.get(one.segment)
            if segment is None or one.offset < segment.start or segment.table is not None:
                return
            piece = bytes(segment.data[one.offset : one.offset + one.length])
            if len(piece) < one.length:
                return
            pieces.append(piece)
        self.objects.objects[order.object_name] = b"".join(pieces)
        crcs = tuple(google_crc32c.value(piece) for piece in pieces)
        length = sum(map(len, pieces))
        self.worker.reports.append(
            ChunkReport(0, order.object_name, "written", length, crcs, "test")
        )

    @precondition(lambda self: self.worker.reports)
    @rule(again=st.booleans())
    def report(self, again: bool) -> None:
        report = self.worker.reports[0] if again else self.worker.reports.pop(0)
        request = self.loop.create_task(self.container.chunk_report(report))
        self.turn()
        while not request.done():
            assert self.log.sync(), "a report waits for nothing"
            self.turn()
        assert request.result().outcome in ("accepted", "unknown")

    # --- what must hold ---

    @invariant()
    def readers_see_the_durable_state(self) -> None:
        for name, segment in self.durable.segments.items():
            accepted = self.accepted.segments.get(name)
            is_same = name in self.container.state.segments and accepted is not None
            if not is_same or segment.table is not None:
                continue
            live = self.container.state.segments[name]
            if not live.is_durably_created or bytes(accepted.data[: len(segment.data)]) != bytes(
                segment.data
            ):
                continue  # deleted and created again, and that is not durable yet
            assert live.durable_length == len(segment.data), "readers see what may be lost"
            expected = bytes(segment.data[accepted.start :])
            if expected:
                assert self.run(self.read(name, accepted.start, len(expected))) == expected

    async def read(self, name: str, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        while length > 0:
            result = await asyncio.wait_for(self.container.read(name, offset, length), 5)
            piece = bytes(result.data)[:length]
            assert piece, "an empty read before the end"
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    @invariant()
    def no_event_is_doubled_or_out_of_order(self) -> None:
        for segment in self.durable.segments.values():
            # After a merge a writer of both segments has its numbers twice, by right.
            if segment.table is not None or segment.was_merged_into:
                continue
            data = bytes(segment.data)
            events = [data[at : at + EVENT_LENGTH] for at in range(0, len(data), EVENT_LENGTH)]
            for writer in (b"001", b"002"):
                numbers = [one for one in events if one.startswith(writer)]
                assert numbers == sorted(set(numbers))

    def teardown(self) -> None:
        try:
            self.finish()
            self.check_recovery()
            self.check_tables()
            self.run(self.container.stop())
        finally:
            self.loop.close()

    def check_recovery(self) -> None:
        """Replaying the log gives the very state that the live container has."""
        recovered = self.run(recover(self.container.log))
        assert encode_snapshot(recovered.state) == encode_snapshot(self.container.state)

    def check_tables(self) -> None:
        for name, segment in self.durable.segments.items():
            if segment.table is not None:
                keys = [b"k1", b"k2", b"k3"]
                entries = self.run(self.container.table_get(name, keys))
                found = {entry.key: entry.value for entry in entries if entry is not None}
                assert found == segment.table


ContainerMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestContainer = ContainerMachine.TestCase
