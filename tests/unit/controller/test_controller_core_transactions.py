"""Transactions through the inner interface, over a log in memory."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from anabranch_controller.api import TIMESTAMP_NONE, TransactionId
from anabranch_controller.domain.transaction import GRACE_MS
from anabranch_controller.errors import IllegalState, InvalidArgument
from anabranch_events.bus import KeyRange
from anabranch_events.model import ScalingPolicy, StreamConfig


async def ready(cluster: Any, count: int = 2) -> Any:
    controller = await cluster.start("a")
    await cluster.finish(controller.create_scope("s"))
    config = StreamConfig(scaling=ScalingPolicy(min_segments=count))
    assert await cluster.finish(controller.create_stream("s", "x", config)) == "SUCCESS"
    return controller


def segment(transaction: TransactionId, number: int, epoch: int) -> str:
    digits = f"{transaction.high:016x}{transaction.low:016x}"
    return f"s/x/{number}.#epoch.{epoch}#transaction.{digits}"


async def state(cluster: Any, controller: Any, transaction: TransactionId) -> str:
    return str(await cluster.finish(controller.transaction_state("s", "x", transaction)))


async def commit(cluster: Any, controller: Any, transaction: TransactionId, **more: Any) -> str:
    wanted = {"writer_id": "", "timestamp": TIMESTAMP_NONE, **more}
    return str(await cluster.finish(controller.commit_transaction("s", "x", transaction, **wanted)))


async def wait_for(cluster: Any, controller: Any, transaction: TransactionId, wanted: str) -> None:
    for _ in range(200):
        if await state(cluster, controller, transaction) == wanted:
            return
        await cluster.clock.advance(0.05)
    raise AssertionError(f"never {wanted}")


async def scale(
    cluster: Any, controller: Any, seal: list[int], *ranges: tuple[float, float]
) -> None:
    reply = await cluster.finish(
        controller.scale(
            "s", "x", seal=seal, ranges=[KeyRange(*one) for one in ranges], requested_ms=0
        )
    )
    assert reply.outcome == "STARTED"
    for _ in range(200):
        if await cluster.finish(controller.check_scale("s", "x", reply.epoch)) == "SUCCESS":
            return
        await cluster.clock.advance(0.05)
    raise AssertionError("the scale does not end")


async def test_committed_data_is_in_the_stream_in_commit_order(cluster: Any) -> None:
    """Committed events would be lost, doubled or out of order."""
    controller = await ready(cluster)
    finish = cluster.finish
    made = [await finish(controller.create_transaction("s", "x", lease_ms=60_000)) for _ in "123"]
    assert [one.id for one in made] == [(0, 1), (0, 2), (0, 3)]
    assert [one.id for one in made[0].segments] == [0, 1]
    for one in made:
        cluster.stores.append(segment(one.id, 0, 0), f"t{one.id.low}")
    assert await commit(cluster, controller, made[1].id) == "SUCCESS"
    assert await commit(cluster, controller, made[0].id) == "SUCCESS"
    for one in made[:2]:
        await wait_for(cluster, controller, one.id, "COMMITTED")
        assert await commit(cluster, controller, one.id) == "SUCCESS"
    assert cluster.stores.segments["s/x/0.#epoch.0"].content == ["t2", "t1"]
    assert await finish(controller.abort_transaction("s", "x", made[0].id)) == "FAILURE"
    assert await finish(controller.abort_transaction("s", "x", made[2].id)) == "SUCCESS"
    await wait_for(cluster, controller, made[2].id, "ABORTED")
    assert await commit(cluster, controller, made[2].id) == "FAILURE"
    assert await finish(controller.abort_transaction("s", "x", made[2].id)) == "SUCCESS"
    assert not [name for name in cluster.stores.segments if "#transaction" in name]
    done = await finish(controller.list_completed_transactions("s", "x"))
    assert [(one.id.low, one.outcome) for one in done] == [
        (3, "ABORTED"),
        (1, "COMMITTED"),
        (2, "COMMITTED"),
    ]


async def test_rolling_transaction_as_recorded(cluster: Any) -> None:
    """A scale between create and commit would lose the transaction, or its order."""
    controller = await ready(cluster)
    finish = cluster.finish
    early = await finish(controller.create_transaction("s", "x", lease_ms=60_000))
    await scale(cluster, controller, [0], (0.0, 0.25), (0.25, 0.5))
    late = await finish(controller.create_transaction("s", "x", lease_ms=60_000))
    assert late.id.high == 1 << 32
    assert [one.id for one in late.segments] == [1 << 32 | 2, 1 << 32 | 3, 1 << 32 | 1]
    cluster.stores.append(segment(late.id, 1, 1), "late")
    cluster.stores.append(segment(early.id, 1, 0), "early")
    assert await commit(cluster, controller, late.id) == "SUCCESS"
    await wait_for(cluster, controller, late.id, "COMMITTED")
    current = await finish(controller.current_segments("s", "x"))
    assert [one.id for one in current] == [1 << 32 | 2, 1 << 32 | 3, 1]
    assert cluster.stores.segments["s/x/1.#epoch.0"].content == ["late"]

    assert await commit(cluster, controller, early.id) == "SUCCESS"
    await wait_for(cluster, controller, early.id, "COMMITTED")
    current = await finish(controller.current_segments("s", "x"))
    assert [one.id for one in current] == [3 << 32 | 2, 3 << 32 | 3, 3 << 32 | 1]
    copies = await finish(controller.epoch_segments("s", "x", 2))
    assert [one.id for one in copies] == [2 << 32, 2 << 32 | 1]
    assert cluster.stores.segments["s/x/1.#epoch.2"].content == ["early"]
    for name in ("s/x/1.#epoch.0", "s/x/1.#epoch.2", "s/x/0.#epoch.2", "s/x/2.#epoch.1"):
        assert cluster.stores.segments[name].sealed
    following = await finish(controller.successors("s", "x", 1 << 32 | 2))
    assert [(one.segment.id, one.predecessors) for one in following] == [
        (2 << 32, (1 << 32 | 2, 1 << 32 | 3))
    ]
    following = await finish(controller.successors("s", "x", 2 << 32))
    assert [one.segment.id for one in following] == [3 << 32 | 2, 3 << 32 | 3]
    assert await finish(controller.check_scale("s", "x", 1)) == "IN_PROGRESS"
    assert await finish(controller.check_scale("s", "x", 0)) == "SUCCESS"
    again = await finish(controller.create_transaction("s", "x", lease_ms=60_000))
    assert again.id.high == 1 << 32
    cluster.stores.append(segment(again.id, 1, 1), "again")
    assert await commit(cluster, controller, again.id) == "SUCCESS"
    await wait_for(cluster, controller, again.id, "COMMITTED")
    assert cluster.stores.segments["s/x/1.#epoch.3"].content == ["again"]
    await scale(cluster, controller, [3 << 32 | 2, 3 << 32 | 3], (0.0, 0.5))
    current = await finish(controller.current_segments("s", "x"))
    assert [one.id for one in current] == [4 << 32 | 4, 3 << 32 | 1]
    between = await finish(controller.segments_between("s", "x", {0: 0, 1: 0}, {}))
    assert len(between) == 10


async def test_lease_runs_out_unless_pinged(cluster: Any) -> None:
    """A dead writer's transaction would stay open for ever, or a living one's be aborted."""
    controller = await ready(cluster)
    finish = cluster.finish
    kept = await finish(controller.create_transaction("s", "x", lease_ms=10_000))
    lost = await finish(controller.create_transaction("s", "x", lease_ms=10_000))
    await cluster.clock.advance(9.9)
    assert await finish(controller.ping_transaction("s", "x", kept.id, lease_ms=10_000)) == "OK"
    cluster.clock.jump_wall(3_600_000)
    await cluster.clock.advance(0.1 + GRACE_MS / 1000 - 0.2)
    assert await state(cluster, controller, lost.id) == "OPEN"
    await cluster.clock.advance(0.5)
    await wait_for(cluster, controller, lost.id, "ABORTED")
    assert await state(cluster, controller, kept.id) == "OPEN"
    assert (
        await finish(controller.ping_transaction("s", "x", lost.id, lease_ms=10_000)) == "ABORTED"
    )
    assert (
        await finish(controller.ping_transaction("s", "x", kept.id, lease_ms=600_001))
        == "LEASE_TOO_LARGE"
    )
    unknown = TransactionId(0, 99)
    assert await finish(controller.ping_transaction("s", "x", unknown, lease_ms=1)) == "UNKNOWN"
    negative = TransactionId(-1, -1)
    assert await finish(controller.ping_transaction("s", "x", negative, lease_ms=1)) == "UNKNOWN"
    with pytest.raises(InvalidArgument):
        await finish(controller.create_transaction("s", "x", lease_ms=9_999))


async def test_lease_of_a_dead_instance_is_kept_by_another(cluster: Any) -> None:
    """The transaction of a writer that died with its controller would never end."""
    controller = await ready(cluster)
    other = await cluster.start("b")
    lost = await cluster.finish(controller.create_transaction("s", "x", lease_ms=10_000))
    await cluster.kill("a")
    await cluster.clock.advance(30.0)
    await wait_for(cluster, other, lost.id, "ABORTED")
    third = await cluster.start("c")
    assert await state(cluster, third, lost.id) == "ABORTED"


async def test_sealing_finishes_promised_commits_and_aborts_the_rest(cluster: Any) -> None:
    """A sealed stream would lack what was promised, or keep what was not."""
    controller = await ready(cluster, 1)
    finish = cluster.finish
    promised = await finish(controller.create_transaction("s", "x", lease_ms=60_000))
    left = await finish(controller.create_transaction("s", "x", lease_ms=60_000))
    cluster.stores.append(segment(promised.id, 0, 0), "kept")
    cluster.stores.append(segment(left.id, 0, 0), "dropped")
    assert await commit(cluster, controller, promised.id) == "SUCCESS"
    assert await finish(controller.seal_stream("s", "x")) == "SUCCESS"
    assert await state(cluster, controller, promised.id) == "COMMITTED"
    assert await state(cluster, controller, left.id) == "ABORTED"
    assert cluster.stores.segments["s/x/0.#epoch.0"].content == ["kept"]
    assert not [name for name in cluster.stores.segments if "#transaction" in name]
    assert await commit(cluster, controller, left.id) == "FAILURE"
    with pytest.raises(IllegalState):
        await finish(controller.create_transaction("s", "x", lease_ms=60_000))


async def test_times_of_commits_become_writers_times(cluster: Any) -> None:
    """Watermarks would not see what was written in transactions."""
    controller = await ready(cluster, 1)
    made = await cluster.finish(controller.create_transaction("s", "x", lease_ms=60_000))
    cluster.stores.append(segment(made.id, 0, 0), "a", "b")
    assert await commit(cluster, controller, made.id, writer_id="w", timestamp=7) == "SUCCESS"
    await wait_for(cluster, controller, made.id, "COMMITTED")
    note = controller.note_timestamp_from_writer
    finish = cluster.finish
    assert await finish(note("s", "x", writer="w", timestamp=6, position={})) == "INVALID_TIME"
    assert (
        await finish(note("s", "x", writer="w", timestamp=8, position={0: 1})) == "INVALID_POSITION"
    )
    assert await finish(note("s", "x", writer="w", timestamp=8, position={0: 2})) == "SUCCESS"
    assert await finish(controller.remove_writer("s", "x", "w")) == "SUCCESS"
    assert await finish(controller.remove_writer("s", "x", "w")) == "SUCCESS"
    assert await finish(controller.remove_writer("s", "x", "v")) == "UNKNOWN_WRITER"


async def test_more_transactions_than_a_batch_holds(cluster: Any) -> None:
    """Commits beyond the first hundred would be forgotten or reordered."""
    controller = await ready(cluster, 1)
    finish = cluster.finish
    made = [
        (await finish(controller.create_transaction("s", "x", lease_ms=60_000))).id
        for _ in range(120)
    ]
    for one in made:
        cluster.stores.append(segment(one, 0, 0), f"t{one.low}")
    cluster.stores.failures["merge"] = 3
    for one in made:
        assert await commit(cluster, controller, one) == "SUCCESS"
    await wait_for(cluster, controller, made[-1], "COMMITTED")
    content = cluster.stores.segments["s/x/0.#epoch.0"].content
    assert content == [f"t{one.low}" for one in made]


async def test_a_pause_of_the_controller_does_not_end_transactions(
    cluster: Any, make_fuse: Any
) -> None:
    """A controller that wakes up late would abort what living writers are about to ping."""
    fuse = make_fuse(None)
    controller = await cluster.start("a", fuse)
    finish = cluster.finish
    await finish(controller.create_scope("s"))
    await finish(controller.create_stream("s", "x", StreamConfig()))
    made = await finish(controller.create_transaction("s", "x", lease_ms=10_000))
    await cluster.clock.advance(5.0)
    fuse.cut_at = fuse.moments_count
    await cluster.clock.advance(30.0)
    fuse.mend()
    await cluster.clock.advance(5.0)
    assert await finish(controller.ping_transaction("s", "x", made.id, lease_ms=10_000)) == "OK"
    await cluster.clock.advance(30.0)
    await wait_for(cluster, controller, made.id, "ABORTED")


async def test_commits_give_way_to_a_waiting_scale(cluster: Any) -> None:
    """A stream under a steady load of transactions could never be scaled or sealed."""
    controller = await ready(cluster, 1)
    finish = cluster.finish
    made = [
        (await finish(controller.create_transaction("s", "x", lease_ms=600_000))).id
        for _ in range(5)
    ]
    cluster.stores.failures["merge"] = 1_000_000
    for one in made:
        assert await commit(cluster, controller, one) == "SUCCESS"
    scaling = asyncio.create_task(
        controller.scale("s", "x", seal=[0], ranges=[KeyRange(0.0, 1.0)], requested_ms=0)
    )
    await cluster.clock.advance(10.0)
    assert not scaling.done()
    cluster.stores.failures.clear()
    await cluster.run_until(scaling.done)
    assert scaling.result().outcome == "STARTED"
    for one in made:
        await wait_for(cluster, controller, one, "COMMITTED")
    kinds = re.findall(
        rb'"type":"(CommitStarted|ScaleStarted)"',
        b"".join(record.payload for record in cluster.events.records),
    )
    assert kinds[:2] == [b"CommitStarted", b"ScaleStarted"]
    assert kinds[-1] == b"CommitStarted"
