"""Scopes and streams through the inner interface, over a log in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from anabranch_controller.errors import IllegalState, InvalidArgument, NotFound
from anabranch_events.bus import KeyRange, ScaleCommand
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig


def fixed(count: int, **more: Any) -> StreamConfig:
    return StreamConfig(scaling=ScalingPolicy(min_segments=count), **more)


async def test_scope_and_stream_live_and_die(cluster: Any) -> None:
    """A user could not create, see, seal or delete what he made."""
    controller = await cluster.start("a")
    finish = cluster.finish
    assert await finish(controller.create_scope("s")) == "SUCCESS"
    assert await finish(controller.create_scope("s")) == "SCOPE_EXISTS"
    assert await finish(controller.create_stream("s", "x", fixed(2))) == "SUCCESS"
    assert await finish(controller.create_stream("s", "x", fixed(2))) == "STREAM_EXISTS"
    assert await finish(controller.create_stream("none", "x", fixed(2))) == "SCOPE_NOT_FOUND"
    assert await finish(controller.create_stream("s", "a_b", fixed(2))) == "INVALID_STREAM_NAME"
    assert (await finish(controller.list_streams("s", ""))).names == ("x", "_MARKx")
    assert await finish(controller.current_segments("s", "x")) == (
        SegmentRange(0, 0.0, 0.5),
        SegmentRange(1, 0.5, 1.0),
    )
    assert set(cluster.stores.segments) == {
        "s/x/0.#epoch.0",
        "s/x/1.#epoch.0",
        "s/_MARKx/0.#epoch.0",
    }
    assert await finish(controller.delete_scope("s")) == "SCOPE_NOT_EMPTY"
    assert await finish(controller.delete_stream("s", "x")) == "STREAM_NOT_SEALED"
    assert await finish(controller.seal_stream("s", "x")) == "SUCCESS"
    assert await finish(controller.seal_stream("s", "x")) == "SUCCESS"
    assert await finish(controller.current_segments("s", "x")) == ()
    assert await finish(controller.successors("s", "x", 0)) == ()
    assert await finish(controller.delete_stream("s", "x")) == "SUCCESS"
    assert await finish(controller.delete_stream("s", "x")) == "STREAM_NOT_FOUND"
    assert cluster.stores.segments == {}
    assert (await finish(controller.list_streams("s", ""))).names == ()
    assert await finish(controller.create_stream("s", "x", fixed(1))) == "SUCCESS"
    assert [one.id for one in await finish(controller.current_segments("s", "x"))] == [2]
    assert await finish(controller.seal_stream("s", "x")) == "SUCCESS"
    assert await finish(controller.delete_stream("s", "x")) == "SUCCESS"
    assert await finish(controller.delete_scope("s")) == "SUCCESS"
    assert await finish(controller.delete_scope("s")) == "SCOPE_NOT_FOUND"


async def test_the_example_of_the_article(cluster: Any) -> None:
    """Splits and merges would leave a gap or an overlap, or the wrong segments open."""
    controller = await cluster.start("a")
    finish = cluster.finish
    await finish(controller.create_scope("s"))
    await finish(controller.create_stream("s", "x", fixed(2)))
    scales = (
        ([1], [(0.5, 0.75), (0.75, 1.0)]),
        ([0], [(0.0, 0.25), (0.25, 0.5)]),
        ([1 << 32 | 2, 2 << 32 | 5], [(0.25, 0.75)]),
    )
    for epoch, (seal, ranges) in enumerate(scales):
        reply = await finish(
            controller.scale(
                "s", "x", seal=seal, ranges=[KeyRange(*one) for one in ranges], requested_ms=0
            )
        )
        assert (reply.outcome, reply.epoch) == ("STARTED", epoch)

        async def through(wanted: int = epoch) -> bool:
            return bool(await controller.check_scale("s", "x", wanted) == "SUCCESS")

        while not await finish(through()):
            await cluster.clock.advance(0.01)
    current = await finish(controller.current_segments("s", "x"))
    assert current == (
        SegmentRange(2 << 32 | 4, 0.0, 0.25),
        SegmentRange(3 << 32 | 6, 0.25, 0.75),
        SegmentRange(1 << 32 | 3, 0.75, 1.0),
    )
    following = await finish(controller.successors("s", "x", 1 << 32 | 2))
    assert [(one.segment.id, one.predecessors) for one in following] == [
        (3 << 32 | 6, (2 << 32 | 5, 1 << 32 | 2))
    ]
    order = [one for one in cluster.stores.history if "/x/6." in one[1] or "/x/2." in one[1]]
    assert order[-2:] == [
        ("create", "s/x/6.#epoch.3"),
        ("seal", "s/x/2.#epoch.1"),
    ]


async def test_scale_is_refused_for_cause(cluster: Any) -> None:
    """A wrong scale would damage the key space, or a right one be refused."""
    controller = await cluster.start("a")
    finish = cluster.finish
    await finish(controller.create_scope("s"))
    await finish(controller.create_stream("s", "x", fixed(2)))

    async def outcome(seal: list[int], *ranges: tuple[float, float]) -> str:
        wanted = [KeyRange(*one) for one in ranges]
        reply = await finish(controller.scale("s", "x", seal=seal, ranges=wanted, requested_ms=0))
        return str(reply.outcome)

    assert await outcome([7], (0.0, 0.5)) == "PRECONDITION_FAILED"
    assert await outcome([0, 1], (0.0, 1.0)) == "PRECONDITION_FAILED"
    assert await outcome([0], (0.0, 0.25), (0.25, 0.49)) == "FAILURE"
    assert await outcome([0, 0], (0.0, 0.5)) == "FAILURE"
    assert await outcome([], (0.0, 0.5)) == "FAILURE"
    assert await outcome([]) == "FAILURE"
    with pytest.raises(InvalidArgument):
        await outcome([0], (0.5, 0.0))
    command = ScaleCommand("s", "x", 3, (0,), (KeyRange(0.0, 0.5),), "hot", 9.0, 1.0, 0)
    answer = await finish(controller.scale_by_command(command))
    assert answer.outcome == "refused"
    assert await finish(controller.check_scale("s", "none", 0)) == "INVALID_INPUT"
    assert await finish(controller.check_scale("s", "x", 1)) == "INVALID_INPUT"
    assert await finish(controller.check_scale("s", "x", 0)) == "IN_PROGRESS"


async def test_update_scales_to_a_raised_minimum(cluster: Any) -> None:
    """Raising the minimum would leave a stream below it."""
    controller = await cluster.start("a")
    finish = cluster.finish
    await finish(controller.create_scope("s"))
    await finish(controller.create_stream("s", "x", fixed(1, tags=("b", "a", "b"))))
    assert (await finish(controller.stream_configuration("s", "x"))).tags == ("a", "b")
    assert (await finish(controller.list_streams_for_tag("s", "a", ""))).names == ("x",)
    assert await finish(controller.update_stream("s", "x", fixed(3))) == "SUCCESS"
    segments = await finish(controller.current_segments("s", "x"))
    assert [one.id for one in segments] == [1 << 32 | 1, 1 << 32 | 2, 1 << 32 | 3]
    assert segments[-1].high == 1.0
    assert (await finish(controller.list_streams_for_tag("s", "a", ""))).names == ()
    assert await finish(controller.seal_stream("s", "x")) == "SUCCESS"
    assert await finish(controller.update_stream("s", "x", fixed(4))) == "STREAM_SEALED"
    assert await finish(controller.update_stream("s", "none", fixed(4))) == "STREAM_NOT_FOUND"


async def test_truncation_moves_the_head(cluster: Any) -> None:
    """Readers would start before or after the place up to which a stream was cut off."""
    controller = await cluster.start("a")
    finish = cluster.finish
    await finish(controller.create_scope("s"))
    await finish(controller.create_stream("s", "x", fixed(1)))
    cluster.stores.append("s/x/0.#epoch.0", "a", "b", "c")
    assert await finish(controller.truncate_stream("s", "x", {0: 4})) == "FAILURE"
    assert await finish(controller.truncate_stream("s", "x", {0: 2})) == "SUCCESS"
    assert await finish(controller.truncate_stream("s", "x", {0: 2})) == "SUCCESS"
    assert await finish(controller.truncate_stream("s", "x", {0: 1})) == "FAILURE"
    assert await finish(controller.truncate_stream("s", "x", {})) == "FAILURE"
    assert await finish(controller.truncate_stream("s", "x", {9: 1})) == "FAILURE"
    assert await finish(controller.head_segments("s", "x")) == ((0, 2),)
    reply = await finish(
        controller.scale("s", "x", seal=[0], ranges=[KeyRange(0.0, 1.0)], requested_ms=0)
    )
    new = reply.segments[0].id
    await cluster.run_until(lambda: "s/x/0.#epoch.0" in cluster.stores.segments)
    assert await finish(controller.truncate_stream("s", "x", {new: 0})) == "SUCCESS"
    assert "s/x/0.#epoch.0" not in cluster.stores.segments
    assert await finish(controller.head_segments("s", "x")) == ((new, 0),)
    following = await finish(controller.successors("s", "x", 0))
    assert [one.segment.id for one in following] == [new]


async def test_missing_things_are_not_found(cluster: Any) -> None:
    """Clients would retry for a minute instead of saying that there is no such stream."""
    controller = await cluster.start("a")
    with pytest.raises(NotFound):
        await cluster.finish(controller.current_segments("s", "x"))
    with pytest.raises(NotFound):
        await cluster.finish(controller.successors("s", "a/b", 0))
    with pytest.raises(InvalidArgument):
        await cluster.finish(controller.create_scope(""))
    assert await cluster.finish(controller.scope_exists("_system"))
    assert (await cluster.finish(controller.list_scopes(""))).names == ("_system",)
    assert (await cluster.finish(controller.list_scopes("_system"))).names == ()


async def test_recursive_delete_takes_everything(cluster: Any) -> None:
    """A deleted scope would leave segments behind, or never go."""
    controller = await cluster.start("a")
    finish = cluster.finish
    await finish(controller.create_scope("s"))
    await finish(controller.create_stream("s", "x", fixed(2)))
    await finish(controller.create_stream("s", "y", fixed(2)))
    await finish(controller.create_transaction("s", "y", lease_ms=60_000))
    assert await finish(controller.delete_scope_recursive("s")) == "SUCCESS"
    assert await finish(controller.delete_scope_recursive("s")) == "SUCCESS"
    assert cluster.stores.segments == {}
    assert not await finish(controller.scope_exists("s"))
    assert await finish(controller.create_scope("s")) == "SUCCESS"
    await finish(controller.create_stream("s", "x", fixed(1)))
    assert [one.id for one in await finish(controller.current_segments("s", "x"))] == [2]


async def test_two_instances_see_each_others_writes(cluster: Any) -> None:
    """A client that asks another instance would not find what it just made."""
    one, other = await cluster.start("a"), await cluster.start("b")
    finish = cluster.finish
    assert await finish(one.create_scope("s")) == "SUCCESS"
    assert await finish(other.create_stream("s", "x", fixed(1))) == "SUCCESS"
    assert [found.id for found in await finish(one.current_segments("s", "x"))] == [0]
    assert await finish(other.create_scope("s")) == "SCOPE_EXISTS"


async def test_a_stream_in_the_making_has_no_segments_yet(cluster: Any) -> None:
    """A writer would be sent to segments that no store has."""
    controller = await cluster.start("a")
    await cluster.finish(controller.create_scope("s"))
    cluster.stores.failures["create"] = 10_000
    making = controller.create_stream("s", "x", fixed(1))

    async def look() -> None:
        with pytest.raises(IllegalState):
            await controller.current_segments("s", "x")
        cluster.stores.failures.clear()

    task = asyncio.create_task(making)
    await cluster.run_until(lambda: any(key.stream == "x" for key in controller.projection.streams))
    await cluster.finish(look())
    await cluster.run_until(task.done)
    assert task.result() == "SUCCESS"


async def test_what_was_open_is_finished_as_soon_as_a_controller_is_back(cluster: Any) -> None:
    """After a crash a single controller would let a half-done scale wait for nobody."""
    controller = await cluster.start("a")
    await cluster.finish(controller.create_scope("s"))
    await cluster.finish(controller.create_stream("s", "x", fixed(1)))
    cluster.stores.failures["seal"] = 1
    reply = await cluster.finish(
        controller.scale("s", "x", seal=[0], ranges=[KeyRange(0.0, 1.0)], requested_ms=0)
    )
    assert reply.outcome == "STARTED"
    await cluster.run_until(lambda: not cluster.stores.failures["seal"])
    await cluster.kill("a")
    died_s = cluster.clock.monotonic()
    again = await cluster.start("b")
    await cluster.run_until(lambda: not again.projection.open_work)
    assert cluster.clock.monotonic() - died_s < 0.5
    current = await cluster.finish(again.current_segments("s", "x"))
    assert [one.id for one in current] == [1 << 32 | 1]
