"""A take-over that looks while another one writes (found by seed 72 of the simulation)."""

from __future__ import annotations

import uuid
from pathlib import Path

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
