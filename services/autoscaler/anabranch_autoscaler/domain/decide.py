"""Whether to scale a stream, decided from a snapshot; every decision says why.

**Split** a segment whose rate is above the target, the sooner the farther above. Pravega looks
at 2, 5 and 10 minutes, and so does this rule at the newest fifth, half and whole of the
window: three times the target for a fifth of it, one and a half for half of it, or the target
for all of it. The newest fifth must be above the target in each case, so that a burst that is
over splits nothing. A segment gives as many parts as its rate needs, at most the policy's
scale factor (but two), cut where the density puts equal loads.

**Merge** two neighbours whose common rate is below MERGE_SHARE of the target over the whole
merge window and over each part of the split window. The gap between that share and the target
is the hysteresis: a load that sits at the target is split once, and its halves stay.

**Hold** a segment that cutting does not help: when one child took nearly all of its parent's
load HOT_CUTS_MAX times running, the load is one key (or a few), and more cuts would only make
more segments. It is tried again when its age reaches HOT_RETRY_WINDOWS windows.

Segments younger than the cool-down are left alone, and so is what is not measured: a rate of
None is no low rate. A stream never merges below the policy's minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Final, NamedTuple, assert_never

from anabranch_events.bus import KeyRange, ScaleCommand
from anabranch_events.model import ScalingPolicy, SegmentRange

from anabranch_autoscaler.domain.density import Density
from anabranch_autoscaler.domain.tags import ScaleSettings

FAST_SHARE: Final = 0.2
HALF_SHARE: Final = 0.5
FAST_FACTOR: Final = 3.0
HALF_FACTOR: Final = 1.5

MERGE_SHARE: Final = 0.6
assert MERGE_SHARE < 1, "a merged segment must not be due for a split"

HOT_SHARE: Final = 0.9
HOT_CUTS_MAX: Final = 3
HOT_RETRY_WINDOWS: Final = 60

# No split makes a narrower segment: 2^-30 of the key space is a handful of keys in a billion.
RANGE_WIDTH_MIN: Final = 2.0**-30
SEALED_PER_COMMAND_MAX: Final = 64  # more wait for the next command; bounds message and workflow
REASONS_IN_COMMAND_MAX: Final = 4


class Rates(NamedTuple):
    """Means in the unit of the policy, over parts of the windows; None where not known."""

    fast: float | None = None
    half: float | None = None
    whole: float | None = None
    merge: float | None = None


class SegmentSnapshot(NamedTuple):
    """`hot_cuts` counts the cuts in a row that left nearly all load in this segment's line."""

    segment: SegmentRange
    age_s: float
    rates: Rates
    hot_cuts: int = 0


class StreamSnapshot(NamedTuple):
    """All that a decision depends on; segments by rising key range."""

    scope: str
    stream: str
    epoch: int
    policy: ScalingPolicy
    settings: ScaleSettings
    segments: tuple[SegmentSnapshot, ...]
    density: Density


class Split(NamedTuple):
    segment: SegmentRange
    parts: tuple[KeyRange, ...]
    rate: float
    reason: str


class Merge(NamedTuple):
    segments: tuple[SegmentRange, ...]
    into: KeyRange
    rate: float
    reason: str


class Hold(NamedTuple):
    """A split that is due and not done."""

    segment: SegmentRange
    rate: float
    reason: str


Decision = Split | Merge | Hold


class _Due(NamedTuple):
    """A segment is above a threshold: by which rate, over how many seconds."""

    rate: float
    threshold: float
    length_s: float


def decide(snapshot: StreamSnapshot) -> list[Decision]:
    """What to do with each segment that something is to be done about, by rising key range."""
    assert snapshot.policy.scale_type != "fixed", "a fixed stream is nobody's to scale"
    decisions: list[Decision] = []
    quiet: list[SegmentSnapshot | None] = []
    for segment in snapshot.segments:
        due = _split_due(snapshot, segment)
        if due is not None:
            decisions.append(_split_or_hold(snapshot, segment, due))
        quiet.append(segment if due is None else None)
    added = sum(len(decision.parts) - 1 for decision in decisions if isinstance(decision, Split))
    spare = len(snapshot.segments) + added - max(1, snapshot.policy.min_segments)
    decisions += _merges(snapshot, quiet, spare)
    return sorted(decisions, key=_low)


def command(
    snapshot: StreamSnapshot, decisions: Sequence[Decision], *, now_ms: int
) -> ScaleCommand | None:
    """One command for all splits and merges of a stream; None when there is none.

    Ranges of different decisions never touch the same segment, so together they replace
    exactly what they seal.
    """
    chosen: list[Split | Merge] = []
    sealed: list[int] = []
    for decision in decisions:
        if isinstance(decision, Hold):
            continue
        ids = _sealed(decision)
        if len(sealed) + len(ids) > SEALED_PER_COMMAND_MAX:
            break
        chosen.append(decision)
        sealed += ids
    if not chosen:
        return None
    ranges = [key_range for decision in chosen for key_range in _created(decision)]
    splits = [decision for decision in chosen if isinstance(decision, Split)]
    return ScaleCommand(
        scope=snapshot.scope,
        stream=snapshot.stream,
        epoch=snapshot.epoch,
        seal=tuple(sealed),
        ranges=tuple(ranges),
        reason=_reasons(chosen),
        observed_rate=round(max(decision.rate for decision in splits or chosen), 3),
        target_rate=float(snapshot.policy.target_rate),
        decided_ms=now_ms,
    )


# --- splits ------------------------------------------------------------------------------


