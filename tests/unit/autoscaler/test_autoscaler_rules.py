"""Streams scale when they should, say why, and otherwise stay as they are."""

from __future__ import annotations

import math
import random

import pytest
from anabranch_autoscaler.domain.tags import ScaleSettings
from anabranch_events.bus import StreamRates
from anabranch_events.domain import (
    DeleteStarted,
    ScaleStarted,
    StreamDeleted,
    UpdateCompleted,
    UpdateStarted,
)
from anabranch_events.model import ScalingPolicy, StreamConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def even(rate):
    return lambda low, high, now_s: rate * (high - low)


def test_a_five_fold_step_is_split_within_seconds(make_world):
    """A sudden crowd would wait minutes for a second segment."""
    world = make_world(lambda low, high, now_s: (80 if now_s <= 1060 else 400) * (high - low))
    world.run(60)
    assert world.commands == []
    world.run(4)
    at_s, command = world.commands[0]
    assert at_s - 1060 <= 3
    assert command.seal == (0,)
    assert [(r.low, r.high) for r in command.ranges] == [(0.0, 0.5), (0.5, 1.0)]
    assert command.observed_rate > 100
    assert command.target_rate == 100
    for part in ("segment 0.0", "above 100", "target 100", "at 0.5", "scale factor 2"):
        assert part in command.reason


def test_children_go_on_splitting_without_a_cold_window(make_world):
    """Eight times the target would take three full windows to be relieved."""
    world = make_world(even(800.0))
    world.run(30)
    assert len(world.segments) >= 8


def test_the_scale_factor_allows_many_parts_at_once(make_world, make_policy):
    """A policy with factor 8 would still crawl by halves."""
    world = make_world(even(750.0), policy=make_policy(factor=8))
    world.run(12)
    assert len(world.commands) == 1
    assert len(world.segments) == 8


def test_a_load_at_the_target_with_noise_does_not_flap(make_world):
    """Readers and writers would be bothered all day by splits and merges that cancel out."""
    noise = random.Random(7)
    world = make_world(lambda low, high, now_s: 100.0 * (high - low) * noise.uniform(0.7, 1.3))
    world.run(3600)
    assert 1 <= len(world.commands) <= 3
    assert len(world.segments) <= 3


