"""The public feed and the autoscaler, as an operator sees them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from anabranch_events.feed import CloudEvent
from anabranch_events.segment_graph import replay
from helpers.client import Client
from helpers.cluster import StandaloneCluster, wait_until
from helpers.control import Control
from helpers.load import Load


def feed(cluster: StandaloneCluster, subject: str, count: int) -> list[dict[str, Any]]:
    """The oldest `count` events of a subject, through the command that operators use."""
    told = cluster.command(
        *("events", "tail", "--all", "--subject", subject, "--count", str(count), "-o", "jsonl")
    )
    assert told.returncode == 0, told.stderr
    return [json.loads(line) for line in told.stdout.splitlines()]


def test_a_scale_is_told_on_the_feed_with_its_ranges(
    cluster: StandaloneCluster, client: Client, scope: str, control: Control
) -> None:
    """An operator could not see why a stream has other segments than yesterday."""
    client.manager.create_stream(scope, "told", 1)
    control.scale(scope, "told", [0], [(0.0, 0.5), (0.5, 1.0)])
    (event,) = feed(cluster, f"anabranch.feed.stream.scaled.{scope}.told", 1)
    assert event["specversion"] == "1.0"
    assert event["type"] == "io.anabranch.stream.scaled"
    assert event["subject"] == f"{scope}/told"
    data = event["data"]
    assert data["cause"] == "manual"
    assert [part[1:] for part in data["sealed"]] == [[0.0, 1.0]]
    assert sorted(part[1:] for part in data["created"]) == [[0.0, 0.5], [0.5, 1.0]]
    assert (data["splits"], data["merges"], data["segments_count"]) == (1, 0, 2)
    assert data["duration_ms"] >= 0


def test_the_life_of_a_stream_is_told_in_order(
    cluster: StandaloneCluster, client: Client, scope: str
) -> None:
    """The feed would not be enough to follow a stream."""
    client.manager.create_stream(scope, "life", 1)
    client.manager.seal_stream(scope, "life")
    client.manager.delete_stream(scope, "life")
    events = feed(cluster, f"anabranch.feed.stream.*.{scope}.life", 3)
    assert [event["type"].removeprefix("io.anabranch.stream.") for event in events] == [
        "created",
        "sealed",
        "deleted",
    ]
    assert len({event["id"] for event in events}) == 3


@pytest.mark.slow
def test_a_busy_stream_splits_by_itself_and_says_why(
    cluster: StandaloneCluster, client: Client, scope: str, control: Control
) -> None:
    """Traffic would rise and the stream stay as narrow as it was."""
    module, manager = client.module, client.manager
    policy = getattr(module, "StreamScalingPolicy.auto_scaling_policy_by_event_rate")(100, 2, 1)
    forever = getattr(module, "StreamRetentionPolicy.none")()
    tags = ["anabranch.scale.window=2s", "anabranch.scale.cooldown=2s"]
    manager.create_stream_with_policy(scope, "busy", policy, forever, tags)
    with Load(cluster.controller, scope, "busy", keys=50, rate=500) as load:
        wait_until(lambda: len(control.segments(scope, "busy")) >= 2, 30.0, "a first split")
        (event,) = feed(cluster, f"anabranch.feed.stream.scaled.{scope}.busy", 1)
        assert event["data"]["cause"] == "load"
        assert event["data"]["observed_rate"] > event["data"]["target_rate"] > 0
        assert event["data"]["reason"]
        load.finish()


def test_the_feed_of_a_live_cluster_replayed_is_its_segment_graph(
    cluster: StandaloneCluster, client: Client, scope: str, control: Control
) -> None:
    """Who follows the feed would see other segments than the clients do."""
    client.manager.create_stream(scope, "graph", 2)
    control.scale(scope, "graph", [0], [(0.0, 0.2), (0.2, 0.5)])
    merged = sorted(segment.id for segment in control.segments(scope, "graph"))
    control.scale(scope, "graph", merged, [(0.0, 0.75), (0.75, 1.0)])
    lines = feed(cluster, f"anabranch.feed.stream.*.{scope}.graph", 3)
    graph = replay(msgspec.json.decode(json.dumps(line), type=CloudEvent) for line in lines)
    found = graph[f"{scope}/graph"]
    wanted = sorted(control.segments(scope, "graph"), key=lambda segment: segment.low)
    assert [(one.id, one.low, one.high) for one in found.open_segments] == [
        (one.id, one.low, one.high) for one in wanted
    ]
    for one in found.segments:
        successors = control.successors(scope, "graph", one)
        assert {after.id for after in found.successors(one)} == set(successors)
        for after, before in successors.items():
            assert {old.id for old in found.predecessors(after)} == set(before)


def test_members_containers_and_history_are_told(
    cluster: StandaloneCluster, client: Client, scope: str, control: Control
) -> None:
    """An operator could not see who serves what, nor what happened to a stream."""
    joined = feed(cluster, "anabranch.feed.member.joined.>", 4)
    assert {event["data"]["role"] for event in joined} == {
        "controller",
        "segmentstore",
        "autoscaler",
        "tierer",
    }
    moved = feed(cluster, "anabranch.feed.container.moved.*", 4)
    assert {event["data"]["container"] for event in moved} == {0, 1, 2, 3}
    client.manager.create_stream(scope, "past", 1)
    control.scale(scope, "past", [0], [(0.0, 0.5), (0.5, 1.0)])
    told = cluster.command("history", "stream", f"{scope}/past", "-o", "json")
    assert told.returncode == 0, told.stderr
    rows = json.loads(told.stdout)
    assert [row["event"] for row in rows if row["event"] != "WorkTakenOver"] == [
        "StreamCreated",
        "StreamActivated",
        "ScaleStarted",
        "EpochAppended",
        "ScaleCompleted",
    ]
    assert (rows[-1]["epoch"], rows[2]["cause"]) == (1, "manual")