def _split_due(snapshot: StreamSnapshot, segment: SegmentSnapshot) -> _Due | None:
    target, window_s = float(snapshot.policy.target_rate), snapshot.settings.window_s
    fast = segment.rates.fast
    if segment.age_s < snapshot.settings.cooldown_s or fast is None or fast <= target:
        return None
    grades = (
        (segment.rates.whole, 1.0, 1.0),
        (segment.rates.half, HALF_FACTOR, HALF_SHARE),
        (fast, FAST_FACTOR, FAST_SHARE),
    )
    for rate, factor, share in grades:
        if rate is not None and rate > target * factor:
            return _Due(rate, target * factor, window_s * share)
    return None


def _split_or_hold(snapshot: StreamSnapshot, segment: SegmentSnapshot, due: _Due) -> Split | Hold:
    policy, key_range = snapshot.policy, segment.segment
    unit = unit_of(policy)
    seen = (
        f"segment {key_range.epoch}.{key_range.number} [{key_range.low:.4g}, {key_range.high:.4g})"
        f" took {due.rate:.4g} {unit} over {due.length_s:.3g} s,"
        f" above {due.threshold:.4g} (target {policy.target_rate})"
    )
    parts_count = min(max(2, policy.scale_factor), max(2, ceil(due.rate / policy.target_rate)))
    width = key_range.high - key_range.low
    if width / parts_count < RANGE_WIDTH_MIN:
        return Hold(key_range, due.rate, f"not split: {seen}; its key range is too narrow to cut")
    retry_s = HOT_RETRY_WINDOWS * snapshot.settings.window_s
    if segment.hot_cuts >= HOT_CUTS_MAX and segment.age_s < retry_s:
        reason = (
            f"not split: {seen}; {segment.hot_cuts} cuts running left {HOT_SHARE:.0%} or more of"
            f" the load in one part, so a hot key is likely; next try at age {retry_s:.3g} s"
        )
        return Hold(key_range, due.rate, reason)
    cuts = snapshot.density.cuts(key_range.low, key_range.high, parts_count)
    parts = _between([key_range.low, *cuts, key_range.high])
    where = ", ".join(f"{cut:.4g}" for cut in cuts)
    factor = f"scale factor {policy.scale_factor}"
    reason = f"split into {parts_count} at {where}: {seen}; {factor}"
    return Split(key_range, parts, due.rate, reason)


def _between(bounds: Sequence[float]) -> tuple[KeyRange, ...]:
    return tuple(KeyRange(low, high) for low, high in pairwise(bounds))


# --- merges ------------------------------------------------------------------------------


def _merges(
    snapshot: StreamSnapshot, quiet: Sequence[SegmentSnapshot | None], spare: int
) -> list[Merge]:
    """The quietest pairs of neighbours first, no segment twice, while the minimum allows."""
    limit = snapshot.policy.target_rate * MERGE_SHARE
    pairs: list[tuple[float, int]] = []
    for index, (left, right) in enumerate(pairwise(quiet)):
        if left is None or right is None or left.segment.high != right.segment.low:
            continue
        rate = _common_rate(snapshot.settings, left, right)
        if rate is not None and rate < limit:
            pairs.append((rate, index))
    merges: list[Merge] = []
    taken: set[int] = set()
    for rate, index in sorted(pairs):
        if len(merges) >= spare or {index, index + 1} & taken:
            continue
        taken |= {index, index + 1}
        pair = (snapshot.segments[index].segment, snapshot.segments[index + 1].segment)
        merges.append(_merge(snapshot, pair, rate, limit))
    return merges


def _common_rate(
    settings: ScaleSettings, left: SegmentSnapshot, right: SegmentSnapshot
) -> float | None:
    """The highest of the pair's rates over all windows; None when not known or too young."""
    if min(left.age_s, right.age_s) < settings.merge_cooldown_s:
        return None
    highest = 0.0
    for one, other in zip(left.rates, right.rates, strict=True):
        if one is None or other is None:
            return None
        highest = max(highest, one + other)
    return highest


def _merge(
    snapshot: StreamSnapshot, pair: tuple[SegmentRange, SegmentRange], rate: float, limit: float
) -> Merge:
    left, right = pair
    reason = (
        f"merge {left.epoch}.{left.number} and {right.epoch}.{right.number} into"
        f" [{left.low:.4g}, {right.high:.4g}): together at most {rate:.4g}"
        f" {unit_of(snapshot.policy)} in the last {snapshot.settings.merge_window_s:.3g} s,"
        f" below {limit:.4g} ({MERGE_SHARE:.0%} of target {snapshot.policy.target_rate})"
    )
    return Merge(pair, KeyRange(left.low, right.high), rate, reason)


# --- helpers -----------------------------------------------------------------------------


def unit_of(policy: ScalingPolicy) -> str:
    match policy.scale_type:
        case "kbytes_per_sec":
            return "KB/s"
        case "events_per_sec":
            return "events/s"
        case "fixed":
            return "(fixed)"
        case _:
            assert_never(policy.scale_type)


def _low(decision: Decision) -> float:
    match decision:
        case Split() | Hold():
            return decision.segment.low
        case Merge():
            return decision.into.low
        case _:
            assert_never(decision)


def _sealed(decision: Split | Merge) -> list[int]:
    if isinstance(decision, Split):
        return [decision.segment.id]
    return [segment.id for segment in decision.segments]


def _created(decision: Split | Merge) -> tuple[KeyRange, ...]:
    return decision.parts if isinstance(decision, Split) else (decision.into,)


def _reasons(chosen: Sequence[Split | Merge]) -> str:
    shown = [decision.reason for decision in chosen[:REASONS_IN_COMMAND_MAX]]
    if len(chosen) > len(shown):
        shown.append(f"and {len(chosen) - len(shown)} more")
    return "; ".join(shown)
