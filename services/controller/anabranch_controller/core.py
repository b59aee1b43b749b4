"""The controller put together from its parts, without any edge."""

from __future__ import annotations

import asyncio
from random import Random

from anabranch_kit.ids import NewId
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.event_store import EventStore

from anabranch_controller.context import Context
from anabranch_controller.event_log import EventLog
from anabranch_controller.handlers.groups import GroupHandlers
from anabranch_controller.handlers.scaling import ScalingHandlers
from anabranch_controller.handlers.scopes import ScopeHandlers
from anabranch_controller.handlers.segments import SegmentHandlers
from anabranch_controller.handlers.streams import StreamHandlers
from anabranch_controller.handlers.tables import TableHandlers
from anabranch_controller.handlers.transactions import TransactionHandlers
from anabranch_controller.handlers.watermarks import WatermarkHandlers
from anabranch_controller.ports import ControllerMembers, SegmentLocator, SegmentStores
from anabranch_controller.projection import Projection
from anabranch_controller.workflows.runner import Runner


class ControllerCore(
    ScopeHandlers,
    StreamHandlers,
    SegmentHandlers,
    ScalingHandlers,
    TransactionHandlers,
    GroupHandlers,
    TableHandlers,
    WatermarkHandlers,
):
    """The api's Controller. `run` must be running while calls are made; `ready` tells when.

    `instance` is the incarnation under which this process is announced as a member: work
    that it leaves behind is taken over when that incarnation is gone.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        stores: SegmentStores,
        locator: SegmentLocator,
        members: ControllerMembers,
        clock: Clock,
        random: Random,
        new_id: NewId,
        instance: str,
    ) -> None:
        self._store = store
        self.projection = Projection(clock)
        log = EventLog(
            store, self.projection, clock=clock, random=random, new_id=new_id, instance=instance
        )
        super().__init__(
            Context(
                log=log,
                projection=self.projection,
                stores=stores,
                locator=locator,
                members=members,
                clock=clock,
                random=random,
                new_id=new_id,
            )
        )
        self.ready = asyncio.Event()

    @property
    def context(self) -> Context:
        """For services beside the calls: retention and watermarks."""
        return self._ctx

    async def run(self) -> None:
        """Fold the log, then serve and finish what is open, until cancelled.

        Raises what ends the process: DamagedEvent, or a failure of the follower.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.projection.run(self._store), name="projection")
            await self._ctx.log.load_all()
            group.create_task(Runner(self._ctx).run(), name="workflows")
            self.ready.set()
