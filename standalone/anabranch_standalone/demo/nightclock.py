"""The demo's clock: twelve hours of taxi time, 23:00 to 11:00, in a few minutes."""

from __future__ import annotations

from typing import Final

import msgspec

NIGHT_START_HOUR: Final = 23
NIGHT_HOURS: Final = 12
HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
NIGHT_S: Final = NIGHT_HOURS * HOUR_S


class NightClock(msgspec.Struct, frozen=True):
    """The night takes `seconds` of real time from `started_ms` (wall clock) on.

    *Taxi seconds* count from 23:00.
    """

    started_ms: int
    seconds: float

    @property
    def speed(self) -> float:
        return NIGHT_S / self.seconds

    def taxi_s(self, at_ms: int) -> float:
        return (at_ms - self.started_ms) / 1000 * self.speed


def label(taxi_s: float) -> str:
    """The time of the night as a taxi driver reads it: 0 is "23:00"."""
    minutes = int(taxi_s // 60) + NIGHT_START_HOUR * 60
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def taxi_seconds_of(hour: int, minute: int = 0) -> int:
    """Taxi seconds of a time between 23:00 and 11:00."""
    return (hour * HOUR_S + minute * 60 - NIGHT_START_HOUR * HOUR_S) % DAY_S
