"""How fast a segment takes data, over the last so-and-so many seconds.

A window is made of samples, one per load report. New ones are kept as they came, older ones
are put together into at most BUCKETS_MAX coarse ones, so that a window of an hour costs no
more memory than one of a minute.

**No data is not zero data.** A rate over a length of time is known only if samples cover all
of it and the newest is fresh; otherwise it is None, and nothing is decided on it. (A store
that died reports nothing, and its segments must not be merged for that.)

Times are monotonic seconds of the autoscaler's own clock, taken when a report arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

BUCKETS_MAX: Final = 64
RECENT_SAMPLES_MAX: Final = 256
FRESH_S: Final = 3.0  # a report a second, so three may be late before the rate is unknown
COVER_SHARE: Final = 0.9  # intervals jitter; a window of 2 s may have seen 1.9 s
GAP_S_MAX: Final = 1.5  # reports arrive late by this much without meaning that one is missing


class Rate(NamedTuple):
    bytes_per_s: float
    events_per_s: float

    def scaled(self, share: float) -> Rate:
        return Rate(self.bytes_per_s * share, self.events_per_s * share)


class Sample(NamedTuple):
    """What came in during the `interval_s` that ended at `at_s`."""

    at_s: float
    interval_s: float
    rate: Rate


@dataclass(slots=True)
class RateWindow:
    """Samples of one segment; `recent_s` of them are kept as they came, `kept_s` in all."""

    recent_s: float
    kept_s: float
    recent: deque[Sample] = field(default_factory=deque)
    buckets: deque[Sample] = field(default_factory=deque)

    def add(self, sample: Sample) -> None:
        assert sample.interval_s > 0, "a report covers some time"
        self.recent.append(sample)
        while len(self.recent) > RECENT_SAMPLES_MAX or (
            self.recent[0].at_s < sample.at_s - self.recent_s - GAP_S_MAX
        ):
            self._put_away(self.recent.popleft())

    def rate(self, now_s: float, length_s: float) -> Rate | None:
        """The mean over the last `length_s`, at least one sample; None when it is not known."""
        newest = self.newest()
        if newest is None or newest.at_s < now_s - FRESH_S:
            return None
        covered_s = total_bytes = total_events = 0.0
        for sample in self._newest_first():
            covered_s += sample.interval_s
            total_bytes += sample.rate.bytes_per_s * sample.interval_s
            total_events += sample.rate.events_per_s * sample.interval_s
            if covered_s >= length_s * COVER_SHARE:
                span_s = newest.at_s - (sample.at_s - sample.interval_s)
                if span_s > covered_s / COVER_SHARE + GAP_S_MAX:
                    return None
                return Rate(total_bytes / covered_s, total_events / covered_s)
        return None

    def newest(self) -> Sample | None:
        return self.recent[-1] if self.recent else None

    def _newest_first(self) -> Iterator[Sample]:
        return chain(reversed(self.recent), reversed(self.buckets))

    def _put_away(self, sample: Sample) -> None:
        bucket_s = self.kept_s / BUCKETS_MAX
        last = self.buckets[-1] if self.buckets else None
        if last is None or last.interval_s >= bucket_s or _gap_s(last, sample) > GAP_S_MAX:
            self.buckets.append(sample)
        else:
            self.buckets[-1] = _joined(last, sample)
        too_old_s = sample.at_s - self.kept_s - bucket_s
        while len(self.buckets) > BUCKETS_MAX + 1 or self.buckets[0].at_s < too_old_s:
            self.buckets.popleft()


def inherited(
    parents: Sequence[tuple[RateWindow, float]], *, recent_s: float, kept_s: float
) -> RateWindow:
    """The past of a new segment: its share of each parent's samples, newest beside newest.

    An estimate, and good enough to decide on before a window's length has passed. Parents
    that reported for different lengths of time give the shortest common past.
    """
    child = RateWindow(recent_s=recent_s, kept_s=kept_s)
    child.recent.extend(_summed([(window.recent, share) for window, share in parents]))
    if len({len(window.recent) for window, _ in parents}) == 1:
        child.buckets.extend(_summed([(window.buckets, share) for window, share in parents]))
    return child


def _summed(parents: Sequence[tuple[deque[Sample], float]]) -> list[Sample]:
    columns = zip(*(reversed(samples) for samples, _ in parents), strict=False)
    shares = [share for _, share in parents]
    summed = [_sum_of(column, shares) for column in columns]
    summed.reverse()
    return summed


def _sum_of(samples: tuple[Sample, ...], shares: Sequence[float]) -> Sample:
    rates = [sample.rate.scaled(share) for sample, share in zip(samples, shares, strict=True)]
    first = samples[0]
    total = Rate(sum(r.bytes_per_s for r in rates), sum(r.events_per_s for r in rates))
    return Sample(first.at_s, first.interval_s, total)


def _gap_s(earlier: Sample, later: Sample) -> float:
    return (later.at_s - later.interval_s) - earlier.at_s


def _joined(earlier: Sample, later: Sample) -> Sample:
    interval_s = earlier.interval_s + later.interval_s
    early, late = earlier.interval_s / interval_s, later.interval_s / interval_s
    return Sample(
        later.at_s,
        interval_s,
        Rate(
            earlier.rate.bytes_per_s * early + later.rate.bytes_per_s * late,
            earlier.rate.events_per_s * early + later.rate.events_per_s * late,
        ),
    )
