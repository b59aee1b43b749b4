"""Valid frames, damaged in every way, sent to a live store: one process, real sockets and files."""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from anabranch_segmentstore import connection as connection_module
from anabranch_segmentstore import hosting as hosting_module
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from anabranch_wire.layouts import BY_CODE, Direction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES_COUNT: Final = int(os.environ.get("ANABRANCH_FUZZ_EXAMPLES", "150"))
RECORDING: Final = Path(__file__).parents[2] / "golden" / "wire.jsonl"
FRAME_BYTES_MAX: Final = 4096  # of a frame in the corpus
MEMORY_GROWTH_BYTES_MAX: Final = 48 * 1024 * 1024  # of the whole process, after a warm-up
GOOD_SEGMENT: Final = "unharmed/stream/0.#epoch.0"
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def _corpus() -> dict[int, list[bytes]]:
    """Frames that clients sent in the recorded exchanges, by their command."""
    frames: dict[int, list[bytes]] = {}
    for line in RECORDING.read_text().splitlines():
        for step in json.loads(line)["steps"]:
            frame = bytes.fromhex(step.get("send", ""))
            if 8 <= len(frame) <= FRAME_BYTES_MAX:
                (code,) = struct.unpack_from(">i", frame)
                frames.setdefault(code, []).append(frame)
    return {code: sorted(set(found))[:40] for code, found in sorted(frames.items())}


CORPUS: Final = _corpus()


def test_the_corpus_has_every_request() -> None:
    """A request that is left out could bring the store down."""
    asked = {
        layout.code
        for layout in BY_CODE.values()
        if layout.direction in (Direction.REQUEST, Direction.BOTH, Direction.ADMIN)
    }
    assert asked <= set(CORPUS)


frames = st.sampled_from(sorted(CORPUS)).flatmap(lambda code: st.sampled_from(CORPUS[code]))
numbers = st.sampled_from([0, 1, -1, 7, 8, 0xFFFF, 2**24, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One frame: as it is, with bits turned, bytes cut or put in, or a field overwritten."""
    frame = bytearray(draw(frames))
    for kind in draw(st.lists(st.sampled_from("bbcilo"), max_size=3)):
        at = draw(st.integers(0, max(len(frame) - 1, 0)))
        if kind == "b" and frame:
            frame[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "c":
            del frame[at:]
        elif kind == "i":
            frame[at:at] = draw(st.binary(max_size=40))
        elif kind == "l" and len(frame) >= 8:
            length = draw(st.one_of(numbers, st.just(len(frame) - 8)))
            frame[4:8] = (length & 0xFFFFFFFF).to_bytes(4, "big")
        elif kind == "o" and len(frame) >= 16:
            at = draw(st.integers(8, len(frame) - 8))
            frame[at : at + 8] = (draw(numbers) & (2**64 - 1)).to_bytes(8, "big")
    if draw(st.booleans()) and len(frame) >= 8:
        frame[4:8] = (len(frame) - 8).to_bytes(4, "big")  # so that the fields are looked at
    return bytes(frame)


attacks = st.lists(st.lists(damaged(), min_size=1, max_size=4).map(b"".join), max_size=5)


class Complaints:
    """A logger that keeps what it is told as an error."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.heard.append((event, fields))

    exception = error

    def info(self, event: str, **fields: Any) -> None:
        """Not of interest; nor are warnings."""

    debug = warning = info


class Target:
    """The store, and a client of it that nothing may disturb."""

    def __init__(self, faked: Any, good: Any, block: Any) -> None:
        self.faked, self.good, self.block = faked, good, block
        self.containers = [host.container for host in faked.store.serving]
        self._number = 0

    async def attack(self, writes: list[bytes], *, leaves_early: bool) -> None:
        """All writes on one connection, then see that the store is as it was."""
        reader, writer = await asyncio.open_connection(self.faked.host, self.faked.port)
        draining = asyncio.ensure_future(_drain(reader))
        try:
            for write in writes:
                writer.write(write)
                await asyncio.sleep(0)
            if not leaves_early:
                await self.check()
        finally:
            writer.transport.abort()
            await draining
        await eventually(lambda: self.faked.store.connections_count == 1)

    async def check(self) -> None:
        """The other client's events are stored and read, and no container was restarted."""
        self._number += 1
        data = b"%8d" % self._number
        appended = await self.good.ask(self.block(self._number, data))
        assert appended.current_segment_write_offset == 8 * self._number
        read = await self.good.ask(c.ReadSegment(GOOD_SEGMENT, 8 * (self._number - 1), 8, "", 1))
        assert bytes(read.data) == data
        assert [host.container for host in self.faked.store.serving] == self.containers


async def _drain(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        pass  # the store, or we, ended it with a reset


@contextmanager
def running_target(
    runner: asyncio.Runner, support: ModuleType, folder: Path, peers: Any, block: Any
) -> Iterator[Target]:
    async def start() -> tuple[AsyncExitStack, Target]:
        owned = AsyncExitStack()
        faked = await owned.enter_async_context(support.faked_store(folder, containers=2))
        good = await peers.connect(faked)
        await good.create(GOOD_SEGMENT)
        await good.set_up(GOOD_SEGMENT)
        return owned, Target(faked, good, block)

    owned, target = runner.run(start())
    try:
        yield target
    finally:
        peers.close()
        runner.run(owned.aclose())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch) -> Complaints:
    heard = Complaints()
    monkeypatch.setattr(connection_module, "log", heard)
    monkeypatch.setattr(hosting_module, "log", heard)
    return heard


def test_damaged_frames_harm_nobody(
    tmp_path: Path, support: ModuleType, sync_peers: Any, block: Any, complaints: Complaints
) -> None:
    """One bad client could end the store, hang it, or make it grow, for all the others."""
    with (
        asyncio.Runner() as runner,
        running_target(runner, support, tmp_path, sync_peers, block) as target,
    ):

        @settings(
            max_examples=EXAMPLES_COUNT,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(attacks, st.booleans())
        def attack(writes: list[bytes], leaves_early: bool) -> None:
            runner.run(target.attack(writes, leaves_early=leaves_early))
            assert complaints.heard == []

        attack()
        runner.run(target.check())


def test_hours_of_damaged_frames_cost_no_memory(
    tmp_path: Path, support: ModuleType, sync_peers: Any, block: Any, complaints: Complaints
) -> None:
    """A bad client that comes again and again would fill the memory."""
    chance = random.Random(11)
    every = [frame for found in CORPUS.values() for frame in found]

    def write() -> bytes:
        joined = bytearray(b"".join(chance.choices(every, k=chance.randint(1, 4))))
        for _ in range(chance.randint(0, 3)):
            joined[chance.randrange(len(joined))] = chance.randrange(256)
        return bytes(joined[: chance.randint(1, len(joined))])

    with (
        asyncio.Runner() as runner,
        running_target(runner, support, tmp_path, sync_peers, block) as target,
    ):
        before = 0
        for attack in range(4 * EXAMPLES_COUNT):
            writes = [write() for _ in range(chance.randint(1, 5))]
            runner.run(target.attack(writes, leaves_early=chance.random() < 0.7))
            if attack == EXAMPLES_COUNT:
                before = resident_bytes()
        assert resident_bytes() - before < MEMORY_GROWTH_BYTES_MAX
        assert sum(container.held_reads_count for container in target.containers) == 0
        assert complaints.heard == []
