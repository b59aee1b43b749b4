"""A container's orders to the tierers, as work in the bus's queue."""

from __future__ import annotations

import msgspec
from anabranch_events import subjects
from anabranch_events.bus import DeleteOrder, FlushOrder
from anabranch_kit.ports.bus import Bus


class QueuedTiering:
    """TieringBus over a Bus. No message ids: an order that is sent again must arrive again."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def order_flush(self, order: FlushOrder) -> None:
        await self._bus.enqueue(subjects.flush_orders(order.container), msgspec.json.encode(order))

    async def order_deletion(self, order: DeleteOrder) -> None:
        subject = subjects.delete_orders(order.container)
        await self._bus.enqueue(subject, msgspec.json.encode(order))
