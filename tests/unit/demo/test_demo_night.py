"""The demo understands what its processes and the bus say, and tells it to people."""

from __future__ import annotations

import io

import pytest
from anabranch_events.feed import StreamScaled
from anabranch_events.model import SegmentRange
from anabranch_standalone.demo.messages import (
    Failed,
    ReaderProgress,
    ReaderReady,
    Run,
    WriterDone,
    WriterProgress,
    WriterStarted,
)
from anabranch_standalone.demo.night import DemoFailed, Night
from anabranch_standalone.demo.screen import Screen
from anabranch_standalone.demo.verify import verify


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def night(out: io.StringIO) -> Night:
    return Night(seconds=180.0, readers_count=2, screen=Screen(out))


def merge_event(epoch: int, at_ms: int) -> StreamScaled:
    sealed = (SegmentRange(0, 0.0, 0.125), SegmentRange(1, 0.125, 0.25))
    created = (SegmentRange(epoch << 32 | 8, 0.0, 0.25),)
    return StreamScaled(
        "taxi", "trips", epoch, "load", "merge 0.0 and 0.1: quiet", 1.0, 2.0, sealed, created,
        0, 1, 7, at_ms - 80, at_ms, 80,
    )  # fmt: skip


def test_a_night_ends_when_all_that_was_written_is_read(night: Night):
    """The demo would stop too early, or never."""
    night.hear(ReaderReady("reader-0"))
    assert not night.all_ready.is_set()
    night.hear(ReaderReady("reader-1"))
    assert night.all_ready.is_set()
    night.hear(WriterStarted(started_ms=5_000))
    night.hear(ReaderProgress("reader-0", 2, 20, 0, [Run("a", 0, 1, 1, 2)]))
    night.hear(WriterDone({"a": 2, "b": 1}, 30))
    assert night.all_written.is_set()
    assert not night.all_read.is_set()
    night.hear(ReaderProgress("reader-1", 1, 10, 0, [Run("b", 0, 0, 3, 3)]))
    assert night.all_read.is_set()
    assert night.done is not None
    assert verify(night.done.counts, night.runs).is_good


def test_scaling_events_are_told_once_with_taxi_time(night: Night, out: io.StringIO):
    """A redelivered event would look like a second merge."""
    night.hear(WriterStarted(started_ms=0))
    night.hear_scaled(merge_event(1, 30_000))
    night.hear_scaled(merge_event(1, 30_000))
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("01:00  1 merge")
    assert "8 -> 7" in lines[0]
    assert "quiet" in lines[0]
    assert night.segments_count == 7


def test_a_failed_process_ends_the_night(night: Night):
    """The demo would wait for a dead writer until its limit."""
    with pytest.raises(DemoFailed, match="the writer failed: the cluster is gone"):
        night.hear(Failed("the writer", "the cluster is gone"))


def test_progress_goes_into_a_file_once_an_hour_and_onto_a_terminal_always(night: Night):
    """A log would fill with thousands of lines, or a terminal stand still."""

    def run(out: io.StringIO) -> str:
        one = Night(seconds=180.0, readers_count=1, screen=Screen(out))
        one.hear(WriterProgress(10, 100, 0.0, 0.0))
        one.hear(WriterProgress(20, 200, 60.0, 0.0))
        one.hear(WriterProgress(30, 300, 3700.0, 5.5))
        one.screen.say("something happened")
        one.screen.close()
        return out.getvalue()

    file = run(io.StringIO())
    assert [line[:5] for line in file.splitlines()] == ["23:00", "00:01", "somet"]
    assert "5.5 s behind" in file
    shown = run(Terminal())
    assert shown.count("\r") >= 4
    assert "23:01" in shown
    assert "something happened\n" in shown
