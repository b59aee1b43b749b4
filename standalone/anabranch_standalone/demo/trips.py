"""When and where people take a taxi: the plan that the writer follows.

The plan of a seed is always the same. Without a file its trips are drawn from the hourly
profile and the shares of places; the trips of a file (`tripfiles`) are folded onto one night
and repeated, with jittered times, until there are as many as wanted.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

import msgspec

from anabranch_standalone.demo.nightclock import HOUR_S, NIGHT_HOURS, NIGHT_S
from anabranch_standalone.demo.profile import (
    HOURLY_PICKUPS,
    PICKUPS_AFTER,
    PICKUPS_BEFORE,
    place_weights,
)

MINUTE_S: Final = 60
JITTER_S: Final = 900.0  # standard deviation for repeated trips: a thin sample becomes a curve
TRIPS_MAX: Final = 5_000_000  # some 500 MB as a plan; beyond that the demo is no demo

assert len(HOURLY_PICKUPS) == NIGHT_HOURS


class Trip(msgspec.Struct, frozen=True, array_like=True):
    """`at_s` in taxi seconds; `place` is the routing key."""

    at_s: float
    place: str


def intensity(taxi_s: float) -> float:
    """Pick-ups per hour at this time of the night, in the units of the profile.

    Straight lines between the middles of the hours.
    """
    counts = [PICKUPS_BEFORE, *(count for _, count in HOURLY_PICKUPS), PICKUPS_AFTER]
    position = taxi_s / HOUR_S + 0.5  # 0 is the middle of the hour before the night
    index = min(max(int(position), 0), len(counts) - 2)
    share = position - index
    return counts[index] * (1 - share) + counts[index + 1] * share


def peak_to_mean() -> float:
    """How much busier the busiest moment of the night is than its mean."""
    minutes = [intensity(minute * MINUTE_S) for minute in range(NIGHT_S // MINUTE_S)]
    return max(minutes) * len(minutes) / sum(minutes)


def generate(count: int, rng: random.Random) -> list[Trip]:
    """`count` trips of one night, by rising time."""
    minutes = range(NIGHT_S // MINUTE_S)
    weights = [intensity((minute + 0.5) * MINUTE_S) for minute in minutes]
    cumulated = list(accumulate(weights))
    zones = place_weights()
    places = rng.choices([str(zone) for zone in zones], list(zones.values()), k=count)
    times = sorted(
        (bisect_left(cumulated, rng.random() * cumulated[-1]) + rng.random()) * MINUTE_S
        for _ in range(count)
    )
    return [Trip(at_s, place) for at_s, place in zip(times, places, strict=True)]


def repeat(trips: Sequence[Trip], count: int, rng: random.Random) -> list[Trip]:
    """`count` trips made of these, each about equally often, its time jittered."""
    assert trips, "nothing cannot be repeated"
    times_all, rest = divmod(count, len(trips))
    wanted = [trip for trip in trips for _ in range(times_all)] + rng.sample(list(trips), rest)
    jittered = [Trip(_inside(trip.at_s + rng.gauss(0, JITTER_S)), trip.place) for trip in wanted]
    return sorted(jittered, key=lambda trip: trip.at_s)


def busiest(trips: Sequence[Trip]) -> tuple[float, float]:
    """The busiest half hour as (its middle in taxi seconds, trips per taxi second)."""
    width_s = HOUR_S / 2
    bins = [0] * int(NIGHT_S // width_s)
    for trip in trips:
        bins[min(int(trip.at_s // width_s), len(bins) - 1)] += 1
    best = max(range(len(bins)), key=bins.__getitem__)
    return (best + 0.5) * width_s, bins[best] / width_s


def is_in_order(trips: Sequence[Trip]) -> bool:
    return all(earlier.at_s <= later.at_s for earlier, later in pairwise(trips))


def _inside(at_s: float) -> float:
    """Reflected at the ends of the night, so that no trips pile up there."""
    if at_s < 0:
        at_s = -at_s
    if at_s >= NIGHT_S:
        at_s = 2 * NIGHT_S - at_s - 1e-3
    return min(max(at_s, 0.0), NIGHT_S - 1e-3)
