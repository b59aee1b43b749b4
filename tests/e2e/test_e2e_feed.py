"""The public feed and the autoscaler, as an operator sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest
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
