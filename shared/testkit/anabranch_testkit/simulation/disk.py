"""A disk under the real FileLog: what is written is cached, what is synced is durable.

Files are nodes with two contents, the cached one that everybody reads and the durable one that a
power cut leaves; directories have two sets of names likewise. A cut keeps a random part of what
was not synced: sectors of content, the length, each name by itself. That is more than any one
file system does, and all that POSIX allows.

* `fail_syncs`: the next syncs raise EIO. As on Linux the pages count as clean afterwards, are
  still read back, and are gone after a power cut.
* `is_full`: allocating and growing raise ENOSPC.
* `flip`: a bit of a file changes, in both contents.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from anabranch_segmentstore.adapters.file_log_files import LocalFiles

from anabranch_testkit.simulation.loop import Process, SimulatedLoop

SECTOR_BYTES = 512
SYNC_S = (0.0004, 0.004)
CALL_S = (0.00001, 0.0003)
SLOW_SYNC_S = (0.05, 1.5)


class Node:
    """A file. Sectors are `dirty` until a sync, `forgotten` after a failed one."""

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()
        self.forgotten: set[int] = set()

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if end > len(self.cached):
            self.cached.extend(bytes(end - len(self.cached)))
        self.cached[offset:end] = data
        sectors = range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES))
        self.dirty.update(sectors)
        self.forgotten.difference_update(sectors)

    def resize(self, length: int) -> None:
        if length < len(self.cached):
            del self.cached[length:]
        else:
            self.cached.extend(bytes(length - len(self.cached)))

    def sync(self) -> None:
        self._settle_length(len(self.cached))
        for sector in self.dirty:
            self._settle(sector)
        self.dirty.clear()

    def fail_sync(self) -> None:
        self.forgotten |= self.dirty
        self.dirty.clear()

    def lose_power(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            self._settle_length(len(self.cached))
        for sector in sorted(self.dirty):
            if chance.random() < 0.5:
                self._settle(sector)
        self.cached = bytearray(self.durable)
        self.dirty.clear()
        self.forgotten.clear()

    def _settle_length(self, length: int) -> None:
        if length < len(self.durable):
            del self.durable[length:]
        else:
            self.durable.extend(bytes(length - len(self.durable)))

    def _settle(self, sector: int) -> None:
        begin = sector * SECTOR_BYTES
        piece = self.cached[begin : begin + SECTOR_BYTES][: max(0, len(self.durable) - begin)]
        self.durable[begin : begin + len(piece)] = piece


class Directory:
    def __init__(self) -> None:
        self.cached: dict[str, Node | Directory] = {}
        self.durable: dict[str, Node | Directory] = {}

    def sync(self) -> None:
        self.durable = dict(self.cached)

    def lose_power(self, chance: random.Random) -> None:
        for name in sorted({*self.cached, *self.durable}):
            before, now = self.durable.get(name), self.cached.get(name)
            if now is before or chance.random() < 0.5:
                continue
            if now is None:
                del self.durable[name]
            else:
                self.durable[name] = now
        self.cached = dict(self.durable)
        for name in sorted(self.cached):
            self.cached[name].lose_power(chance)


class Disk:
    """One file system that the processes of a host share."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.root = Directory()
        self.chance = random.Random(f"{loop.seed}/disk")
        self.fail_syncs = 0
        self.is_full = False
        self.is_slow = False
        self.descriptors: dict[int, Node] = {}
        self.paths: dict[int, Path] = {}
        self._next_descriptor = 3

    def files(self, process: Process) -> SimulatedFiles:
        return SimulatedFiles(self, process)

    def lose_power(self) -> None:
        """All processes must be dead. What was not synced goes, in part or as a whole."""
        self.loop.trace("disk.power_lost")
        self.root.lose_power(self.chance)
        self.descriptors.clear()

    def flip(self, path: Path, offset: int, bit: int) -> None:
        node = self.node(path)
        node.cached[offset] ^= 1 << bit
        if offset < len(node.durable):
            node.durable[offset] ^= 1 << bit

    # --- Names ---

    def directory(self, path: Path) -> Directory:
        found: Node | Directory = self.root
        for part in path.parts[1:]:
            if not isinstance(found, Directory):
                raise _error(errno.ENOTDIR, path)
            if part not in found.cached:
                raise _error(errno.ENOENT, path)
            found = found.cached[part]
        if not isinstance(found, Directory):
            raise _error(errno.ENOTDIR, path)
        return found

    def node(self, path: Path) -> Node:
        found = self.directory(path.parent).cached.get(path.name)
        if found is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(found, Node):
            raise _error(errno.EISDIR, path)
        return found

    def walk(self, path: Path = Path("/")) -> list[Path]:
        """All files below, in order."""
        files: list[Path] = []
        for name, found in sorted(self.directory(path).cached.items()):
            if isinstance(found, Directory):
                files += self.walk(path / name)
            else:
                files.append(path / name)
        return files

    def open(self, node: Node, path: Path) -> int:
        self._next_descriptor += 1
        self.descriptors[self._next_descriptor] = node
        self.paths[self._next_descriptor] = path
        return self._next_descriptor


