"""What processes tell the feed, when the bus is there and when it is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from anabranch_events.feed import CloudEvent, Tier2Recovered
from anabranch_kit.feed_outbox import RETRY_PAUSE_S, UNSENT_MAX, FeedOutbox
from anabranch_kit.ports.bus import BusUnavailable
from anabranch_testkit.fakes.bus import MemoryBus
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.waiting import eventually


@contextlib.asynccontextmanager
async def running(outbox: FeedOutbox) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def ids(bus: MemoryBus) -> list[str]:
    return [msgspec.json.decode(payload, type=CloudEvent).id for _, payload in bus.queued]


async def test_what_is_told_while_the_bus_is_away_comes_later_in_order_and_once() -> None:
    """A recovery would be shown before the outage, or twice."""
    faults = ["before enqueue", "after enqueue"]

    def fault(when: str, subject: str) -> None:
        if faults and faults[0] == when:
            faults.pop(0)
            raise BusUnavailable(subject, "told to")

    clock, bus = FakeClock(), MemoryBus(fault=fault)
    outbox = FeedOutbox(bus, member="m.0", clock=clock)
    outbox.tell(Tier2Recovered("m.0", None, 1), event_id="a")
    outbox.tell(Tier2Recovered("m.0", None, 2), event_id="b")
    async with running(outbox):

        async def sent() -> bool:
            await clock.advance(RETRY_PAUSE_S)
            return len(bus.queued) == 2

        await eventually(sent)
    assert ids(bus) == ["a", "b"]
    assert bus.queued[0][0] == "anabranch.feed.tier2.recovered.m~0"


async def test_a_long_outage_costs_the_oldest_and_no_memory() -> None:
    """The process would grow until it is killed."""
    clock, bus = FakeClock(), MemoryBus()
    outbox = FeedOutbox(bus, member="m", clock=clock)
    for number in range(UNSENT_MAX + 2):
        outbox.tell(Tier2Recovered("m", None, number), event_id=str(number))
    async with running(outbox):
        await eventually(lambda: len(bus.queued) == UNSENT_MAX)
    assert ids(bus) == [str(number) for number in range(2, UNSENT_MAX + 2)]
