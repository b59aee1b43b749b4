"""The tierer as a process on real servers, reading from a store that speaks the wire protocol."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c
import msgspec
import pytest
from anabranch_events import subjects
from anabranch_events.bus import ChunkAnswer, ChunkReport, DeleteOrder, FlushOrder, FlushRange
from anabranch_kit.adapters.file_object_store import FileObjectStore
from anabranch_kit.adapters.nats_bus import NatsBus
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.adapters.tiering_queue import provision_tiering
from anabranch_kit.ports.object_store import ObjectNotFound
from anabranch_kit.ports.registry import Member, Serving
from anabranch_testkit.servers import Server
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from anabranch_wire.codec import decode_request, encode
from anabranch_wire.constants import WIRE_VERSION_HIGH, WIRE_VERSION_LOW
from anabranch_wire.framing import FrameSplitter
from nats.aio.client import Client

CONTAINER = 1
DATA = bytes(range(256)) * 12_000  # 3 MB, more than one read holds
ORDER = FlushOrder(
    CONTAINER,
    1,
    "container-1/1-1",
    (FlushRange("s/t/0.#epoch.0", 100, len(DATA) - 100), FlushRange("s/t/1.#epoch.0", 0, 5)),
)
CONTENT = DATA[100:] + b"hello"


@dataclass
class FakeStore:
    """Answers Hello and ReadSegment; gives at most `piece_bytes_max` at a time."""

    segments: dict[str, bytes]
    piece_bytes_max: int = 500_000
    wrong_host: int = 0
    reads: list[c.ReadSegment] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter = FrameSplitter()
        while data := await reader.read(65536):
            for frame in splitter.receive(data):
                writer.write(encode(self.answer(decode_request(frame.code, frame.payload))))
            await writer.drain()
        writer.close()

    def answer(self, request: c.Request) -> c.Reply:
        match request:
            case c.Hello():
                return c.Hello(WIRE_VERSION_HIGH, WIRE_VERSION_LOW)
            case c.ReadSegment(segment=segment, offset=offset, request_id=request_id):
                self.reads.append(request)
                if self.wrong_host:
                    self.wrong_host -= 1
                    return c.WrongHost(request_id, segment)
                if segment not in self.segments:
                    return c.NoSuchSegment(request_id, segment, offset=offset)
                length = min(request.suggested_length, self.piece_bytes_max)
                piece = self.segments[segment][offset : offset + length]
                return c.SegmentRead(segment, offset, False, False, piece, request_id)
            case _:
                raise AssertionError(f"the tierer only reads: {request}")


@dataclass
class Cluster:
    nats: Server
    valkey: Server
    client: Client
    bus: NatsBus
    store: FakeStore
    folder: Path
    answers: list[ChunkAnswer] = field(default_factory=list)
    reports: list[ChunkReport] = field(default_factory=list)

    async def journal(self, payload: bytes) -> bytes:
        self.reports.append(msgspec.json.decode(payload, type=ChunkReport))
        answer = self.answers.pop(0) if self.answers else ChunkAnswer("accepted")
        return msgspec.json.encode(answer)

    async def order(self, order: FlushOrder | DeleteOrder) -> None:
        flush = isinstance(order, FlushOrder)
        subject = (subjects.flush_orders if flush else subjects.delete_orders)(order.container)
        await self.bus.enqueue(subject, msgspec.json.encode(order))

    async def orders_count(self) -> int:
        info = await self.client.jetstream().stream_info(subjects.TIERING_STREAM)
        return info.state.messages

    async def settled(self) -> None:
        async def none_left() -> bool:
            return await self.orders_count() == 0

        await eventually(none_left, 20)


@pytest.fixture
async def cluster(
    nats_server: Server, valkey_server: Server, nats_client: Client, tmp_path: Path
) -> AsyncIterator[Cluster]:
    if not nats_server.can_restart:
        pytest.skip("needs servers of its own")
    clock = SystemClock()
    await provision_tiering(nats_client, clock=clock)
    store = FakeStore({"s/t/0.#epoch.0": DATA, "s/t/1.#epoch.0": b"hello world"})
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    registry = RedisRegistry(valkey_server.url, clock=clock)
    member = Member("segmentstore-0", "i", "segmentstore", "127.0.0.1", port, started_ms=1)
    await registry.announce(member, lease_ms=600_000)
    await registry.set_serving(Serving(CONTAINER, member.id, "i", "127.0.0.1", port, epoch=1))
    bus = NatsBus(nats_client)
    made = Cluster(nats_server, valkey_server, nats_client, bus, store, tmp_path)
    await bus.serve(subjects.chunk_reports(CONTAINER), made.journal)
    yield made
    server.close()
    await registry.close()


@asynccontextmanager
async def tierer(cluster: Cluster, *flags: str) -> AsyncIterator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes no time here
        [
            *(sys.executable, "-m", "anabranch_tierer"),
            *("--nats-url", cluster.nats.url, "--redis-url", cluster.valkey.url),
            *("--tier2-dir", str(cluster.folder), "--log-format", "json", *flags),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        print(process.communicate()[1])  # shown when the test fails


def objects(cluster: Cluster) -> FileObjectStore:
    return FileObjectStore(cluster.folder)


async def test_order_becomes_object_report_and_acknowledgement(cluster: Cluster) -> None:
    """Nothing would ever leave tier 1."""
    await cluster.order(ORDER)
    async with tierer(cluster) as process:
        await cluster.settled()
        registry = RedisRegistry(cluster.valkey.url, clock=SystemClock())
        [member] = await registry.members("tierer")
        assert (member.id, member.pid) == ("tierer-0", process.pid)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate, timeout=20)
        assert process.returncode == 0
        assert await registry.members("tierer") == []
        await registry.close()
    store = objects(cluster)
    assert await store.read(ORDER.object_name, 0, len(CONTENT)) == CONTENT
    await store.close()
    [report] = cluster.reports
    assert report.outcome == "written"
    assert report.crcs == (google_crc32c.value(DATA[100:]), google_crc32c.value(b"hello"))
    events = [json.loads(line)["event"] for line in errors.splitlines()]
    assert events[-2:] == ["service.stopping", "service.stopped"]
    assert "flush.done" in events


@pytest.mark.slow
async def test_order_survives_the_death_of_its_worker(cluster: Cluster) -> None:
    """`kill -9` between object and acknowledgement would lose or double a chunk."""
    held = asyncio.Event()

    async def never(payload: bytes) -> bytes:
        cluster.reports.append(msgspec.json.decode(payload, type=ChunkReport))
        held.set()
        await asyncio.Event().wait()
        return b""

    other = FlushOrder(2, 1, "container-2/1-1", ORDER.ranges)
    registry = RedisRegistry(cluster.valkey.url, clock=SystemClock())
    serving = (await registry.serving())[CONTAINER]
    await registry.set_serving(msgspec.structs.replace(serving, container=2))
    await registry.close()
    hold = await cluster.bus.serve(subjects.chunk_reports(2), never)
    await cluster.order(other)
    async with tierer(cluster):
        await asyncio.wait_for(held.wait(), 20)
    await hold.close()
    await cluster.bus.serve(subjects.chunk_reports(2), cluster.journal)
    assert await cluster.orders_count() == 1
    async with tierer(cluster):
        await eventually(lambda: len(cluster.reports) >= 2, 40)
        await cluster.settled()
    assert cluster.reports[0] == cluster.reports[1]


async def test_moving_container_is_found_and_asked_again(cluster: Cluster) -> None:
    """An order would be given up while its container moves."""
    cluster.store.wrong_host = 2
    cluster.answers = [ChunkAnswer("not-owner")]
    await cluster.order(ORDER)
    async with tierer(cluster):
        await cluster.settled()
    assert [report.outcome for report in cluster.reports] == ["written", "written"]


async def test_restart_of_nats_does_not_stop_the_worker(cluster: Cluster) -> None:
    """The tierer would have to be restarted with NATS."""
    async with tierer(cluster):
        await cluster.order(ORDER)
        await cluster.settled()
        await cluster.nats.restart()
        again = msgspec.structs.replace(ORDER, object_name="container-1/1-2")
        await cluster.order(again)
        await cluster.settled()
    names = [report.object_name for report in cluster.reports]
    assert names == ["container-1/1-1", "container-1/1-2"]


async def test_poison_and_gone_orders_leave_the_queue(cluster: Cluster) -> None:
    """One bad order would keep a slot busy for ever."""
    await cluster.bus.enqueue(subjects.flush_orders(CONTAINER), b"not json")
    gone = FlushOrder(CONTAINER, 1, "container-1/1-3", (FlushRange("s/t/deleted", 0, 5),))
    await cluster.order(gone)
    await cluster.order(ORDER)
    async with tierer(cluster, "--slots", "1"):
        await cluster.settled()
    assert [report.object_name for report in cluster.reports] == [ORDER.object_name]


async def test_objects_are_deleted_on_order(cluster: Cluster) -> None:
    """Space of deleted segments would never come back."""
    store = objects(cluster)
    await store.create("container-1/1-8", [b"old"])
    await store.create("container-1/1-9", [b"kept"])
    await cluster.order(DeleteOrder(CONTAINER, ("container-1/1-8", "container-1/never")))
    async with tierer(cluster):
        await cluster.settled()
    with pytest.raises(ObjectNotFound):
        await store.head("container-1/1-8")
    assert (await store.head("container-1/1-9")).length_bytes == 4
    await store.close()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "give one of --tier2-dir and --tier2-url"),
        (["--tier2-dir", "/proc/none"], 3, "/proc/none"),
        (["--tier2-url", "ftp://bucket"], 3, "supported are: file:///absolute/path"),
        (["--tier2-dir", "{tmp}", "--slots", "0"], 2, "slots = '0' (flag --slots)"),
        (["--tier2-dir", "{tmp}", "--redis-url", "http://x"], 3, "--redis-url http://x"),
    ],
)
async def test_broken_settings_are_told_in_one_line(
    nats_server: Server, tmp_path: Path, flags: list[str], status: int, message: str
) -> None:
    """A wrong setting would read like a bug."""
    given = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "anabranch_tierer", "--nats-url", nats_server.url, *given],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert process.returncode == status
    assert message in process.stderr
    assert "Traceback" not in process.stderr
    assert len(process.stderr.splitlines()) == 1
