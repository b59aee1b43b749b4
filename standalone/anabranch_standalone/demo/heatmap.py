"""The segment heat map as data: what to draw, before anybody draws it.

Time runs to the right in taxi seconds from 23:00, the key space upwards from 0 to 1. A *cell*
is one segment during one second of measurement, coloured by its rate; a *mark* is a split or a
merge at the moment at which it took effect. Two pages draw the same picture: `heatmap_png` with
Pillow, `heatmap_html` as one page that needs nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import msgspec
from anabranch_events.bus import SegmentRate, StreamRates
from anabranch_events.feed import StreamScaled
from anabranch_events.model import SegmentRange

from anabranch_standalone.demo.nightclock import HOUR_S, NIGHT_HOURS, NIGHT_S, NightClock, label

# A measurement colours the time since the one before it, but not the gap of an outage.
CELL_MS_MAX: Final = 2_500
REASON_LENGTH_MAX: Final = 400

Colour = tuple[int, int, int]
# Dark to bright and even in lightness, so that it reads in grey too.
RAMP: Final[tuple[tuple[float, Colour], ...]] = (
    (0.00, (10, 14, 34)),
    (0.14, (30, 30, 88)),
    (0.30, (84, 31, 120)),
    (0.46, (152, 42, 118)),
    (0.62, (212, 68, 92)),
    (0.78, (246, 122, 58)),
    (0.90, (252, 188, 72)),
    (1.00, (254, 246, 190)),
)


class Cell(NamedTuple):
    start_s: float
    end_s: float
    low: float
    high: float
    rate: float
    segment: int


class Mark(NamedTuple):
    """`cuts` are the keys at which a split cut or a merge joined."""

    at_s: float
    kind: Literal["split", "merge"]
    low: float
    high: float
    cuts: tuple[float, ...]
    reason: str


class Span(NamedTuple):
    """A segment's life on the map."""

    segment: int
    start_s: float
    end_s: float
    low: float
    high: float


class Point(NamedTuple):
    at_s: float
    value: float


class Picture(msgspec.Struct, frozen=True):
    """`rate_max` is the upper end of the colours; rates are in `unit`."""

    title: str
    subtitle: str
    unit: str
    target_rate: float
    rate_max: float
    cells: list[Cell]
    spans: list[Span]
    marks: list[Mark]
    traffic: list[Point]
    counts: list[Point]


class Box(NamedTuple):
    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def x(self, taxi_s: float) -> float:
        return self.left + min(max(taxi_s / NIGHT_S, 0.0), 1.0) * self.width

    def y(self, share: float) -> float:
        """0 is the bottom, 1 the top."""
        return self.bottom - min(max(share, 0.0), 1.0) * self.height


# One layout for both pages, in the units of a 1600 × 1000 sheet.
WIDTH: Final = 1600
HEIGHT: Final = 1000
TRAFFIC: Final = Box(96, 118, 1336, 150)
MAP: Final = Box(96, 318, 1336, 590)
LEGEND: Final = Box(1496, 318, 24, 590)


def compose(
    *,
    title: str,
    subtitle: str,
    unit: str,
    target_rate: float,
    clock: NightClock,
    initial: Sequence[SegmentRange],
    samples: Sequence[StreamRates],
    scaled: Sequence[StreamScaled],
) -> Picture:
    """The picture of one night. Events may come in any order, repeated ones count once."""
    once = {event.epoch: event for event in scaled if clock.taxi_s(event.at_ms) < NIGHT_S}
    changes = sorted(once.values(), key=lambda event: event.epoch)
    spans = _spans(clock, initial, changes)
    cells = _cells(clock, samples, {span.segment: span for span in spans})
    totals = [
        Point(clock.taxi_s(sample.at_ms), sum(segment.rate for segment in sample.segments))
        for sample in samples
        if sample.segments and 0 <= clock.taxi_s(sample.at_ms) <= NIGHT_S
    ]
    counts = [Point(0.0, float(len(initial)))]
    counts += [Point(clock.taxi_s(e.at_ms), float(e.segments_count)) for e in changes]
    return Picture(
        title=title,
        subtitle=subtitle,
        unit=unit,
        target_rate=target_rate,
        rate_max=_ceiling(cells, target_rate),
        cells=cells,
        spans=spans,
        marks=[mark for event in changes for mark in _marks(clock, event)],
        traffic=totals,
        counts=counts,
    )


