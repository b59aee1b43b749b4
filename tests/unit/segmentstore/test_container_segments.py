"""Merges, attributes, deletion: what a commit and a controller ask for."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from anabranch_segmentstore.api import NO_EVENT, NULL_ATTRIBUTE, AttributeUpdate
from anabranch_segmentstore.domain.errors import (
    AttributeConditionFailed,
    ContainerStopped,
    Misuse,
    NoSuchSegment,
    SegmentExists,
    SegmentSealed,
)
from anabranch_segmentstore.ports import LogFailed, LogFenced

SEGMENT = "scope/stream/0.#epoch.0"
SOURCE = SEGMENT + "#transaction.00000000000000010000000000000002"
MARK = UUID(int=1 << 100)


async def two(rig, data: bytes = b"txn") -> None:
    await rig.create(SEGMENT)
    await rig.create(SOURCE)
    await rig.append(b"head", segment=SEGMENT)
    if data:
        await rig.append(data, segment=SOURCE)


async def test_a_merge_appends_the_source_and_deletes_it(rig) -> None:
    """A committed transaction would not be readable, or be readable twice."""
    await two(rig)
    assert await rig.container.merge_segment(SEGMENT, SOURCE) == 7
    assert await rig.read_all() == b"headtxn"
    with pytest.raises(NoSuchSegment):
        await rig.container.segment_info(SOURCE)
    await rig.append(b"tail")
    assert await rig.container.merge_segment(SEGMENT, SOURCE) == 11, "done already"
    await rig.restart()
    assert await rig.read_all() == b"headtxntail"
    assert await rig.container.merge_segment(SEGMENT, SOURCE) == 11


async def test_a_merge_wakes_readers_of_both_segments(rig) -> None:
    """Readers at the tail would sleep through a commit."""
    await two(rig)
    target = asyncio.ensure_future(rig.container.read(SEGMENT, 4, 100))
    source = asyncio.ensure_future(rig.container.read(SOURCE, 3, 100))
    await asyncio.sleep(0)
    await rig.container.merge_segment(SEGMENT, SOURCE)
    assert bytes((await target).data) == b"txn"
    assert (await source).sealed_while_waiting


async def test_an_empty_source_merges_once(rig) -> None:
    """An empty transaction would make its commit fail."""
    await two(rig, b"")
    updates = [AttributeUpdate(MARK, 1, 5)]
    assert await rig.container.merge_segment(SEGMENT, SOURCE, updates) == 4
    assert await rig.container.attribute(SEGMENT, MARK) == 5
    with pytest.raises(NoSuchSegment):
        await rig.container.merge_segment(SEGMENT, SOURCE)


async def test_a_refused_merge_leaves_the_source_sealed_and_whole(rig) -> None:
    """A commit that fails would lose the transaction's events."""
    await two(rig)
    with pytest.raises(AttributeConditionFailed):
        await rig.container.merge_segment(SEGMENT, SOURCE, [AttributeUpdate(MARK, 4, 1, 9)])
    assert (await rig.container.segment_info(SOURCE)).is_sealed
    assert await rig.read_all(SOURCE) == b"txn"
    await rig.container.seal_segment(SEGMENT)
    with pytest.raises(SegmentSealed) as refused:
        await rig.container.merge_segment(SEGMENT, SOURCE)
    assert refused.value.segment == SEGMENT
    with pytest.raises(SegmentSealed):
        await rig.container.merge_segment(SOURCE, SOURCE)


async def test_a_truncated_source_is_not_merged(rig) -> None:
    """The target would get a hole."""
    await two(rig)
    await rig.container.truncate_segment(SOURCE, 1)
    with pytest.raises(Misuse):
        await rig.container.merge_segment(SEGMENT, SOURCE)


async def test_attributes_change_all_or_none(rig) -> None:
    """A compare-and-set would half happen."""
    await rig.create()
    other = UUID(int=3)
    await rig.container.update_attributes(SEGMENT, [AttributeUpdate(MARK, 4, 10)])
    with pytest.raises(AttributeConditionFailed):
        await rig.container.update_attributes(
            SEGMENT, [AttributeUpdate(other, 1, 1), AttributeUpdate(MARK, 4, 11, expected=9)]
        )
    assert await rig.container.attribute(SEGMENT, other) == NULL_ATTRIBUTE
    await rig.container.update_attributes(
        SEGMENT,
        [
            AttributeUpdate(MARK, 3, 5),
            AttributeUpdate(other, 0, 2),
            AttributeUpdate(other, 2, 4),
        ],
    )
    await rig.restart()
    assert await rig.container.attribute(SEGMENT, MARK) == 15
    assert await rig.container.attribute(SEGMENT, other) == 4
    await rig.container.update_attributes(SEGMENT, [AttributeUpdate(MARK, 1, NULL_ATTRIBUTE)])
    assert await rig.container.attribute(SEGMENT, MARK) == NULL_ATTRIBUTE


async def test_a_deleted_segment_can_be_created_again_empty(rig) -> None:
    """A name would be lost for ever, or come back with old bytes."""
    await rig.create()
    await rig.append(b"old", number=9)
    with pytest.raises(SegmentExists):
        await rig.create()
    await rig.container.delete_segment(SEGMENT)
    await rig.create()
    assert (await rig.container.segment_info(SEGMENT)).length == 0
    assert await rig.container.setup_append(SEGMENT, UUID(int=7)) == NO_EVENT
    await rig.append(b"new")
    await rig.restart()
    assert await rig.read_all() == b"new"


async def test_a_failed_log_ends_the_container_and_everything_that_waits(rig) -> None:
    """A client would wait for ever, or get an answer that nothing stands behind."""
    await rig.create()
    rig.log.hold_syncs = True
    append = rig.send(b"a", after=NO_EVENT, number=1)
    seal = asyncio.ensure_future(rig.container.seal_segment(SEGMENT))
    for _ in range(3):
        await asyncio.sleep(0)
    rig.log.fail("the disk broke")
    assert isinstance(await append, LogFailed)
    with pytest.raises(ContainerStopped):
        await seal
    assert isinstance(await rig.container.wait_ended(), LogFailed)
    with pytest.raises(ContainerStopped):
        await rig.container.segment_info(SEGMENT)
    assert isinstance(await rig.send(b"b", after=NO_EVENT, number=1), ContainerStopped)


async def test_a_fenced_container_acknowledges_nothing(rig) -> None:
    """Two stores would both append to one container."""
    await rig.create()
    await rig.store.open(0, owner="another")
    assert isinstance(await rig.send(b"a", after=NO_EVENT, number=1), LogFenced)


async def test_too_many_waiting_bytes_make_the_container_busy(rig) -> None:
    """A disk slower than the network would fill the memory."""
    await rig.create()
    rig.log.hold_syncs = True
    block = b"x" * (8 * 1024 * 1024)
    answers = [rig.send(block, after=n - 1 if n > 1 else NO_EVENT, number=n) for n in range(1, 6)]
    assert rig.container.is_busy
    idle = asyncio.Event()
    rig.container.when_idle(idle.set)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not idle.is_set()
    while not idle.is_set():
        rig.log.sync()
        await asyncio.sleep(0)
    assert not rig.container.is_busy
    rig.log.hold_syncs = False
    while not answers[-1].done():
        rig.log.sync()
        await asyncio.sleep(0)
