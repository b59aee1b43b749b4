"""What a container tells the public feed of tier 2."""

from __future__ import annotations

from dataclasses import dataclass, field

import google_crc32c
from anabranch_events.bus import ChunkReport, DeleteOrder, FlushOrder
from anabranch_events.feed import FeedData, SegmentTiered, Tier2Recovered, Tier2Slow, TieredRange
from anabranch_segmentstore.domain.flushing import FlushRules
from anabranch_segmentstore.tiering import TieringSettings

SEGMENT = "scope/stream/0.#epoch.0"
INTERNAL = "scope/_MARKstream/0.#epoch.0"
EAGER = TieringSettings(rules=FlushRules(age_s=0.0), untiered_bytes_max=1000)


@dataclass
class Told:
    """The bus of orders and the outbox of the feed in one."""

    member: str = "store-0"
    orders: list[FlushOrder] = field(default_factory=list)
    told: list[tuple[str, FeedData]] = field(default_factory=list)

    async def order_flush(self, order: FlushOrder) -> None:
        self.orders.append(order)

    async def order_deletion(self, order: DeleteOrder) -> None:
        raise AssertionError(f"nothing was condemned, yet {order}")

    def tell(self, data: FeedData, *, event_id: str) -> None:
        self.told.append((event_id, data))


def report_of(order: FlushOrder) -> ChunkReport:
    """As if the object were written; nobody reads it here."""
    length = sum(one.length for one in order.ranges)
    crcs = tuple(google_crc32c.value(b"") for _ in order.ranges)
    return ChunkReport(order.container, order.object_name, "written", length, crcs, "t")


async def tick(rig) -> None:
    await rig.container.upkeep.tick(rig.container.tiering)


async def test_an_object_is_told_once_with_the_ranges_of_users(make_rig) -> None:
    """An operator could not see what reached tier 2, or would see internal segments."""
    rig, told = await make_rig(), Told()
    rig.container.start_tiering(told, EAGER, told)
    await rig.create(SEGMENT)
    await rig.create(INTERNAL)
    await rig.append(b"seen", segment=SEGMENT)
    await rig.append(b"hidden", segment=INTERNAL)
    await tick(rig)
    [order] = told.orders
    for _ in range(2):  # a repeated report is answered and told no more
        answer = await rig.container.chunk_report(report_of(order))
        assert answer.outcome == "accepted"
    expected = SegmentTiered(
        container=rig.container.id,
        object_name=order.object_name,
        length_bytes=10,
        ranges_count=1,
        ranges=(TieredRange(SEGMENT, 0, 4),),
    )
    assert told.told == [(f"tiered-{order.object_name}", expected)]


async def test_writers_that_wait_for_tier2_are_told_when_they_wait_and_go_on(make_rig) -> None:
    """Nobody would know why writers are slow."""
    rig, told = await make_rig(), Told()
    rig.container.start_tiering(told, EAGER, told)
    await rig.create(SEGMENT)
    await rig.append(bytes(1200), segment=SEGMENT)
    await tick(rig)
    await tick(rig)
    [(first_id, slow)] = told.told
    assert slow == Tier2Slow("store-0", rig.container.id, 1200, 1000)
    [order] = told.orders
    await rig.container.chunk_report(report_of(order))
    await tick(rig)
    last_id, recovered = told.told[-1]
    assert isinstance(recovered, Tier2Recovered)
    assert (recovered.member, recovered.container) == ("store-0", rig.container.id)
    assert first_id != last_id
