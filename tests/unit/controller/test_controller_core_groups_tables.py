"""Reader groups and key-value tables through the inner interface, over a log in memory."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
from anabranch_controller.errors import InvalidArgument, NotFound
from anabranch_events.bus import KeyRange
from anabranch_events.model import GroupConfig, ScalingPolicy, StreamConfig, TableConfig

ID = UUID(int=77)
PLAIN = GroupConfig(3000, 30_000, 3, "none", UUID(int=0), 9, {"s/x": {}}, {"s/x": {}})
KEEPING = msgspec.structs.replace(PLAIN, retention="manual", id=ID, generation=0)


async def ready(cluster: Any) -> Any:
    controller = await cluster.start("a")
    await cluster.finish(controller.create_scope("s"))
    for name in ("x", "y"):
        config = StreamConfig(scaling=ScalingPolicy(min_segments=2))
        assert await cluster.finish(controller.create_stream("s", name, config)) == "SUCCESS"
    return controller


async def test_group_is_made_once_and_echoed(cluster: Any) -> None:
    """Java would throw ConfigMismatch, or begin the group's state anew."""
    controller = await ready(cluster)
    finish = cluster.finish
    made = await finish(controller.create_reader_group("s", "g", PLAIN))
    assert made.outcome == "SUCCESS"
    assert made.config.generation == 0
    assert made.config.id != UUID(int=0)
    again = await finish(controller.create_reader_group("s", "g", KEEPING))
    assert again == made
    assert (await finish(controller.reader_group("s", "g"))).config == made.config
    assert [one.id for one in await finish(controller.current_segments("s", "_RGg"))] == [0]
    assert await finish(controller.delete_scope("s")) == "SCOPE_NOT_EMPTY"
    assert await finish(controller.delete_reader_group("s", "g", str(ID))) == "RG_NOT_FOUND"
    wanted = str(made.config.id)
    assert await finish(controller.delete_reader_group("s", "g", wanted)) == "SUCCESS"
    assert await finish(controller.delete_reader_group("s", "g", wanted)) == "RG_NOT_FOUND"
    assert not await finish(controller.stream_exists("s", "_RGg"))
    assert (await finish(controller.reader_group("s", "g"))).outcome == "RG_NOT_FOUND"
    await finish(controller.create_reader_group("s", "g", PLAIN))
    assert [one.id for one in await finish(controller.current_segments("s", "_RGg"))] == [1]


async def test_group_that_cannot_be_is_refused(cluster: Any) -> None:
    """A bad request would be repeated for a minute, or leave a half-made group."""
    controller = await ready(cluster)
    finish = cluster.finish
    assert (await finish(controller.create_reader_group("s", "a_b", PLAIN))).outcome == (
        "INVALID_RG_NAME"
    )
    assert (await finish(controller.create_reader_group("t", "g", PLAIN))).outcome == (
        "SCOPE_NOT_FOUND"
    )
    missing = msgspec.structs.replace(KEEPING, starting_cuts={"s/none": {}})
    assert (await finish(controller.create_reader_group("s", "g", missing))).outcome == "FAILURE"
    without_streams = msgspec.structs.replace(PLAIN, starting_cuts={})
    without_checkpoints = msgspec.structs.replace(PLAIN, outstanding_checkpoints_max=0)
    for bad in (without_streams, without_checkpoints):
        with pytest.raises(InvalidArgument):
            await finish(controller.create_reader_group("s", "g", bad))
    with pytest.raises(NotFound):
        await finish(controller.reader_group("t", "g"))
    assert (await finish(controller.list_streams("s", ""))).names == (
        "x",
        "y",
        "_MARKx",
        "_MARKy",
    )