def test_a_noisy_day_scales_a_few_times_and_ends_where_it_began(make_world):
    """Each swing of the day would cost dozens of epochs. (The day has two hours here.)"""
    noise = random.Random(11)
    day_s = 7200

    def day(low, high, now_s):
        phase = (now_s - 1000) / day_s * 2 * math.pi
        return (430 - 400 * math.cos(phase)) * (high - low) * noise.uniform(0.8, 1.2)

    world = make_world(day)
    world.run(day_s // 2)
    assert 8 <= len(world.segments) <= 16
    world.run(day_s // 2)
    assert len(world.segments) == 1
    assert len(world.commands) <= 30


def test_a_quiet_night_merges_down_to_the_minimum_and_no_further(
    make_world, make_policy, make_parts
):
    """Idle streams would keep their daytime segments, or lose more than their owner allows."""
    world = make_world(even(5.0), policy=make_policy(minimum=3), segments=make_parts(8))
    world.run(1000)
    assert len(world.segments) == 3
    assert all("merge" in command.reason for _, command in world.commands)


def test_merges_wait_for_the_cool_down_and_the_merge_window(make_world, make_parts):
    """A lull of a minute would undo what the next minute needs."""
    world = make_world(even(5.0), segments=make_parts(2))
    world.run(105)
    assert world.commands == []
    world.run(20)
    assert len(world.commands) == 1
    assert len(world.segments) == 1


def test_missing_reports_are_not_silence(make_world, make_parts):
    """The segments of a dead store would be merged for a load that nobody measured."""
    world = make_world(even(5.0), segments=make_parts(2))
    for _ in range(600):
        world.now_s += 1
        world.report(only=frozenset({0}))
        world.tick()
    assert world.commands == []


def test_a_gap_in_the_reports_starts_the_merge_window_anew(make_world, make_parts):
    """An outage of a store would count as a quiet time."""
    world = make_world(even(5.0), segments=make_parts(2))
    world.run(60)
    world.now_s += 100
    world.run(100)
    assert world.commands == []


def test_a_repeated_report_counts_once(make_world):
    """A doubled message would look like twice the evidence."""
    world = make_world(even(500.0))
    world.now_s += 1
    world.report()
    for _ in range(20):
        world.sequence -= 1
        world.report()
    assert len(world.autoscaler.streams["s", "t"].segments[0].window.recent) == 1


def test_splits_and_merges_of_a_stream_go_into_one_command(make_world, make_parts):
    """Each range would cost an epoch of its own, one after the other."""
    tags = ("anabranch.scale.merge-window=10s", "anabranch.scale.merge-cooldown=10s")

    def load(low, high, now_s):
        return 150.0 if high > 0.75 else 5.0

    world = make_world(load, segments=make_parts(4), tags=tags)
    world.now_s += 0.5
    for _ in range(12):
        world.now_s += 1
        world.report()
    world.tick()
    [(_, command)] = world.commands
    assert set(command.seal) == {0, 1, 3}
    assert [(r.low, r.high) for r in command.ranges] == [(0.0, 0.5), (0.75, 0.875), (0.875, 1.0)]


def test_one_scale_at_a_time(make_world, make_parts):
    """Commands for an epoch that is about to end would pile up at the controller."""
    world = make_world(even(2000.0))
    for _ in range(20):
        world.now_s += 1
        world.report()
        world.tick()
    assert len(world.commands) == 1


@pytest.mark.parametrize("outcome", ["refused", "conflict", "not-found", "unknown"])
def test_a_command_that_failed_is_asked_again_a_little_later(make_world, outcome):
    """One lost answer would end the scaling of a stream."""
    world = make_world(even(2000.0))
    while not world.commands:
        world.now_s += 1
        world.report()
        world.tick()
    asked_s, command = world.commands[0]
    world.autoscaler.answered(command, outcome, now_s=world.now_s)
    while len(world.commands) < 2:
        world.now_s += 1
        world.report()
        world.tick()
    assert 2 <= world.commands[1][0] - asked_s <= 3


def test_nothing_is_asked_while_a_scale_is_under_way(make_world):
    """A manual scale and the autoscaler would fight over one epoch."""
    world = make_world(even(2000.0))
    world.tell(ScaleStarted(1, (), (), "manual", "", 0.0, 0.0, 0))
    world.run(60)
    assert world.commands == []


def test_fixed_streams_and_deleted_streams_are_left_alone(make_world):
    """A stream with a fixed number of segments would change it."""
    world = make_world(even(2000.0), policy=ScalingPolicy("fixed", 0, 0, 1))
    world.run(60)
    assert world.commands == []
    assert world.rates == []
    other = make_world(even(2000.0))
    other.tell(DeleteStarted())
    other.run(60)
    assert other.commands == []
    other.tell(StreamDeleted(0))
    assert other.autoscaler.streams == {}


def test_an_update_of_the_policy_and_its_tags_counts_at_once(make_world, make_policy):
    """A raised target or a new cool-down would need a restart."""
    world = make_world(even(150.0), policy=make_policy(target=200))
    world.run(60)
    assert world.commands == []
    config = StreamConfig(scaling=make_policy(target=100), tags=("anabranch.scale.window=4s",))
    world.tell(UpdateStarted(config), UpdateCompleted())
    world.run(2)
    assert len(world.commands) == 1
    assert "over 4 s" in world.commands[0][1].reason


def test_a_bad_tag_is_named_and_the_default_is_used(make_world):
    """A typo in a tag would silently set a cool-down that nobody wanted, or none."""
    tags = ("anabranch.scale.window=soon", "anabranch.scale.windows=2s", "colour=red")
    world = make_world(even(1.0), tags=tags)
    world.run(1)
    details = [warning.warning.detail for warning in world.warnings]
    assert len(details) == 2
    assert "anabranch.scale.window=soon" in details[0]
    assert "the default of 10s is used" in details[0]
    assert "no such setting" in details[1]
    assert {w.warning.stream for w in world.warnings} == {"t"}
    assert world.autoscaler.streams["s", "t"].settings == ScaleSettings()
    world.run(5)
    assert len(world.warnings) == 2


def test_splitting_stops_at_a_hot_key_and_says_so(make_world):
    """One busy key would be given a hundred segments that cannot share its load."""
    key = 0.3141
    world = make_world(lambda low, high, now_s: 500.0 if low <= key < high else 1.0)
    world.run(300)
    assert len(world.segments) <= 8
    assert any("hot key" in warning.warning.detail for warning in world.warnings)


def test_a_learned_density_cuts_where_the_load_halves(make_world):
    """A skewed range would be halved by width again and again."""

    def load(low, high, now_s):
        cold = 10 * (high - low)
        hot = max(0.0, min(high, 1.0) - max(low, 0.75)) / 0.25
        return cold + (900 if now_s < 1200 or now_s > 1400 else 30) * hot

    tags = ("anabranch.scale.merge-window=30s", "anabranch.scale.merge-cooldown=30s")
    world = make_world(load, tags=tags)
    world.run(399)
    assert len(world.segments) == 1
    before = len(world.commands)
    world.run(10)
    assert world.commands[before][1].ranges[0].high > 0.6


def test_rates_are_shown_once_a_second_with_their_ranges(make_world, make_parts):
    """Dashboards and the heat map would have nothing to draw."""
    world = make_world(even(40.0), segments=make_parts(4))
    world.run(10)
    assert len(world.rates) == 10
    shown: StreamRates = world.rates[-1]
    assert [(s.low, s.high, s.rate) for s in shown.segments] == [
        (0.0, 0.25, 10.0), (0.25, 0.5, 10.0), (0.5, 0.75, 10.0), (0.75, 1.0, 10.0),
    ]  # fmt: skip
    assert shown.segments[0].bytes_per_s == 1000.0


def test_a_restarted_autoscaler_learns_ages_from_the_reports(make_world):
    """After a restart every segment would wait out its cool-down again."""
    world = make_world(even(500.0), tags=("anabranch.scale.cooldown=10m",))
    world.run(60)
    assert world.commands == []
    segment = world.autoscaler.streams["s", "t"].segments[0]
    segment.since_s = world.now_s - 601
    world.run(1)
    assert len(world.commands) == 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rates=st.lists(st.floats(0, 2000), min_size=16, max_size=16),
    later=st.lists(st.floats(0, 2000), min_size=16, max_size=16),
    factor=st.integers(0, 6),
    minimum=st.integers(1, 5),
)
def test_whatever_the_load_the_key_space_stays_whole(
    make_world, make_policy, make_parts, rates, later, factor, minimum
):
    """Keys would have no segment, or two. (The pretended controller checks each command.)"""

    def load(low, high, now_s):
        now = rates if now_s < 1040 else later
        cells = (now[i] * max(0.0, min(high, (i + 1) / 16) - max(low, i / 16)) for i in range(16))
        return sum(cells)

    tags = ("anabranch.scale.merge-window=10s", "anabranch.scale.merge-cooldown=5s")
    world = make_world(
        load,
        policy=make_policy(factor=factor, minimum=minimum),
        tags=tags,
        segments=make_parts(5),
    )
    world.run(90)
    assert len(world.segments) >= minimum
