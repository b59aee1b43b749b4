"""A segment store in its cluster: assignments, other owners, failures, and its process."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from anabranch_events import subjects
from anabranch_events.bus import ChunkAnswer, ChunkReport, LoadReport
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.registry import Assignment, ClusterInfo, Member, Serving
from anabranch_segmentstore import hosting
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_lock import (
    DataDirectoryInUse,
    DataDirectoryLock,
    DataDirectoryOfAnother,
    claim_for_cluster,
)
from anabranch_segmentstore.load import SegmentTaken
from anabranch_segmentstore.reports import report_load
from anabranch_segmentstore.store import ContainersCountChanged
from anabranch_testkit.fakes.bus import MemoryBus
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.fakes.registry import MemoryRegistry
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from structlog.testing import capture_logs

SEGMENT = "scope/stream/0.#epoch.0"
MIB = 1024 * 1024


async def serving_of(registry: MemoryRegistry, member: Member) -> set[int]:
    return {n for n, one in (await registry.serving()).items() if one.member == member.id}


async def test_a_wiped_registry_is_filled_again_and_nothing_stops(
    faked: Any, peers: Any, block: Any
) -> None:
    """Losing Redis would cost more than seconds of availability (F13)."""
    peer = await peers.connect(faked)
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    faked.registry.wipe()
    await faked.registry.announce(faked.member, lease_ms=1_000_000)
    peer.send(block(1, b"x"))
    assert isinstance(await peer.reply(), c.DataAppended)
    await faked.registry.set_cluster(ClusterInfo("test", 2))

    async def is_back() -> bool:
        return await serving_of(faked.registry, faked.member) == {0, 1}

    await eventually(is_back)


async def test_a_silent_registry_changes_nothing(faked: Any, peers: Any, block: Any) -> None:
    """A store that cannot reach Redis would stop serving."""
    peer = await peers.connect(faked)
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    faked.registry.away = True
    faked.store._look_again.set()
    peer.send(block(1, b"x"))
    assert isinstance(await peer.reply(), c.DataAppended)
    assert len(faked.store.serving) == 2
    faked.registry.away = False


async def test_a_container_that_is_assigned_elsewhere_stops(
    faked: Any, peers: Any, block: Any
) -> None:
    """Two stores would answer for one container."""
    peer = await peers.connect(faked)
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    number = faked.store.container_number(SEGMENT)
    await faked.registry.assign([Assignment(number, "another", 2)])
    await eventually(lambda: len(faked.store.serving) == 1)
    peer.send(block(1, b"x"))
    assert await peer.closed() == []
    other = await peers.connect(faked)
    assert await other.ask(c.SetupAppend(3, uuid.uuid4(), SEGMENT)) == c.WrongHost(3, SEGMENT)
    assert await other.ask(c.SealSegment(4, SEGMENT)) == c.WrongHost(4, SEGMENT)
    table = "scope/table_kvtable/0.#epoch.0"
    await faked.registry.assign([Assignment(n, "another", 2) for n in range(2)])
    await eventually(lambda: not faked.store.serving)
    other.send(c.GetTableSegmentInfo(5, table))
    assert await other.closed() == []


async def test_another_owner_in_the_registry_stops_the_container(faked: Any) -> None:
    """A store that was away would go on answering from stale state."""
    await faked.registry.announce(
        Member("other", "incarnation", "segmentstore", "127.0.0.1", 1, 0), lease_ms=1_000_000
    )
    await faked.registry.set_serving(Serving(0, "other", "incarnation", "127.0.0.1", 1, 99))
    await eventually(lambda: 0 not in {host.number for host in faked.store.serving})


async def test_a_store_that_lost_its_container_acknowledges_nothing(
    tmp_path: Path, support: ModuleType, peers: Any, block: Any
) -> None:
    """The older of two owners would acknowledge events that the newer one never sees (F6)."""
    async with support.faked_store(tmp_path) as old:
        stale = await peers.connect(old)
        await stale.create(SEGMENT)
        await stale.set_up(SEGMENT)
        stale.send(block(1, b"kept"))
        assert isinstance(await stale.reply(), c.DataAppended)
        old.registry.away = True  # it does not hear that the container moves
        async with support.faked_store(tmp_path, member_id="segmentstore-1") as new:
            fresh = await peers.connect(new)
            stale.send(block(2, b"lost"))
            assert await stale.closed() == []
            assert await fresh.set_up(SEGMENT) == 1
            fresh.send(block(2, b"next"))
            reply = await fresh.reply()
            assert reply.current_segment_write_offset == 8
        old.registry.away = False


async def test_a_store_that_slept_answers_nothing_from_memory(
    tmp_path: Path, support: ModuleType, peers: Any, block: Any
) -> None:
    """A reader would be told an old length by a store that lost the container in its sleep."""
    async with support.faked_store(tmp_path) as old:
        stale = await peers.connect(old)
        await stale.create(SEGMENT)
        old.registry.away = True
        async with support.faked_store(tmp_path, member_id="segmentstore-1") as new:
            fresh = await peers.connect(new)
            await fresh.set_up(SEGMENT)
            fresh.send(block(1, b"new"))
            await fresh.reply()
            stale.send(c.GetStreamSegmentInfo(5, SEGMENT))
            assert await stale.closed() == []
        old.registry.away = False


async def test_another_number_of_containers_ends_the_store(
    tmp_path: Path, support: ModuleType
) -> None:
    """Segments would be looked for in the wrong containers, and created there anew."""
    with pytest.raises(ExceptionGroup) as ended:  # noqa: PT012  the store ends inside
        async with support.faked_store(tmp_path, containers=2) as faked:
            await faked.registry.set_cluster(ClusterInfo("test", 3))
            await eventually(lambda: not faked.store._hosts)
    (reason,) = ended.value.exceptions
    assert isinstance(reason, ContainersCountChanged)
    assert "fixed when a cluster is created" in str(reason)


class FailingFiles(LocalFiles):
    fails = 0

    def sync(self, descriptor: int) -> None:
        if self.fails > 0:
            self.fails -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(descriptor)


async def test_a_failed_disk_restarts_the_container_alone(
    tmp_path: Path, support: ModuleType, peers: Any, block: Any
) -> None:
    """A failed sync would be forgotten, or end the whole process (F10)."""
    files = FailingFiles()
    logs = FileLogStore(tmp_path, new_id=uuid.uuid4, files=files, file_bytes=MIB)
    async with support.faked_store(tmp_path, logs=logs) as faked:
        peer = await peers.connect(faked)
        await peer.create(SEGMENT)
        await peer.set_up(SEGMENT)
        peer.send(block(1, b"good"))
        assert isinstance(await peer.reply(), c.DataAppended)
        files.fails = 1
        peer.send(block(2, b"bad"))
        assert await peer.closed() == []
        again = await peers.connect(faked)
        stored = await again.set_up(SEGMENT)
        assert stored in (1, 2)
        again.send(block(3, b"more", events=3 - stored))
        reply = await again.reply()
        assert (type(reply), reply.previous_event_number) == (c.DataAppended, stored)


async def test_a_container_that_fails_again_and_again_is_given_up(
    tmp_path: Path, support: ModuleType, peers: Any
) -> None:
    """A broken disk would be opened in a circle for ever, and nobody told."""
    files = FailingFiles()
    logs = FileLogStore(tmp_path, new_id=uuid.uuid4, files=files, file_bytes=MIB)
    async with support.faked_store(tmp_path, logs=logs) as faked:
        peer = await peers.connect(faked)
        await peer.create(SEGMENT)
        files.fails = 1_000_000
        peer.send(c.SealSegment(2, SEGMENT))
        assert await peer.closed() == []
        await eventually(lambda: "was given up" in "".join(faked.store.not_ready()))
        assert files.fails > 1_000_000 - 20
        other = await peers.connect(faked)
        assert await other.ask(c.SealSegment(4, SEGMENT)) == c.WrongHost(4, SEGMENT)


class FullFiles(LocalFiles):
    """No space for new files, for a while."""

    refusals = 5

    def create(self, path: Path) -> int:
        if self.refusals > 0:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return super().create(path)


async def test_a_disk_that_is_full_at_the_start_is_waited_for(
    tmp_path: Path, support: ModuleType, peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was restarted on a full disk would give its containers up for good."""
    monkeypatch.setattr(hosting, "DISK_FULL_PAUSE_S", 0.05)
    logs = FileLogStore(tmp_path, new_id=uuid.uuid4, files=FullFiles(), file_bytes=MIB)
    async with support.faked_store(tmp_path, logs=logs) as faked:
        peer = await peers.connect(faked)
        await peer.create(SEGMENT)


