"""What the container costs: appends through it beside a bare write-and-sync loop.

    python benchmarks/bench_container.py [--seconds 2] [--profile]

Each row writes the same bytes twice in the same run: through `Container.append` over a FileLog,
and by `pwritev` + `fdatasync` of batches of the size that the container's frames had. CPU per
append is that of the engine and the log together, without network and protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import tempfile
import time
from pathlib import Path
from uuid import UUID

from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ids import new_id
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.memory_log import MemoryLogStore
from anabranch_segmentstore.api import NO_EVENT, Append, Appended, AppendOutcome
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.container import Container, open_container
from anabranch_segmentstore.ports import ContainerId, LogStore

WAITING_BYTES_MAX = 8 * 1024 * 1024  # what the writers leave unacknowledged


class Load:
    """Writers that keep a fixed number of bytes unacknowledged."""

    def __init__(self, container: Container, *, length: int, segments: int) -> None:
        self._container = container
        self._block = memoryview(os.urandom(length))
        self._names = [f"bench/stream/{number}.#epoch.0" for number in range(segments)]
        self._last = [NO_EVENT] * segments
        self._waiting = 0
        self._waiting_max = max(min(WAITING_BYTES_MAX // length, 4096), 2)
        self._wake = asyncio.Event()
        self.appended = 0

    async def run(self, seconds: float) -> None:
        for name in self._names:
            await self._container.create_segment(name, attributes={})
        end = time.perf_counter() + seconds
        segment = 0
        while time.perf_counter() < end:
            while self._waiting < self._waiting_max:
                self._send(segment)
                segment = (segment + 1) % len(self._names)
            self._wake.clear()
            await self._wake.wait()
        while self._waiting:
            self._wake.clear()
            await self._wake.wait()

    def _send(self, segment: int) -> None:
        after = self._last[segment]
        number = after + 1 if after != NO_EVENT else 0
        self._last[segment] = number
        self._waiting += 1
        block = self._block
        self._container.append(
            Append(self._names[segment], UUID(int=segment), after, number, 1, [block], len(block)),
            self._done,
        )

    def _done(self, outcome: AppendOutcome) -> None:
        assert isinstance(outcome, Appended), outcome
        self._waiting -= 1
        self.appended += 1
        self._wake.set()


async def through_container(store: LogStore, *, length: int, segments: int, seconds: float):
    log = await store.open(ContainerId(0), owner="bench")
    cache = BlockCache()
    container = await open_container(ContainerId(0), log, clock=SystemClock(), cache=cache)
    load = Load(container, length=length, segments=segments)
    start, cpu = time.perf_counter(), time.process_time()
    await load.run(seconds)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    frames = container.commits.frames_count
    await container.stop()
    await log.close(clean=True)
    return load.appended, elapsed, cpu, frames


def bare(folder: Path, *, total_bytes: int, batch_bytes: int) -> float:
    """Seconds to write and sync as many bytes in batches of the same size."""
    path = folder / "bare"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, total_bytes)
        block = memoryview(os.urandom(batch_bytes))
        start = time.perf_counter()
        for offset in range(0, total_bytes - batch_bytes + 1, batch_bytes):
            os.pwritev(descriptor, [block], offset)
            os.fdatasync(descriptor)
        return time.perf_counter() - start
    finally:
        os.close(descriptor)
        path.unlink()


async def row(folder: Path, *, length: int, segments: int, seconds: float) -> str:
    store = FileLogStore(folder / f"wal-{length}-{segments}", new_id=new_id)
    appended, elapsed, cpu, frames = await through_container(
        store, length=length, segments=segments, seconds=seconds
    )
    await store.close()
    total = appended * length
    batch = max(total // frames, 1)
    alone = bare(folder, total_bytes=min(total, 2**30), batch_bytes=batch)
    rate, alone_rate = total / elapsed, min(total, 2**30) / alone
    return (
        f"{length:>8} B {segments:>5} segments {appended / elapsed:>10,.0f}/s "
        f"{rate / 1e6:>8.1f} MB/s  frame {batch / 1024:>7.0f} KiB  "
        f"bare {alone_rate / 1e6:>8.1f} MB/s  ratio {rate / alone_rate:>5.2f}  "
        f"CPU {cpu / appended * 1e6:>6.1f} us/append"
    )


async def profile(seconds: float) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    await through_container(MemoryLogStore(), length=100, segments=4, seconds=seconds)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


async def engine_alone(seconds: float) -> None:
    for length, segments in ((100, 1), (100, 100), (1000, 1)):
        appended, _, cpu, _ = await through_container(
            MemoryLogStore(), length=length, segments=segments, seconds=seconds
        )
        print(
            f"engine alone, {length} B, {segments} segments: {cpu / appended * 1e6:.1f} us/append"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.profile:
        await profile(options.seconds)
        return
    await engine_alone(options.seconds)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for length in (100, 1000, 100_000):
            for segments in (1, 16):
                print(
                    await row(
                        Path(folder), length=length, segments=segments, seconds=options.seconds
                    )
                )


if __name__ == "__main__":
    asyncio.run(main())
