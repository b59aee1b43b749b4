"""Tier 1 side by side: FileLog, JetStreamLog, and bare JetStream publishes of the same frames.

    python benchmarks/log.py [--seconds 1.5] [--rounds 3] [--frames-in-flight 8]

One server with `sync_interval: always`, started for the run; every frame is durable before it
counts. The order changes from round to round, medians are printed. All frames are read back and
compared. "bare" publishes the same bytes in messages of the same length, as many of them under
way at once, from the same client library, without stamps, checksums and expected sequences.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import structlog
from anabranch_kit.adapters.nats_connection import connect_nats
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.jetstream_log import JetStreamLogStore
from anabranch_segmentstore.adapters.jetstream_log_stream import MESSAGE_BYTES_MAX
from anabranch_segmentstore.ports import ContainerId, DurableLog
from anabranch_testkit.servers import nats_server
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

LENGTHS = (4096, 65_536, 1024 * 1024, 8 * 1024 * 1024)
RESERVED_BYTES = 1024  # of a bare message, as the log leaves for its headers


class Measured(NamedTuple):
    megabytes_per_s: float
    p50_ms: float
    cpu_ms_per_frame: float


Append = Callable[[bytes], Awaitable[None]]


async def measure(append: Append, *, length: int, seconds: float, in_flight: int) -> Measured:
    payload = os.urandom(length)
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def writer() -> None:
        while (began := time.perf_counter()) < end:
            await append(payload)
            latencies.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(writer() for _ in range(in_flight)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Measured(
        len(latencies) * length / elapsed / 1e6,
        statistics.median(latencies) * 1e3,
        cpu / len(latencies) * 1e3,
    )


class LogLoad:
    """Appends to a log; `check` reads everything back."""

    def __init__(self, log: DurableLog) -> None:
        self.log = log
        self._appended: dict[int, int] = {}

    async def append(self, payload: bytes) -> None:
        self._appended[await self.log.append([payload])] = hash(payload)

    async def check(self) -> None:
        found = {frame.position: hash(frame.payload) async for frame in self.log.replay()}
        assert found == self._appended, "what was acknowledged is not what is there"


class BareLoad:
    """Publishes the same bytes with acknowledgements over one inbox."""

    def __init__(self, client: Client, subject: str) -> None:
        self._client, self._subject = client, subject
        self._inbox = client.new_inbox()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._sent = 0

    async def start(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)

    async def append(self, payload: bytes) -> None:
        room = min(self._client.max_payload, MESSAGE_BYTES_MAX) - RESERVED_BYTES
        waiting: list[asyncio.Future[None]] = []
        for start in range(0, len(payload), room):
            self._sent += 1
            number = self._sent
            waiting.append(asyncio.get_running_loop().create_future())
            self._waiting[number] = waiting[-1]
            message = payload[start : start + room]
            await self._client.publish(self._subject, message, reply=f"{self._inbox}.{number}")
        await asyncio.gather(*waiting)

    async def _acknowledged(self, answer: Msg) -> None:
        assert b'"seq"' in answer.data, answer.data
        self._waiting.pop(int(answer.subject.rsplit(".", 1)[1])).set_result(None)


async def run(arguments: argparse.Namespace) -> None:
    results: dict[tuple[int, str], list[Measured]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        for turn in range(arguments.rounds):
            for length in LENGTHS:
                await one_round(Path(name), turn, length, arguments, results)
    report(results)


async def one_round(
    folder: Path,
    turn: int,
    length: int,
    arguments: argparse.Namespace,
    results: dict[tuple[int, str], list[Measured]],
) -> None:
    clock = SystemClock()
    async with nats_server() as server:
        client = await connect_nats(server.url, name="bench", clock=clock)
        files = FileLogStore(folder / f"{turn}-{length}", new_id=uuid.uuid4)
        streams = JetStreamLogStore(client, clock=clock, new_id=uuid.uuid4)
        file_load = LogLoad(await files.open(ContainerId(0), owner="bench"))
        stream_load = LogLoad(await streams.open(ContainerId(0), owner="bench"))
        await client.jetstream().add_stream(StreamConfig(name="BARE", subjects=["bare"]))
        bare_load = BareLoad(client, "bare")
        await bare_load.start()
        loads: list[tuple[str, Append]] = [
            ("files", file_load.append),
            ("jetstream", stream_load.append),
            ("bare", bare_load.append),
        ]
        for name, append in loads[turn % 3 :] + loads[: turn % 3]:
            measured = await measure(
                append,
                length=length,
                seconds=arguments.seconds,
                in_flight=arguments.frames_in_flight,
            )
            results.setdefault((length, name), []).append(measured)
        for load in (file_load, stream_load):
            await load.check()
            await load.log.close(clean=True)
        await files.close()
        await client.close()


def report(results: dict[tuple[int, str], list[Measured]]) -> None:
    print("frame     log          MB/s   p50 ms  CPU ms/frame   of bare  of files")
    for length in LENGTHS:
        rates = {
            name: statistics.median(one.megabytes_per_s for one in results[length, name])
            for name in ("files", "jetstream", "bare")
        }
        for name, rate in rates.items():
            p50 = statistics.median(one.p50_ms for one in results[length, name])
            cpu = statistics.median(one.cpu_ms_per_frame for one in results[length, name])
            print(
                f"{length:>8}  {name:<10} {rate:>7.1f} {p50:>8.2f} {cpu:>13.3f}"
                f" {rate / rates['bare']:>9.2f} {rate / rates['files']:>9.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames-in-flight", type=int, default=8)
    parser.add_argument("--directory", help="of the file log; the default is the system's")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