async def test_a_damaged_log_is_named_and_left_alone(
    tmp_path: Path, support: ModuleType, peers: Any, block: Any
) -> None:
    """A flipped bit would silently end the history of a container (F11, F36)."""
    async with support.faked_store(tmp_path) as faked:
        peer = await peers.connect(faked)
        await peer.create(SEGMENT)
        await peer.set_up(SEGMENT)
        for number, text in enumerate((b"first event", b"second event", b"third event"), start=1):
            peer.send(block(number, text))
            await peer.reply()
    (path,) = tmp_path.glob("0/1/*.wal")
    content = bytearray(path.read_bytes())
    content[content.find(b"second event")] ^= 1
    path.write_bytes(content)
    registry = MemoryRegistry(SystemClock())
    async with asyncio.timeout(20):
        running = asyncio.ensure_future(_wait_for_damage(tmp_path, support, registry))
        reasons = await running
    assert str(path) in reasons
    assert "damaged log" in reasons
    assert path.read_bytes() == content


async def _wait_for_damage(directory: Path, support: ModuleType, registry: MemoryRegistry) -> str:
    """Starts a store that cannot serve, and returns why."""
    manager = support.faked_store(directory, registry=registry, wait_for_serving=False)
    async with manager as faked:
        return await eventually(
            lambda: (
                "".join(faked.store.not_ready()).strip()
                if any("given up" in reason for reason in faked.store.not_ready())
                else ""
            )
        )


