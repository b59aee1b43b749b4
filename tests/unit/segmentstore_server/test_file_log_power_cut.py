"""FileLog under power cuts: what was not synced is lost, in part or as a whole (F9, F12).

`PowerCutFiles` lets every call through to real files, and remembers how to take back what no
sync has made durable: sectors of writes, lengths, and names in directories. At a chosen call the
"process" dies; then a random part of all that is taken back, and the log is opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.ports import ContainerId, LogError, LogPosition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

CONTAINER = ContainerId(5)
FILE_BYTES = 24 * 1024
SECTOR_BYTES = 512
EXAMPLES = int(os.environ.get("POWER_CUT_EXAMPLES", "60"))  # more of them by hand


class Dead(Exception):
    """The power is off."""


class PowerCutFiles(LocalFiles):
    """Dies at call number `calls`, counted from 0."""

    def __init__(self, limbo: Path, calls: int) -> None:
        self.limbo, self.calls = limbo, calls
        self.paths: dict[int, Path] = {}
        self.unsynced: dict[Path, list[tuple[int, bytes]]] = {}  # what writes replaced
        self.sizes: dict[Path, int] = {}  # before the first unsynced change
        self.made: dict[Path, list[Path]] = {}  # names by directory, not durable yet
        self.removed: dict[Path, list[tuple[Path, Path]]] = {}  # names and where they are kept

    def _count(self) -> None:
        if self.calls <= 0:
            raise Dead
        self.calls -= 1

    # --- Names ---

    def make_directory(self, directory: Path) -> None:
        self._count()
        super().make_directory(directory)
        self.made.setdefault(directory.parent, []).append(directory)

    def create(self, path: Path) -> int:
        self._count()
        descriptor = super().create(path)
        self.paths[descriptor] = path
        self.made.setdefault(path.parent, []).append(path)
        return descriptor

    def link(self, source: Path, target: Path) -> None:
        self._count()
        super().link(source, target)
        self.made.setdefault(target.parent, []).append(target)

    def remove(self, path: Path) -> None:
        self._count()
        if path in self.made.get(path.parent, []):
            self.made[path.parent].remove(path)
        else:
            kept = self.limbo / uuid.uuid4().hex
            os.link(path, kept)
            self.removed.setdefault(path.parent, []).append((path, kept))
        super().remove(path)

    def sync_directory(self, directory: Path) -> None:
        self._count()
        self.made.pop(directory, None)
        self.removed.pop(directory, None)

    # --- Content ---

    def _remember_size(self, path: Path) -> None:
        self.sizes.setdefault(path, path.stat().st_size)

    def allocate(self, descriptor: int, length: int) -> None:
        self._count()
        self._remember_size(self.paths[descriptor])
        super().allocate(descriptor, length)

    def cut(self, descriptor: int, length: int) -> None:
        self._count()
        self._remember_size(self.paths[descriptor])
        super().cut(descriptor, length)

    def write(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        path = self.paths[descriptor]
        self._remember_size(path)
        data = b"".join(parts)
        # A write that the power cut meets has done a part of its work.
        is_cut_short = self.calls <= 0
        replaced = path.read_bytes()[offset : offset + len(data)].ljust(len(data), b"\0")
        self.unsynced.setdefault(path, []).append((offset, replaced))
        super().write(descriptor, [data], offset)
        if is_cut_short:
            raise Dead
        self._count()

    def rewrite(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY)
        self.paths[descriptor] = path
        try:
            self.write(descriptor, [data], 0)
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def sync(self, descriptor: int) -> None:
        self._count()
        path = self.paths[descriptor]
        self.unsynced.pop(path, None)
        self.sizes.pop(path, None)

    # --- The cut ---

    def take_back(self, chance: random.Random) -> None:
        """Lose a random part of what was never synced."""
        for path, writes in self.unsynced.items():
            for offset, replaced in reversed(writes):
                self._take_back_write(path, offset, replaced, chance)
        for path, size in self.sizes.items():
            # A shorter file gets its length back, a longer one may lose what is unsynced.
            if path.exists() and chance.random() < 0.5 and size >= path.stat().st_size:
                os.truncate(path, size)
        for pairs in self.removed.values():
            for path, kept in pairs:
                if chance.random() < 0.5 and path.parent.exists():
                    os.link(kept, path)
        for paths in self.made.values():
            for path in paths:
                if chance.random() < 0.5:
                    with contextlib.suppress(FileNotFoundError):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _take_back_write(
        self, path: Path, offset: int, replaced: bytes, chance: random.Random
    ) -> None:
        if not path.exists():
            return
        with path.open("r+b") as file:
            at = offset
            end = offset + len(replaced)
            while at < end:
                sector_end = min((at // SECTOR_BYTES + 1) * SECTOR_BYTES, end)
                if chance.random() < 0.5:
                    file.seek(at)
                    file.write(replaced[at - offset : sector_end - offset])
                at = sector_end


async def live(files: PowerCutFiles, directory: Path, chance: random.Random, seen: History) -> None:
    """Open, check, write and truncate until the power goes off."""
    store = FileLogStore(directory, new_id=uuid.uuid4, files=files, file_bytes=FILE_BYTES)
    try:
        log = await store.open(CONTAINER, owner="test")
    except Dead:
        await store.close()
        return
    try:
        seen.check(
            [(frame.position, frame.payload) async for frame in log.replay()], log.last_position
        )
        for _ in range(chance.randrange(60)):
            match chance.randrange(12):
                case 0:
                    payload = b"snapshot %d" % chance.getrandbits(30)
                    position = await log.append([payload], snapshot=True)
                    seen.snapshot, seen.frames[position] = position, payload
                case 1:
                    before = chance.randint(1, max(1, seen.snapshot))
                    await log.truncate(LogPosition(before))
                case _:
                    payload = chance.randbytes(chance.choice((0, 10, 700, 3000)))
                    seen.attempted = payload
                    seen.frames[await log.append([payload])] = payload
        await log.close(clean=chance.random() < 0.5)
    except (Dead, LogError):
        pass
    finally:
        files.calls = 0
        await log.close(clean=False)
        await store.close()


class History:
    """What was acknowledged."""

    def __init__(self) -> None:
        self.frames: dict[int, bytes] = {}
        self.snapshot = 0
        self.attempted = b""

    def check(self, found: list[tuple[int, bytes]], last_position: int) -> None:
        """All that was acknowledged from the newest snapshot on is there, in order; at most
        what was under way came on top."""
        positions = [position for position, _ in found]
        assert positions == list(range(last_position - len(found) + 1, last_position + 1))
        acknowledged = max(self.frames, default=0)
        assert last_position >= acknowledged, f"{acknowledged} was lost"
        for position, payload in found:
            assert self.frames.get(position, payload) == payload
            self.frames[position] = payload  # it is durable now, acknowledged or not
        if found and positions[0] > 1:
            self.snapshot = max(self.snapshot, positions[0])
        assert not found or positions[0] <= max(self.snapshot, 1)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 120), min_size=1, max_size=5),
)
def test_nothing_acknowledged_is_lost_to_power_cuts(seed: int, cuts: list[int]) -> None:
    """A power cut would lose acknowledged events, or a container would refuse to start after
    one (F9, F12)."""
    chance, seen = random.Random(seed), History()
    root = Path(tempfile.mkdtemp(prefix="filelog-power-"))
    try:
        directory, limbo = root / "wal", root / "limbo"
        directory.mkdir()
        limbo.mkdir()
        for calls in [*cuts, 1_000_000]:
            files = PowerCutFiles(limbo, calls)
            with capture_logs():  # every cut is a bug in the eyes of the log, with a traceback
                asyncio.run(live(files, directory, chance, seen))
            files.take_back(chance)
    finally:
        shutil.rmtree(root)
