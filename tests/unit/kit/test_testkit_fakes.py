"""The fakes' own promises, where the contract suites cannot see them."""

from __future__ import annotations

import asyncio

import pytest
from anabranch_kit.ports.event_store import EventStoreUnavailable
from anabranch_testkit.fakes import FakeClock, MemoryEventStore
from anabranch_testkit.fakes.bus import matches
from anabranch_testkit.waiting import eventually


async def test_sleepers_wake_in_order_at_their_times() -> None:
    """A simulated run would differ from one seed to the same seed."""
    clock, woken = FakeClock(), []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    tasks = [
        asyncio.create_task(sleep(name, seconds))
        for name, seconds in (("c", 3), ("a", 1), ("b", 2), ("a2", 1), ("late", 9))
    ]
    await clock.advance(5)
    assert woken == [("a", 1), ("a2", 1), ("b", 2), ("c", 3)]
    assert clock.monotonic() == 5
    assert clock.sleepers_count == 1
    await clock.advance(4)
    assert woken[-1] == ("late", 9)
    await asyncio.gather(*tasks)


async def test_a_sleeper_that_sleeps_again_keeps_its_rhythm() -> None:
    """A heartbeat would beat once per move of the clock instead of once a second."""
    clock, beats = FakeClock(), []

    async def beat() -> None:
        while True:
            beats.append(clock.monotonic())
            await clock.sleep(1)

    task = asyncio.create_task(beat())
    await clock.advance(3.5)
    assert beats == [0, 1, 2, 3]
    task.cancel()


async def test_wall_clock_can_jump_without_waking_anybody() -> None:
    """A test of clock jumps would move the durations too (faults F30)."""
    clock = FakeClock(now_ms=1_000_000)
    task = asyncio.create_task(clock.sleep(10))
    clock.jump_wall(-3_600_000)
    await clock.advance(1)
    assert clock.now_ms() == 1_000_000 - 3_600_000 + 1000
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.c", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_patterns_match_as_in_nats(pattern: str, subject: str, expected: bool) -> None:
    """A test on the fake bus would pass with a pattern that fails on NATS."""
    assert matches(pattern, subject) is expected


async def test_event_store_gives_up_after_its_attempts() -> None:
    """A test of a dead event log would hang."""

    def fault(moment: str, name: str) -> None:
        raise EventStoreUnavailable("append", "switched off")

    store = MemoryEventStore(fault=fault)
    with pytest.raises(EventStoreUnavailable):
        await store.append("a", b"", expected_sequence=0, batch_id="1")


async def test_eventually_tells_the_last_value() -> None:
    """A time-out would say nothing of what was there instead."""
    with pytest.raises(AssertionError, match="last: 0"):
        await eventually(lambda: 0, 0.05)
    assert await eventually(lambda: "there") == "there"
