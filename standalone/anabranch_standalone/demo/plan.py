"""How fast, how large, how long: the figures of the demo and how they hang together.

The stream's target rate is such that the busiest half hour needs PEAK_SEGMENTS segments; the
deepest hour of the night, a tenth of that, then fits into one segment with room to spare, so
the whole way from many to one and back is walked. The windows and cool-downs are the same
share of the demo's night as Pravega's ten and twenty minutes are of a real one.
"""

from __future__ import annotations

from typing import Final

import msgspec

from anabranch_standalone.demo.nightclock import NIGHT_S

SECONDS_DEFAULT: Final = 180.0
SECONDS_MIN: Final = 60.0  # reports come once a second: a shorter night has too few of them
SECONDS_MAX: Final = 3600.0
PEAK_RATE_DEFAULT: Final = 1000  # events per second in the busiest half hour
PEAK_RATE_MAX: Final = 20_000
EVENT_LENGTH_DEFAULT: Final = 500
EVENT_LENGTH_MIN: Final = 160
EVENT_LENGTH_MAX: Final = 100_000
# The wire's header of an event (type and length) is written too, and the store counts it.
EVENT_HEADER_BYTES: Final = 8

INITIAL_SEGMENTS: Final = 8
PEAK_SEGMENTS: Final = 5.5
SCALE_FACTOR: Final = 2
WINDOW_NIGHT_S: Final = 600.0
COOLDOWN_NIGHT_S: Final = 600.0
MERGE_WINDOW_NIGHT_S: Final = 1200.0
MERGE_COOLDOWN_NIGHT_S: Final = 1200.0
WINDOW_MS_MIN: Final = 1000  # one report


class Policy(msgspec.Struct, frozen=True):
    """By data rate, as in the article on elastic scaling."""

    target_kb_per_s: int
    scale_factor: int
    tags: tuple[str, ...]


def policy_for(*, peak_rate: float, event_length_bytes: int, seconds: float) -> Policy:
    """`peak_rate` in events per second of real time."""
    peak_kb_per_s = peak_rate * (event_length_bytes + EVENT_HEADER_BYTES) / 1024
    return Policy(
        target_kb_per_s=max(1, round(peak_kb_per_s / PEAK_SEGMENTS)),
        scale_factor=SCALE_FACTOR,
        tags=(
            _tag("window", WINDOW_NIGHT_S, seconds),
            _tag("cooldown", COOLDOWN_NIGHT_S, seconds),
            _tag("merge-window", MERGE_WINDOW_NIGHT_S, seconds),
            _tag("merge-cooldown", MERGE_COOLDOWN_NIGHT_S, seconds),
        ),
    )


def _tag(name: str, night_s: float, seconds: float) -> str:
    duration_ms = max(WINDOW_MS_MIN, round(night_s * seconds / NIGHT_S * 1000))
    return f"anabranch.scale.{name}={duration_ms}ms"
