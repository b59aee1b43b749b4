"""The services as processes of the simulation: segment stores, tierers, and a small placement.

The parts are the real ones, put together as the services' `bootstrap` does it, over simulated
files, network, bus, registry and tier 2. Limits are small, so that files roll, snapshots are
written and the log is cut many times in half a minute.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from uuid import UUID

import msgspec
from anabranch_events.bus import DeleteOrder, FlushOrder
from anabranch_kit.adapters.tiering_queue import DELETE_SUBJECTS, FLUSH_SUBJECTS
from anabranch_kit.membership import keep_announced
from anabranch_kit.ports.registry import Assignment, ClusterInfo, Member, RegistryUnavailable
from anabranch_kit.wire_client import SegmentStorePool
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.tiering_bus import QueuedTiering
from anabranch_segmentstore.cache import BlockCache
from anabranch_segmentstore.connection import Connection
from anabranch_segmentstore.container import Container, ContainerSettings, open_container
from anabranch_segmentstore.domain.flushing import FlushRules
from anabranch_segmentstore.hosting import ContainerHost
from anabranch_segmentstore.load import SegmentTaken
from anabranch_segmentstore.ports import ContainerId, DurableLog
from anabranch_segmentstore.reports import report_load
from anabranch_segmentstore.store import SegmentStore
from anabranch_segmentstore.tiering import TieringSettings
from anabranch_tierer.adapters.segment_reader import WireSegmentReader
from anabranch_tierer.domain.orders import Again, Settlement
from anabranch_tierer.handlers import Tierer

from anabranch_testkit.simulation.auditor import Auditor
from anabranch_testkit.simulation.blocking import SimulatedThreads
from anabranch_testkit.simulation.bus import SimulatedBus
from anabranch_testkit.simulation.disk import Directory, Disk
from anabranch_testkit.simulation.loop import Process, SimulatedLoop
from anabranch_testkit.simulation.objects import SimulatedObjects
from anabranch_testkit.simulation.registry import SimulatedRegistry

WAL = Path("/wal")
PLACEMENT_S = 0.7
TAKE_S = 0.2
OPERATOR_S = 2.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Limits of the services in this run."""

    containers: int
    stores: int
    tierers: int
    file_bytes: int
    cache_bytes: int
    busy_bytes: int
    snapshot_frames: int
    untiered_bytes_max: int
    flush_bytes: int
    flush_age_s: float

    @classmethod
    def choose(cls, chance: random.Random) -> Sizes:
        return cls(
            containers=chance.choice((1, 1, 2)),
            stores=chance.choice((1, 2, 2, 3)),
            tierers=chance.choice((1, 2)),
            file_bytes=chance.choice((12, 24, 64)) * 1024,
            cache_bytes=chance.choice((2 * 1024, 16 * 1024, 1024 * 1024)),
            busy_bytes=chance.choice((4 * 1024, 1024 * 1024)),
            snapshot_frames=chance.choice((10, 40, 150)),
            untiered_bytes_max=chance.choice((24 * 1024, 1024 * 1024)),
            flush_bytes=chance.choice((1024, 8 * 1024)),
            flush_age_s=chance.choice((0.5, 2.0, 8.0)),
        )


@dataclass(slots=True)
class RunningStore:
    process: Process
    store: SegmentStore


