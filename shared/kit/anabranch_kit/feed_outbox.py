"""What a process has to say on the public feed beside its real work.

`tell` never waits and never fails: nothing that stores data may depend on the feed. `run`
sends what was told, in order, and tries again while the bus is away. The ids are the
caller's, derived from what is told, so a repetition is dropped by JetStream. What was not
sent when the process dies is lost, as is the oldest of more than UNSENT_MAX.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

import msgspec
import structlog
from anabranch_events import feed

from anabranch_kit.ports.bus import Bus, BusUnavailable
from anabranch_kit.ports.clock import Clock

UNSENT_MAX: Final = 1000  # of some 20 KB at most; a minute of a busy store
RETRY_PAUSE_S: Final = 1.0

log = structlog.stdlib.get_logger("anabranch.feed")


class _Unsent(NamedTuple):
    subject: str
    payload: bytes
    message_id: str


class FeedOutbox:
    """Owned by a process. `member` is its id, under which it speaks."""

    def __init__(self, bus: Bus, *, member: str, clock: Clock) -> None:
        self.member = member
        self._bus, self._clock = bus, clock
        self._unsent: deque[_Unsent] = deque()
        self._filled = asyncio.Event()

    def tell(self, data: feed.FeedData, *, event_id: str) -> None:
        """Say it as soon as the bus takes it. `event_id` is unique for this member."""
        if len(self._unsent) == UNSENT_MAX:
            lost = self._unsent.popleft()
            log.warning("feed.event_lost", message_id=lost.message_id, unsent_max=UNSENT_MAX)
        source = f"/anabranch/{self.member}"
        now_ms = self._clock.now_ms()
        event = feed.cloud_event(data, event_id=event_id, source=source, at_ms=now_ms)
        # JetStream compares ids alone, and another member may use the same one.
        message_id = f"{source}-{event_id}"
        payload = msgspec.json.encode(event)
        self._unsent.append(_Unsent(feed.nats_subject(data), payload, message_id))
        self._filled.set()

    async def run(self) -> None:
        """Send until cancelled."""
        away = False
        while True:
            await self._filled.wait()
            first = self._unsent[0]
            try:
                await self._bus.enqueue(first.subject, first.payload, message_id=first.message_id)
            except BusUnavailable as error:
                if not away:
                    log.warning("feed.not_told_yet", error=str(error), unsent=len(self._unsent))
                away = True
                await self._clock.sleep(RETRY_PAUSE_S)
                continue
            away = False
            if self._unsent[0] is first:  # it may have been given up meanwhile
                self._unsent.popleft()
            if not self._unsent:
                self._filled.clear()
