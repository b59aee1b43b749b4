"""A take-over that looks while another one writes (found by seed 72 of the simulation)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.file_log_files import LocalFiles
from anabranch_segmentstore.adapters.file_log_format import FIRST_RECORD_BYTES
from anabranch_segmentstore.ports import ContainerId

CONTAINER = ContainerId(0)


class FirstLookFindsNothing(LocalFiles):
    """The first record of a file is written just after it was looked for."""

    def __init__(self) -> None:
        self.looks = 0

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        data = super().read(descriptor, length, offset)
        if (length, offset) == (FIRST_RECORD_BYTES, 0):
            self.looks += 1
            return bytes(len(data)) if self.looks == 1 else data
        return data


async def test_a_first_record_written_between_two_looks_is_no_damage(tmp_path: Path) -> None:
    """A container would be given up as damaged when two stores take it over at once (F34)."""
    store = FileLogStore(tmp_path, new_id=uuid.uuid4, file_bytes=64 * 1024)
    log = await store.open(CONTAINER, owner="first")
    await log.append([b"acknowledged"])
    await log.close(clean=False)
    await store.close()

    racing = FileLogStore(
        tmp_path, new_id=uuid.uuid4, files=FirstLookFindsNothing(), file_bytes=64 * 1024
    )
    log = await racing.open(CONTAINER, owner="second")
    assert [frame.payload async for frame in log.replay()] == [b"acknowledged"]
    await log.close(clean=True)
    await racing.close()


class DiesBeforeItsFirstRecordIsDurable(LocalFiles):
    """`written` is the file whose first record is in the page cache alone."""

    def __init__(self) -> None:
        self.written: Path | None = None
        self._paths: dict[int, Path] = {}

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        super().write(descriptor, parts, offset)
        if offset == 0 and self._paths[descriptor].suffix == ".wal":
            self.written = self._paths[descriptor]
            raise Killed


class Killed(Exception):
    pass


class NotesRewrites(LocalFiles):
    def __init__(self) -> None:
        self.rewritten: list[Path] = []

    def rewrite(self, path: Path, data: bytes) -> None:
        super().rewrite(path, data)
        self.rewritten.append(path)


async def test_an_epoch_builds_only_on_a_durable_one(tmp_path: Path) -> None:
    """A container would be refused as damaged, with all that was acknowledged since, when an
    owner is killed in its take-over and the power goes a while later (F12, F35; found by seed
    139 of the simulation)."""
    files = DiesBeforeItsFirstRecordIsDurable()
    killed = FileLogStore(tmp_path, new_id=uuid.uuid4, files=files, file_bytes=64 * 1024)
    with pytest.raises(Killed):
        await killed.open(CONTAINER, owner="killed")
    await killed.close()
    assert files.written is not None

    notes = NotesRewrites()
    second = FileLogStore(tmp_path, new_id=uuid.uuid4, files=notes, file_bytes=64 * 1024)
    log = await second.open(CONTAINER, owner="second")
    await log.append([b"acknowledged"])
    await log.close(clean=False)
    await second.close()

    if files.written not in notes.rewritten:  # then a power cut takes it
        with files.written.open("r+b") as file:
            file.write(bytes(FIRST_RECORD_BYTES))
    third = FileLogStore(tmp_path, new_id=uuid.uuid4, file_bytes=64 * 1024)
    log = await third.open(CONTAINER, owner="third")
    assert [frame.payload async for frame in log.replay()] == [b"acknowledged"]
    await log.close(clean=True)
    await third.close()