async def test_damage_below_the_end_is_named_and_never_served(
    tmp_path: Path, support: ModuleType, peers: Any, block: Any
) -> None:
    """A reader would get bytes that nobody wrote, or an operator no word about it (F11)."""
    async with support.faked_store(tmp_path) as faked:
        peer = await peers.connect(faked)
        await peer.create(SEGMENT)
        await peer.set_up(SEGMENT)
        peer.send(block(1, b"precious bytes"))
        await peer.reply()
        (path,) = tmp_path.glob("0/1/*.wal")
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(content.find(b"precious"))
            file.write(b"P")
        for host in faked.store.serving:
            host.container.cache.drop_container(0)
        with capture_logs() as logged:
            peer.send(c.ReadSegment(SEGMENT, 0, 100, "", 5))
            assert await peer.closed() == []
        (trouble,) = (one for one in logged if one["event"] == "request.storage_trouble")
        assert str(path) in trouble["reason"]
        other = await peers.connect(faked)
        assert (await other.ask(c.GetStreamSegmentInfo(6, SEGMENT))).write_offset == 14


async def test_workers_reach_the_owner_of_a_container(faked: Any) -> None:
    """Flushed bytes would never be journalled, and the log never cut."""
    report = ChunkReport(1, "nobody/ordered/this", "written", 1, (1,), "worker")

    def is_served() -> bool:
        return bool(faked.bus._servers)

    await eventually(is_served)
    subject = subjects.chunk_reports(1)
    answer = await faked.bus.request(subject, msgspec.json.encode(report), timeout_s=5)
    assert msgspec.json.decode(answer, type=ChunkAnswer).outcome == "unknown"


