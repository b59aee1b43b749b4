"""Reads: flags, held reads at the tail, and the places that bytes come from."""

from __future__ import annotations

import asyncio

import pytest
from anabranch_segmentstore.api import NO_EVENT, ReadResult
from anabranch_segmentstore.domain.errors import Misuse, NoSuchSegment, SegmentTruncated

SEGMENT = "scope/stream/0.#epoch.0"


async def hold(rig, offset: int, segment: str = SEGMENT) -> asyncio.Task[ReadResult]:
    read = asyncio.ensure_future(rig.container.read(segment, offset, 100))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not read.done(), "the read was to be held"
    return read


async def test_a_read_at_the_tail_waits_for_the_next_append(rig) -> None:
    """Readers would have to poll."""
    await rig.create()
    read = await hold(rig, 0)
    await rig.send(b"", after=NO_EVENT, number=1)
    assert not read.done()
    await rig.send(b"data", after=1, number=2)
    result = await read
    assert (bytes(result.data), result.at_tail, result.end_of_segment) == (b"data", True, False)


async def test_a_read_beyond_the_tail_waits_until_the_segment_has_grown(rig) -> None:
    """A reader that comes with a position of the future would get bytes from elsewhere."""
    await rig.create()
    read = await hold(rig, 3)
    await rig.send(b"abc", after=NO_EVENT, number=1)
    await asyncio.sleep(0)
    assert not read.done()
    await rig.send(b"def", after=1, number=2)
    assert bytes((await read).data) == b"def"


async def test_a_seal_ends_held_reads_and_later_reads_see_the_end(rig) -> None:
    """Readers would wait on a segment that never grows again."""
    await rig.create()
    await rig.send(b"abc", after=NO_EVENT, number=1)
    read = await hold(rig, 3)
    await rig.container.seal_segment(SEGMENT)
    assert (await read).sealed_while_waiting
    assert await rig.container.read(SEGMENT, 3, 100) == ReadResult(3, b"", False, True)
    result = await rig.container.read(SEGMENT, 0, 100)
    assert (bytes(result.data), result.at_tail, result.end_of_segment) == (b"abc", False, True)
    with pytest.raises(Misuse):
        await rig.container.read(SEGMENT, 4, 100)


async def test_a_delete_or_a_stop_ends_held_reads_empty(rig) -> None:
    """A held read would leak with its connection."""
    await rig.create()
    read = await hold(rig, 0)
    await rig.container.delete_segment(SEGMENT)
    assert await read == ReadResult(0, b"", True, False)
    with pytest.raises(NoSuchSegment):
        await rig.container.read(SEGMENT, 0, 100)
    await rig.create()
    read = await hold(rig, 0)
    await rig.container.stop()
    assert await read == ReadResult(0, b"", True, False)


async def test_a_cancelled_held_read_leaves_nothing_behind(rig) -> None:
    """Each time-out of a Rust reader would leave a read in memory."""
    await rig.create()
    read = await hold(rig, 0)
    read.cancel()
    await asyncio.gather(read, return_exceptions=True)
    assert not rig.container._held


async def test_truncation_hides_what_is_below_and_nothing_else(rig) -> None:
    """A stream cut would remove too much, or too little."""
    await rig.create()
    await rig.send(b"abc", after=NO_EVENT, number=1)
    await rig.send(b"def", after=1, number=2)
    await rig.container.truncate_segment(SEGMENT, 4)
    with pytest.raises(SegmentTruncated) as refused:
        await rig.container.read(SEGMENT, 3, 100)
    assert refused.value.start_offset == 4
    assert await rig.read_all() == b"ef"
    await rig.restart()
    assert await rig.read_all() == b"ef"
    await rig.container.truncate_segment(SEGMENT, 6)
    assert (await rig.container.segment_info(SEGMENT)).length == 6
    with pytest.raises(SegmentTruncated):
        await rig.container.truncate_segment(SEGMENT, 5)


async def test_readers_see_only_what_is_durable(rig) -> None:
    """A reader would act on bytes that a crash takes back."""
    await rig.create()
    await rig.send(b"abc", after=NO_EVENT, number=1)
    rig.log.hold_syncs = True
    answer = rig.send(b"def", after=1, number=2)
    await asyncio.sleep(0)
    assert bytes((await rig.container.read(SEGMENT, 0, 100)).data) == b"abc"
    read = await hold(rig, 3)
    rig.log.sync()
    assert bytes((await read).data) == b"def"
    await answer


async def test_bytes_that_left_the_cache_come_from_the_log(rig) -> None:
    """The cache is bounded, what is stored is not."""
    await rig.create()
    rig.cache.bytes_max = 2000
    expected = b""
    for number in range(1, 60):
        block = bytes([number]) * 100
        expected += block
        await rig.append(block)
    assert rig.cache.bytes_used <= 2000
    assert await rig.read_all() == expected
    rig.cache.bytes_max = 0
    rig.cache.drop_container(0)
    assert await rig.read_all() == expected