def colour(share: float) -> Colour:
    """Of a rate as a share of `rate_max`."""
    share = min(max(share, 0.0), 1.0)
    for (left, low), (right, high) in pairwise(RAMP):
        if share <= right:
            part = (share - left) / (right - left)
            red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
            return red, green, blue
    return RAMP[-1][1]


def hour_ticks() -> list[tuple[float, str]]:
    return [(hour * HOUR_S, label(hour * HOUR_S)) for hour in range(NIGHT_HOURS + 1)]


def nice_step(span: float, ticks_count: int) -> float:
    """A round step (1, 2 or 5 times a power of ten) that gives about so many ticks."""
    assert span > 0
    rough = span / ticks_count
    power = 1.0
    while power * 10 <= rough:
        power *= 10
    while power > rough:
        power /= 10
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _spans(
    clock: NightClock, initial: Sequence[SegmentRange], changes: Sequence[StreamScaled]
) -> list[Span]:
    began = {segment.id: (0.0, segment) for segment in initial}
    spans: list[Span] = []
    for event in changes:
        at_s = clock.taxi_s(event.at_ms)
        for segment in event.sealed:
            if segment.id in began:
                start_s, _ = began.pop(segment.id)
                spans.append(Span(segment.id, start_s, at_s, segment.low, segment.high))
        began |= {segment.id: (at_s, segment) for segment in event.created}
    spans += [
        Span(segment.id, start_s, float(NIGHT_S), segment.low, segment.high)
        for start_s, segment in began.values()
    ]
    return [span for span in spans if span.end_s > 0 and span.start_s < NIGHT_S]


def _cells(clock: NightClock, samples: Sequence[StreamRates], spans: dict[int, Span]) -> list[Cell]:
    """Each segment's samples in order; its last one lasts until the segment ends."""
    of_segment: dict[int, list[tuple[float, SegmentRate]]] = {}
    for sample in sorted(samples, key=lambda sample: sample.at_ms):
        at_s = clock.taxi_s(sample.at_ms)
        for segment in sample.segments:
            of_segment.setdefault(segment.id, []).append((at_s, segment))
    longest_s = CELL_MS_MAX / 1000 * clock.speed
    cells: list[Cell] = []
    for identity, seen in of_segment.items():
        span = spans.get(identity)
        begin = span.start_s if span else 0.0
        end = min(span.end_s if span else seen[-1][0], float(NIGHT_S))
        before = max(begin, 0.0)
        for at_s, segment in [*seen, (end, seen[-1][1])]:
            start, stop = max(before, at_s - longest_s), min(at_s, end)
            if stop > start:
                cells.append(Cell(start, stop, segment.low, segment.high, segment.rate, identity))
            before = max(before, stop)
    return cells


def _marks(clock: NightClock, event: StreamScaled) -> list[Mark]:
    """One for each segment that was split and each that was merged together."""
    at_s = clock.taxi_s(event.at_ms)
    reason = event.reason[:REASON_LENGTH_MAX]
    marks: list[Mark] = []
    if not 0 <= at_s <= NIGHT_S:
        return marks
    for sealed in event.sealed:
        parts = [c for c in event.created if c.low >= sealed.low and c.high <= sealed.high]
        if len(parts) > 1:
            cuts = tuple(sorted(part.low for part in parts)[1:])
            marks.append(Mark(at_s, "split", sealed.low, sealed.high, cuts, reason))
    for created in event.created:
        parts = [s for s in event.sealed if s.low >= created.low and s.high <= created.high]
        if len(parts) > 1:
            cuts = tuple(sorted(part.low for part in parts)[1:])
            marks.append(Mark(at_s, "merge", created.low, created.high, cuts, reason))
    return marks


def _ceiling(cells: Sequence[Cell], target_rate: float) -> float:
    """Where the colours end: outliers beyond the hottest 0.5 % do not darken all the rest."""
    rates = sorted(cell.rate for cell in cells)
    hottest = rates[int(len(rates) * 0.995)] if rates else 0.0
    return max(hottest, target_rate * 1.25, 1.0)
