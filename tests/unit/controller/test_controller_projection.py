"""What the projection does with messages that are not as they should be, and with waiters."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from anabranch_controller.projection import DamagedEvent, Projection
from anabranch_controller.waiting import OutOfTime
from anabranch_events.domain import (
    BATCH_VERSION,
    ScopeBatch,
    ScopeCreated,
    StreamActivated,
    StreamBatch,
)
from anabranch_events.subjects import barrier, scope_events, stream_events
from anabranch_kit.ports.event_store import Record
from anabranch_testkit.fakes import FakeClock

SCOPE = ScopeBatch(id="1", by="a", at_ms=0, events=(ScopeCreated("s.t", "i", 0),))


def record(sequence: int, subject: str, batch: Any) -> Record:
    payload = batch if isinstance(batch, bytes) else msgspec.json.encode(batch)
    return Record(sequence, subject, payload)


@pytest.mark.parametrize(
    "batch",
    [
        b"{}",
        b"not json",
        msgspec.json.encode(SCOPE).replace(b"ScopeCreated", b"ScopeInvented"),
        msgspec.structs.replace(SCOPE, version=BATCH_VERSION + 1),
    ],
)
async def test_what_cannot_be_read_is_refused_and_named(batch: Any) -> None:
    """A controller that skips a message would decide on a wrong state and damage streams."""
    projection = Projection(FakeClock())
    with pytest.raises(DamagedEvent, match=r"message 7 on anabranch\.events\.scope\.s~t"):
        projection.apply(record(7, scope_events("s.t"), batch))
    assert projection.position == 0


async def test_an_event_that_cannot_follow_is_refused() -> None:
    """A hole in the log would be taken for a stream that never began."""
    projection = Projection(FakeClock())
    batch = StreamBatch(id="1", by="a", at_ms=0, events=(StreamActivated(),))
    with pytest.raises(DamagedEvent):
        projection.apply(record(1, stream_events("s", "x"), batch))


async def test_names_with_dots_keep_them() -> None:
    """Two scopes whose names differ by a dot would be one."""
    projection = Projection(FakeClock())
    projection.apply(record(1, scope_events("s.t"), SCOPE))
    assert list(projection.scopes) == ["s.t"]
    assert projection.sequence_of(scope_events("s.t")) == 1
    projection.apply(record(1, scope_events("s.t"), SCOPE))
    assert projection.position == 1


async def test_waiters_wake_by_what_they_wait_for() -> None:
    """A call would hang until its limit, or return before its own write is seen."""
    clock = FakeClock()
    projection = Projection(clock)
    seen = asyncio.create_task(projection.caught_up(2))
    made = asyncio.create_task(
        projection.until(scope_events("s.t"), lambda: projection.scopes.get("s.t"), limit_s=5.0)
    )
    late = asyncio.create_task(projection.caught_up(9, limit_s=3.0))
    await clock.advance(1.0)
    projection.apply(record(1, scope_events("s.t"), SCOPE))
    await clock.advance(0.0)
    assert made.done()
    assert not seen.done()
    projection.apply(record(2, barrier("a"), b""))
    await clock.advance(0.0)
    assert seen.done()
    await clock.advance(3.0)
    with pytest.raises(OutOfTime):
        await late
    with pytest.raises(OutOfTime):
        await asyncio.gather(
            projection.until("nobody", lambda: None, limit_s=2.0), clock.advance(3.0)
        )
