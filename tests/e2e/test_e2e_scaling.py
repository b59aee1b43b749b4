"""Scaling under the official client: the article's example, and a long run with the checker."""

from __future__ import annotations

import random

import pytest
from helpers.client import Client
from helpers.cluster import StandaloneCluster
from helpers.control import Control, Segment, assert_covers_key_space
from helpers.load import Load

SCALES_COUNT = 56
SEGMENTS_MAX = 6


def numbers(segments: list[Segment]) -> list[int]:
    return [segment.number for segment in segments]


def test_the_example_of_the_article_step_by_step(
    client: Client, scope: str, control: Control
) -> None:
    """Segments 0 and 1; 1 into 2 and 3; 0 into 4 and 5; 2 and 5 into 6: 4, 6 and 3 are open.

    And a reader gets each key in order through all of it.
    """
    manager = client.manager
    manager.create_stream(scope, "article", 2)
    writer = manager.create_writer(scope, "article", 200)
    keys, sent = 40, 0

    def write() -> None:
        nonlocal sent
        for key in range(keys):
            writer.write_event(f"{key}:{sent}", f"key{key}")
        sent += 1
        writer.flush()

    def current() -> list[Segment]:
        segments = control.segments(scope, "article")
        assert_covers_key_space(segments)
        return segments

    zero, one = current()
    assert (zero.number, one.number) == (0, 1)
    assert (zero.low, zero.high, one.low, one.high) == (0.0, 0.5, 0.5, 1.0)
    write()
    two, three = control.scale(scope, "article", [one.id], [(0.5, 0.75), (0.75, 1.0)])
    assert numbers(current()) == [0, 2, 3]
    write()
    four, five = control.scale(scope, "article", [zero.id], [(0.0, 0.25), (0.25, 0.5)])
    assert numbers(current()) == [4, 5, 2, 3]
    write()
    (six,) = control.scale(scope, "article", [two.id, five.id], [(0.25, 0.75)])
    assert [s.number for s in (two, three, four, five, six)] == [2, 3, 4, 5, 6]
    assert numbers(current()) == [4, 6, 3]
    write()

    reader = manager.create_reader_group("group", scope, "article").create_reader("reader")
    next_of = [0] * keys
    for event in client.read_events(reader, keys * sent):
        key, number = (int(part) for part in event.split(b":"))
        assert number == next_of[key], f"key {key}"
        next_of[key] += 1
    assert next_of == [sent] * keys


def next_scale(
    segments: list[Segment], rng: random.Random
) -> tuple[list[int], list[tuple[float, float]]]:
    """A random split or a merge of two neighbours."""
    split = len(segments) == 1 or (len(segments) < SEGMENTS_MAX and rng.random() < 0.5)
    if split:
        segment = rng.choice(segments)
        middle = (segment.low + segment.high) / 2
        return [segment.id], [(segment.low, middle), (middle, segment.high)]
    at = rng.randrange(len(segments) - 1)
    left, right = segments[at : at + 2]
    return [left.id, right.id], [(left.low, right.high)]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_each_key_stays_in_order_across_more_than_fifty_splits_and_merges(
    cluster: StandaloneCluster, client: Client, scope: str, control: Control
) -> None:
    """The promise of elastic streams: nothing lost, doubled or out of order while they change."""
    client.manager.create_stream(scope, "elastic", 1)
    rng = random.Random(20190301)
    with Load(cluster.controller, scope, "elastic", keys=50, rate=1000) as load:
        for _ in range(SCALES_COUNT):
            segments = control.segments(scope, "elastic")
            assert_covers_key_space(segments)
            control.scale(scope, "elastic", *next_scale(segments, rng))
            load.wait_for_progress(50)
        events = load.finish()
    assert events > SCALES_COUNT * 50


def test_a_refused_scale_changes_nothing(client: Client, scope: str, control: Control) -> None:
    """A wrong request would leave a hole or an overlap in the key space."""
    client.manager.create_stream(scope, "strict", 2)
    before = control.segments(scope, "strict")
    for seal, ranges in (
        ([0], [(0.0, 0.3)]),
        ([0], [(0.0, 0.3), (0.2, 0.5)]),
        ([0], [(0.0, 0.5), (0.5, 1.0)]),
        ([99], [(0.0, 0.5)]),
        ([0, 1], [(0.0, 1.0)]),  # fewer segments than the policy's minimum
    ):
        assert control.start_scale(scope, "strict", seal, ranges).status != 0, (seal, ranges)
    assert control.segments(scope, "strict") == before
