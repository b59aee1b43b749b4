"""The append path of the segment store beside the bare one, with one client for both.

    python benchmarks/append.py [--seconds 4] [--rounds 5] [--sizes 100 1000 100000] [--data DIR]

Both servers run side by side and are measured in turn, in alternating order; the table has
medians. The client speaks the wire protocol on one connection and sends blocks of events that
it made before, so that it costs as little as it can: WINDOW_BYTES are unacknowledged at most.
Rows of one event at a time, at a fixed rate, are the latency: from when the event was due to
its acknowledgement. What the store was sent is read back and compared before a number counts;
that is the backlog row.

The store syncs each batch before it acknowledges; so does the bare path (benchmarks/bare.py).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import struct
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop
from anabranch_wire import commands as c
from anabranch_wire.codec import decode_reply, encode
from anabranch_wire.constants import WIRE_VERSION_HIGH, WIRE_VERSION_LOW
from anabranch_wire.framing import Frame, FrameSplitter
from write import MIB, Cluster, cpu_seconds, scratch

EVENT_BYTES = (100, 1_000, 100_000)
BLOCK_BYTES = 256 * 1024  # of events in an append, about; at least one event
WINDOW_BYTES = 8 * 1024 * 1024
OPEN_LOOP_RATE = 10_000  # events per second
OPEN_LOOP_TURN_S = 0.001
READ_BYTES = 2 * 1024 * 1024
READS_AHEAD = 4
READ_BACK_BYTES_MAX = 500_000_000


@dataclass
class Server:
    """`pid` is whose CPU counts."""

    name: str
    port: int
    pid: int


@dataclass
class Measured:
    """One run. Latencies are in milliseconds."""

    events_per_s: float
    mb_per_s: float
    cpu_us_per_event: float
    cpu_ms_per_mb: float
    latencies: list[float] = field(default_factory=list)


class Client(asyncio.BufferedProtocol):
    """One connection; acknowledgements and reads are taken where they come in."""

    def __init__(self) -> None:
        self._frames = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._answers: asyncio.Queue[c.Reply] = asyncio.Queue()
        self._room = asyncio.Event()
        self.acknowledged = 0
        self.heard: Callable[[int], None] = lambda number: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._room.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        for frame in self._frames.buffer_updated(nbytes):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        reply = decode_reply(frame.code, frame.payload)
        if isinstance(reply, c.DataAppended):
            self.acknowledged = reply.event_number
            self.heard(reply.event_number)
            self._room.set()
        else:
            self._answers.put_nowait(reply)

    def send(self, *data: c.Data) -> None:
        if self._transport is None:
            raise SystemExit("the server closed the connection")
        self._transport.writelines(data)

    async def answer(self) -> c.Reply:
        return await asyncio.wait_for(self._answers.get(), 60)

    async def until_acknowledged(self, number: int) -> None:
        while self.acknowledged < number:
            self._room.clear()
            if self._transport is None:
                raise SystemExit("the server closed the connection")
            await asyncio.wait_for(self._room.wait(), 60)


class Writer:
    """A new segment, and blocks of events for it."""

    def __init__(self, client: Client, event_bytes: int, events_count: int) -> None:
        self.client, self.count = client, events_count
        self.event_bytes = event_bytes
        self.segment = f"bench/{uuid.uuid4().hex}/0.#epoch.0"
        self.block = (struct.pack(">ii", 0, event_bytes) + bytes(event_bytes)) * events_count
        self._id = uuid.uuid4()
        self.sent = 0

    async def start(self) -> None:
        self.client.send(encode(c.Hello(WIRE_VERSION_HIGH, WIRE_VERSION_LOW)))
        await self.client.answer()
        self.client.send(encode(c.CreateSegment(1, self.segment, 0, 0)))
        created = await self.client.answer()
        self.client.send(encode(c.SetupAppend(2, self._id, self.segment)))
        ready = await self.client.answer()
        if not isinstance(created, c.SegmentCreated) or not isinstance(ready, c.AppendSetup):
            raise SystemExit(f"the segment cannot be written: {created!r:.200} {ready!r:.200}")

    def append(self) -> None:
        self.sent += self.count
        end = c.AppendBlockEnd(self._id, 0, b"", self.count, self.sent, 3)
        head = struct.pack(">ii16sii", 4, 44 + len(self.block), self._id.bytes, 0, len(self.block))
        self.client.send(head, self.block, encode(end)[-20:])


async def connect(port: int) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    return client


async def closed_loop(server: Server, event_bytes: int, seconds: float) -> tuple[Measured, Writer]:
    """As fast as the window lets it."""
    client = await connect(server.port)
    writer = Writer(client, event_bytes, max(1, BLOCK_BYTES // (event_bytes + 8)))
    await writer.start()
    window = max(2, WINDOW_BYTES // len(writer.block)) * writer.count

    async def write_for(duration_s: float) -> float:
        begin = time.perf_counter()
        while time.perf_counter() - begin < duration_s:
            writer.append()
            await client.until_acknowledged(writer.sent - window)
        await client.until_acknowledged(writer.sent)
        return time.perf_counter() - begin

    await write_for(seconds / 4)
    cpu, sent = cpu_seconds(server.pid), writer.sent
    spent = await write_for(seconds)
    return measured(server, cpu, writer.sent - sent, event_bytes, spent), writer


async def open_loop(server: Server, event_bytes: int, seconds: float) -> tuple[Measured, Writer]:
    """OPEN_LOOP_RATE events per second, each an append, whether the server keeps up or not."""
    client = await connect(server.port)
    writer = Writer(client, event_bytes, 1)
    await writer.start()
    due_at: deque[tuple[int, float]] = deque()
    latencies: list[float] = []

    def heard(number: int) -> None:
        now = time.perf_counter()
        while due_at and due_at[0][0] <= number:
            latencies.append((now - due_at.popleft()[1]) * 1000)

    client.heard = heard
    cpu, begin = cpu_seconds(server.pid), time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        while writer.sent < passed * OPEN_LOOP_RATE:
            due_at.append((writer.sent + 1, begin + writer.sent / OPEN_LOOP_RATE))
            writer.append()
        await asyncio.sleep(OPEN_LOOP_TURN_S)
    await client.until_acknowledged(writer.sent)
    spent = time.perf_counter() - begin
    result = measured(server, cpu, writer.sent, event_bytes, spent)
    result.latencies = latencies
    return result, writer


def measured(server: Server, cpu: float, events: int, event_bytes: int, spent: float) -> Measured:
    used = cpu_seconds(server.pid) - cpu
    megabytes = events * event_bytes / MIB
    return Measured(events / spent, megabytes / spent, used * 1e6 / events, used * 1000 / megabytes)


async def read_back(server: Server, writer: Writer) -> float:
    """Megabytes per second; every byte is compared."""
    client = await connect(server.port)
    client.send(encode(c.Hello(WIRE_VERSION_HIGH, WIRE_VERSION_LOW)))
    await client.answer()
    end = min(writer.sent // writer.count * len(writer.block), READ_BACK_BYTES_MAX)
    expected = memoryview(writer.block * (2 + READ_BYTES // len(writer.block)))
    begin, position = time.perf_counter(), 0
    while position < end:
        asked = range(position, min(end, position + READS_AHEAD * READ_BYTES), READ_BYTES)
        for offset in asked:
            client.send(encode(c.ReadSegment(writer.segment, offset, READ_BYTES, "", offset)))
        pieces = {reply.offset: reply.data for reply in [await _piece(client) for _ in asked]}
        while position in pieces:  # a short piece ends this turn
            data = pieces.pop(position)
            inside = position % len(writer.block)
            if expected[inside : inside + len(data)] != data:
                raise SystemExit(f"what was read at {position} is not what was written")
            position += len(data)
    return end / (time.perf_counter() - begin) / MIB


async def _piece(client: Client) -> c.SegmentRead:
    """The answer to one of the reads; they come in any order."""
    reply = await client.answer()
    if not isinstance(reply, c.SegmentRead) or not reply.data:
        raise SystemExit(f"no bytes: {reply!r:.200}")
    return reply


# --- The table -------------------------------------------------------------------------------


def median(values: list[float]) -> float:
    return statistics.median(values)


def rate_row(size: int, name: str, runs: list[Measured]) -> str:
    rate, megabytes = (
        median([run.events_per_s for run in runs]),
        median([run.mb_per_s for run in runs]),
    )
    event = median([run.cpu_us_per_event for run in runs])
    per_mb = median([run.cpu_ms_per_mb for run in runs])
    return f"| {size:,} | {name} | {rate:,.0f} | {megabytes:,.1f} | {event:.2f} | {per_mb:.2f} |"


def latency_row(name: str, runs: list[Measured]) -> str:
    def percentile(share: float) -> float:
        return median([sorted(run.latencies)[int(len(run.latencies) * share)] for run in runs])

    cells = " | ".join(f"{percentile(share):.2f}" for share in (0.5, 0.95, 0.99))
    return f"| {name} | {cells} |"


async def measure(servers: list[Server], sizes: list[int], seconds: float, rounds: int) -> None:
    reads: list[float] = []
    lines: list[str] = []
    for size in sizes:
        runs: dict[str, list[Measured]] = {server.name: [] for server in servers}
        for turn in range(rounds):
            for server in servers if turn % 2 == 0 else reversed(servers):
                run, writer = await closed_loop(server, size, seconds)
                runs[server.name].append(run)
                if server.name == "anabranch":
                    reads.append(await read_back(server, writer))
        lines += [rate_row(size, name, of) for name, of in runs.items()]
    print("| event B | path | events/s | MB/s | server CPU us/event | server CPU ms/MB |")
    print("| --: | :-- | --: | --: | --: | --: |", *lines, sep="\n")
    print(f"\nBacklog, read and compared: {median(reads):,.0f} MB/s (median of {len(reads)})\n")

    latencies: dict[str, list[Measured]] = {server.name: [] for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else reversed(servers):
            run, writer = await open_loop(server, 100, seconds)
            latencies[server.name].append(run)
            if server.name == "anabranch":
                await read_back(server, writer)
    print(f"| {OPEN_LOOP_RATE:,} events/s of 100 B | p50 ms | p95 ms | p99 ms |")
    print("| :-- | --: | --: | --: |")
    print(*[latency_row(name, of) for name, of in latencies.items()], sep="\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each server and size")
    parser.add_argument("--sizes", type=int, nargs="+", default=EVENT_BYTES, help="event bytes")
    parser.add_argument("--data", type=Path, help="where to write (default: the current folder)")
    arguments = parser.parse_args()
    with scratch(arguments.data) as directory:
        cluster = Cluster(directory)
        command = [sys.executable, str(Path(__file__).with_name("bare.py"))]
        command += ["--file", str(directory / "bare")]
        bare = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert bare.stdout is not None
            store = cluster.addresses["segmentstores"][0].rpartition(":")[2]
            servers = [
                Server("anabranch", int(store), cluster.addresses["pids"]["segmentstore-0"]),
                Server("bare", int(bare.stdout.readline()), bare.pid),
            ]
            work = measure(servers, list(arguments.sizes), arguments.seconds, arguments.rounds)
            uvloop.run(work)
        finally:
            bare.terminate()
            bare.wait()
            cluster.stop()


if __name__ == "__main__":
    main()
