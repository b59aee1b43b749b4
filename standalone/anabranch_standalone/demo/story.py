"""What happened in the night, and whether it is what the traffic should have made happen.

Works on the scaling events of the public feed and on the rates per segment, both as they came
from the bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from anabranch_events.bus import StreamRates
from anabranch_events.feed import StreamScaled
from anabranch_events.model import SegmentRange

from anabranch_standalone.demo.nightclock import NightClock, label, taxi_seconds_of

MERGES_BEFORE_S: Final = taxi_seconds_of(2)
SPLITS_FROM_S: Final = taxi_seconds_of(6)
SPLITS_UNTIL_S: Final = taxi_seconds_of(10)
SPLITS_IN_A_ROW: Final = 3
SAMPLE_MS: Final = 1000  # a rate is the mean of the second before it was taken


class Check(NamedTuple):
    name: str
    is_good: bool
    detail: str


class Reaction(NamedTuple):
    """From the rise of a rate above the target to the split in force, in real seconds."""

    median_s: float
    max_s: float


class Story(NamedTuple):
    splits: int
    merges: int
    segments_max: int
    segments_min: int
    splits_in_a_row: int
    reaction: Reaction | None
    checks: tuple[Check, ...]


def tell(
    clock: NightClock,
    initial: Sequence[SegmentRange],
    scaled: Sequence[StreamScaled],
    samples: Sequence[StreamRates],
) -> Story:
    """The night's figures and the three checks of its picture."""
    events = sorted({event.epoch: event for event in scaled}.values(), key=lambda e: e.epoch)
    counts = [len(initial), *(event.segments_count for event in events)]
    in_a_row = splits_in_a_row(events)
    return Story(
        splits=sum(event.splits for event in events),
        merges=sum(event.merges for event in events),
        segments_max=max(counts),
        segments_min=min(counts),
        splits_in_a_row=in_a_row,
        reaction=reaction(events, samples),
        checks=(
            _merges_early(clock, events),
            _splits_in_the_morning(clock, events),
            Check(
                f"somewhere a range splits {SPLITS_IN_A_ROW} times in a row",
                in_a_row >= SPLITS_IN_A_ROW,
                f"the longest row is {in_a_row}",
            ),
        ),
    )


def splits_in_a_row(events: Sequence[StreamScaled]) -> int:
    """The longest chain of splits in which each cuts a part that the one before made."""
    rows: dict[int, int] = {}
    for event in events:
        for created in event.created:
            parents = [s for s in event.sealed if s.low < created.high and created.low < s.high]
            is_part = len(parents) == 1 and parents[0] != created and _is_split(event, parents[0])
            rows[created.id] = rows.get(parents[0].id, 0) + 1 if is_part else 0
    return max(rows.values(), default=0)


def reaction(events: Sequence[StreamScaled], samples: Sequence[StreamRates]) -> Reaction | None:
    """How long splits took, None when there was none that could be timed.

    Counted from the start of the first second above the target, of those without a break that
    the segment had before it was split.
    """
    above_since = _above_since(samples)
    delays_s: list[float] = []
    for event in events:
        for sealed in event.sealed:
            if event.cause != "load" or not _is_split(event, sealed):
                continue
            since = [at for at in above_since.get(sealed.id, []) if at <= event.at_ms]
            if since:
                delays_s.append((event.at_ms - since[-1] + SAMPLE_MS) / 1000)
    if not delays_s:
        return None
    return Reaction(round(median(delays_s), 2), round(max(delays_s), 2))


def describe(event: StreamScaled, clock: NightClock | None, count_before: int) -> str:
    """One line for people: when, what, and why."""
    when = label(clock.taxi_s(event.at_ms)) if clock else "--:--"
    parts = []
    if event.splits:
        parts.append(f"{event.splits} split" + "s" * (event.splits > 1))
    if event.merges:
        parts.append(f"{event.merges} merge" + "s" * (event.merges > 1))
    what = " and ".join(parts) or "scale"
    return (
        f"{when}  {what:<18} {count_before:>2} -> {event.segments_count:<2} segments"
        f"  ({event.duration_ms} ms)  {event.reason}"
    )


def _is_split(event: StreamScaled, sealed: SegmentRange) -> bool:
    return sum(1 for c in event.created if sealed.low <= c.low and c.high <= sealed.high) > 1


def _above_since(samples: Sequence[StreamRates]) -> dict[int, list[int]]:
    """For each segment the times (ms) at which its rate rose above the target."""
    rises: dict[int, list[int]] = {}
    above: set[int] = set()
    for sample in samples:
        for segment in sample.segments:
            if segment.rate <= sample.target_rate:
                above.discard(segment.id)
            elif segment.id not in above:
                above.add(segment.id)
                rises.setdefault(segment.id, []).append(sample.at_ms)
    return rises


def _merges_early(clock: NightClock, events: Sequence[StreamScaled]) -> Check:
    times = [clock.taxi_s(event.at_ms) for event in events if event.merges]
    early = [at_s for at_s in times if at_s < MERGES_BEFORE_S]
    detail = f"{len(early)} of {len(times)} scalings with merges came before then"
    if times:
        detail += f", the first at {label(times[0])}"
    return Check("segments merge before 02:00", bool(early), detail)


def _splits_in_the_morning(clock: NightClock, events: Sequence[StreamScaled]) -> Check:
    times = [clock.taxi_s(event.at_ms) for event in events if event.splits]
    morning = [at_s for at_s in times if SPLITS_FROM_S <= at_s <= SPLITS_UNTIL_S]
    detail = f"{len(morning)} of {len(times)} scalings with splits came then"
    if morning:
        detail += f", from {label(morning[0])} to {label(morning[-1])}"
    return Check("segments split between 06:00 and 10:00", bool(morning), detail)