@dataclass(slots=True)
class Cluster:
    """Everything of one run."""

    loop: SimulatedLoop
    sizes: Sizes
    auditor: Auditor
    disk: Disk = field(init=False)
    registry: SimulatedRegistry = field(init=False)
    bus: SimulatedBus = field(init=False)
    objects: SimulatedObjects = field(init=False)
    stores: dict[str, RunningStore] = field(default_factory=dict)
    tierers: dict[str, Process] = field(default_factory=dict)
    damage_is_expected: bool = False
    placement_is_frozen: bool = False

    def __post_init__(self) -> None:
        self.disk = Disk(self.loop)
        self.registry = SimulatedRegistry(self.loop)
        self.bus = SimulatedBus(self.loop)
        self.objects = SimulatedObjects(self.loop)
        self.disk.root.cached["wal"] = Directory()
        self.disk.root.sync()

    # --- Processes ---

    @property
    def store_names(self) -> list[str]:
        return [f"store-{number}" for number in range(self.sizes.stores)]

    @property
    def tierer_names(self) -> list[str]:
        return [f"tierer-{number}" for number in range(self.sizes.tierers)]

    def start(self) -> None:
        for name in self.store_names:
            self.start_store(name)
        for name in self.tierer_names:
            self.start_tierer(name)
        self.spawn("controller", _Placement(self).run)
        self.spawn("operator", self._operate)

    def spawn(self, name: str, main: Callable[[Process], object]) -> Process:
        """`main` is a coroutine function of the new process; its failure fails the run."""
        process = Process(self.loop, name)

        async def run() -> None:
            try:
                await main(process)  # type: ignore[misc]
            except Exception as error:
                self.auditor.blame(f"{name} ended: {error!r}")
                self.loop.trace("process.failed", name, repr(error))

        process.start(run())
        return process

    def start_store(self, name: str) -> None:
        self.loop.trace("store.start", name)
        process = Process(self.loop, name)
        store = self._make_store(process)
        self.stores[name] = RunningStore(process, store)

        async def run() -> None:
            try:
                await _run_store(self, process, store)
            except Exception as error:
                self.auditor.blame(f"{name} ended: {error!r}")

        process.start(run())

    def start_tierer(self, name: str) -> None:
        self.tierers[name] = self.spawn(name, lambda process: _run_tierer(self, process))

    def restart_the_dead(self) -> None:
        for name in self.store_names:
            if not self.stores[name].process.is_alive:
                self.start_store(name)
        for name in self.tierer_names:
            if not self.tierers[name].is_alive:
                self.start_tierer(name)

    def live_containers(self) -> list[Container]:
        """Of each container the newest one that serves."""
        newest: dict[int, Container] = {}
        for running in self.stores.values():
            for host in running.store.serving if running.process.is_alive else ():
                container = host.container
                assert container is not None, "it is serving"
                other = newest.get(container.id)
                if other is None or other.log.epoch < container.log.epoch:
                    newest[container.id] = container
        return list(newest.values())

    def _make_store(self, process: Process) -> SegmentStore:
        sizes = self.sizes
        bus = self.bus.client(process)
        logs = self.logs(process)
        cache = BlockCache(sizes.cache_bytes)
        objects = self.objects.client(process)
        settings = ContainerSettings(
            busy_bytes=sizes.busy_bytes, snapshot_after_frames=sizes.snapshot_frames
        )
        tiering = TieringSettings(
            rules=FlushRules(segment_bytes=sizes.flush_bytes, age_s=sizes.flush_age_s),
            reissue_after_s=3.0,
            untiered_bytes_max=sizes.untiered_bytes_max,
        )

        async def open_one(number: ContainerId, opened: DurableLog) -> Container:
            container = await open_container(
                number, opened, clock=process, cache=cache, objects=objects, settings=settings
            )
            container.start_tiering(QueuedTiering(bus), tiering)
            self.loop.trace("container.opened", process.name, number, opened.epoch)
            return container

        def make_host(number: ContainerId, on_change: Callable[[], None]) -> ContainerHost:
            return ContainerHost(
                number,
                owner=process.name,
                logs=logs,
                open_container=open_one,
                bus=bus,
                clock=process,
                on_change=on_change,
            )

        return SegmentStore(
            registry=self.registry.client(process),
            make_host=make_host,
            clock=process,
            new_id=ids(process),
        )

    def logs(self, process: Process) -> FileLogStore:
        return FileLogStore(
            WAL,
            new_id=ids(process),
            files=self.disk.files(process),
            threads=SimulatedThreads(self.loop.blocking),
            file_bytes=self.sizes.file_bytes,
        )

    # --- The operator ---

    async def _operate(self, process: Process) -> None:
        """Starts stores anew that gave a container up. A damaged log that nobody damaged is a
        finding."""
        while True:
            await process.sleep(OPERATOR_S)
            for name, running in list(self.stores.items()):
                if not running.process.is_alive:
                    continue
                given_up = [one for one in running.store.not_ready() if "given up" in one]
                if any("damaged log" in one for one in given_up):
                    if not self.damage_is_expected:
                        self.auditor.blame(f"{name}: {given_up[0]}")
                elif given_up:
                    self.loop.trace("operator.restarts", name, given_up[0])
                    running.process.kill()
                    self.start_store(name)


