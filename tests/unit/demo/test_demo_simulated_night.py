"""The demo's plan and the autoscaler's rules together give the picture that is promised.

No cluster: the load is counted from the plan, key by key with the real hash, and the
autoscaler's commands are carried out at once.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from itertools import pairwise

import pytest
from anabranch_autoscaler.domain.scaler import Ask, Autoscaler, ShowRates
from anabranch_autoscaler.domain.tags import ScaleSettings
from anabranch_events.bus import LoadReport, ScaleCommand, SegmentLoad, StreamRates
from anabranch_events.domain import (
    EpochAppended,
    ScaleCompleted,
    StreamActivated,
    StreamBatch,
    StreamCreated,
)
from anabranch_events.feed import StreamScaled
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig
from anabranch_standalone.demo.nightclock import NIGHT_S, NightClock
from anabranch_standalone.demo.plan import (
    EVENT_HEADER_BYTES,
    INITIAL_SEGMENTS,
    policy_for,
)
from anabranch_standalone.demo.story import tell
from anabranch_standalone.demo.trips import Trip, busiest, generate, repeat
from anabranch_wire.hashing import routing_key_position

SCALE_MS = 60
START_MS = 1_000_000


def simulate(trips: list[Trip], *, seconds: float = 180.0, length_bytes: int = 500):
    peak_rate = busiest(trips)[1] * NIGHT_S / seconds
    policy = policy_for(peak_rate=peak_rate, event_length_bytes=length_bytes, seconds=seconds)
    clock = NightClock(START_MS, seconds)
    initial = tuple(
        SegmentRange(i, i / INITIAL_SEGMENTS, (i + 1) / INITIAL_SEGMENTS)
        for i in range(INITIAL_SEGMENTS)
    )
    autoscaler = Autoscaler(ScaleSettings())
    scaling = ScalingPolicy("kbytes_per_sec", policy.target_kb_per_s, policy.scale_factor, 1)
    created = StreamCreated("s", "t", "i", StreamConfig(scaling, tags=policy.tags), initial, 0)
    fold = StreamBatch("0", "c", 0, (created, StreamActivated()))
    autoscaler.fold("s", "t", fold, now_s=0.0)

    segments, epoch, number, at = initial, 0, INITIAL_SEGMENTS, 0
    scaled: list[StreamScaled] = []
    samples: list[StreamRates] = []
    positions = {place: routing_key_position(place) for place in {trip.place for trip in trips}}
    for second in range(1, int(seconds) + 1):
        now_s, now_ms = float(second), START_MS + second * 1000
        counts: Counter[int] = Counter()
        highs = [segment.high for segment in segments]
        while at < len(trips) and trips[at].at_s < second * clock.speed:
            counts[bisect_left(highs, positions[trips[at].place])] += 1
            at += 1
        loads = [
            SegmentLoad(
                f"s/t/{segment.number}.#epoch.{segment.epoch}",
                float(counts[index] * (length_bytes + EVENT_HEADER_BYTES)),
                float(counts[index]),
                0,
                0,
            )
            for index, segment in enumerate(segments)
        ]
        autoscaler.report(LoadReport("st", "i", second, now_ms, 1000, loads), now_s=now_s)
        for effect in autoscaler.tick(now_s=now_s, now_ms=now_ms):
            match effect:
                case ShowRates():
                    samples.append(effect.rates)
                case Ask():
                    epoch += 1
                    command: ScaleCommand = effect.command
                    sealed = tuple(s for s in segments if s.id in command.seal)
                    new = tuple(
                        SegmentRange(epoch << 32 | (number + i), r.low, r.high)
                        for i, r in enumerate(command.ranges)
                    )
                    number += len(new)
                    kept = [s for s in segments if s.id not in command.seal]
                    segments = tuple(sorted((*kept, *new), key=lambda s: s.low))
                    assert all(a.high == b.low for a, b in pairwise(segments))
                    appended = EpochAppended(epoch, epoch, segments, sealed, now_ms)
                    batch = StreamBatch(
                        str(epoch), "c", now_ms, (appended, ScaleCompleted(epoch, (), now_ms))
                    )
                    autoscaler.fold("s", "t", batch, now_s=now_s)
                    splits = sum(
                        sum(1 for c in new if s.low <= c.low and c.high <= s.high) > 1
                        for s in sealed
                    )
                    merges = sum(
                        sum(1 for s in sealed if c.low <= s.low and s.high <= c.high) > 1
                        for c in new
                    )
                    event = StreamScaled(
                        scope="s",
                        stream="t",
                        epoch=epoch,
                        cause="load",
                        reason=command.reason,
                        observed_rate=command.observed_rate,
                        target_rate=command.target_rate,
                        sealed=sealed,
                        created=new,
                        splits=splits,
                        merges=merges,
                        segments_count=len(segments),
                        requested_ms=now_ms,
                        at_ms=now_ms + SCALE_MS,
                        duration_ms=SCALE_MS,
                    )
                    scaled.append(event)
    return clock, initial, scaled, samples


@pytest.mark.parametrize("seed", range(5))
def test_the_night_looks_as_promised_for_any_seed(seed):
    """`make run` would print a failed check, or show a map in which nothing happens."""
    trips = generate(60_000, random.Random(seed))
    clock, initial, scaled, samples = simulate(trips)
    story = tell(clock, initial, scaled, samples)
    assert all(check.is_good for check in story.checks), story
    assert story.segments_min <= 2
    assert 6 <= story.segments_max <= 16
    assert story.splits + story.merges <= 60, "flapping"
    assert story.reaction is not None
    assert story.reaction.median_s <= 5


def test_a_thin_file_repeated_looks_as_promised_too():
    """`--trips` with a small sample would fail the checks."""
    rng = random.Random(5)
    trips = repeat(generate(800, rng), 60_000, rng)
    story = tell(*simulate(trips))
    assert all(check.is_good for check in story.checks), story
    assert story.segments_min <= 2
