"""The public feed: what the event log's messages become, and that a crash loses none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from anabranch_controller.adapters.jetstream_feed import JetStreamFeed
from anabranch_controller.feed import KEPT_MS, Entry, FeedProjection, FeedProjector, Position
from anabranch_events import domain, feed, subjects
from anabranch_events.model import SegmentRange, StreamConfig
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.bus import BusUnavailable
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.fakes.event_store import MemoryEventStore
from anabranch_testkit.fakes.registry import MemoryRegistry
from anabranch_testkit.waiting import eventually
from nats.aio.client import Client

SUBJECT = subjects.stream_events("city", "rides")
WHOLE = SegmentRange(0, 0.0, 1.0)
LEFT = SegmentRange(1 << 32 | 1, 0.0, 0.5)
RIGHT = SegmentRange(1 << 32 | 2, 0.5, 1.0)
NOW_MS = 1_700_000_000_000


def _batch(*events: Any, at_ms: int = NOW_MS) -> bytes:
    return msgspec.json.encode(domain.StreamBatch(id="b", by="c", at_ms=at_ms, events=events))


def _created(stream: str = "rides") -> bytes:
    event = domain.StreamCreated("city", stream, "i", StreamConfig(), (WHOLE,), NOW_MS)
    return _batch(event, domain.StreamActivated())


SCALE_STARTED = domain.ScaleStarted(
    1, (WHOLE,), (LEFT, RIGHT), "load", "5 times the target", 50.0, 10.0, NOW_MS
)
EPOCH = domain.EpochAppended(1, 1, (LEFT, RIGHT), (WHOLE,), NOW_MS + 5)
SCALE_COMPLETED = domain.ScaleCompleted(1, ((0, 99),), NOW_MS + 40)


def test_scale_says_cause_rates_ranges_and_duration() -> None:
    """An operator sees from one message why a stream split, and how long it took."""
    projection = FeedProjection()
    projection.apply(SUBJECT, _created())
    assert projection.apply(SUBJECT, _batch(SCALE_STARTED)) == []
    assert projection.apply(SUBJECT, _batch(EPOCH)) == []
    scaled = feed.StreamScaled(
        scope="city",
        stream="rides",
        epoch=1,
        cause="load",
        reason="5 times the target",
        observed_rate=50.0,
        target_rate=10.0,
        sealed=(WHOLE,),
        created=(LEFT, RIGHT),
        splits=1,
        merges=0,
        segments_count=2,
        requested_ms=NOW_MS,
        at_ms=NOW_MS + 40,
        duration_ms=40,
    )
    assert projection.apply(SUBJECT, _batch(SCALE_COMPLETED)) == [Entry(scaled, NOW_MS + 40)]


def test_scale_without_a_time_of_its_request_lasts_from_its_acceptance() -> None:
    """A scale by a client that names no time would be shown as one of fifty years."""
    projection = FeedProjection()
    projection.apply(SUBJECT, _created())
    started = msgspec.structs.replace(SCALE_STARTED, requested_ms=0)
    projection.apply(SUBJECT, _batch(started, at_ms=NOW_MS + 10))
    [entry] = projection.apply(SUBJECT, _batch(EPOCH, SCALE_COMPLETED))
    assert isinstance(entry.data, feed.StreamScaled)
    assert entry.data.duration_ms == 30


def test_merge_is_counted_as_one() -> None:
    """A merge that is shown as a split would draw the heat map upside down."""
    merged = SegmentRange(2 << 32 | 3, 0.0, 1.0)
    projection = FeedProjection()
    projection.apply(SUBJECT, _created())
    projection.apply(SUBJECT, _batch(SCALE_STARTED, EPOCH, SCALE_COMPLETED))
    entries = projection.apply(
        SUBJECT,
        _batch(
            domain.ScaleStarted(2, (LEFT, RIGHT), (merged,), "load", "", 1.0, 10.0, NOW_MS),
            domain.EpochAppended(2, 2, (merged,), (LEFT, RIGHT), NOW_MS),
            domain.ScaleCompleted(2, (), NOW_MS),
        ),
    )
    data = entries[0].data
    assert isinstance(data, feed.StreamScaled)
    assert (data.splits, data.merges, data.segments_count) == (0, 1, 1)


def test_life_of_a_stream_is_told_in_order() -> None:
    """What an operator misses in the feed, nobody else will tell."""
    config = StreamConfig(tags=("night",))
    projection = FeedProjection()
    messages = [
        _created(),
        _batch(domain.UpdateStarted(config)),
        _batch(domain.UpdateCompleted()),
        _batch(domain.TruncationStarted(((0, 7),), ())),
        _batch(domain.TruncationCompleted()),
        _batch(domain.SealStarted()),
        _batch(domain.StreamSealed(())),
        _batch(domain.DeleteStarted()),
        _batch(domain.StreamDeleted(0)),
    ]
    told = [entry.data for message in messages for entry in projection.apply(SUBJECT, message)]
    assert told == [
        feed.StreamCreated("city", "rides", StreamConfig(), (WHOLE,)),
        feed.StreamUpdated("city", "rides", config),
        feed.StreamTruncated("city", "rides", {"0": 7}),
        feed.StreamSealed("city", "rides"),
        feed.StreamDeleted("city", "rides"),
    ]


def test_rolling_transaction_shows_both_of_its_epochs() -> None:
    """All segment ids change; a segment graph without these two steps has a hole."""
    copy = SegmentRange(2 << 32, 0.0, 1.0)
    again = (SegmentRange(3 << 32 | 1, 0.0, 0.5), SegmentRange(3 << 32 | 2, 0.5, 1.0))
    projection = FeedProjection()
    projection.apply(SUBJECT, _created())
    projection.apply(SUBJECT, _batch(SCALE_STARTED, EPOCH, SCALE_COMPLETED))
    projection.apply(SUBJECT, _batch(domain.CommitStarted(0, ("t",), True, 1), at_ms=NOW_MS + 50))
    rolling = domain.RollingEpochsAppended(
        domain.EpochAppended(2, 0, (copy,), (LEFT, RIGHT), NOW_MS + 60),
        domain.EpochAppended(3, 1, again, (copy,), NOW_MS + 61),
    )
    projection.apply(SUBJECT, _batch(rolling))
    completed = _batch(domain.CommitCompleted(("t",), (), NOW_MS + 80))
    told = [entry.data for entry in projection.apply(SUBJECT, completed)]
    assert all(isinstance(one, feed.StreamScaled) for one in told)
    assert [(one.epoch, one.cause, one.sealed, one.created) for one in told] == [  # type: ignore[union-attr]
        (2, "transaction", (LEFT, RIGHT), (copy,)),
        (3, "transaction", (copy,), again),
    ]
    assert [one.duration_ms for one in told] == [30, 30]  # type: ignore[union-attr]


def test_plain_commit_changes_no_segments() -> None:
    """A scale for each commit would bury the real ones."""
    projection = FeedProjection()
    projection.apply(SUBJECT, _created())
    projection.apply(SUBJECT, _batch(domain.CommitStarted(0, ("t",), False, 0)))
    assert projection.apply(SUBJECT, _batch(domain.CommitCompleted(("t",), (), NOW_MS))) == []


def test_internal_streams_stay_inside() -> None:
    """Each stream has a `_MARK` companion; telling of it would double the feed."""
    projection = FeedProjection()
    subject = subjects.stream_events("city", "_MARKrides")
    assert projection.apply(subject, _created("_MARKrides")) == []


def test_transaction_that_timed_out_is_told_with_its_names() -> None:
    """A writer's lost transaction must be visible; names with dots must come back whole."""
    projection = FeedProjection()
    subject = subjects.transaction_events("new.york", "rides", "0" * 31 + "7")

    def message(*events: Any) -> bytes:
        return msgspec.json.encode(domain.TransactionBatch("b", "c", NOW_MS, events))

    projection.apply(subject, message(domain.TransactionAbortRequested("timeout")))
    entries = projection.apply(subject, message(domain.TransactionAborted(NOW_MS + 3)))
    told = feed.TransactionAborted("new.york", "rides", "0" * 31 + "7", "timeout")
    assert entries == [Entry(told, NOW_MS + 3)]


