"""FileLog against broken disks: flipped bits, cut files, failed syncs, full disks, races."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from anabranch_segmentstore.adapters.file_log import FileLog, FileLogStore
from anabranch_segmentstore.adapters.file_log_epochs import Minted, check_fence, mint
from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_format import FIRST_RECORD_BYTES
from anabranch_segmentstore.ports import ContainerId, LogDamaged, LogFailed, LogFenced, LogPosition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONTAINER = ContainerId(0)
FILE_BYTES = 32 * 1024


def new_store(directory: Path, files: LocalFiles | None = None) -> FileLogStore:
    return FileLogStore(directory, new_id=uuid.uuid4, files=files, file_bytes=FILE_BYTES)


async def write_log(directory: Path, *, epochs: int, frames: int, clean: bool) -> list[bytes]:
    """A log of several files and epochs; returns what was acknowledged."""
    payloads: list[bytes] = []
    store = new_store(directory)
    for epoch in range(epochs):
        log = await store.open(CONTAINER, owner="writer")
        for index in range(frames):
            payload = b"%d/%d;" % (epoch, index) * (1 + index % 5 * 300)
            await log.append([payload])
            payloads.append(payload)
        await log.close(clean=clean or epoch < epochs - 1)
    await store.close()
    return payloads


async def read_log(directory: Path) -> list[bytes]:
    store = new_store(directory)
    try:
        log = await store.open(CONTAINER, owner="reader")
        try:
            return [frame.payload async for frame in log.replay()]
        finally:
            await log.close(clean=False)
    finally:
        await store.close()


def log_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("0/*/*.wal"), key=lambda p: (int(p.parent.name), p.name))


def boundaries(path: Path) -> list[int]:
    """Offsets where something begins or ends in a file: the interesting places to cut."""
    data = path.read_bytes()
    found = {0, 1, 79, 80, 84, FIRST_RECORD_BYTES, len(data)}
    start = 0
    while (start := data.find(b"ABL1", start)) >= 0:
        found |= {start, start + 4, start + 8, start + 79, start + 80, start + 84, start + 200}
        start += 1
    used = len(data.rstrip(b"\0"))
    return sorted(place for place in found | {used - 1, used} if 0 <= place <= len(data))


@pytest.fixture(scope="module")
def written() -> Iterator[dict[bool, tuple[Path, list[bytes]]]]:
    """The same log after a clean stop (True) and after a crash (False)."""
    root = Path(tempfile.mkdtemp(prefix="filelog-"))
    logs: dict[bool, tuple[Path, list[bytes]]] = {}
    for clean in (True, False):
        directory = root / str(clean)
        directory.mkdir()
        logs[clean] = directory, asyncio.run(write_log(directory, epochs=2, frames=40, clean=clean))
    yield logs
    shutil.rmtree(root)


def copy_of(directory: Path) -> Path:
    copy = Path(tempfile.mkdtemp(prefix="filelog-copy-"))
    shutil.copytree(directory, copy, dirs_exist_ok=True)
    return copy


def outcome_of(directory: Path) -> list[bytes] | LogDamaged:
    try:
        return asyncio.run(read_log(directory))
    except LogDamaged as damaged:
        return damaged


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), clean=st.booleans())
def test_a_flipped_bit_is_refused_or_harmless(
    written: dict[bool, tuple[Path, list[bytes]]], data: st.DataObject, clean: bool
) -> None:
    """A reader would be served bytes that nobody wrote, or an acknowledged event would vanish
    (F11, F36). Only the last batch before a crash may look torn."""
    directory, payloads = written[clean]
    copy = copy_of(directory)
    try:
        path = data.draw(st.sampled_from(log_files(copy)))
        near = data.draw(st.sampled_from(boundaries(path)))
        size = path.stat().st_size
        place = min(max(0, near + data.draw(st.integers(-40, 40))), size - 1)
        content = bytearray(path.read_bytes())
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)

        outcome = outcome_of(copy)
        if isinstance(outcome, LogDamaged):
            assert outcome.container == CONTAINER
            assert path.read_bytes() == content, "nothing may be changed"
        elif clean:
            assert outcome == payloads
        else:
            assert outcome in (payloads, payloads[:-1])
    finally:
        shutil.rmtree(copy)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), clean=st.booleans())
def test_a_cut_file_is_refused(
    written: dict[bool, tuple[Path, list[bytes]]], data: st.DataObject, clean: bool
) -> None:
    """A file that lost its tail would be taken for a shorter log."""
    directory, payloads = written[clean]
    copy = copy_of(directory)
    try:
        path = data.draw(st.sampled_from(log_files(copy)))
        place = data.draw(st.sampled_from(boundaries(path)))
        os.truncate(path, place)
        outcome = outcome_of(copy)
        assert isinstance(outcome, LogDamaged) or outcome == payloads
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("clean", [True, False])
def test_a_lost_file_is_refused(written: dict[bool, tuple[Path, list[bytes]]], clean: bool) -> None:
    """A container would start with a hole in its history."""
    directory, payloads = written[clean]
    for index, original in enumerate(log_files(directory)):
        copy = copy_of(directory)
        try:
            log_files(copy)[index].unlink()
            outcome = outcome_of(copy)
            assert isinstance(outcome, LogDamaged), original
        finally:
            shutil.rmtree(copy)
    assert len(payloads) == 80


def test_damage_below_later_records_names_file_and_offset(tmp_path: Path) -> None:
    """An operator would not know which file to restore (F36)."""
    asyncio.run(write_log(tmp_path, epochs=1, frames=5, clean=False))
    (path,) = log_files(tmp_path)
    content = bytearray(path.read_bytes())
    place = content.find(b"0/3;")
    content[place] ^= 1
    path.write_bytes(content)
    outcome = outcome_of(tmp_path)
    assert isinstance(outcome, LogDamaged)
    assert outcome.file == str(path)
    assert 0 < place - outcome.offset < 200
    assert "Restore the file" in str(outcome)


def test_bytes_of_a_client_cannot_pass_for_records(tmp_path: Path) -> None:
    """A client that writes log bytes into its events could make a torn batch look like damage,
    and stop the container for good."""

    async def run() -> list[bytes]:
        await write_log(tmp_path / "donor", epochs=1, frames=10, clean=False)
        stolen = log_files(tmp_path / "donor")[0].read_bytes()[FIRST_RECORD_BYTES:8192]
        store = new_store(tmp_path / "log")
        log = await store.open(CONTAINER, owner="writer")
        await log.append([b"kept"])
        await log.append([b"torn here ", bytes(6), stolen])
        await log.close(clean=False)
        await store.close()
        path = log_files(tmp_path / "log")[-1]
        content = bytearray(path.read_bytes())
        content[content.find(b"torn here")] ^= 1
        path.write_bytes(content)
        return await read_log(tmp_path / "log")

    (tmp_path / "donor").mkdir()
    (tmp_path / "log").mkdir()
    assert asyncio.run(run()) == [b"kept"]


# --- Take-over ---------------------------------------------------------------------------------


class Dies(Exception):
    """The process ends here."""


class DyingFiles(LocalFiles):
    """Works for a while, then every call fails as if the process were gone."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def _count(self) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise Dies

    def make_directory(self, directory: Path) -> None:
        self._count()
        super().make_directory(directory)

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def write(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        self._count()
        super().write(descriptor, parts, offset)

    def sync(self, descriptor: int) -> None:
        self._count()
        super().sync(descriptor)

    def sync_directory(self, directory: Path) -> None:
        self._count()
        super().sync_directory(directory)

    def link(self, source: Path, target: Path) -> None:
        self._count()
        super().link(source, target)


@pytest.mark.parametrize("calls", range(18))
async def test_a_take_over_that_dies_half_way_harms_nothing(tmp_path: Path, calls: int) -> None:
    """A crash in the middle of a restart would lose or double frames (F12, F35)."""
    payloads = await write_log(tmp_path, epochs=2, frames=5, clean=False)
    dying = new_store(tmp_path, DyingFiles(calls))
    try:
        log = await dying.open(CONTAINER, owner="dies")
    except Dies:
        pass
    else:
        await log.close(clean=False)
    await dying.close()
    assert await read_log(tmp_path) == payloads
    assert await read_log(tmp_path) == payloads


async def test_a_dead_take_over_is_kept_and_not_read(tmp_path: Path) -> None:
    """Start-up would delete what it cannot explain, or read frames that nobody acknowledged."""
    payloads = await write_log(tmp_path, epochs=1, frames=3, clean=False)
    dying = FileLogStore(
        tmp_path, new_id=uuid.uuid4, files=DyingFiles(12), file_bytes=32 * FILE_BYTES
    )
    with pytest.raises(Dies):
        await dying.open(CONTAINER, owner="dies")
    await dying.close()
    before = {path: path.read_bytes() for path in tmp_path.glob("0/2/*")}
    assert before, "it had got as far as making its file"
    assert any(content.strip(b"\0") for content in before.values()), "and copying into it"
    assert await read_log(tmp_path) == payloads
    after = {path: path.read_bytes() for path in tmp_path.glob("0/2/*")}
    assert after.keys() == before.keys()
    for path, content in after.items():
        assert content.rstrip(b"\0") == before[path].rstrip(b"\0")
        assert len(content) < 32 * FILE_BYTES, "what it had preallocated would be lost for ever"


class TurnFiles(LocalFiles):
    """Each call waits for its turn in a given schedule of the racers."""

    def __init__(self, name: int, turns: Turns) -> None:
        self.name, self.turns = name, turns

    def names(self, directory: Path) -> list[str]:
        self.turns.wait(self.name)
        return super().names(directory)

    def create(self, path: Path) -> int:
        self.turns.wait(self.name)
        return super().create(path)

    def link(self, source: Path, target: Path) -> None:
        self.turns.wait(self.name)
        super().link(source, target)

    def sync_directory(self, directory: Path) -> None:
        self.turns.wait(self.name)


class Turns:
    """Lets one racer go at a time, as the schedule says; free once it is used up."""

    def __init__(self, schedule: Sequence[int]) -> None:
        self._schedule = list(schedule)
        self._changed = threading.Condition()
        self._done: set[int] = set()

    def wait(self, name: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_turn_of(name), timeout=30)
            if self._schedule:
                self._schedule.pop(0)
            self._changed.notify_all()

    def _is_turn_of(self, name: int) -> bool:
        while self._schedule and self._schedule[0] in self._done:
            self._schedule.pop(0)
        return not self._schedule or self._schedule[0] == name

    def done(self, name: int) -> None:
        with self._changed:
            self._done.add(name)
            self._changed.notify_all()


def race(directory: Path, schedule: Sequence[int]) -> list[Minted | None]:
    """Two openers mint at once; None for one that found itself fenced right after."""
    turns = Turns(schedule)
    minted: list[Minted | None] = [None, None]

    def opener(name: int) -> None:
        files = TurnFiles(name, turns)
        numbers = random.Random(name)
        try:
            mine = mint(files, directory, CONTAINER, lambda: numbers.getrandbits(64))
            check_fence(files, directory, CONTAINER, mine.epoch)
            minted[name] = mine
        except LogFenced:
            pass
        finally:
            turns.done(name)

    threads = [threading.Thread(target=opener, args=(name,)) for name in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return minted


def test_every_interleaving_of_two_mints_has_one_winner_per_epoch(tmp_path: Path) -> None:
    """Two stores would own one epoch of a container (F34)."""
    schedules = list(itertools.combinations(range(10), 5))
    assert len(schedules) == 252
    for index, turns_of_one in enumerate(schedules):
        directory = tmp_path / str(index)
        directory.mkdir()
        minted = race(directory, [int(turn in turns_of_one) for turn in range(10)])
        owners = [one for one in minted if one is not None]
        assert owners, "somebody wins"
        assert len({one.epoch for one in owners}) == len(owners), turns_of_one
        newest = max(int(name.split("-")[1]) for name in os.listdir(directory))
        still_owner = [one for one in owners if one.epoch == newest]
        assert len(still_owner) <= 1, "only one of them passes its next check"
        assert not [name for name in os.listdir(directory) if name.startswith(".")]


# --- Failing system calls ------------------------------------------------------------------------


class FailingFiles(LocalFiles):
    """`fail` is asked before each call and may raise."""

    def __init__(self) -> None:
        self.fail: Callable[[str], None] = lambda _: None
        self.calls: list[str] = []

    def _ask(self, call: str) -> None:
        self.calls.append(call)
        self.fail(call)

    async def was_called(self, call: str, times: int = 1) -> None:
        while self.calls.count(call) < times:  # noqa: ASYNC110  the caller is on a thread
            await asyncio.sleep(0.001)

    def write(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        self._ask("write")
        super().write(descriptor, parts, offset)

    def sync(self, descriptor: int) -> None:
        self._ask("sync")
        super().sync(descriptor)

    def allocate(self, descriptor: int, length: int) -> None:
        self._ask("allocate")
        super().allocate(descriptor, length)


def raiser(call: str, number: int) -> Callable[[str], None]:
    def fail(asked: str) -> None:
        if asked == call:
            raise OSError(number, os.strerror(number), "the disk")

    return fail


async def open_with(tmp_path: Path, files: LocalFiles) -> FileLog:
    store = new_store(tmp_path, files)
    return await store.open(CONTAINER, owner="writer")


@pytest.mark.parametrize("call", ["write", "sync"])
async def test_nothing_is_acknowledged_after_a_failed_write_or_sync(
    tmp_path: Path, call: str
) -> None:
    """After a failed sync the kernel may drop the pages and let the next sync succeed (F10)."""
    files = FailingFiles()
    log = await open_with(tmp_path, files)
    await log.append([b"good"])
    files.fail = raiser(call, errno.EIO)
    with pytest.raises(LogFailed, match="Input/output error"):
        await log.append([b"bad"])
    files.fail = lambda _: None
    with pytest.raises(LogFailed):
        await log.append([b"after"])
    with pytest.raises(LogFailed):
        await log.truncate(LogPosition(1))
    assert await log.read(LogPosition(1), 0, 4) == b"good"
    await log.close(clean=True)
    found = await read_log(tmp_path)
    assert found[0] == b"good"
    assert b"after" not in found


async def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """A full disk would end the container, or lose what was waiting (and nobody could free
    space, because reads and truncation would wait too)."""
    files = FailingFiles()
    log = await open_with(tmp_path, files)
    payload = bytes(20_000)
    for _ in range(4):
        await log.append([payload])
    await log.append([b"state"], snapshot=True)
    files.fail = raiser("allocate", errno.ENOSPC)
    files.calls.clear()
    waiting = asyncio.ensure_future(log.append([payload]))
    async with asyncio.timeout(10):
        await files.was_called("allocate", times=2)
    assert not waiting.done()
    assert await log.read(LogPosition(1), 0, 10) == bytes(10)
    stored = log.stored_bytes
    await log.truncate(LogPosition(5))
    assert log.stored_bytes < stored
    files.fail = lambda _: None
    assert await asyncio.wait_for(waiting, 10) == 6
    await log.close(clean=True)
    assert (await read_log(tmp_path)) == [b"state", payload]


async def test_a_log_that_waits_for_space_can_be_closed(tmp_path: Path) -> None:
    """A store with a full disk could not be stopped."""
    files = FailingFiles()
    log = await open_with(tmp_path, files)
    files.fail = raiser("allocate", errno.ENOSPC)
    files.calls.clear()
    waiting = asyncio.ensure_future(log.append([bytes(FILE_BYTES)]))
    async with asyncio.timeout(10):
        await files.was_called("allocate")
        await log.close(clean=True)
    with pytest.raises(LogFailed, match="disk was full"):
        await waiting


async def test_a_bug_in_the_writing_thread_answers_everybody(tmp_path: Path) -> None:
    """Writers would wait for ever for a thread that is gone."""
    files = FailingFiles()
    log = await open_with(tmp_path, files)

    def bug(call: str) -> None:
        raise ZeroDivisionError(call)

    files.fail = bug
    with pytest.raises(LogFailed, match="a bug"):
        await log.append([b"x"])
    with pytest.raises(LogFailed):
        await log.append([b"y"])
    await log.close(clean=True)


async def test_appends_that_wait_share_a_sync(tmp_path: Path) -> None:
    """Throughput would be one frame per sync."""
    files = FailingFiles()
    log = await open_with(tmp_path, files)
    gate = threading.Event()
    files.fail = lambda call: (gate.wait(10), None)[1] if call == "write" else None
    files.calls.clear()
    first = asyncio.ensure_future(log.append([b"first"]))
    async with asyncio.timeout(10):
        await files.was_called("write")
    others = [asyncio.ensure_future(log.append([b"%d" % n])) for n in range(20)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *others)
    assert files.calls.count("sync") == 2
    await log.close(clean=True)


async def test_an_unclean_predecessor_gives_its_unused_space_back(tmp_path: Path) -> None:
    """Each crash would cost the disk a whole preallocated file."""
    await write_log(tmp_path, epochs=1, frames=1, clean=False)
    (path,) = log_files(tmp_path)
    assert path.stat().st_size == FILE_BYTES
    await read_log(tmp_path)
    assert path.stat().st_size < FILE_BYTES


async def test_truncation_reaches_over_epochs(tmp_path: Path) -> None:
    """Every restart would leave files behind for ever."""
    await write_log(tmp_path, epochs=3, frames=10, clean=False)
    store = new_store(tmp_path)
    log = await store.open(CONTAINER, owner="writer")
    snapshot = await log.append([b"state"], snapshot=True)
    await log.truncate(snapshot)
    assert len(log_files(tmp_path)) == 1
    assert sorted(os.listdir(tmp_path / "0")) == ["4", "EPOCH-4"]
    await log.append([b"next"])
    await log.close(clean=False)
    await store.close()
    assert await read_log(tmp_path) == [b"state", b"next"]