class SimulatedFiles(LocalFiles):
    """A process's view of the disk. Each call takes time before and after what it does, so that
    others come in between, and a crash finds it done and not noticed."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk, self._process = disk, process
        self._chance = process.chance

    def _pass(self, seconds: tuple[float, float] = CALL_S) -> None:
        self._process.loop.blocking.pause(self._chance.uniform(*seconds))

    # --- Names ---

    def names(self, directory: Path) -> list[str]:
        self._pass()
        names = list(self._disk.directory(directory).cached)
        if self._chance.random() < 0.1:
            self._pass()
        return names

    def make_directory(self, directory: Path) -> None:
        self._pass()
        parent = self._disk.directory(directory.parent)
        if directory.name in parent.cached:
            raise _error(errno.EEXIST, directory)
        parent.cached[directory.name] = Directory()

    def make_directories(self, directory: Path) -> None:
        for path in (*reversed(directory.parents), directory):
            if path.name:
                self._disk.directory(path.parent).cached.setdefault(path.name, Directory())

    def sync_directory(self, directory: Path) -> None:
        self._pass(SYNC_S)
        self._check_sync(directory)
        self._disk.directory(directory).sync()

    def link(self, source: Path, target: Path) -> None:
        self._pass()
        node = self._disk.node(source)
        parent = self._disk.directory(target.parent)
        if target.name in parent.cached:
            raise _error(errno.EEXIST, target)
        parent.cached[target.name] = node
        self._trace("link", target)
        self._pass()

    def replace(self, source: Path, target: Path) -> None:
        """rename(2). FileLog has no use for it; a planted bug has."""
        self._pass()
        node = self._disk.node(source)
        del self._disk.directory(source.parent).cached[source.name]
        self._disk.directory(target.parent).cached[target.name] = node
        self._trace("rename", target)
        self._pass()

    def remove(self, path: Path) -> None:
        self._pass()
        self._disk.node(path)
        del self._disk.directory(path.parent).cached[path.name]
        self._trace("remove", path)

    def remove_directory(self, directory: Path) -> None:
        self._pass()
        if self._disk.directory(directory).cached:
            raise _error(errno.ENOTEMPTY, directory)
        del self._disk.directory(directory.parent).cached[directory.name]

    # --- Content ---

    def create(self, path: Path) -> int:
        self._pass()
        parent = self._disk.directory(path.parent)
        if path.name in parent.cached:
            raise _error(errno.EEXIST, path)
        node = parent.cached[path.name] = Node()
        return self._disk.open(node, path)

    def open(self, path: Path) -> int:
        self._pass()
        return self._disk.open(self._disk.node(path), path)

    def close(self, descriptor: int) -> None:
        self._disk.descriptors.pop(descriptor, None)

    def allocate(self, descriptor: int, length: int) -> None:
        self._pass()
        node = self._node(descriptor)
        if self._disk.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        node.resize(max(length, len(node.cached)))

    def size(self, descriptor: int) -> int:
        return len(self._node(descriptor).cached)

    def cut(self, descriptor: int, length: int) -> None:
        self._node(descriptor).resize(length)

    def release_pages(self, path: Path) -> None:
        """What is read comes from the same bytes either way."""

    def trim(self, path: Path, length: int) -> None:
        self._pass()
        self._disk.node(path).resize(length)

    def write(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        node = self._node(descriptor)
        data = b"".join(parts)
        if self._disk.is_full and offset + len(data) > len(node.cached):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # Others may see a part of it, but of a sector all or nothing.
        cut_at = (offset + self._chance.randrange(len(data) + 1)) // SECTOR_BYTES * SECTOR_BYTES
        middle = max(0, cut_at - offset)
        node.write(data[:middle], offset)
        self._pass()
        node.write(data[middle:], offset + middle)

    def rewrite(self, path: Path, data: bytes) -> None:
        descriptor = self.open(path)
        self.write(descriptor, [data], 0)
        self.sync(descriptor)
        self.close(descriptor)

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        return bytes(self._node(descriptor).cached[offset : offset + length])

    def sync(self, descriptor: int) -> None:
        is_slow = self._disk.is_slow and self._chance.random() < 0.3
        self._pass(SLOW_SYNC_S if is_slow else SYNC_S)
        node, path = self._node(descriptor), self._disk.paths[descriptor]
        self._check_sync(path, node.fail_sync)
        node.sync()
        self._trace("sync", path)
        self._pass()

    # --- Helpers ---

    def _node(self, descriptor: int) -> Node:
        node = self._disk.descriptors.get(descriptor)
        if node is None:
            raise _error(errno.EBADF, descriptor)
        return node

    def _check_sync(self, path: Path, fail: Callable[[], None] = lambda: None) -> None:
        if self._disk.fail_syncs > 0:
            self._disk.fail_syncs -= 1
            fail()
            self._trace("sync failed", path)
            raise _error(errno.EIO, path)

    def _trace(self, what: str, path: Path) -> None:
        self._process.loop.trace(f"disk.{what}", self._process.name, path)


def _error(code: int, where: object) -> OSError:
    return OSError(code, os.strerror(code), str(where))
