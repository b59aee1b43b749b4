"""The autoscaler as one object: feed it what is known, take what is to be done.

`fold` takes the event log, `report` the load reports, `answered` what became of a command;
`tick` looks at every stream about which something new is known, and returns effects for the
shell to perform. No input or output, and the time is always an argument: `now_s` monotonic
seconds, `now_ms` wall time for people.

A stream has at most one command on its way. After an answer other than "started" the picture
of the stream is probably behind, so nothing more is asked until an event of that stream
arrives or RETRY_S have passed. After "started" the event log says the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from anabranch_events.bus import (
    LoadReport,
    ScaleCommand,
    SegmentLoad,
    SegmentRate,
    StreamRates,
)
from anabranch_events.domain import StreamBatch
from anabranch_events.feed import StreamWarning
from anabranch_events.model import ScalingPolicy, SegmentRange
from anabranch_wire.names import InvalidName, parse_segment_name

from anabranch_autoscaler.domain.decide import (
    FAST_SHARE,
    HALF_SHARE,
    HOT_SHARE,
    Decision,
    Hold,
    Rates,
    SegmentSnapshot,
    StreamSnapshot,
    command,
    decide,
)
from anabranch_autoscaler.domain.density import Density
from anabranch_autoscaler.domain.tags import ScaleSettings, settings_from_tags
from anabranch_autoscaler.domain.topology import StreamView, evolve
from anabranch_autoscaler.domain.windows import Rate, RateWindow, Sample, inherited

RETRY_S: Final = 2.0
# A scale that was started and never heard of again: its controller died, another one finishes
# it. Asking again is harmless (the controller refuses), and needed if the command was lost.
STARTED_SILENCE_S: Final = 30.0
# Rates are shown when a report brought new ones; reports of several stores count as one, and
# while none comes what little is known is shown at the slower pace.
RATES_INTERVAL_S: Final = 0.7
RATES_SILENT_INTERVAL_S: Final = 2.0
DENSITY_HALF_LIFE_WINDOWS: Final = 30
# A store that was not told when a segment was created counts from 1970; no segment is that old.
AGE_MS_MAX: Final = 30 * 365 * 86_400 * 1000
BYTES_PER_KB: Final = 1024.0  # Pravega's policy counts 1024 (reference controller.md, 5.1)

StreamKey = tuple[str, str]


class Ask(NamedTuple):
    """Send this command; tell the outcome to `answered`."""

    command: ScaleCommand
    decisions: tuple[Decision, ...]


class ShowRates(NamedTuple):
    rates: StreamRates


class Warn(NamedTuple):
    """`key` is the same for the same warning, so that it can be told once only."""

    warning: StreamWarning
    key: str


Effect = Ask | ShowRates | Warn

Outcome = Literal["started", "refused", "not-found", "conflict", "unknown"]


@dataclass(slots=True)
class _Segment:
    """`line` is the parent's key range and how many cuts in a row had left its load in one part."""

    segment: SegmentRange
    since_s: float
    window: RateWindow
    line: tuple[float, float, int] | None = None


@dataclass(slots=True)
class _Stream:
    view: StreamView
    settings: ScaleSettings
    segments: dict[int, _Segment]
    density: Density = field(default_factory=Density)
    is_news: bool = False
    is_measured: bool = False
    silent_until_s: float = 0.0
    rates_at_s: float = 0.0
    holds: frozenset[int] = frozenset()
    warnings: list[Warn] = field(default_factory=list)