async def test_load_is_reported_every_second_with_rates() -> None:
    """The autoscaler would be blind, or scale by counts instead of rates."""
    bus, clock = MemoryBus(), FakeClock()
    taken = [SegmentTaken("s/t/0.#epoch.0", 500, 5, 800, clock.now_ms() - 7000)]
    task = asyncio.ensure_future(
        report_load(bus, clock, store="segmentstore-0", incarnation="i", take=lambda: taken)
    )
    await clock.advance(2.0)
    task.cancel()
    assert [subject for subject, _ in bus.published] == ["anabranch.load.segmentstore-0"] * 2
    report = msgspec.json.decode(bus.published[1][1], type=LoadReport)
    assert (report.sequence, report.interval_ms) == (2, 1000)
    (load,) = report.segments
    assert (load.bytes_per_s, load.events_per_s, load.length_bytes) == (500.0, 5.0, 800)
    assert load.age_ms == 9000


# --- The process -------------------------------------------------------------------------------


def test_a_second_store_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    """Two clusters would write into one directory."""
    lock = DataDirectoryLock(tmp_path, "segmentstore-0")
    with pytest.raises(DataDirectoryInUse, match=f"process id {os.getpid()}"):
        DataDirectoryLock(tmp_path, "segmentstore-0")
    DataDirectoryLock(tmp_path, "segmentstore-1").release()  # another store of the cluster
    lock.release()
    DataDirectoryLock(tmp_path, "segmentstore-0").release()


def test_a_data_directory_belongs_to_one_cluster(tmp_path: Path) -> None:
    """Segments of two clusters would be mixed in one log."""
    claim_for_cluster(tmp_path, "one")
    claim_for_cluster(tmp_path, "one")
    with pytest.raises(DataDirectoryOfAnother, match=r"belongs to the cluster one, .* for two"):
        claim_for_cluster(tmp_path, "two")
    assert [path.name for path in tmp_path.iterdir()] == ["CLUSTER"]


def run_store(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anabranch_segmentstore", "--log-format", "json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_explains_the_settings() -> None:
    """An operator would have to read the source."""
    told = run_store("--help")
    assert told.returncode == 0
    for flag in ("--port", "--wal-dir", "--tier2-dir", "ANABRANCH_SEGMENTSTORE__PORT"):
        assert flag in told.stdout


def test_broken_settings_are_named(tmp_path: Path) -> None:
    """A wrong setting would show up later, as something else."""
    told = run_store("--port", "99999999", "--wal-dir", str(tmp_path), "--tier2-dir", str(tmp_path))
    assert told.returncode == 2
    assert "port = '99999999' (flag --port)" in told.stderr
    missing = run_store("--tier2-dir", str(tmp_path))
    assert missing.returncode == 2
    assert "wal_dir is required: give --wal-dir" in missing.stderr
    both = run_store("--wal-dir", str(tmp_path))
    assert "one of --tier2-dir and --tier2-url" in both.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """The store would start and serve nobody."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run_store(
            "--port", str(port), "--wal-dir", str(tmp_path), "--tier2-dir", str(tmp_path / "t2")
        )
    assert told.returncode == 3
    assert f"cannot listen on 127.0.0.1:{port}" in told.stderr
    assert "--port" in told.stderr


def test_a_taken_data_directory_is_named(tmp_path: Path) -> None:
    """Two stores would fence each other in turn."""
    lock = DataDirectoryLock(tmp_path, "segmentstore-0")
    told = run_store("--port", "0", "--wal-dir", str(tmp_path), "--tier2-dir", str(tmp_path / "t"))
    lock.release()
    assert told.returncode == 3
    assert f"{tmp_path} is in use" in told.stderr
    assert str(os.getpid()) in told.stderr