class MemoryFeed:
    """FeedLog without a duplicate window: shows what is published more than once."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, dict[str, Any]]] = []
        self.refusals = 0

    async def newest(self) -> Position | None:
        return max((Position.of(one) for one, _, _ in self.published), default=None)

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BusUnavailable(subject, "told to")
        self.published.append((event_id, subject, msgspec.json.decode(payload)))

    @property
    def ids(self) -> list[str]:
        return [event_id for event_id, _, _ in self.published]


@contextlib.asynccontextmanager
async def _running(projector: FeedProjector) -> AsyncIterator[None]:
    task = asyncio.create_task(projector.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _append(store: MemoryEventStore, payload: bytes) -> None:
    last = await store.last_sequence(SUBJECT)
    await store.append(SUBJECT, payload, expected_sequence=last, batch_id=f"b{last}")


def _projector(
    store: MemoryEventStore, log: Any, registry: MemoryRegistry, clock: Any, holder: str = "a"
) -> FeedProjector:
    return FeedProjector(
        store, log, registry, holder=holder, source="anabranch://test", clock=clock
    )


async def test_events_are_cloudevents_on_the_subject_of_their_stream() -> None:
    """`nats sub anabranch.feed.stream.scaled.city.rides` must be all that it takes."""
    clock, store, log = FakeClock(now_ms=NOW_MS), MemoryEventStore(), MemoryFeed()
    for payload in (_created(), _batch(SCALE_STARTED), _batch(EPOCH, SCALE_COMPLETED)):
        await _append(store, payload)
    async with _running(_projector(store, log, MemoryRegistry(clock), clock)):
        await eventually(lambda: len(log.published) == 2)
    event_id, subject, event = log.published[1]
    assert (event_id, subject) == ("3-0", "anabranch.feed.stream.scaled.city.rides")
    assert event["specversion"] == "1.0"
    assert event["id"] == "3-0"
    assert event["type"] == "io.anabranch.stream.scaled"
    assert event["source"] == "anabranch://test"
    assert event["subject"] == "city/rides"
    assert event["data"]["sealed"] == [[0, 0.0, 1.0]]


async def test_restart_goes_on_where_the_feed_ends() -> None:
    """A projector that starts over would tell each scale twice; one that skips loses some."""
    clock, store, log = FakeClock(now_ms=NOW_MS), MemoryEventStore(), MemoryFeed()
    registry = MemoryRegistry(clock)
    await _append(store, _created())
    async with _running(_projector(store, log, registry, clock)):
        await eventually(lambda: log.ids == ["1-0"])
    await _append(store, _batch(SCALE_STARTED, EPOCH, SCALE_COMPLETED))
    async with _running(_projector(store, log, registry, clock, holder="b")):
        await eventually(lambda: len(log.ids) == 2)
    assert log.ids == ["1-0", "2-0"]


async def test_refused_publication_is_repeated_under_its_id() -> None:
    """NATS away for a moment must delay the feed, never lose a scale."""
    clock, store, log = FakeClock(now_ms=NOW_MS), MemoryEventStore(), MemoryFeed()
    log.refusals = 2
    await _append(store, _created())
    async with _running(_projector(store, log, MemoryRegistry(clock), clock)):

        async def published() -> bool:
            await clock.advance(0.5)
            return log.ids == ["1-0"]

        await eventually(published)


async def test_only_the_holder_of_the_lease_projects() -> None:
    """Two instances that project side by side would publish everything twice."""
    clock, store, log = FakeClock(now_ms=NOW_MS), MemoryEventStore(), MemoryFeed()
    registry = MemoryRegistry(clock)
    assert await registry.acquire_lease("feed", "other", lease_ms=3_000)
    await _append(store, _created())
    async with _running(_projector(store, log, registry, clock)):
        await clock.advance(1.0)
        assert log.ids == []
        await clock.advance(3.0)
        await eventually(lambda: log.ids == ["1-0"])


async def test_what_is_older_than_the_feed_is_kept_is_not_told_again() -> None:
    """A feed that expired wholly must not come back as if last year's scales were new."""
    clock, store, log = FakeClock(now_ms=NOW_MS + KEPT_MS + 1), MemoryEventStore(), MemoryFeed()
    await _append(store, _created())
    await _append(store, _batch(domain.StreamSealed(()), at_ms=clock.now_ms()))
    async with _running(_projector(store, log, MemoryRegistry(clock), clock)):
        await eventually(lambda: log.ids)
    assert log.ids == ["2-0"]


