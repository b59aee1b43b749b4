"""What a tierer tells the public feed of tier 2."""

from __future__ import annotations

from anabranch_events.bus import DeleteOrder
from anabranch_events.feed import FeedData, Tier2Down, Tier2Recovered
from anabranch_kit.ports.object_store import ObjectStoreUnavailable
from anabranch_testkit.fakes import FakeClock, MemoryBus, MemoryObjectStore
from anabranch_tierer.domain.orders import Again, Done
from anabranch_tierer.handlers import Tierer

ORDER = DeleteOrder(0, ("c/1",))


class Told:
    member = "tierer-0"

    def __init__(self) -> None:
        self.told: list[tuple[str, FeedData]] = []

    def tell(self, data: FeedData, *, event_id: str) -> None:
        self.told.append((event_id, data))


class NoReader:
    async def read(self, container: int, segment: str, offset: int, length: int) -> bytes:
        raise AssertionError("a deletion reads nothing")


async def test_an_outage_of_tier2_is_told_once_and_its_end_too() -> None:
    """An operator would learn of an outage from full disks."""
    away = [True]

    def fault(moment: str, name: str) -> None:
        if away:
            raise ObjectStoreUnavailable("delete", name, "no answer")

    clock, told = FakeClock(), Told()
    tierer = Tierer(
        reader=NoReader(),
        objects=MemoryObjectStore(fault=fault),
        bus=MemoryBus(),
        clock=clock,
        worker="tierer-0",
        incarnation="i1",
        outbox=told,  # type: ignore[arg-type]
    )
    waited_s = 0.0
    for _ in range(3):
        settlement = await tierer.delete(ORDER)
        assert isinstance(settlement, Again)
        waited_s += settlement.delay_s
        await clock.advance(settlement.delay_s)
    away.clear()
    assert await tierer.delete(ORDER) == Done()
    assert await tierer.delete(ORDER) == Done()
    assert told.told == [
        ("tier2-i1-1", Tier2Down("tierer-0", "delete", "no answer")),
        ("tier2-i1-2", Tier2Recovered("tierer-0", None, round(waited_s * 1000))),
    ]
