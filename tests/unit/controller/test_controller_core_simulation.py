"""Clients, scales and transactions while controllers die, freeze and come back, from one seed.

What is checked at the end is what users were promised: every event that was acknowledged is
in the stream exactly once, a committed transaction wholly and an aborted one not at all; the
key space is whole in every epoch; nothing is left open, and no segment is left behind.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from anabranch_controller.api import TIMESTAMP_NONE, TransactionId
from anabranch_controller.domain.history import all_segments
from anabranch_controller.domain.key_ranges import holes
from anabranch_controller.errors import ControllerError
from anabranch_controller.keys import StreamKey
from anabranch_controller.waiting import OutOfTime, within
from anabranch_events.bus import KeyRange
from anabranch_events.model import ScalingPolicy, StreamConfig

CLIENT_LIMIT_S = 6.0
CLIENTS_COUNT = 3
STEPS_COUNT = 12
KEY = StreamKey("s", "x")
LEASE_MS = 120_000
"""Longer than a run: only what a client gave up while it was made is aborted by time."""


def segment_name(identity: int) -> str:
    return f"s/x/{identity & 0xFFFFFFFF}.#epoch.{identity >> 32}"


def transaction_segment(identity: int, transaction: TransactionId) -> str:
    digits = f"{transaction.high:016x}{transaction.low:016x}"
    return f"{segment_name(identity)}#transaction.{digits}"


class Simulation:
    def __init__(self, cluster: Any, make_fuse: Any, seed: int) -> None:
        self.cluster, self.make_fuse = cluster, make_fuse
        self.random = Random(seed)
        self.instances: dict[str, tuple[Any, Any]] = {}
        self.started_count = 0
        self.written: set[str] = set()
        self.committed: dict[TransactionId, set[str]] = {}
        self.aborted: dict[TransactionId, set[str]] = {}

    async def start(self) -> None:
        self.started_count += 1
        name, fuse = f"i{self.started_count}", self.make_fuse(None)
        self.instances[name] = (await self.cluster.start(name, fuse), fuse)

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What a client does: ask somebody, and after a while somebody else."""
        while True:
            controller, _ = self.random.choice(list(self.instances.values()))
            try:
                return await within(
                    self.cluster.clock, CLIENT_LIMIT_S, getattr(controller, method)(*args, **kwargs)
                )
            except (OutOfTime, ControllerError):
                await self.cluster.clock.sleep(self.random.uniform(0.01, 1.0))

    # --- clients -------------------------------------------------------------------------

    async def client(self, number: int) -> None:
        for step in range(STEPS_COUNT):
            act = self.random.choice((self.write, self.scale, self.transact, self.transact))
            await act(f"{number}.{step}")
            await self.cluster.clock.sleep(self.random.uniform(0.0, 0.5))

    async def write(self, event: str) -> None:
        segments = await self.call("current_segments", "s", "x")
        identity = self.random.choice(segments).id
        while self.cluster.stores.segments[segment_name(identity)].sealed:
            following = await self.call("successors", "s", "x", identity)
            assert following, "a writer was told that an open stream is sealed"
            identity = self.random.choice(following).segment.id
        self.cluster.stores.append(segment_name(identity), event)
        self.written.add(event)

    async def scale(self, _: str) -> None:
        segments = await self.call("current_segments", "s", "x")
        index = self.random.randrange(len(segments))
        one = segments[index]
        if len(segments) < 5 and self.random.random() < 0.6:
            middle = (one.low + one.high) / 2
            seal, ranges = [one.id], [KeyRange(one.low, middle), KeyRange(middle, one.high)]
        elif index + 1 < len(segments):
            seal = [one.id, segments[index + 1].id]
            ranges = [KeyRange(one.low, segments[index + 1].high)]
        else:
            return
        await self.call("scale", "s", "x", seal=seal, ranges=ranges, requested_ms=0)

    async def transact(self, event: str) -> None:
        made = await self.call("create_transaction", "s", "x", lease_ms=LEASE_MS)
        events = set()
        for segment in made.segments:
            name = f"{event}@{segment.id}"
            self.cluster.stores.append(transaction_segment(segment.id, made.id), name)
            events.add(name)
        await self.cluster.clock.sleep(self.random.choice((0.0, 0.0, 2.0)))
        if self.random.random() < 0.75:
            outcome = await self.call(
                "commit_transaction", "s", "x", made.id, writer_id="", timestamp=TIMESTAMP_NONE
            )
            self.committed[made.id] = events
        else:
            outcome = await self.call("abort_transaction", "s", "x", made.id)
            self.aborted[made.id] = events
        assert outcome == "SUCCESS"

    # --- faults --------------------------------------------------------------------------

    async def fault(self) -> None:
        name = self.random.choice(list(self.instances))
        _, fuse = self.instances[name]
        kind = self.random.choice(("kill", "kill", "pause", "store", "wipe"))
        if kind == "store":
            operation = self.random.choice(("create", "seal", "merge", "delete"))
            self.cluster.stores.failures[operation] = self.random.randint(1, 5)
        elif kind == "wipe":
            self.cluster.live = None
        elif fuse.cut_at is not None:
            fuse.mend()
            self.cluster.live = {*(self.cluster.live or ()), name}
        elif kind == "pause":
            fuse.cut_at = fuse.moments_count + self.random.randint(1, 10)
            self.cluster.live = (self.cluster.live or set(self.instances)) - {name}
        else:
            fuse.cut_at = fuse.moments_count + self.random.randint(1, 10)
            await self.cluster.clock.advance(0.2)
            del self.instances[name]
            await self.cluster.kill(name)
            await self.start()

    async def run(self) -> Any:
        for _ in range(3):
            await self.start()
        await self.cluster.finish(self.call("create_scope", "s"))
        config = StreamConfig(scaling=ScalingPolicy(min_segments=1))
        await self.cluster.finish(self.call("create_stream", "s", "x", config))
        clients = [asyncio.create_task(self.client(one)) for one in range(CLIENTS_COUNT)]
        while not all(task.done() for task in clients):
            if self.random.random() < 0.15:
                await self.fault()
            await self.cluster.clock.advance(self.random.uniform(0.05, 0.5))
            self.cluster.check()
        for task in clients:
            task.result()
        for name, (_, fuse) in list(self.instances.items()):
            if fuse.cut_at is not None:
                del self.instances[name]
                await self.cluster.kill(name)
        self.cluster.stores.failures.clear()
        self.cluster.live = set(self.instances)
        await self.start()
        controller = self.instances[f"i{self.started_count}"][0]
        await self.cluster.clock.advance(LEASE_MS / 1000 + 30.0)
        await self.cluster.run_until(
            lambda: not controller.projection.open_work and not controller.projection.live
        )
        return controller

    def check(self, controller: Any) -> None:
        stream = controller.projection.streams[KEY]
        stores = self.cluster.stores.segments
        for epoch in stream.epochs:
            assert holes(epoch.segments) == []
        ids = [segment.id for segment in all_segments(stream.epochs)]
        current = {segment.id for segment in stream.active_epoch.segments}
        for identity in ids:
            assert stores[segment_name(identity)].sealed == (identity not in current)
        left = [name for name in stores if name.startswith("s/x/") and "#transaction" in name]
        assert left == []
        content = [event for identity in ids for event in stores[segment_name(identity)].content]
        assert len(content) == len(set(content)), "an event is there twice"
        wanted = self.written.union(*self.committed.values())
        assert set(content) == wanted
        for expected, done in (("COMMITTED", self.committed), ("ABORTED", self.aborted)):
            for identity in done:
                found = controller.projection.transactions[
                    next(
                        key
                        for key in controller.projection.transactions
                        if key.transaction == f"{identity.high:016x}{identity.low:016x}"
                    )
                ]
                assert found.status == expected


@pytest.mark.parametrize("seed", range(12))
async def test_promises_hold_while_controllers_fail(
    cluster: Any, make_fuse: Any, seed: int
) -> None:
    """Events would be lost or doubled, or a stream be stuck, when controllers die or freeze."""
    simulation = Simulation(cluster, make_fuse, seed)
    controller = await simulation.run()
    simulation.check(controller)