def ids(process: Process) -> Callable[[], UUID]:
    return lambda: UUID(int=process.chance.getrandbits(128), version=4)


async def _run_store(cluster: Cluster, process: Process, store: SegmentStore) -> None:
    incarnation = ids(process)().hex
    port = 1 + cluster.store_names.index(process.name)
    registry = cluster.registry.client(process)
    member = Member(process.name, incarnation, "segmentstore", process.name, port, process.now_ms())
    process.loop.network.listen(process, lambda: Connection(store), process.name, port)

    def take() -> list[SegmentTaken]:
        running = [host.container for host in store.serving if host.container is not None]
        return list(chain.from_iterable(container.take_load() for container in running))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_announced(registry, member, clock=process))
        tasks.create_task(
            report_load(
                cluster.bus.client(process),
                process,
                store=process.name,
                incarnation=incarnation,
                take=take,
            )
        )
        tasks.create_task(store.run(member))


async def _run_tierer(cluster: Cluster, process: Process) -> None:
    pool = SegmentStorePool()
    registry = cluster.registry.client(process)
    tierer = Tierer(
        reader=WireSegmentReader(pool, registry, process, chance=process.chance),
        objects=cluster.objects.client(process),
        bus=cluster.bus.client(process),
        clock=process,
        worker=process.name,
    )

    async def flush(payload: bytes) -> Settlement:
        return await tierer.flush(msgspec.json.decode(payload, type=FlushOrder))

    async def delete(payload: bytes) -> Settlement:
        return await tierer.delete(msgspec.json.decode(payload, type=DeleteOrder))

    async with asyncio.TaskGroup() as tasks:
        for subjects, work in (
            (FLUSH_SUBJECTS, flush),
            (FLUSH_SUBJECTS, flush),
            (DELETE_SUBJECTS, delete),
        ):
            tasks.create_task(_work_orders(cluster, process, subjects, work))


async def _work_orders(
    cluster: Cluster, process: Process, subjects: str, work: Callable[[bytes], object]
) -> None:
    """One slot: what FastStream's subscriber does in the real one."""
    bus = cluster.bus
    while True:
        message = bus.take(subjects) if bus.is_reachable(process) else None
        if message is None:
            await process.sleep(TAKE_S)
            continue
        settlement: Settlement = await work(message.payload)  # type: ignore[misc]
        if not bus.is_reachable(process):
            continue  # the answer is lost, and the order comes again
        again_in_s = settlement.delay_s if isinstance(settlement, Again) else None
        bus.settle(message, again_in_s=again_in_s)


class _Placement:
    """Gives containers of dead stores to live ones, as a controller with the lease does."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._generation = 0

    async def run(self, process: Process) -> None:
        registry = self._cluster.registry.client(process)
        while True:
            await process.sleep(PLACEMENT_S)
            try:
                if await registry.cluster() is None:
                    await registry.set_cluster(ClusterInfo("sim", self._cluster.sizes.containers))
                if self._cluster.placement_is_frozen:
                    continue
                members = sorted(one.id for one in await registry.members("segmentstore"))
                assigned = await registry.assignments()
                if members:
                    await self._assign(registry.assign, members, assigned)
            except RegistryUnavailable:
                continue

    async def _assign(
        self,
        assign: Callable[[list[Assignment]], object],
        members: list[str],
        assigned: dict[int, Assignment],
    ) -> None:
        missing: list[Assignment] = []
        for number in range(self._cluster.sizes.containers):
            now = assigned.get(number)
            if now is None or now.member not in members:
                before = 0 if now is None else now.generation
                self._generation = max(self._generation, before) + 1
                member = members[(number + self._generation) % len(members)]
                missing.append(Assignment(number, member, self._generation))
        if missing:
            self._cluster.loop.trace("placement", *(f"{m.container}:{m.member}" for m in missing))
            await assign(missing)  # type: ignore[misc]
