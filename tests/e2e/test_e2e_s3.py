"""A cluster with tier 2 in S3: data goes there, comes back from there, and outlives an outage."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from anabranch_kit.adapters.s3_object_store import S3ObjectStore
from anabranch_kit.adapters.s3_object_store_location import parse_s3_url
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ids import new_id
from anabranch_testkit.loop_thread import LoopThread, loop_thread
from anabranch_testkit.s3_server import S3Place
from anabranch_testkit.tcp_proxy import TcpProxy, tcp_proxy
from helpers.client import Client
from helpers.cluster import StandaloneCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EVENT_BYTES = 1000
TIERED_LIMIT_S = 60.0


def tiered_bytes(place: S3Place, prefix: str) -> int:
    """All that lies in tier 2 now, asked without the proxy."""

    async def add_up() -> int:
        store = S3ObjectStore(
            parse_s3_url(place.url(prefix)),
            clock=SystemClock(),
            new_id=new_id,
            chance=random.Random(1),
            credentials=place.credentials,
        )
        try:
            names = [name async for name in store.list("")]
            return sum([(await store.head(name)).length_bytes for name in names])
        finally:
            await store.close()

    return asyncio.run(add_up())


def event(number: int) -> str:
    return f"{number:08d}".ljust(EVENT_BYTES, "x")


def write(cluster: StandaloneCluster, first: int, last: int) -> None:
    client = Client(cluster.controller)
    client.manager.create_scope("scope")
    client.manager.create_stream("scope", "stream", 1)
    writer = client.manager.create_writer("scope", "stream", 100)
    for number in range(first, last):
        writer.write_event(event(number), "key")
    writer.flush()
    client.close()


def read(cluster: StandaloneCluster, count: int, group: str) -> list[str]:
    client = Client(cluster.controller)
    reader = client.manager.create_reader_group(group, "scope", "stream").create_reader("reader")
    events = [data.decode() for data in client.read_events(reader, count)]
    client.close()
    return events


@pytest.fixture
def prefix() -> str:
    return f"e2e/{new_id().hex}"


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    with loop_thread() as thread:
        yield thread


@pytest.fixture
def proxy(seaweedfs: S3Place, thread: LoopThread) -> TcpProxy:
    """Between the cluster and the store."""
    if seaweedfs.port is None:
        pytest.skip("the proxy needs a store on this machine, without TLS")
    return thread.enter(tcp_proxy(seaweedfs.port))


@pytest.fixture
def s3_cluster(
    seaweedfs: S3Place, proxy: TcpProxy, prefix: str, tmp_path: Path
) -> Iterator[StandaloneCluster]:
    cluster = StandaloneCluster(
        tmp_path,
        "--tier2",
        seaweedfs.url(prefix, port=proxy.port),
        environment={**seaweedfs.environment, "ANABRANCH_SEGMENTSTORE__FLUSH_AGE_S": "1"},
    )
    yield cluster
    cluster.end()


def test_events_are_read_back_from_s3(
    s3_cluster: StandaloneCluster, seaweedfs: S3Place, proxy: TcpProxy, prefix: str
) -> None:
    """What was moved to the bucket could not be read, or would be other bytes."""
    s3_cluster.start()
    write(s3_cluster, 0, 3000)
    wait_until(
        lambda: tiered_bytes(seaweedfs, prefix) >= 3000 * EVENT_BYTES,
        TIERED_LIMIT_S,
        "all is in tier 2",
    )
    ranges_read: list[bytes] = []

    def see_reads(block: bytes) -> bytes:
        if block.startswith(b"GET") and b"\r\nRange: " in block:
            ranges_read.append(block)
        return block

    proxy.rewrite_request = see_reads
    groups = count()

    def came_from_s3() -> bool:
        # A new process has nothing in memory; what it had not journalled yet is in its log.
        old = s3_cluster.kill("segmentstore-0")
        s3_cluster.wait_for_successor("segmentstore-0", old)
        events = read(s3_cluster, 3000, f"cold{next(groups)}")
        assert events == [event(number) for number in range(3000)]
        return bool(ranges_read)

    wait_until(came_from_s3, TIERED_LIMIT_S, "reads go to S3")
    assert s3_cluster.stop() == 0


def test_an_outage_of_s3_stops_no_writer_and_loses_nothing(
    s3_cluster: StandaloneCluster,
    seaweedfs: S3Place,
    proxy: TcpProxy,
    thread: LoopThread,
    prefix: str,
) -> None:
    """Writers would stop, or what they wrote meanwhile would never reach tier 2 (F24)."""
    s3_cluster.start()
    write(s3_cluster, 0, 500)
    thread.run(proxy.refuse())
    write(s3_cluster, 500, 1500)
    assert read(s3_cluster, 1500, "during") == [event(number) for number in range(1500)]
    # A service that has to start again meanwhile does so.
    for name in ("segmentstore-0", "tierer"):
        s3_cluster.wait_for_successor(name, s3_cluster.kill(name))
    write(s3_cluster, 1500, 2000)
    thread.run(proxy.open())
    wait_until(
        lambda: tiered_bytes(seaweedfs, prefix) >= 2000 * EVENT_BYTES,
        TIERED_LIMIT_S,
        "all is in tier 2 after the outage",
    )
    assert read(s3_cluster, 2000, "after") == [event(number) for number in range(2000)]


def test_a_wrong_bucket_is_told_at_the_start(seaweedfs: S3Place, tmp_path: Path) -> None:
    """The cluster would look healthy until the disk of tier 1 is full."""
    cluster = StandaloneCluster(
        tmp_path,
        "--tier2",
        seaweedfs.url("x").replace(seaweedfs.bucket, "not-there"),
        environment=seaweedfs.environment,
    )
    try:
        process = cluster.spawn()
        assert process.wait(60) != 0
        assert "Create the bucket not-there" in cluster.log()
    finally:
        cluster.end()
