"""Appends, their conditions and their answers."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from anabranch_segmentstore.api import NO_EVENT, Append, Appended
from anabranch_segmentstore.domain.attributes import EVENT_COUNT
from anabranch_segmentstore.domain.errors import (
    NoSuchSegment,
    SegmentSealed,
    StaleWriter,
    WrongOffset,
)

SEGMENT = "scope/stream/0.#epoch.0"
WRITER = UUID(int=7)


async def test_what_was_appended_is_read(rig) -> None:
    """A writer's bytes would not come back."""
    await rig.create()
    assert await rig.send(b"hello", after=NO_EVENT, number=1) == Appended(5)
    assert await rig.send(b"world", after=1, number=2) == Appended(10)
    result = await rig.container.read(SEGMENT, 0, 100)
    assert (bytes(result.data), result.at_tail, result.end_of_segment) == (
        b"helloworld",
        True,
        False,
    )


async def test_a_number_that_does_not_follow_is_refused(rig) -> None:
    """A resent block that reaches past what is stored would store events twice."""
    await rig.create()
    await rig.send(b"0", after=NO_EVENT, number=0)
    outcome = await rig.send(b"01", after=NO_EVENT, number=1, events=2)
    assert isinstance(outcome, StaleWriter)
    assert outcome.stored == 0
    assert isinstance(await rig.send(b"0", after=0, number=0), StaleWriter)
    assert await rig.read_all() == b"0"


async def test_pipelined_conditional_appends_cannot_both_pass(rig) -> None:
    """Two writers of a state synchronizer would both believe that they won."""
    await rig.create()
    first = rig.send(b"a", after=NO_EVENT, number=1, expected_offset=0)
    second = rig.send(b"b", after=NO_EVENT, number=1, expected_offset=0, writer=UUID(int=8))
    assert await first == Appended(1)
    outcome = await second
    assert isinstance(outcome, WrongOffset)
    assert outcome.length == 1


async def test_answers_leave_in_log_order(rig) -> None:
    """A refusal that overtakes an acknowledgement makes clients drop what is stored."""
    await rig.create()
    answers = [
        rig.send(b"a", after=NO_EVENT, number=1),
        rig.send(b"x", after=NO_EVENT, number=1, expected_offset=9, writer=UUID(int=8)),
        rig.send(b"b", after=1, number=2),
    ]
    await asyncio.gather(*answers)
    assert [type(outcome) for outcome in rig.outcomes] == [Appended, WrongOffset, Appended]


async def test_nothing_is_answered_before_it_is_durable(rig) -> None:
    """An acknowledged event would be lost by a crash."""
    await rig.create()
    rig.log.hold_syncs = True
    answer = rig.send(b"a", after=NO_EVENT, number=1)
    refused = rig.send(b"b", after=NO_EVENT, number=1)
    setup = asyncio.ensure_future(rig.container.setup_append(SEGMENT, WRITER))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not answer.done()
    assert not refused.done()
    assert not setup.done()
    while not setup.done():
        rig.log.sync()
        await asyncio.sleep(0)
    assert await answer == Appended(1)
    assert isinstance(await refused, StaleWriter)
    assert await setup == 1


async def test_an_empty_append_moves_the_number_and_no_offset(rig) -> None:
    """Java's writer flushes with empty appends and would wait for ever."""
    await rig.create()
    assert await rig.send(b"", after=NO_EVENT, number=5) == Appended(0)
    assert await rig.container.setup_append(SEGMENT, WRITER) == 5
    assert await rig.container.attribute(SEGMENT, UUID(bytes=EVENT_COUNT)) == 1


async def test_sealed_and_missing_segments_refuse(rig) -> None:
    """A writer would not learn that it must look for the successors."""
    missing = await rig.send(b"a", after=NO_EVENT, number=1)
    assert isinstance(missing, NoSuchSegment)
    await rig.create()
    await rig.container.seal_segment(SEGMENT)
    assert isinstance(await rig.send(b"a", after=NO_EVENT, number=1), SegmentSealed)
    with pytest.raises(SegmentSealed):
        await rig.container.seal_segment(SEGMENT)


async def test_numbers_and_bytes_survive_a_restart(rig) -> None:
    """A writer that reconnects after a crash would store its events again."""
    await rig.create()
    await rig.send(b"one", after=NO_EVENT, number=1)
    await rig.send(b"two", after=1, number=4, events=3)
    await rig.restart()
    assert await rig.container.setup_append(SEGMENT, WRITER) == 4
    assert await rig.read_all() == b"onetwo"
    assert await rig.container.attribute(SEGMENT, UUID(bytes=EVENT_COUNT)) == 4
    assert await rig.send(b"three", after=4, number=5) == Appended(11)


async def test_a_crash_loses_only_what_was_not_answered(rig) -> None:
    """What was acknowledged would be gone, or what was not would be half there."""
    await rig.create()
    await rig.send(b"kept", after=NO_EVENT, number=1)
    rig.log.hold_syncs = True
    lost = rig.send(b"lost", after=1, number=2)
    await asyncio.sleep(0)
    await rig.crash()
    assert not isinstance(await lost, Appended)
    assert await rig.read_all() == b"kept"
    assert await rig.container.setup_append(SEGMENT, WRITER) == 1


async def test_large_and_small_parts_of_many_segments_keep_their_places(rig) -> None:
    """Blocks of one frame would be swapped, or readers get another segment's bytes."""
    names = [f"scope/stream/{number}.#epoch.0" for number in range(3)]
    for name in names:
        await rig.create(name)
    expected = dict.fromkeys(names, b"")
    answers = []
    for number in range(1, 40):
        name = names[number * number % 3]
        data = bytes([number]) * (20_000 if number % 4 == 0 else 100 + number)
        after = rig.container.state.find(name).last_event(WRITER.bytes)
        answers.append(rig.send(data, after=after, number=number, segment=name))
        expected[name] += data
    await asyncio.gather(*answers)
    for _ in range(2):
        for name in names:
            assert await rig.read_all(name) == expected[name]
        rig.cache.drop_container(0)
    await rig.restart()
    for name in names:
        assert await rig.read_all(name) == expected[name]


async def test_an_append_that_lies_about_its_length_reaches_no_log(rig) -> None:
    """A container could never be recovered from a frame whose lengths do not add up."""
    await rig.create()
    outcome: list[object] = []
    lie = Append(SEGMENT, WRITER, NO_EVENT, 1, 1, [b"12345"], 6)
    rig.container.append(lie, outcome.append)
    assert isinstance(await rig.container.wait_ended(), AssertionError)
    await rig.container.stop()
    await rig.reopen()
    assert await rig.read_all() == b""
