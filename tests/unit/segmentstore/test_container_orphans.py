"""Transient segments whose connections ended with the store that held them."""

from __future__ import annotations

from uuid import UUID

import pytest
from anabranch_segmentstore.domain.errors import NoSuchSegment
from anabranch_wire.attributes import SEGMENT_TYPE, SegmentType
from anabranch_wire.names import transient_segment_name

PARENT = "scope/stream/0.#epoch.0"
WRITER = UUID("00112233-4455-6677-8899-aabbccddeeff")
TRANSIENT = transient_segment_name(PARENT, WRITER, UUID(int=1))
LOOKALIKE = transient_segment_name(PARENT, WRITER, UUID(int=2))


async def make(rig, name: str, kind: SegmentType) -> None:
    await rig.container.create_segment(name, attributes={SEGMENT_TYPE: int(kind)})
    await rig.append(b"data of " + name.encode(), segment=name)


async def test_a_new_opening_deletes_them_and_nothing_else(rig) -> None:
    """Half-written large events would stay for ever after a crash of the store."""
    await make(rig, PARENT, SegmentType.STREAM)
    await make(rig, TRANSIENT, SegmentType.TRANSIENT)
    await make(rig, LOOKALIKE, SegmentType.STREAM)
    await rig.crash()
    with pytest.raises(NoSuchSegment):
        await rig.container.segment_info(TRANSIENT)
    assert await rig.read_all(PARENT) == b"data of " + PARENT.encode()
    assert await rig.read_all(LOOKALIKE) == b"data of " + LOOKALIKE.encode()
    await rig.crash()
    assert set(rig.container.state.segments) == {PARENT, LOOKALIKE}


async def test_a_merged_one_stays_in_its_target(rig) -> None:
    """A large event that was acknowledged would be lost."""
    await make(rig, PARENT, SegmentType.STREAM)
    await make(rig, TRANSIENT, SegmentType.TRANSIENT)
    await rig.container.merge_segment(PARENT, TRANSIENT)
    before = await rig.read_all(PARENT)
    await rig.crash()
    assert await rig.read_all(PARENT) == before
    assert before.endswith(TRANSIENT.encode())
