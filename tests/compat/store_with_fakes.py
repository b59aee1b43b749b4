"""A segment store with a real socket and real log files, but registry, bus and tier 2 in memory.

For tests, and by hand to replay recorded exchanges against:

    python tests/compat/store_with_fakes.py --port 12345 --containers 1 [--wal-dir DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ids import new_id
from anabranch_kit.ports.registry import Assignment, ClusterInfo, Member
from anabranch_kit.run import run_service
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.bootstrap import container_opener
from anabranch_segmentstore.connection import Connection
from anabranch_segmentstore.hosting import ContainerHost
from anabranch_segmentstore.ports import ContainerId, LogStore
from anabranch_segmentstore.settings import MIB, SegmentStoreSettings
from anabranch_segmentstore.store import SegmentStore
from anabranch_testkit.fakes.bus import MemoryBus
from anabranch_testkit.fakes.object_store import MemoryObjectStore
from anabranch_testkit.fakes.registry import MemoryRegistry
from anabranch_testkit.waiting import eventually


@dataclass
class FakedStore:
    """A running store and what stands around it."""

    store: SegmentStore
    registry: MemoryRegistry
    bus: MemoryBus
    member: Member
    host: str
    port: int


@contextlib.asynccontextmanager
async def faked_store(
    wal_dir: Path,
    *,
    containers: int = 1,
    port: int = 0,
    member_id: str = "segmentstore-0",
    registry: MemoryRegistry | None = None,
    logs: LogStore | None = None,
    wait_for_serving: bool = True,
) -> AsyncIterator[FakedStore]:
    """Running, with all containers assigned to it and serving."""
    clock = SystemClock()
    registry = registry or MemoryRegistry(clock)
    bus = MemoryBus()
    settings = SegmentStoreSettings(wal_dir=wal_dir, tier2_dir=wal_dir / "unused")
    opener = container_opener(settings, clock=clock, bus=bus, objects=MemoryObjectStore())
    logs = logs or FileLogStore(wal_dir, new_id=new_id, file_bytes=4 * MIB)

    def make_host(number: ContainerId, on_change: Callable[[], None]) -> ContainerHost:
        return ContainerHost(
            number,
            owner=member_id,
            logs=logs,
            open_container=opener,
            bus=bus,
            clock=clock,
            on_change=on_change,
        )

    store = SegmentStore(registry=registry, make_host=make_host, clock=clock, new_id=new_id)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(store), "127.0.0.1", port)
    bound = server.sockets[0].getsockname()[1]
    member = Member(member_id, new_id().hex, "segmentstore", "127.0.0.1", bound, clock.now_ms())
    await registry.announce(member, lease_ms=1_000_000)
    await registry.set_cluster(ClusterInfo("test", containers))
    await registry.assign([Assignment(n, member_id, 1) for n in range(containers)])
    running = asyncio.ensure_future(store.run(member))
    try:
        if wait_for_serving:
            await eventually(lambda: running.done() or len(store.serving) == containers)
        yield FakedStore(store, registry, bus, member, "127.0.0.1", bound)
    finally:
        server.close()
        running.cancel()
        await asyncio.wait([running])
        await logs.close()
        if not running.cancelled():
            running.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--containers", type=int, default=1)
    parser.add_argument("--wal-dir", type=Path)
    arguments = parser.parse_args()

    async def serve(stop: asyncio.Event) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            wal_dir = arguments.wal_dir or Path(scratch)
            async with faked_store(
                wal_dir, containers=arguments.containers, port=arguments.port
            ) as faked:
                print(f"listening on {faked.host}:{faked.port}", flush=True)
                await stop.wait()

    return run_service(serve)


if __name__ == "__main__":
    raise SystemExit(main())
