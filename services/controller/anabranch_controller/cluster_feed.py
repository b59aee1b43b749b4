"""What the public feed tells of members and containers: who joined and left, who serves what.

The registry says what is so now; the feed says what was told. `ClusterNews` is the rule,
without IO: the difference of the two is what has to be told. `ClusterWatcher` reads what was
told from the feed itself when it begins, so nothing else has to be stored, and an instance
that takes over tells what happened while nobody watched.

The ids are derived from what is told (`joined-<incarnation>`, `container-<n>-<epoch>`), so a
crash, or two watchers for a moment, repeat an event under its id and never rename one.

**A member has left** when it was missing for a whole lease: a registry that was wiped knows
nobody for a moment, and that is no news.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog
from anabranch_events import feed
from anabranch_events.feed import CloudEvent, ContainerMoved, MemberJoined, MemberLeft
from anabranch_kit.membership import LEASE_MS
from anabranch_kit.ports.bus import BusUnavailable
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import Member, Registry, RegistryUnavailable, Serving

POLL_S: Final = 1.0
TOLD_KINDS: Final = (MemberJoined, MemberLeft, ContainerMoved)

log = structlog.stdlib.get_logger("anabranch.feed")


class ToldLog(Protocol):
    """Where feed events are kept for operators."""

    async def last_told(self, kind: str) -> list[CloudEvent]:
        """The newest event of a kind about each thing. Raises BusUnavailable."""
        ...

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        """Store an event, once per id within the duplicate window. Raises BusUnavailable."""
        ...


class News(NamedTuple):
    event_id: str
    data: MemberJoined | MemberLeft | ContainerMoved


class ClusterNews:
    """Knows what was told, looks at what is, and says what is new."""

    def __init__(self, told: Iterable[feed.FeedData]) -> None:
        """`told` has the newest event of each of TOLD_KINDS about each thing."""
        self._members: dict[str, MemberJoined] = {}
        self._containers: dict[int, ContainerMoved] = {}
        self._missing_since: dict[str, float] = {}
        gone = set()
        for data in told:
            match data:
                case MemberJoined():
                    self._members[data.member] = data
                case MemberLeft():
                    gone.add(data.incarnation)
                case ContainerMoved():
                    self._containers[data.container] = data
                case _:
                    pass
        for member, joined in list(self._members.items()):
            if joined.incarnation in gone:
                del self._members[member]

    def look(
        self, members: Iterable[Member], serving: Mapping[int, Serving], *, now_s: float
    ) -> list[News]:
        """What has to be told; it counts as told afterwards. `now_s` is monotonic."""
        present = {member.id: member for member in members}
        news = self._left(present, now_s)
        news += self._joined(present)
        news += self._moved(serving)
        return news

    def _left(self, present: Mapping[str, Member], now_s: float) -> list[News]:
        news = []
        for known in list(self._members.values()):
            member = present.get(known.member)
            if member is not None and member.incarnation == known.incarnation:
                self._missing_since.pop(known.member, None)
                continue
            since_s = self._missing_since.setdefault(known.member, now_s)
            if member is None and now_s - since_s < LEASE_MS / 1000:
                continue
            del self._members[known.member], self._missing_since[known.member]
            left = MemberLeft(known.member, known.incarnation, known.role)
            news.append(News(f"left-{known.incarnation}", left))
        return news

    def _joined(self, present: Mapping[str, Member]) -> list[News]:
        news = []
        for member in present.values():
            if member.id not in self._members:
                joined = MemberJoined(
                    member=member.id,
                    incarnation=member.incarnation,
                    role=member.role,
                    host=member.host,
                    port=member.port,
                    started_ms=member.started_ms,
                )
                self._members[member.id] = joined
                news.append(News(f"joined-{member.incarnation}", joined))
        return news

    def _moved(self, serving: Mapping[int, Serving]) -> list[News]:
        news = []
        for container, one in sorted(serving.items()):
            before = self._containers.get(container)
            if before is not None and before.epoch >= one.epoch:
                continue
            moved = ContainerMoved(
                container=container,
                epoch=one.epoch,
                member=one.member,
                incarnation=one.incarnation,
                before="" if before is None else before.member,
            )
            self._containers[container] = moved
            news.append(News(f"container-{container}-{one.epoch}", moved))
        return news


class ClusterWatcher:
    """Tells the feed what the registry shows. Run it in one instance, by a lease."""

    def __init__(self, registry: Registry, told: ToldLog, *, source: str, clock: Clock) -> None:
        """`source` is the CloudEvents source: which cluster says this."""
        self._registry, self._told, self._source, self._clock = registry, told, source, clock

    async def run(self) -> None:
        """Watch and tell until cancelled."""
        news: ClusterNews | None = None
        async for _ in self._registry.changes(poll_s=POLL_S):
            try:
                news = news or await self._begin()
                await self._round(news)
            except RegistryUnavailable as error:
                log.debug("feed.registry_away", error=str(error))  # `changes` says so once
            except BusUnavailable as error:
                # What was stored of this round is not known: begin with what the feed says.
                log.warning("feed.cluster_news_interrupted", error=str(error))
                news = None

    async def _begin(self) -> ClusterNews:
        told = []
        for kind in TOLD_KINDS:
            for event in await self._told.last_told(feed.KINDS[kind]):
                try:
                    told.append(feed.data_of(event))
                except msgspec.DecodeError as error:
                    log.warning("feed.event_unreadable", event_id=event.id, error=str(error))
        return ClusterNews(one for one in told if one is not None)

    async def _round(self, news: ClusterNews) -> None:
        members, serving = await self._registry.members(), await self._registry.serving()
        for event_id, data in news.look(members, serving, now_s=self._clock.monotonic()):
            event = feed.cloud_event(
                data, event_id=event_id, source=self._source, at_ms=self._clock.now_ms()
            )
            payload = msgspec.json.encode(event)
            await self._told.publish(feed.nats_subject(data), payload, event_id=event_id)
