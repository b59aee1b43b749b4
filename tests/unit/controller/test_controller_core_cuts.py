"""Every workflow, cut at every step, is finished by another instance with the same end.

Each scenario runs once uncut, for the reference and for the number of moments at which the
instance touches the outside. Then it is run again for every moment: the instance is killed
there (or paused, and wakes up when all is over), another one takes over, the client asks it
again as clients do, and the end must be the reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from anabranch_controller.api import TIMESTAMP_NONE, TransactionId
from anabranch_controller.errors import ControllerError
from anabranch_events.bus import KeyRange
from anabranch_events.model import GroupConfig, ScalingPolicy, StreamConfig, TableConfig

Step = Callable[[Any, Any], Awaitable[object]]
FIRST, SECOND = TransactionId(0, 1), TransactionId(0, 2)


def fixed(count: int) -> StreamConfig:
    return StreamConfig(scaling=ScalingPolicy(min_segments=count))


def segment(transaction: TransactionId, number: int, epoch: int) -> str:
    digits = f"{transaction.high:016x}{transaction.low:016x}"
    return f"s/x/{number}.#epoch.{epoch}#transaction.{digits}"


async def settled(controller: Any, cluster: Any) -> None:
    await cluster.run_until(lambda: not controller.projection.open_work)


async def with_scope(cluster: Any, controller: Any) -> None:
    await cluster.finish(controller.create_scope("s"))


async def with_stream(cluster: Any, controller: Any) -> None:
    await with_scope(cluster, controller)
    await cluster.finish(controller.create_stream("s", "x", fixed(2)))
    cluster.stores.append("s/x/0.#epoch.0", "a", "b")
    cluster.stores.append("s/x/1.#epoch.0", "c")
    await settled(controller, cluster)


async def with_transactions(cluster: Any, controller: Any) -> None:
    await with_stream(cluster, controller)
    for wanted in (FIRST, SECOND):
        made = await cluster.finish(controller.create_transaction("s", "x", lease_ms=600_000))
        assert made.id == wanted
        for number in (0, 1):
            cluster.stores.append(segment(wanted, number, 0), f"t{wanted.low}")


async def with_rolling(cluster: Any, controller: Any) -> None:
    await with_transactions(cluster, controller)
    await cluster.finish(scale(cluster, controller))
    await settled(controller, cluster)


async def with_sealed(cluster: Any, controller: Any) -> None:
    await with_stream(cluster, controller)
    await cluster.finish(controller.seal_stream("s", "x"))
    await settled(controller, cluster)


async def with_committed_promise(cluster: Any, controller: Any) -> None:
    await with_transactions(cluster, controller)


async def with_group(cluster: Any, controller: Any) -> None:
    await with_stream(cluster, controller)
    await cluster.finish(create_group(cluster, controller))
    await settled(controller, cluster)


async def with_table(cluster: Any, controller: Any) -> None:
    await with_scope(cluster, controller)
    await cluster.finish(create_table(cluster, controller))
    await settled(controller, cluster)


async def create_stream(_: Any, controller: Any) -> object:
    return await controller.create_stream("s", "x", fixed(2))


async def scale(_: Any, controller: Any) -> object:
    ranges = [KeyRange(0.0, 0.25), KeyRange(0.25, 0.5)]
    return await controller.scale("s", "x", seal=[0], ranges=ranges, requested_ms=0)


async def update(_: Any, controller: Any) -> object:
    return await controller.update_stream("s", "x", fixed(3))


async def truncate(_: Any, controller: Any) -> object:
    return await controller.truncate_stream("s", "x", {0: 1, 1: 0})


async def seal(_: Any, controller: Any) -> object:
    return await controller.seal_stream("s", "x")


async def delete(_: Any, controller: Any) -> object:
    return await controller.delete_stream("s", "x")


async def commit_both(_: Any, controller: Any) -> object:
    return [
        await controller.commit_transaction("s", "x", one, writer_id="w", timestamp=TIMESTAMP_NONE)
        for one in (SECOND, FIRST)
    ]


async def commit_one(_: Any, controller: Any) -> object:
    """Of several, it depends on the moment whether they roll together or one by one."""
    return await controller.commit_transaction(
        "s", "x", SECOND, writer_id="w", timestamp=TIMESTAMP_NONE
    )


async def abort(_: Any, controller: Any) -> object:
    return await controller.abort_transaction("s", "x", FIRST)


async def promise_and_seal(_: Any, controller: Any) -> object:
    await controller.commit_transaction("s", "x", FIRST, writer_id="", timestamp=TIMESTAMP_NONE)
    return await controller.seal_stream("s", "x")


async def delete_recursively(_: Any, controller: Any) -> object:
    return await controller.delete_scope_recursive("s")


async def create_group(_: Any, controller: Any) -> object:
    config = GroupConfig(0, 0, 1, "manual", UUID(int=9), 0, {"s/x": {}}, {})
    return await controller.create_reader_group("s", "g", config)


async def delete_group(_: Any, controller: Any) -> object:
    return await controller.delete_reader_group("s", "g", str(UUID(int=9)))


async def create_table(_: Any, controller: Any) -> object:
    return await controller.create_table("s", "k", TableConfig(2, 4, 0))


async def delete_table(_: Any, controller: Any) -> object:
    return await controller.delete_table("s", "k")


SCENARIOS: dict[str, tuple[Callable[[Any, Any], Awaitable[None]], Step]] = {
    "create-stream": (with_scope, create_stream),
    "scale": (with_stream, scale),
    "update-with-scale": (with_stream, update),
    "truncate": (with_stream, truncate),
    "seal": (with_transactions, seal),
    "delete": (with_sealed, delete),
    "commit": (with_transactions, commit_both),
    "rolling-commit": (with_rolling, commit_one),
    "abort": (with_transactions, abort),
    "seal-with-promised-commit": (with_committed_promise, promise_and_seal),
    "delete-scope": (with_transactions, delete_recursively),
    "create-group": (with_stream, create_group),
    "delete-group": (with_group, delete_group),
    "create-table": (with_scope, create_table),
    "delete-table": (with_table, delete_table),
}


def picture(cluster: Any, controller: Any) -> dict[str, object]:
    """Everything that users can see, and what lies on the stores."""
    projection = controller.projection
    return {
        "scopes": {
            name: (scope.stage, sorted(scope.streams), sorted(scope.groups), sorted(scope.tables))
            for name, scope in projection.scopes.items()
        },
        "streams": {
            key: (
                stream.stage,
                stream.current,
                [epoch.segments for epoch in stream.epochs],
                [epoch.sealed_sizes for epoch in stream.epochs],
                stream.last_sizes,
                stream.truncation,
                stream.config,
                sorted(stream.subscribers),
                stream.last_segment_number,
            )
            for key, stream in projection.streams.items()
        },
        "transactions": {key: one.status for key, one in projection.transactions.items()},
        "groups": {key: one.stage for key, one in projection.groups.items()},
        "tables": {key: (one.stage, one.segments) for key, one in projection.tables.items()},
        "segments": {
            name: (one.content, one.sealed, one.start_offset)
            for name, one in cluster.stores.segments.items()
        },
        "table segments": dict(cluster.stores.tables),
    }


async def reference(make_cluster: Any, make_fuse: Any, scenario: str) -> tuple[object, int]:
    prepare, act = SCENARIOS[scenario]
    cluster = make_cluster()
    try:
        fuse = make_fuse(None)
        controller = await cluster.start("a", fuse)
        await prepare(cluster, controller)
        before = fuse.moments_count
        await cluster.finish(act(cluster, controller))
        await settled(controller, cluster)
        return picture(cluster, controller), fuse.moments_count - before
    finally:
        await cluster.close()


async def cut_run(
    make_cluster: Any, make_fuse: Any, scenario: str, moment: int, *, wakes_up: bool
) -> object:
    prepare, act = SCENARIOS[scenario]
    cluster = make_cluster()
    try:
        fuse = make_fuse(None)
        first = await cluster.start("a", fuse)
        await prepare(cluster, first)
        other = await cluster.start("b")
        fuse.cut_at = fuse.moments_count + moment
        call = asyncio.create_task(act(cluster, first))
        await cluster.run_until(lambda: fuse.blown or call.done())
        if wakes_up:
            cluster.live.discard("a")
        else:
            call.cancel()
            await cluster.kill("a")
        await cluster.finish(act(cluster, other))
        await settled(other, cluster)
        if wakes_up:
            fuse.mend()
            await asyncio.wait({call}, timeout=0.0)
            await cluster.run_until(call.done)
            if not call.cancelled() and call.exception() is not None:
                assert isinstance(call.exception(), ControllerError)
            await cluster.clock.advance(3.0)
            await settled(other, cluster)
        return picture(cluster, other)
    finally:
        await cluster.close()


@pytest.mark.parametrize("wakes_up", [False, True], ids=["killed", "paused"])
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_cut_anywhere_ends_the_same(
    make_cluster: Any, make_fuse: Any, scenario: str, wakes_up: bool
) -> None:
    """A controller that dies in the middle would leave work half done, or do it twice."""
    expected, moments_count = await reference(make_cluster, make_fuse, scenario)
    assert moments_count > 4
    for moment in range(1, moments_count + 1):
        end = await cut_run(make_cluster, make_fuse, scenario, moment, wakes_up=wakes_up)
        assert end == expected, f"cut at moment {moment} of {moments_count}"
