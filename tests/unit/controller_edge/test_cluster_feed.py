"""What the feed tells of members and containers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from anabranch_controller.adapters.jetstream_feed import JetStreamFeed
from anabranch_controller.cluster_feed import ClusterNews, ClusterWatcher
from anabranch_events import feed
from anabranch_events.feed import CloudEvent, ContainerMoved, MemberJoined, MemberLeft
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.membership import LEASE_MS
from anabranch_kit.ports.bus import BusUnavailable
from anabranch_kit.ports.registry import Member, Serving
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.fakes.registry import MemoryRegistry
from anabranch_testkit.waiting import eventually
from nats.aio.client import Client

LEASE_S = LEASE_MS / 1000


def member(name: str, incarnation: str) -> Member:
    return Member(name, incarnation, "segmentstore", "h", 1, 5)


def joined(name: str, incarnation: str) -> MemberJoined:
    return MemberJoined(name, incarnation, "segmentstore", "h", 1, 5)


def left(name: str, incarnation: str) -> MemberLeft:
    return MemberLeft(name, incarnation, "segmentstore")


def serving(epoch: int, store: str, incarnation: str) -> dict[int, Serving]:
    return {0: Serving(0, store, incarnation, "h", 1, epoch)}


def told(news: ClusterNews, *members: Member, at_s: float) -> list[object]:
    return [one.data for one in news.look(members, {}, now_s=at_s)]


def test_who_comes_and_goes_is_told_once() -> None:
    """An operator would be woken for nothing, or not at all."""
    news = ClusterNews([])
    a, b = member("a", "a1"), member("b", "b1")
    assert told(news, a, at_s=0) == [joined("a", "a1")]
    assert told(news, a, b, at_s=1) == [joined("b", "b1")]
    assert told(news, a, b, at_s=2) == []
    assert told(news, b, at_s=3) == []
    assert told(news, b, at_s=3 + LEASE_S) == [left("a", "a1")]
    assert told(news, b, at_s=9 + LEASE_S) == []


def test_a_wiped_registry_is_no_news() -> None:
    """Each wipe would be told as the end of the whole cluster."""
    news = ClusterNews([])
    told(news, member("a", "a1"), at_s=0)
    assert told(news, at_s=1) == []
    assert told(news, member("a", "a1"), at_s=LEASE_S) == []
    assert told(news, at_s=LEASE_S + 2) == [], "the time counts anew"


def test_a_restart_is_told_as_an_end_and_a_beginning() -> None:
    """A process that crashes again and again would look as if nothing happened."""
    news = ClusterNews([])
    told(news, member("a", "a1"), at_s=0)
    assert told(news, member("a", "a2"), at_s=1) == [left("a", "a1"), joined("a", "a2")]


def test_container_moves_are_told_with_whom_they_left() -> None:
    """Nobody could see why writers of some segments waited."""
    news = ClusterNews([])
    first = news.look([], serving(3, "a", "a1"), now_s=0)
    assert first == [("container-0-3", ContainerMoved(0, 3, "a", "a1", ""))]
    assert news.look([], serving(3, "a", "a1"), now_s=1) == []
    assert news.look([], {}, now_s=2) == []
    moved = news.look([], serving(4, "b", "b1"), now_s=3)
    assert moved == [("container-0-4", ContainerMoved(0, 4, "b", "b1", "a"))]
    assert news.look([], serving(3, "a", "a1"), now_s=4) == [], "an older owner's late word"


def test_who_takes_over_goes_on_where_the_feed_ends() -> None:
    """A controller's restart would tell every member and container again."""
    news = ClusterNews(
        [
            joined("a", "a1"),
            joined("b", "b1"),
            left("b", "b1"),
            joined("c", "c1"),
            ContainerMoved(0, 3, "a", "a1", ""),
        ]
    )
    assert told(news, member("a", "a1"), at_s=0) == []
    assert news.look([member("a", "a1")], serving(3, "a", "a1"), now_s=LEASE_S) == [
        ("left-c1", left("c", "c1"))
    ]


class MemoryTold:
    def __init__(self) -> None:
        self.events: dict[str, tuple[str, CloudEvent]] = {}
        self.refusals = 0

    async def last_told(self, kind: str) -> list[CloudEvent]:
        newest: dict[str, CloudEvent] = {}
        for subject, event in self.events.values():
            if event.type == feed.TYPE_PREFIX + kind:
                newest[subject] = event
        return list(newest.values())

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BusUnavailable(subject, "told to")
        assert event_id not in self.events, "told twice"
        self.events[event_id] = subject, msgspec.json.decode(payload, type=CloudEvent)


@contextlib.asynccontextmanager
async def running(watcher: ClusterWatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(watcher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_registry_is_told_on_the_subjects_of_its_things() -> None:
    """`nats sub 'anabranch.feed.member.>'` must be all that it takes."""
    clock, log = FakeClock(), MemoryTold()
    registry = MemoryRegistry(clock)
    await registry.announce(member("store-0", "i0"), lease_ms=LEASE_MS)
    await registry.set_serving(Serving(3, "store-0", "i0", "h", 1, 9))
    for _ in range(2):  # the second one finds all of it told
        async with running(ClusterWatcher(registry, log, source="anabranch://t", clock=clock)):
            await eventually(lambda: len(log.events) == 2)
    subject, event = log.events["joined-i0"]
    assert subject == "anabranch.feed.member.joined.store-0"
    assert (event.subject, event.type) == ("member/store-0", "io.anabranch.member.joined")
    assert log.events["container-3-9"][0] == "anabranch.feed.container.moved.3"


async def test_a_refused_publication_and_an_absent_registry_lose_nothing() -> None:
    """NATS or Redis away for a moment must only delay the news."""
    clock, log = FakeClock(), MemoryTold()
    registry = MemoryRegistry(clock)
    log.refusals, registry.away = 1, True
    async with running(ClusterWatcher(registry, log, source="anabranch://t", clock=clock)):
        await clock.advance(1.0)
        registry.away = False

        async def announced() -> bool:
            await registry.announce(member("a", "i"), lease_ms=LEASE_MS)
            await clock.advance(1.0)
            return list(log.events) == ["joined-i"]

        await eventually(announced)


async def test_jetstream_gives_the_newest_event_about_each_thing(nats_client: Client) -> None:
    """A new watcher would begin with what was so long ago."""
    log = JetStreamFeed(nats_client, clock=SystemClock())
    await log.provision()
    assert await log.last_told("member.joined") == []
    for data in (joined("a.x", "a1"), joined("b", "b1"), joined("a.x", "a2"), left("b", "b1")):
        event = feed.cloud_event(data, event_id=data.incarnation, source="t", at_ms=0)
        event_id = f"{type(data).__name__}-{data.incarnation}"
        await log.publish(feed.nats_subject(data), msgspec.json.encode(event), event_id=event_id)
    found = await log.last_told("member.joined")
    assert [feed.data_of(one) for one in found] == [joined("a.x", "a2"), joined("b", "b1")]