async def test_subscriptions_follow_the_group(cluster: Any) -> None:
    """Retention would cut off what a group has not read, or keep everything for ever."""
    controller = await ready(cluster)
    finish = cluster.finish

    async def subscribers(stream: str) -> tuple[str, ...]:
        return tuple((await finish(controller.list_subscribers("s", stream))).subscribers)

    await finish(controller.create_reader_group("s", "g", KEEPING))
    assert await subscribers("x") == ("s/g",)
    moved = msgspec.structs.replace(KEEPING, starting_cuts={"s/y": {}})
    stale = msgspec.structs.replace(moved, generation=5)
    assert (await finish(controller.update_reader_group("s", "g", stale))) == ("INVALID_CONFIG", 5)
    assert (await finish(controller.update_reader_group("s", "g", moved))) == ("SUCCESS", 1)
    assert (await subscribers("x"), await subscribers("y")) == ((), ("s/g",))
    ended = msgspec.structs.replace(moved, retention="none", generation=1)
    assert (await finish(controller.update_reader_group("s", "g", ended))) == ("SUCCESS", 2)
    assert (await subscribers("x"), await subscribers("y")) == ((), ())
    back = msgspec.structs.replace(KEEPING, generation=2)
    assert (await finish(controller.update_reader_group("s", "g", back))) == ("SUCCESS", 3)
    assert await subscribers("x") == ("s/g",)
    assert await finish(controller.delete_reader_group("s", "g", str(ID))) == "SUCCESS"
    assert await subscribers("x") == ()
    assert (await finish(controller.update_reader_group("s", "g", back))).outcome == (
        "RG_NOT_FOUND"
    )
    assert (await finish(controller.list_subscribers("s", "none"))).outcome == "STREAM_NOT_FOUND"


async def test_subscribers_cuts_only_go_forward(cluster: Any) -> None:
    """A late report would move the place back, and retention keep or cut the wrong things."""
    controller = await ready(cluster)
    finish = cluster.finish
    await finish(controller.create_reader_group("s", "g", KEEPING))

    async def report(cut: dict[int, int], **more: Any) -> str:
        wanted: dict[str, Any] = {
            "subscriber": "s/g",
            "group_id": ID,
            "generation": 0,
            "cut": cut,
            **more,
        }
        return str(await finish(controller.update_subscriber_stream_cut("s", "x", **wanted)))

    assert await report({0: 10, 1: 0}) == "SUCCESS"
    assert await report({0: 10, 1: 0}) == "SUCCESS"
    assert await report({0: 5, 1: 0}) == "STREAM_CUT_NOT_VALID"
    assert await report({0: 20}) == "STREAM_CUT_NOT_VALID"
    assert await report({0: 20, 1: 0, 9: 0}) == "FAILURE"
    assert await report({0: 11, 1: 0}, generation=1) == "GENERATION_MISMATCH"
    assert await report({0: 11, 1: 0}, group_id=UUID(int=1)) == "SUBSCRIBER_NOT_FOUND"
    assert await report({0: 11, 1: 0}, subscriber="g") == "SUBSCRIBER_NOT_FOUND"
    with pytest.raises(InvalidArgument):
        await report({})
    reply = await finish(
        controller.scale("s", "x", seal=[0], ranges=[KeyRange(0.0, 0.5)], requested_ms=0)
    )
    assert await report({reply.segments[0].id: 0, 1: 0}) == "SUCCESS"


async def test_table_lives_and_dies(cluster: Any) -> None:
    """A key-value table could not be made, found or deleted, or would read an old one's data."""
    controller = await ready(cluster)
    finish = cluster.finish
    config = TableConfig(2, 4, 2)
    assert await finish(controller.create_table("s", "k", config)) == "SUCCESS"
    assert await finish(controller.create_table("s", "k", config)) == "TABLE_EXISTS"
    assert await finish(controller.create_table("s", "_k", config)) == "INVALID_TABLE_NAME"
    assert await finish(controller.create_table("t", "k", config)) == "SCOPE_NOT_FOUND"
    assert cluster.stores.tables == {
        "s/k_kvtable/0.#epoch.0": 6,
        "s/k_kvtable/1.#epoch.0": 6,
    }
    assert await finish(controller.table("s", "k")) == ("SUCCESS", config)
    assert [one.id for one in await finish(controller.table_segments("s", "k"))] == [0, 1]
    assert (await finish(controller.list_tables("s", ""))).names == ("k",)
    assert await finish(controller.delete_table("s", "k")) == "SUCCESS"
    assert await finish(controller.delete_table("s", "k")) == "TABLE_NOT_FOUND"
    assert cluster.stores.tables == {}
    assert (await finish(controller.table("s", "k"))).outcome == "TABLE_NOT_FOUND"
    with pytest.raises(NotFound):
        await finish(controller.table_segments("s", "k"))
    assert await finish(controller.create_table("s", "k", config)) == "SUCCESS"
    assert [one.id for one in await finish(controller.table_segments("s", "k"))] == [2, 3]
    for bad in (TableConfig(0, 4, 0), TableConfig(1, 0, 4), TableConfig(1, 200, 57)):
        with pytest.raises(InvalidArgument):
            await finish(controller.create_table("s", "l", bad))