@dataclass(slots=True)
class Autoscaler:
    defaults: ScaleSettings
    streams: dict[StreamKey, _Stream] = field(default_factory=dict)
    heard: dict[str, tuple[str, int]] = field(default_factory=dict)

    # --- what is known -------------------------------------------------------------------

    def fold(self, scope: str, stream: str, batch: StreamBatch, *, now_s: float) -> None:
        """Take one message of the event log, in order."""
        key = (scope, stream)
        known = self.streams.get(key)
        view: StreamView | None = known.view if known else None
        for event in batch.events:
            view = evolve(view, event)
        if view is None:
            self.streams.pop(key, None)
            return
        if known is None or known.view.incarnation != view.incarnation:
            known = _Stream(view, self.defaults, {})
            self.streams[key] = known
            self._configure(known)
            known.segments = {
                segment.id: _Segment(segment, now_s, _window(known.settings))
                for segment in view.segments
            }
        else:
            is_changed = known.view.config != view.config
            known.view = view
            if is_changed:
                self._configure(known)
            _adopt(known, now_s)
        known.silent_until_s = now_s
        known.is_news = True

    def forget(self, scope: str, stream: str) -> None:
        """Stop scaling a stream whose events cannot be read."""
        self.streams.pop((scope, stream), None)

    def report(self, report: LoadReport, *, now_s: float) -> None:
        """Take a load report; a repeated or late one changes nothing."""
        incarnation, sequence = self.heard.get(report.store, ("", -1))
        if report.incarnation == incarnation and report.sequence <= sequence:
            return
        self.heard[report.store] = (report.incarnation, report.sequence)
        if report.interval_ms <= 0:
            return
        for load in report.segments:
            self._take(load, report.interval_ms / 1000, now_s)

    def answered(self, asked: ScaleCommand, outcome: Outcome, *, now_s: float) -> None:
        """What became of a command; "unknown" when no answer came."""
        stream = self.streams.get((asked.scope, asked.stream))
        if stream is None or stream.view.epoch != asked.epoch or stream.view.busy:
            return  # the event log has overtaken the answer
        wait_s = STARTED_SILENCE_S if outcome == "started" else RETRY_S
        stream.silent_until_s = now_s + wait_s

    # --- what is to be done --------------------------------------------------------------

    def tick(self, *, now_s: float, now_ms: int) -> list[Effect]:
        """The effects of everything learned since the last tick."""
        effects: list[Effect] = []
        for stream in self.streams.values():
            effects += stream.warnings
            stream.warnings = []
            if not stream.view.is_scaled_by_load or stream.view.phase != "active":
                continue
            if stream.is_news:
                effects += self._decide(stream, now_s, now_ms)
            pause_s = RATES_INTERVAL_S if stream.is_measured else RATES_SILENT_INTERVAL_S
            if now_s - stream.rates_at_s >= pause_s:
                stream.rates_at_s, stream.is_measured = now_s, False
                shown = _rates_shown(stream, now_s, now_ms)
                effects += [ShowRates(shown)] if shown.segments else []
        return effects

    def _decide(self, stream: _Stream, now_s: float, now_ms: int) -> list[Effect]:
        if stream.view.busy or now_s < stream.silent_until_s:
            return []
        stream.is_news = False
        snapshot = snapshot_of(stream, now_s)
        decisions = decide(snapshot)
        effects: list[Effect] = list(_new_holds(stream, decisions))
        asked = command(snapshot, decisions, now_ms=now_ms)
        if asked is not None:
            stream.silent_until_s = now_s + STARTED_SILENCE_S
            effects.append(Ask(asked, tuple(decisions)))
        return effects

    # --- inside --------------------------------------------------------------------------

    def _configure(self, stream: _Stream) -> None:
        """Put the settings of the stream's tags in force and note what is wrong with them."""
        view = stream.view
        stream.settings, bad = settings_from_tags(view.config.tags, self.defaults)
        for segment in stream.segments.values():
            segment.window.recent_s = stream.settings.window_s
            segment.window.kept_s = stream.settings.merge_window_s
        for tag, problem in bad:
            warning = StreamWarning(
                view.scope, view.stream, "autoscaler", f"tag {tag!r}: {problem}"
            )
            stream.warnings.append(Warn(warning, f"{view.incarnation}-{tag}"))

    def _take(self, load: SegmentLoad, interval_s: float, now_s: float) -> None:
        try:
            name = parse_segment_name(load.segment)
        except InvalidName:
            return  # not a stream's segment, so nothing that could be scaled
        stream = self.streams.get((name.scope, name.stream))
        if stream is None or not stream.view.is_scaled_by_load:
            return
        segment = stream.segments.get(name.segment_id)
        if segment is None:
            return  # of an epoch that is not in force yet, or no longer
        # A restarted autoscaler learns from the reports how old a segment really is.
        if load.age_ms <= AGE_MS_MAX:
            segment.since_s = min(segment.since_s, now_s - load.age_ms / 1000)
        rate = Rate(load.bytes_per_s, load.events_per_s)
        segment.window.add(Sample(now_s, interval_s, rate))
        _learn(stream, segment, interval_s, now_s)
        stream.is_news = stream.is_measured = True


def snapshot_of(stream: _Stream, now_s: float) -> StreamSnapshot:
    """The stream as `decide` sees it."""
    view, settings = stream.view, stream.settings
    return StreamSnapshot(
        scope=view.scope,
        stream=view.stream,
        epoch=view.epoch,
        policy=view.policy,
        settings=settings,
        segments=tuple(
            SegmentSnapshot(
                segment=known.segment,
                age_s=now_s - known.since_s,
                rates=_rates(known.window, settings, view.policy, now_s),
                hot_cuts=_hot_cuts(stream, known),
            )
            for known in (stream.segments[segment.id] for segment in view.segments)
        ),
        density=stream.density,
    )


