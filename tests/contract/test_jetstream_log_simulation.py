"""A JetStreamLog against a server in memory that loses, delays and doubles messages and answers
from old state; owners come while others still write. From a seed, in virtual time.

A failure prints its seed; `SEEDS` of the environment widens the search (a number of seeds), and
`SEED` replays one.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from dataclasses import dataclass, field

import pytest
from anabranch_segmentstore.adapters.jetstream_log import JetStreamLog, JetStreamLogStore
from anabranch_segmentstore.ports import ContainerId, LogError, LogFenced
from anabranch_testkit.fakes.jetstream import FakeClient, FakeJetStream, Faults, LoopClock, run

SEEDS_DEFAULT = 60
FRAMES_PER_OWNER_MAX = 150
OWNERS = 4


def seeds() -> range:
    if "SEED" in os.environ:
        return range(int(os.environ["SEED"]), int(os.environ["SEED"]) + 1)
    return range(int(os.environ.get("SEEDS", SEEDS_DEFAULT)))


@dataclass(slots=True)
class World:
    random: random.Random
    server: FakeJetStream
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    appended: set[bytes] = field(default_factory=set)
    clients: list[FakeClient] = field(default_factory=list)

    async def open(self, owner: int) -> JetStreamLog:
        client = self.server.client()
        self.clients.append(client)
        store = JetStreamLogStore(
            client,  # type: ignore[arg-type]
            clock=LoopClock(),
            new_id=lambda: uuid.UUID(int=self.random.getrandbits(128)),
            lease_s=0.3,
            margin_s=0.05,
        )
        return await store.open(ContainerId(1), owner=f"owner-{owner}")

    async def live(self, owner: int) -> str:
        """One owner's life; how it ended."""
        await asyncio.sleep(self.random.choice((0, 5, 15, 30, 60)))
        try:
            log = await self.open(owner)
        except LogError as error:
            return f"opening: {type(error).__name__}: {str(error)[:90]}"
        ending = "done"
        try:
            async with asyncio.timeout(self.random.uniform(5, 60)):
                await self._write(log, owner)
        except* LogFenced:
            ending = "fenced"
        except* LogError as errors:
            ending = f"failed: {errors.exceptions[0]}"
        except* TimeoutError:
            ending = "died"
        await log.close(clean=self.random.random() < 0.5)
        return ending

    async def _write(self, log: JetStreamLog, owner: int) -> None:
        slots = asyncio.Semaphore(log.frames_in_flight_max)
        kept = 0

        async def append(payload: bytes, snapshot: bool) -> None:
            try:
                position = await log.append([payload[:7], payload[7:]], snapshot=snapshot)
            finally:
                slots.release()
            before = self.acknowledged.setdefault(position, payload)
            assert before == payload, f"frame {position} was acknowledged twice"

        async with asyncio.TaskGroup() as tasks:
            for number in range(self.random.randint(1, FRAMES_PER_OWNER_MAX)):
                await slots.acquire()
                head = b"%d-%d-" % (owner, number)
                payload = head + bytes(self.random.choice((0, 10, 5000, 20_000)))
                self.appended.add(head)
                tasks.create_task(append(payload, self.random.random() < 0.1))
                if self.random.random() < 0.05 and log.last_position > kept:
                    kept = log.last_position
                    await log.truncate(log.last_position)
                await asyncio.sleep(self.random.choice((0, 0, 0.01, 0.2)))


async def simulate(seed: int) -> list[str]:
    source = random.Random(seed)
    faults = Faults(
        lost=source.choice((0, 0.01, 0.05)),
        answer_lost=source.choice((0, 0.01, 0.05)),
        delayed=source.choice((0, 0.02, 0.2)),
        delay_s_max=source.choice((0.05, 0.5, 4.0)),
        overtaken=source.choice((0, 0.02, 0.2)),
        stale=source.choice((0, 0, 0.3)),
        stale_messages_max=source.choice((1, 10)),
    )
    world = World(source, FakeJetStream(source, faults))
    lives = await asyncio.gather(*(world.live(owner) for owner in range(OWNERS)))
    world.server.faults = Faults()
    for client in world.clients:
        await client.settle()
    await check_all_is_there(world)
    return lives


async def check_all_is_there(world: World) -> None:
    log = await world.open(OWNERS)
    frames = [frame async for frame in log.replay()]
    positions = [frame.position for frame in frames]
    first = positions[0] if positions else 1
    assert positions == list(range(first, first + len(frames))), "positions are dense"
    assert log.last_position == (positions[-1] if positions else 0)
    assert not positions or frames[0].is_snapshot or first == 1
    replayed = {frame.position: frame.payload for frame in frames}
    for position, payload in world.acknowledged.items():
        if position >= first:
            assert replayed.get(position) == payload, f"acknowledged frame {position} is lost"
    for frame in frames:
        assert await log.read(frame.position, 0, len(frame.payload)) == frame.payload
    heads = [b"-".join(frame.payload.split(b"-")[:2]) for frame in frames]
    assert len(set(heads)) == len(heads), "a frame is stored twice"
    await log.close(clean=True)


def test_no_acknowledged_frame_is_lost_or_doubled_whatever_the_network_does() -> None:
    """Events would be lost or doubled when a container moves while NATS has a bad day."""
    lives: list[str] = []
    for seed in seeds():
        try:
            lives += run(simulate(seed))
        except BaseException:
            print(f"SEED={seed}")
            raise
    if "SEED" not in os.environ:
        for ending in ("done", "fenced", "died"):
            assert ending in lives, f"the simulation never saw an owner that ended as {ending}"


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q"]))
