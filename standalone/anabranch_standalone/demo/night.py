"""What is known of a running night: a fold over all that the processes and the bus say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import assert_never

from anabranch_events.bus import StreamRates
from anabranch_events.feed import StreamScaled
from anabranch_events.model import SegmentRange

from anabranch_standalone.demo.messages import (
    Failed,
    Message,
    ReaderProgress,
    ReaderReady,
    Run,
    WriterDone,
    WriterProgress,
    WriterStarted,
)
from anabranch_standalone.demo.nightclock import NightClock, label
from anabranch_standalone.demo.plan import INITIAL_SEGMENTS
from anabranch_standalone.demo.screen import Screen
from anabranch_standalone.demo.story import describe


class DemoFailed(Exception):
    """A process of the demo could not go on; the message says which and why."""


@dataclass(slots=True)
class Night:
    """Events are set when what they say has happened; `taxi_s` is the writer's."""

    seconds: float
    readers_count: int
    screen: Screen
    clock: NightClock | None = None
    written: WriterProgress | None = None
    done: WriterDone | None = None
    readers: dict[str, ReaderProgress] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    runs: list[Run] = field(default_factory=list)
    scaled: dict[int, StreamScaled] = field(default_factory=dict)
    samples: list[StreamRates] = field(default_factory=list)
    all_ready: asyncio.Event = field(default_factory=asyncio.Event)
    all_written: asyncio.Event = field(default_factory=asyncio.Event)
    all_read: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def read_count(self) -> int:
        return sum(progress.events_count for progress in self.readers.values())

    @property
    def garbled_count(self) -> int:
        return sum(progress.garbled_count for progress in self.readers.values())

    @property
    def segments_count(self) -> int:
        newest = max(self.scaled, default=None)
        return INITIAL_SEGMENTS if newest is None else self.scaled[newest].segments_count

    @property
    def initial(self) -> list[SegmentRange]:
        count = INITIAL_SEGMENTS
        return [SegmentRange(i, i / count, (i + 1) / count) for i in range(count)]

    def hear(self, message: Message) -> None:
        """Raises DemoFailed."""
        match message:
            case WriterStarted():
                self.clock = NightClock(message.started_ms, self.seconds)
            case WriterProgress():
                self.written = message
                self._show()
            case WriterDone():
                self.done = message
                self.all_written.set()
                self._check_all_read()
            case ReaderReady():
                self.ready.add(message.reader)
                if len(self.ready) == self.readers_count:
                    self.all_ready.set()
            case ReaderProgress():
                self.readers[message.reader] = message
                self.runs += message.runs
                self._check_all_read()
            case Failed():
                raise DemoFailed(f"{message.who} failed: {message.reason}")
            case _:
                assert_never(message)

    def hear_scaled(self, event: StreamScaled) -> None:
        """A repeated event is told once."""
        if event.epoch in self.scaled:
            return
        before = self.segments_count
        self.scaled[event.epoch] = event
        self.screen.say(describe(event, self.clock, before))

    def hear_rates(self, rates: StreamRates) -> None:
        self.samples.append(rates)

    def _check_all_read(self) -> None:
        if self.done is not None and self.read_count >= sum(self.done.counts.values()):
            self.all_read.set()

    def _show(self) -> None:
        if self.written is None:
            return
        newest = self.samples[-1] if self.samples else None
        rate = sum(segment.rate for segment in newest.segments) if newest else 0.0
        when = label(self.written.taxi_s)
        line = (
            f"{when}  written {self.written.events_count:>9,}  read {self.read_count:>9,}"
            f"  {rate:>7.1f} KB/s  segments {self.segments_count:>2}"
        )
        if self.written.behind_s > 1:
            line += f"  (writer {self.written.behind_s:.1f} s behind)"
        self.screen.progress(line, chapter=when.split(":")[0])
