"""The file object store: what only a file system can do to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from anabranch_kit.adapters import file_object_store
from anabranch_kit.adapters.file_object_store import FOOTER, FileObjectStore
from anabranch_kit.adapters.object_stores import open_object_store
from anabranch_kit.ids import new_id
from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectNotFound,
    ObjectStoreUnavailable,
    UnsupportedObjectStore,
)
from anabranch_testkit.fakes import FakeClock

CONTENT = bytes(range(200))


async def test_every_cut_is_detected(tmp_path: Path) -> None:
    """A file that lost its tail would be served as a whole object (faults F11)."""
    store = FileObjectStore(tmp_path)
    await store.create("c/cut", [CONTENT])
    path = tmp_path / "objects" / "c" / "cut"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ObjectDamaged):
            await store.read("c/cut", 0, 10)
    await store.close()


async def test_every_flipped_bit_of_the_footer_is_detected(tmp_path: Path) -> None:
    """A wrong length or checksum would be believed (faults F11)."""
    store = FileObjectStore(tmp_path)
    await store.create("c/flip", [CONTENT])
    path = tmp_path / "objects" / "c" / "flip"
    whole = path.read_bytes()
    for bit in range(8 * FOOTER.size):
        damaged = bytearray(whole)
        damaged[len(CONTENT) + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ObjectDamaged):
            await store.head("c/flip")
    await store.close()


async def test_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk would read like a bug, or leave half an object under its name."""
    store = FileObjectStore(tmp_path)

    def full(_descriptor: int, _block: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_object_store.os, "write", full)
    with pytest.raises(ObjectStoreUnavailable, match="free space under"):
        await store.create("c/full", [CONTENT])
    monkeypatch.undo()
    with pytest.raises(ObjectNotFound):
        await store.head("c/full")
    assert list((tmp_path / "incoming").iterdir()) == []
    await store.create("c/full", [CONTENT])
    await store.close()


async def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    """A crash would cost its disk space for ever, or opening would break another's write."""
    import fcntl

    first = FileObjectStore(tmp_path)
    (tmp_path / "incoming" / "dead").write_bytes(b"half an obj")
    living = tmp_path / "incoming" / "living"
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = FileObjectStore(tmp_path)
        assert [path.name for path in (tmp_path / "incoming").iterdir()] == ["living"]
    await first.close()
    await second.close()


async def test_objects_are_durable_before_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut would take an object whose bytes the log has already let go."""
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def record_fsync(descriptor: int) -> None:
        steps.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_link(source: str, target: Path) -> None:
        steps.append("link")
        link(source, target)

    store = FileObjectStore(tmp_path)
    monkeypatch.setattr(file_object_store.os, "fsync", record_fsync)
    monkeypatch.setattr(file_object_store.os, "link", record_link)
    await store.create("new/one", [CONTENT])
    file = steps[0]
    assert steps == [file, "sync objects", "link", "sync new"]
    assert file.startswith("sync tmp")
    await store.close()


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "c/../../up", "c//x", ".hidden", "c/"]
)
async def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    """A wrong name would write outside tier 2."""
    store = FileObjectStore(tmp_path)
    with pytest.raises(AssertionError, match="no object name"):
        await store.create(name, [b"x"])
    await store.close()


async def test_urls(tmp_path: Path) -> None:
    """A wrong address of tier 2 would be found out when the log is full."""
    clock = FakeClock()
    store = await open_object_store(f"file://{tmp_path}/with%20space", clock=clock, new_id=new_id)
    await store.create("c/one", [b"1"])
    assert (tmp_path / "with space" / "objects" / "c" / "one").exists()
    await store.close()
    for url in ("ftp://bucket/prefix", "/plain/path", "file://host/path", "file:relative"):
        with pytest.raises(UnsupportedObjectStore, match="file:///absolute/path"):
            await open_object_store(url, clock=clock, new_id=new_id)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ObjectStoreUnavailable, match=str(tmp_path / "file")):
        await open_object_store(f"file://{tmp_path}/file", clock=clock, new_id=new_id)
