"""Load reports: what each segment took in, once a second, for the autoscaler.

Notices on the bus: one that is lost is replaced by the next, so a bus that is away costs
nothing here but the reports of that time (they are not gathered up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog
from anabranch_events import subjects
from anabranch_events.bus import LoadReport, SegmentLoad
from anabranch_kit.ports.bus import Bus, BusUnavailable
from anabranch_kit.ports.clock import Clock

from anabranch_segmentstore.load import SegmentTaken

INTERVAL_S: Final = 1.0

log = structlog.stdlib.get_logger("anabranch.load")


async def report_load(
    bus: Bus,
    clock: Clock,
    *,
    store: str,
    incarnation: str,
    take: Callable[[], Iterable[SegmentTaken]],
) -> None:
    """Publish a report every second until cancelled. `take` gives and resets the counts."""
    sequence = 0
    is_away = False
    last = clock.monotonic()
    while True:
        await clock.sleep(INTERVAL_S)
        now = clock.monotonic()
        interval_ms = max(1, round((now - last) * 1000))
        last = now
        sequence += 1
        report = LoadReport(
            store=store,
            incarnation=incarnation,
            sequence=sequence,
            at_ms=clock.now_ms(),
            interval_ms=interval_ms,
            segments=[_load(one, interval_ms, clock.now_ms()) for one in take()],
        )
        try:
            await bus.publish(subjects.load_report(store), msgspec.json.encode(report))
        except BusUnavailable as unavailable:
            if not is_away:
                log.warning("load.unreported", reason=str(unavailable))
            is_away = True
        else:
            is_away = False


def _load(taken: SegmentTaken, interval_ms: int, now_ms: int) -> SegmentLoad:
    per_s = 1000 / interval_ms
    return SegmentLoad(
        segment=taken.segment,
        bytes_per_s=taken.bytes_count * per_s,
        events_per_s=taken.events_count * per_s,
        length_bytes=taken.length_bytes,
        age_ms=max(0, now_ms - taken.created_ms) if taken.created_ms else 0,
    )
