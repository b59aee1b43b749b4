"""A container's side of tier 2: orders out, reports in, and the log cut behind them.

The path of a range: planned (domain/flushing.py) → its object's name journalled as intended →
ordered from the workers → written → reported → journalled as a chunk → the report is answered →
the frames that held the bytes are needed no more. Whatever stops it half-way, the journal says
where it stands: an intended name is ordered again by a timer, one whose bytes were deleted
meanwhile is voided, and its object condemned.

Nothing here is on the path of an append. What the bus or a worker does not do in time only
delays; when too many bytes wait for tier 2 the container takes no more (faults F24).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog
from anabranch_events.bus import ChunkAnswer, ChunkReport, DeleteOrder, FlushOrder, FlushRange
from anabranch_events.feed import (
    RANGES_TOLD_MAX,
    SegmentTiered,
    Tier2Recovered,
    Tier2Slow,
    TieredRange,
)
from anabranch_kit.feed_outbox import FeedOutbox
from anabranch_kit.ports.bus import BusUnavailable

from anabranch_segmentstore.domain.flushing import FlushRules, is_alive, plan
from anabranch_segmentstore.domain.operations import (
    ChunkIntended,
    ChunkJournalled,
    ChunkVoided,
    ObjectsReleased,
    SegmentId,
)
from anabranch_segmentstore.ports import TieringBus

if TYPE_CHECKING:
    from anabranch_segmentstore.container import Container

log = structlog.stdlib.get_logger("anabranch.tiering")
OBJECTS_PER_DELETION_MAX: Final = 1000
FLUSH_POLL_S: Final = 0.05  # of a flush that an operator waits for


@dataclass(frozen=True, slots=True)
class TieringSettings:
    """`untiered_bytes_max`: what a container may hold in the log alone before writers wait."""

    object_prefix: str = "segments"
    rules: FlushRules = field(default_factory=FlushRules)
    reissue_after_s: float = 30.0
    orders_in_flight_max: int = 4
    untiered_bytes_max: int = 1024 * 1024 * 1024


class Tiering:
    """Owned by a container, driven by its upkeep."""

    def __init__(
        self,
        container: Container,
        bus: TieringBus,
        settings: TieringSettings,
        outbox: FeedOutbox | None = None,
    ) -> None:
        self._container, self._bus, self._settings = container, bus, settings
        self._outbox = outbox
        self._held_back_since = 0.0
        self._held_back_count = 0
        self._ordinal = 0
        self._ordered_at: dict[str, float] = {}  # when each intended name was sent last
        self._waiting_since: dict[SegmentId, float] = {}
        self._flushes_count = 0  # that operators wait for
        self.bus_failure: BusUnavailable | None = None

    async def tick(self) -> None:
        """Void what died, order what is due, delete what is condemned, throttle."""
        self._hold_back()
        try:
            await self._void_dead()
            await self._order_again()
            await self._order_new()
            await self._delete_condemned()
        except BusUnavailable as unavailable:
            # Everything is journalled: the next tick goes on.
            if self.bus_failure is None:
                log.warning(
                    "tiering.bus_away", container=self._container.id, reason=str(unavailable)
                )
            self.bus_failure = unavailable
        else:
            if self.bus_failure is not None:
                log.info("tiering.bus_back", container=self._container.id)
            self.bus_failure = None

    async def flush(self) -> None:
        """Until all that is accepted now is in tier 2, and journalled so: for as long as that
        takes and the container lives. Raises ContainerStopped."""
        container, state = self._container, self._container.state
        await container.barrier()
        through = container.commits.durable_position
        self._flushes_count += 1
        try:
            while (oldest := state.oldest_untiered_frame()) is not None and oldest <= through:
                await container.clock.sleep(FLUSH_POLL_S)
                container.check_running("")
        finally:
            self._flushes_count -= 1
        await container.barrier()

    async def report(self, report: ChunkReport) -> ChunkAnswer:
        """A worker's report. Once this returns "accepted" the chunk is journalled."""
        ledger = self._container.state.ledger
        intended = ledger.intended.get(report.object_name)
        if intended is None:
            if report.object_name in ledger.references:
                await self._container.barrier()
                return ChunkAnswer("accepted", "journalled before")
            return ChunkAnswer("unknown", "this name is not intended")
        if report.outcome == "name-taken":
            return await self._void(intended, "the name is taken; another one will be ordered")
        length = sum(one.length for one in intended.ranges)
        if report.length_bytes != length or len(report.crcs) != len(intended.ranges):
            return await self._void(
                intended, f"{length} bytes in {len(intended.ranges)} ranges were ordered"
            )
        told = self._summary(intended, report)
        self._container.record(ChunkJournalled(report.object_name, list(report.crcs)))
        self._ordered_at.pop(report.object_name, None)
        await self._container.barrier()
        if self._outbox is not None and told.ranges:
            self._outbox.tell(told, event_id=f"tiered-{report.object_name}")
        return ChunkAnswer("accepted")

    def _summary(self, intended: ChunkIntended, report: ChunkReport) -> SegmentTiered:
        """What the feed says of the object; internal segments are nobody's business."""
        segments = self._container.state.segments_by_id
        ranges = [
            TieredRange(segments[one.segment].name, one.offset, one.length)
            for one in intended.ranges
            if one.segment in segments and segments[one.segment].is_user_stream
        ]
        return SegmentTiered(
            container=self._container.id,
            object_name=report.object_name,
            length_bytes=report.length_bytes,
            ranges_count=len(ranges),
            ranges=tuple(ranges[:RANGES_TOLD_MAX]),
        )

    async def _void(self, intended: ChunkIntended, detail: str) -> ChunkAnswer:
        """The bytes under that name may be somebody else's: they are not deleted."""
        log.warning(
            "tiering.report_refused",
            container=self._container.id,
            object=intended.object_name,
            reason=detail,
        )
        self._container.record(ChunkVoided(intended.object_name, is_ours=False))
        self._ordered_at.pop(intended.object_name, None)
        await self._container.barrier()
        return ChunkAnswer("unknown", detail)

    def _hold_back(self) -> None:
        untiered = self._container.state.untiered_bytes
        limit = self._settings.untiered_bytes_max
        commits = self._container.commits
        was_held_back = commits.is_held_back
        if untiered > limit:
            commits.hold_back(True)
        elif was_held_back and untiered < limit - limit // 10:
            commits.hold_back(False)
        if commits.is_held_back != was_held_back:
            log.warning(
                "tiering.writers_wait" if not was_held_back else "tiering.writers_go_on",
                container=self._container.id,
                untiered_bytes=untiered,
                untiered_bytes_max=limit,
            )
            self._tell_held_back(untiered)

    def _tell_held_back(self, untiered: int) -> None:
        if self._outbox is None:
            return
        container, now = self._container, self._container.clock.monotonic()
        member = self._outbox.member
        if container.commits.is_held_back:
            self._held_back_since = now
            data: Tier2Slow | Tier2Recovered = Tier2Slow(
                member, container.id, untiered, self._settings.untiered_bytes_max
            )
        else:
            after_ms = round((now - self._held_back_since) * 1000)
            data = Tier2Recovered(member, container.id, after_ms)
        self._held_back_count += 1
        event_id = f"tier2-{container.id}-{container.log.epoch}-{self._held_back_count}"
        self._outbox.tell(data, event_id=event_id)

    async def _void_dead(self) -> None:
        """Bytes were deleted, truncated or merged away under an order: it can never be done."""
        state = self._container.state
        dead = [
            intended
            for intended in state.ledger.intended.values()
            if not is_alive(state, intended.ranges)
        ]
        for intended in dead:
            self._container.record(ChunkVoided(intended.object_name, is_ours=True))
            self._ordered_at.pop(intended.object_name, None)

    async def _order_again(self) -> None:
        now = self._container.clock.monotonic()
        for intended in list(self._container.state.ledger.intended.values()):
            sent = self._ordered_at.get(intended.object_name)
            if sent is None or now - sent >= self._settings.reissue_after_s:
                await self._send(intended)

    async def _order_new(self) -> None:
        container, state = self._container, self._container.state
        waiting_s = self._waiting()
        free = self._settings.orders_in_flight_max - len(state.ledger.intended)
        if free <= 0:
            return
        busy = {one.segment for order in state.ledger.intended.values() for one in order.ranges}
        rules = self._settings.rules
        if self._flushes_count:
            rules = replace(rules, age_s=0.0)
        objects = plan(state, rules, waiting_s=waiting_s, busy=busy, objects_max=free)
        intended = [ChunkIntended(self._new_name(), ranges) for ranges in objects]
        for one in intended:
            container.record(one)
        if intended:
            await container.barrier()
        for one in intended:
            if one.object_name in state.ledger.intended and is_alive(state, one.ranges):
                await self._send(one)

    def _waiting(self) -> dict[SegmentId, float]:
        """For how long each segment has had bytes that wait; counted anew after a restart."""
        now = self._container.clock.monotonic()
        since = self._waiting_since
        self._waiting_since = {
            segment: since.get(segment, now) for segment in self._container.state.untiered_segments
        }
        return {segment: now - start for segment, start in self._waiting_since.items()}

    def _new_name(self) -> str:
        """Never used again: the epoch is this opening of the log alone."""
        self._ordinal += 1
        container = self._container
        prefix = self._settings.object_prefix
        return f"{prefix}/{container.id}/{container.log.epoch}/{self._ordinal}"

    async def _send(self, intended: ChunkIntended) -> None:
        container = self._container
        names = container.state.segments_by_id
        order = FlushOrder(
            container=container.id,
            epoch=container.log.epoch,
            object_name=intended.object_name,
            ranges=tuple(
                FlushRange(names[one.segment].name, one.offset, one.length)
                for one in intended.ranges
            ),
        )
        await self._bus.order_flush(order)
        self._ordered_at[intended.object_name] = container.clock.monotonic()
        for one in intended.ranges:
            self._waiting_since.pop(one.segment, None)

    async def _delete_condemned(self) -> None:
        """Only what is durably condemned: an order cannot be taken back."""
        container = self._container
        names = list(container.state.ledger.condemned)[:OBJECTS_PER_DELETION_MAX]
        if not names:
            return
        await container.barrier()
        await self._bus.order_deletion(DeleteOrder(container.id, tuple(names)))
        container.record(ObjectsReleased(names))