async def test_jetstream_keeps_the_feed_and_drops_repetitions(nats_client: Client) -> None:
    """The position comes from the stored feed; a repeated id must not show up twice."""
    log = JetStreamFeed(nats_client, clock=SystemClock())
    await log.provision()
    assert await log.newest() is None
    for event_id in ("9-0", "10-1", "10-1"):
        await log.publish(subjects.feed("stream.sealed", "s", "x"), b"{}", event_id=event_id)
    await log.publish(subjects.feed("transaction.aborted", "s", "x"), b"{}", event_id="8-0")
    # The autoscaler's warnings are in the feed too, under ids that are no place in the log.
    warning = subjects.feed("stream.warning", "s", "x")
    await log.publish(warning, b"{}", event_id="/anabranch/autoscaler-1")
    assert await log.newest() == Position(10, 1)
    info = await nats_client.jetstream().stream_info(subjects.FEED_STREAM)
    assert info.state.messages == 4


async def test_feed_that_cannot_be_reached_says_so(nats_client: Client) -> None:
    """Without its stream the projector must retry, not take the feed for empty."""
    log = JetStreamFeed(nats_client, clock=SystemClock())
    with pytest.raises(BusUnavailable, match="stream not found"):
        await log.newest()
    with pytest.raises(BusUnavailable):
        await log.publish(subjects.feed("stream.sealed", "s", "x"), b"{}", event_id="1-0")


