"""Two segment store processes that share a disk: pauses, moves, `kill -9` (F5, F6)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.ports.registry import Assignment, ClusterInfo
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c

SEGMENT = "scope/stream/0.#epoch.0"
START_TIMEOUT_S = 40.0


class StoreProcess:
    """A store on a free port, with logs and tier 2 in a folder that others share."""

    def __init__(
        self, member: str, folder: Path, nats_url: str, redis_url: str, tier1: str = "file"
    ) -> None:
        self.member, self.folder = member, folder
        self._command = [sys.executable, "-m", "anabranch_segmentstore", "--member", member]
        self._command += ["--port", "0", "--nats-url", nats_url, "--redis-url", redis_url]
        self._command += ["--tier1", tier1, "--tier2-dir", str(folder / "tier2")]
        if tier1 == "file":
            self._command += ["--wal-dir", str(folder / "wal")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / f"{self.member}.log").open("ab") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(params=["file", "jetstream"])
async def stores(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    nats_server: Any,
    valkey_server: Any,
    redis_registry: RedisRegistry,
) -> AsyncIterator[dict[str, StoreProcess]]:
    await redis_registry.set_cluster(ClusterInfo("test", 1))
    started = {
        name: StoreProcess(name, tmp_path, nats_server.url, valkey_server.url, request.param)
        for name in ("store-a", "store-b")
    }
    for store in started.values():
        store.start()
    yield started
    for store in started.values():
        store.kill()


async def moved_to(registry: RedisRegistry, member: str, generation: int) -> SimpleNamespace:
    """Assign container 0, and wait until the member serves it; where it is reached."""
    await registry.assign([Assignment(0, member, generation)])
    return await served_by(registry, member)


async def served_by(registry: RedisRegistry, member: str, epoch: int = 0) -> SimpleNamespace:
    async def address() -> SimpleNamespace | None:
        serving = (await registry.serving()).get(0)
        if serving is None or serving.member != member or serving.epoch <= epoch:
            return None
        return SimpleNamespace(host=serving.host, port=serving.port, epoch=serving.epoch)

    found = await eventually(address, START_TIMEOUT_S)
    assert found is not None
    return found


async def test_a_paused_owner_wakes_up_and_is_ignored(
    stores: dict[str, StoreProcess], redis_registry: RedisRegistry, peers: Any, block: Any
) -> None:
    """Two stores would acknowledge different events at one offset (F6)."""
    old = await peers.connect(await moved_to(redis_registry, "store-a", 1))
    await old.create(SEGMENT)
    await old.set_up(SEGMENT)
    old.send(block(1, b"kept;"))
    assert isinstance(await old.reply(), c.DataAppended)

    stores["store-a"].signal(signal.SIGSTOP)
    try:
        new = await peers.connect(await moved_to(redis_registry, "store-b", 2))
        assert await new.set_up(SEGMENT) == 1
        new.send(block(2, b"next;"))
        assert (await new.reply()).current_segment_write_offset == 10
        old.send(block(2, b"lost;"), c.GetStreamSegmentInfo(7, SEGMENT))
    finally:
        stores["store-a"].signal(signal.SIGCONT)
    assert await old.closed() == [], "neither an acknowledgement nor an old length"
    read = await new.ask(c.ReadSegment(SEGMENT, 0, 100, "", 8))
    assert bytes(read.data) == b"kept;next;"


async def test_a_killed_store_comes_back_with_everything(
    stores: dict[str, StoreProcess], redis_registry: RedisRegistry, peers: Any, block: Any
) -> None:
    """A writer that resends after a crash would lose events or store them twice (F5)."""
    address = await moved_to(redis_registry, "store-a", 1)
    first = await peers.connect(address)
    await first.create(SEGMENT)
    sent = acknowledged = 0
    for _ in range(3):
        peer = await peers.connect(address)
        stored = await peer.set_up(SEGMENT)
        assert max(stored, 0) >= acknowledged, "an acknowledged event is gone"
        assert stored <= sent
        numbers = range(max(stored, 0) + 1, max(stored, 0) + 400)
        peer.send(*(block(number, b"%06d" % number) for number in numbers))
        sent = numbers[-1]
        while acknowledged < numbers[20]:
            acknowledged = (await peer.reply()).event_number
        stores["store-a"].kill()
        stores["store-a"].start()
        address = await served_by(redis_registry, "store-a", address.epoch)
    last = await peers.connect(address)
    stored = await last.set_up(SEGMENT)
    assert acknowledged <= stored <= sent
    info = await last.ask(c.GetStreamSegmentInfo(5, SEGMENT))
    assert info.write_offset == stored * 6
    text = b""
    while len(text) < info.write_offset:
        read = await last.ask(c.ReadSegment(SEGMENT, len(text), 1_000_000, "", 6))
        text += bytes(read.data)
    assert text == b"".join(b"%06d" % number for number in range(1, stored + 1))


async def test_a_store_stops_when_asked_and_leaves_the_registry(
    stores: dict[str, StoreProcess], redis_registry: RedisRegistry, peers: Any
) -> None:
    """A planned restart would cost a lease, or end with a log that looks crashed."""
    address = await moved_to(redis_registry, "store-a", 1)
    peer = await peers.connect(address)
    await peer.create(SEGMENT)
    process = stores["store-a"].process
    assert process is not None
    stores["store-a"].signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 15) == 0
    assert await peer.closed() == []
    assert "store-a" not in {member.id for member in await redis_registry.members()}
    again = await peers.connect(await moved_to(redis_registry, "store-b", 2))
    assert (await again.ask(c.GetStreamSegmentInfo(3, SEGMENT))).exists
