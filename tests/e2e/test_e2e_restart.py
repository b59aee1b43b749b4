"""The whole cluster stopped or killed, and started again over its data: is all there, how soon?"""

from __future__ import annotations

import json
import time

import pytest
from helpers.client import Client
from helpers.cluster import StandaloneCluster
from helpers.control import Control

START_LIMIT_S = 5.0  # for a machine with nothing else to do
PSS_LIMIT_MB = 500.0


def write(cluster: StandaloneCluster, first: int, last: int) -> None:
    client = Client(cluster.controller)
    client.manager.create_scope("kept")
    client.manager.create_stream("kept", "stream", 2)
    writer = client.manager.create_writer("kept", "stream", 100)
    for number in range(first, last):
        writer.write_event(str(number), f"key{number % 5}")
    writer.flush()
    client.close()


def read(cluster: StandaloneCluster, count: int, group: str) -> list[int]:
    client = Client(cluster.controller)
    reader = client.manager.create_reader_group(group, "kept", "stream").create_reader("reader")
    events = [int(event) for event in client.read_events(reader, count)]
    client.close()
    return events


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_everything_is_there_again_after_a_stop_and_after_kill_of_everything(
    own_cluster: StandaloneCluster,
) -> None:
    """A restart of the machine would lose streams, scales or events."""
    own_cluster.start()
    write(own_cluster, 0, 100)
    with Control(own_cluster.controller) as control:
        segment = control.segments("kept", "stream")[0]
        control.scale("kept", "stream", [segment.id], [(0.0, 0.25), (0.25, 0.5)])
    assert own_cluster.stop() == 0

    own_cluster.start()
    write(own_cluster, 100, 200)
    assert sorted(read(own_cluster, 200, "first")) == list(range(200))
    own_cluster.kill_everything()

    own_cluster.start()
    with Control(own_cluster.controller) as control:
        assert [s.number for s in control.segments("kept", "stream")] == [2, 3, 1]
    write(own_cluster, 200, 300)
    assert sorted(read(own_cluster, 300, "second")) == list(range(300))


@pytest.mark.slow
def test_a_second_start_right_after_the_supervisor_was_killed_works(
    own_cluster: StandaloneCluster,
) -> None:
    """The children of a killed supervisor would hold the ports or the data."""
    own_cluster.start()
    write(own_cluster, 0, 50)
    own_cluster.kill_supervisor()
    own_cluster.start()
    assert sorted(read(own_cluster, 50, "group")) == list(range(50))


@pytest.mark.slow
def test_a_cluster_is_ready_in_seconds_and_fits_into_its_memory(
    own_cluster: StandaloneCluster,
) -> None:
    """A newcomer's first minute, and a laptop's memory."""
    own_cluster.start()
    first_s = own_cluster.started_in_s
    own_cluster.stop()
    own_cluster.start()
    settled = time.monotonic() + 2.0
    while time.monotonic() < settled:
        assert own_cluster.command("cluster", "members").returncode == 0
    memory = own_cluster.command("cluster", "memory", "-o", "jsonl")
    assert memory.returncode == 0, memory.stderr
    print(f"started in {first_s:.1f} s, then in {own_cluster.started_in_s:.1f} s\n{memory.stdout}")
    rows = {row["process"]: row["pss_mb"] for row in map(json.loads, memory.stdout.splitlines())}
    assert rows["total"] <= PSS_LIMIT_MB
    assert min(first_s, own_cluster.started_in_s) <= START_LIMIT_S