def in_unit(rate: Rate, policy: ScalingPolicy) -> float:
    """A rate in the unit of the policy."""
    if policy.scale_type == "events_per_sec":
        return rate.events_per_s
    return rate.bytes_per_s / BYTES_PER_KB


def _rates(
    window: RateWindow, settings: ScaleSettings, policy: ScalingPolicy, now_s: float
) -> Rates:
    def over(length_s: float) -> float | None:
        rate = window.rate(now_s, length_s)
        return None if rate is None else in_unit(rate, policy)

    return Rates(
        fast=over(settings.window_s * FAST_SHARE),
        half=over(settings.window_s * HALF_SHARE),
        whole=over(settings.window_s),
        merge=over(settings.merge_window_s),
    )


def _learn(stream: _Stream, segment: _Segment, interval_s: float, now_s: float) -> None:
    rate = segment.window.rate(now_s, stream.settings.window_s * FAST_SHARE)
    if rate is None:
        return
    half_life_s = DENSITY_HALF_LIFE_WINDOWS * stream.settings.window_s
    low, high = segment.segment.low, segment.segment.high
    keep = 0.5 ** (interval_s / half_life_s)
    stream.density.observe(low, high, in_unit(rate, stream.view.policy), keep=keep)


def _hot_cuts(stream: _Stream, known: _Segment) -> int:
    if known.line is None:
        return 0
    low, high, cuts_before = known.line
    whole = stream.density.load(low, high)
    part = stream.density.load(known.segment.low, known.segment.high)
    return cuts_before + 1 if part >= whole * HOT_SHARE else 0


def _adopt(stream: _Stream, now_s: float) -> None:
    """Follow the view to its segments; new ones inherit the past of those they replace."""
    old = stream.segments
    wanted = {segment.id: segment for segment in stream.view.segments}
    if wanted.keys() == old.keys():
        return
    gone = [known for identity, known in old.items() if identity not in wanted]
    stream.segments = {
        identity: old.get(identity) or _heir(stream, segment, gone, now_s)
        for identity, segment in wanted.items()
    }


def _heir(
    stream: _Stream, segment: SegmentRange, gone: Iterable[_Segment], now_s: float
) -> _Segment:
    parents = [p for p in gone if p.segment.low < segment.high and segment.low < p.segment.high]
    shares: list[tuple[RateWindow, float]] = []
    for parent in parents:
        low, high = parent.segment.low, parent.segment.high
        part = stream.density.load(max(low, segment.low), min(high, segment.high))
        shares.append((parent.window, part / stream.density.load(low, high)))
    settings = stream.settings
    window = inherited(shares, recent_s=settings.window_s, kept_s=settings.merge_window_s)
    line = None
    if len(parents) == 1:
        line = (parents[0].segment.low, parents[0].segment.high, _hot_cuts(stream, parents[0]))
    return _Segment(segment, now_s, window, line)


def _window(settings: ScaleSettings) -> RateWindow:
    return RateWindow(recent_s=settings.window_s, kept_s=settings.merge_window_s)


def _new_holds(stream: _Stream, decisions: Iterable[Decision]) -> Iterable[Warn]:
    """A warning for each segment that is held back now and was not before."""
    holds = {decision.segment.id: decision for decision in decisions if isinstance(decision, Hold)}
    view = stream.view
    new = [holds[identity] for identity in holds.keys() - stream.holds]
    stream.holds = frozenset(holds)
    for hold in new:
        warning = StreamWarning(view.scope, view.stream, "autoscaler", hold.reason)
        yield Warn(warning, f"{view.incarnation}-hold-{hold.segment.id}")


def _rates_shown(stream: _Stream, now_s: float, now_ms: int) -> StreamRates:
    """The newest rate of each segment; a segment of which nothing is known is left out."""
    view = stream.view
    shown: list[SegmentRate] = []
    for segment in view.segments:
        rate = stream.segments[segment.id].window.rate(now_s, 0.0)
        if rate is not None:
            value = in_unit(rate, view.policy)
            bounds = (segment.low, segment.high)
            shown.append(
                SegmentRate(segment.id, *bounds, value, rate.bytes_per_s, rate.events_per_s)
            )
    return StreamRates(view.scope, view.stream, now_ms, view.epoch, view.policy.target_rate, shown)
