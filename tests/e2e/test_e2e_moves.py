"""Several segment stores in one cluster: containers spread evenly and move, and no event is lost.

One store is killed, one is told to stop, one is paused for longer than its lease, all under load
with the checker (helpers/load.py): nothing acknowledged may be lost, doubled or reordered per key.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.registry import Serving
from helpers.client import Client
from helpers.cluster import StandaloneCluster, wait_until
from helpers.load import Load

STORES, CONTAINERS = 3, 6
LEASE_S = 3.0
HANDOVER_LIMIT_S = 2.0  # of a store that was told to stop
CRASH_LIMIT_S = 10.0  # recovery on a busy machine included
CLIENT_BACK_OFF_S = 12.0  # the Rust client's longest, for one that met a dead store at a bad time

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(180)]
_names = count()


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    """One cluster for all moves: each one must leave it whole and balanced."""
    cluster = StandaloneCluster(
        tmp_path_factory.mktemp("spread"),
        *("--segmentstores", str(STORES), "--containers", str(CONTAINERS)),
    )
    cluster.start()
    yield cluster
    cluster.end()


def serving(cluster: StandaloneCluster) -> dict[int, Serving]:
    """Who says that it serves each container."""

    async def ask() -> dict[int, Serving]:
        registry = RedisRegistry(str(cluster.addresses["redis"]), clock=SystemClock())
        try:
            return await registry.serving()
        finally:
            await registry.close()

    return asyncio.run(ask())


def is_balanced(cluster: StandaloneCluster) -> bool:
    shares = Counter(one.member for one in serving(cluster).values())
    return sorted(shares.values()) == [CONTAINERS // STORES] * STORES


def is_left(cluster: StandaloneCluster, incarnations: set[str]) -> bool:
    """All containers are served, none of them by these processes."""
    found = serving(cluster)
    return len(found) == CONTAINERS and not any(
        one.incarnation in incarnations for one in found.values()
    )


def incarnations_of(cluster: StandaloneCluster, store: str) -> set[str]:
    return {one.incarnation for one in serving(cluster).values() if one.member == store}


def events_of(cluster: StandaloneCluster, store: str) -> list[str]:
    text = (Path(cluster.data) / "log" / f"{store}.log").read_text()
    return [json.loads(line)["event"] for line in text.splitlines() if line.startswith("{")]


@pytest.fixture
def stream(spread: StandaloneCluster) -> Iterator[str]:
    """A stream with segments in several containers, in the scope `moves`."""
    client = Client(spread.controller)
    name = f"stream{next(_names)}"
    client.manager.create_scope("moves")
    client.manager.create_stream("moves", name, 8)
    yield name
    client.close()


def test_containers_are_spread_evenly_from_the_start(spread: StandaloneCluster) -> None:
    """One core would do the work while the others idle."""
    wait_until(lambda: is_balanced(spread), 5.0, "each store holds its share")
    addresses = spread.addresses["segmentstores"]
    assert isinstance(addresses, list)
    assert len(set(addresses)) == STORES


def test_a_killed_store_leaves_its_containers_to_the_others(
    spread: StandaloneCluster, stream: str
) -> None:
    """A dead process would take its containers' events with it until somebody restarts it."""
    with Load(spread.controller, "moves", stream) as load:
        load.wait_for_progress(400)
        old = spread.kill("segmentstore-1")
        killed_at = time.monotonic()
        load.wait_for_progress(400)
        gap_s = load.writer.longest_gap_s("acked", killed_at)
        spread.wait_for_successor("segmentstore-1", old)
        wait_until(lambda: is_balanced(spread), CRASH_LIMIT_S, "the new store has its share")
        load.wait_for_progress(200)
        load.finish()
    print(f"kill -9: writer stood still for {gap_s:.1f} s")
    assert gap_s <= CLIENT_BACK_OFF_S


def test_a_store_that_is_told_to_stop_hands_its_containers_over(
    spread: StandaloneCluster, stream: str
) -> None:
    """A rolling restart would look like a series of crashes."""
    wait_until(lambda: is_balanced(spread), CRASH_LIMIT_S, "each store holds its share")
    with Load(spread.controller, "moves", stream) as load:
        load.wait_for_progress(400)
        old = spread.pids["segmentstore-0"]
        before = incarnations_of(spread, "segmentstore-0")
        asked_at = time.monotonic()
        os.kill(old, signal.SIGTERM)

        wait_until(
            lambda: is_left(spread, before),
            CRASH_LIMIT_S,
            "all containers are served by other processes",
        )
        took_s = time.monotonic() - asked_at
        load.wait_for_progress(200)
        wait_until(lambda: is_balanced(spread), CRASH_LIMIT_S, "the new store has its share")
        load.wait_for_progress(200)
        load.finish()
    print(f"SIGTERM: moved within {took_s:.2f} s")
    assert took_s <= HANDOVER_LIMIT_S


def test_a_paused_store_is_fenced_and_falls_silent(spread: StandaloneCluster, stream: str) -> None:
    """A store that wakes up would acknowledge events that the new owner never sees (F6)."""
    store = "segmentstore-2"
    wait_until(lambda: is_balanced(spread), CRASH_LIMIT_S, "each store holds its share")
    with Load(spread.controller, "moves", stream) as load:
        load.wait_for_progress(400)
        pid = spread.pids[store]
        before = incarnations_of(spread, store)
        told_before = len(events_of(spread, store))
        os.kill(pid, signal.SIGSTOP)
        try:
            paused_at = time.monotonic()
            wait_until(lambda: is_left(spread, before), LEASE_S + CRASH_LIMIT_S, "all has moved")
            fresh = Client(spread.controller)
            name = f"fresh{next(_names)}"
            fresh.manager.create_stream("moves", name, 8)
            fresh.manager.create_writer("moves", name).write_event("hello", "key")
            group = fresh.manager.create_reader_group(f"g{name}", "moves", name)
            assert fresh.read_events(group.create_reader("reader"), 1) == [b"hello"]
            fresh.close()
            end = paused_at + LEASE_S + 1.0
            wait_until(lambda: time.monotonic() > end, LEASE_S + 2.0, "more than a lease")
        finally:
            os.kill(pid, signal.SIGCONT)
        load.wait_for_progress(400)
        wait_until(lambda: is_balanced(spread), CRASH_LIMIT_S, "the store has its share again")
        load.wait_for_progress(200)
        load.finish()
    assert spread.pids[store] == pid, "a pause must not end the process"
    told = set(events_of(spread, store)[told_before:])
    assert told & {"container.fenced", "store.container_moves"}, told
