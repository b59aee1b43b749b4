"""A pretended cluster for the autoscaler's rules: one stream, a load over its keys, a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from anabranch_autoscaler.domain.scaler import Ask, Autoscaler, Effect, ShowRates, Warn
from anabranch_autoscaler.domain.tags import ScaleSettings
from anabranch_events.bus import LoadReport, ScaleCommand, SegmentLoad, StreamRates
from anabranch_events.domain import (
    EpochAppended,
    ScaleCompleted,
    ScaleStarted,
    StreamActivated,
    StreamBatch,
    StreamCreated,
    StreamEvent,
)
from anabranch_events.model import ScalingPolicy, SegmentRange, StreamConfig

Load = Callable[[float, float, float], float]
"""(low, high, now_s) -> events per second that fall into this part of the key space."""


def even_parts(count: int) -> tuple[SegmentRange, ...]:
    return tuple(SegmentRange(i, i / count, (i + 1) / count) for i in range(count))


@dataclass
class World:
    """Runs the autoscaler second by second and carries its commands out at once."""

    load: Load
    policy: ScalingPolicy = field(default_factory=lambda: policy())
    tags: tuple[str, ...] = ()
    segments: tuple[SegmentRange, ...] = field(default_factory=lambda: even_parts(1))
    defaults: ScaleSettings = field(default_factory=ScaleSettings)
    now_s: float = 1000.0
    epoch: int = 0
    sequence: int = 0
    commands: list[tuple[float, ScaleCommand]] = field(default_factory=list)
    warnings: list[Warn] = field(default_factory=list)
    rates: list[StreamRates] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.autoscaler = Autoscaler(self.defaults)
        self.next_number = len(self.segments)
        config = StreamConfig(scaling=self.policy, tags=self.tags)
        self.tell(StreamCreated("s", "t", "one", config, self.segments, 0), StreamActivated())

    def tell(self, *events: StreamEvent) -> None:
        batch = StreamBatch("id", "controller-0", 0, events)
        self.autoscaler.fold("s", "t", batch, now_s=self.now_s)

    def report(self, *, only: frozenset[int] | None = None) -> None:
        self.sequence += 1
        loads = [
            SegmentLoad(
                f"s/t/{segment.number}.#epoch.{segment.epoch}",
                100.0 * self.load(segment.low, segment.high, self.now_s),
                self.load(segment.low, segment.high, self.now_s),
                0,
                0,
            )
            for segment in self.segments
            if only is None or segment.id in only
        ]
        report = LoadReport("store-0", "a", self.sequence, int(self.now_s * 1000), 1000, loads)
        self.autoscaler.report(report, now_s=self.now_s)

    def tick(self) -> list[Effect]:
        effects = self.autoscaler.tick(now_s=self.now_s, now_ms=int(self.now_s * 1000))
        for effect in effects:
            match effect:
                case Ask():
                    self.commands.append((self.now_s, effect.command))
                case Warn():
                    self.warnings.append(effect)
                case ShowRates():
                    self.rates.append(effect.rates)
        return effects

    def run(self, seconds: int) -> None:
        """Each second: a report, a look, and what was asked for happens at once."""
        for _ in range(seconds):
            self.now_s += 1.0
            self.report()
            for effect in self.tick():
                if isinstance(effect, Ask):
                    self.carry_out(effect.command)

    def carry_out(self, command: ScaleCommand) -> None:
        """What the controller does, its checks included."""
        assert command.epoch == self.epoch, "a command for an epoch that is gone"
        sealed = [segment for segment in self.segments if segment.id in command.seal]
        assert len(sealed) == len(set(command.seal)) == len(command.seal), (
            "sealed what is not there"
        )
        kept = tuple(segment for segment in self.segments if segment not in sealed)
        self.epoch += 1
        created = []
        for key_range in command.ranges:
            identity = self.epoch << 32 | self.next_number
            created.append(SegmentRange(identity, key_range.low, key_range.high))
            self.next_number += 1
        after = tuple(sorted((*kept, *created), key=lambda segment: segment.low))
        check_partition(after)
        self.tell(
            ScaleStarted(
                self.epoch, tuple(sealed), tuple(created), "load", command.reason, 0.0, 0.0, 0
            ),
            EpochAppended(self.epoch, self.epoch, after, tuple(sealed), 0),
        )
        self.tell(ScaleCompleted(self.epoch, (), 0))
        self.segments = after


def check_partition(segments: tuple[SegmentRange, ...]) -> None:
    assert segments[0].low == 0.0
    assert segments[-1].high == 1.0
    for left, right in pairwise(segments):
        assert left.high == right.low
    assert all(segment.low < segment.high for segment in segments)


def policy(target: int = 100, factor: int = 2, minimum: int = 1) -> ScalingPolicy:
    return ScalingPolicy("events_per_sec", target, factor, minimum)


@pytest.fixture
def make_world() -> type[World]:
    return World


@pytest.fixture
def make_policy() -> Callable[..., ScalingPolicy]:
    return policy


@pytest.fixture
def make_parts() -> Callable[[int], tuple[SegmentRange, ...]]:
    return even_parts