async def test_each_stream_is_told_wholly_at_every_full_hour() -> None:
    """Who comes late, or lost some of it, would never know a stream's segments again."""
    clock, store, log = FakeClock(now_ms=NOW_MS), MemoryEventStore(), MemoryFeed()
    await _append(store, _created())
    await _append(store, _batch(SCALE_STARTED, EPOCH, SCALE_COMPLETED))
    projector = FeedProjector(
        store,
        log,
        MemoryRegistry(clock),
        holder="a",
        source="anabranch://test",
        clock=clock,
        snapshot_every_s=3600,
    )
    # NOW_MS is 800 s past the hour 472222.
    async with _running(projector):
        await eventually(lambda: log.ids == ["1-0", "2-0"])
        await clock.advance(2799.0)
        assert log.ids == ["1-0", "2-0"], "not before the hour is full"
        await clock.advance(2.0)
        await eventually(lambda: log.ids[2:] == ["2-snapshot-472223-0"])
        await clock.advance(3600.0)
        await eventually(lambda: log.ids[3:] == ["2-snapshot-472224-0"])
    _, subject, event = log.published[-1]
    assert subject == "anabranch.feed.stream.snapshot.city.rides"
    assert event["data"]["segments"] == [
        [0, 0.0, 1.0, 1],
        [LEFT.id, 0.0, 0.5, None],
        [RIGHT.id, 0.5, 1.0, None],
    ]
