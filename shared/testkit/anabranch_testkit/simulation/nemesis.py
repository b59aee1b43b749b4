"""The nemesis breaks things for a while, then heals them all.

Each run has a few kinds of trouble, chosen by the seed, so that some runs are full of one kind
and others mix them. docs/simulation.md has the table of faults and kinds.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

from anabranch_kit.ports.registry import Assignment, RegistryUnavailable
from anabranch_segmentstore.ports import ContainerId, LogError

from anabranch_testkit.simulation.cluster import Cluster
from anabranch_testkit.simulation.loop import Process, State

PAUSE_S: Final = (0.3, 4.0)
LONG_PAUSE_S: Final = (4.0, 60.0)

Trouble = Callable[["Nemesis"], Awaitable[None]]


class Nemesis:
    def __init__(self, cluster: Cluster, process: Process, kinds: list[str]) -> None:
        self.cluster, self.process, self.kinds = cluster, process, kinds
        self.chance = process.chance
        self._generation = 1000

    async def run(self, seconds: float) -> None:
        loop = self.cluster.loop
        until = loop.time() + seconds
        while loop.time() < until:
            await self.process.sleep(self.chance.uniform(0.05, 2.5))
            kind = self.chance.choice(self.kinds)
            loop.trace("nemesis", kind)
            await KINDS[kind](self)

    def heal(self) -> None:
        """From now on nothing goes wrong any more."""
        cluster = self.cluster
        cluster.loop.trace("nemesis", "heals")
        for running in cluster.stores.values():
            running.process.proceed()
            running.process.wall_offset_ms = 0
        for process in cluster.tierers.values():
            process.proceed()
        cluster.restart_the_dead()
        cluster.loop.network.heal()
        disk, bus, objects = cluster.disk, cluster.bus, cluster.objects
        disk.is_full = disk.is_slow = False
        disk.fail_syncs = 0
        bus.is_away = False
        bus.faults.lost = bus.faults.doubled = bus.faults.late = 0.0
        bus.unreachable_for.clear()
        cluster.registry.is_away = False
        cluster.registry.unreachable_for.clear()
        objects.is_away = objects.is_slow = False
        objects.failing = objects.late = 0.0

    # --- Helpers ---

    def _a_store(self) -> str:
        return self.chance.choice(self.cluster.store_names)

    async def _for_a_while(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """In the background, so that troubles overlap."""
        begin()
        seconds = self.chance.uniform(*PAUSE_S)
        loop = self.cluster.loop
        loop.call_later(seconds, end)

    async def _start_again(self, name: str) -> None:
        await self.process.sleep(self.chance.choice((0.0, 0.3, 3.0)))
        if not self.cluster.stores[name].process.is_alive:
            self.cluster.start_store(name)

    # --- Kinds ---

    async def kill_store(self) -> None:
        name = self._a_store()
        self.cluster.stores[name].process.kill()
        await self._start_again(name)

    async def kill_all(self) -> None:
        for name in self.cluster.store_names:
            self.cluster.stores[name].process.kill()
        for name in self.cluster.store_names:
            await self._start_again(name)

    async def power_cut(self) -> None:
        """Everything on the host dies, and what was not synced is lost (F9, F12)."""
        for name in self.cluster.store_names:
            self.cluster.stores[name].process.kill(vanish=self.chance.random() < 0.3)
        self.cluster.disk.lose_power()
        for name in self.cluster.store_names:
            await self._start_again(name)

    async def stop_store(self) -> None:
        """SIGSTOP, with the containers moved or not meanwhile (F6)."""
        process = self.cluster.stores[self._a_store()].process
        process.stop()
        seconds = self.chance.uniform(*self.chance.choice((PAUSE_S, LONG_PAUSE_S)))
        self.cluster.loop.call_later(seconds, process.proceed)

    async def move(self) -> None:
        """Another store is asked to take a container over, sometimes two at once (F34)."""
        registry = self.cluster.registry.client(self.process)
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            self._generation += 1
            number = self.chance.randrange(self.cluster.sizes.containers)
            try:
                await registry.assign([Assignment(number, self._a_store(), self._generation)])
            except RegistryUnavailable:
                return
            await self.process.sleep(self.chance.choice((0.0, 0.01, 0.1)))

    async def take_over_twice(self) -> None:
        """Every store opens every container at once: each sees a registry of its own (F34)."""
        for name in self.cluster.store_names:
            running = self.cluster.stores[name]
            if running.process.state is not State.RUNNING:
                continue
            for number in range(self.cluster.sizes.containers):
                running.process.start(_open_and_leave(self.cluster, running.process, number))

    async def die_in_take_over(self) -> None:
        """Owners die at some step of a take-over, a while later the power goes (F12, F35)."""
        await self.take_over_twice()
        await self.process.sleep(self.chance.uniform(0.0, 0.03))
        for name in self.cluster.store_names:
            self.cluster.stores[name].process.kill()
            self.cluster.start_store(name)
        await self.process.sleep(self.chance.choice((0.02, 0.5)))
        if self.chance.random() < 0.7:
            await self.power_cut()

    async def cut(self) -> None:
        network = self.cluster.loop.network
        ends = [end for end in network.ends if end.process.name not in self.cluster.stores]
        if ends:
            network.cut(self.chance.sample(ends, self.chance.randint(1, len(ends))))

    async def cut_servers(self) -> None:
        network = self.cluster.loop.network
        ends = [end for end in network.ends if end.process.name in self.cluster.stores]
        if ends:
            network.cut(self.chance.sample(ends, self.chance.randint(1, len(ends))))

    async def block(self) -> None:
        """Between some processes nothing arrives for a while."""
        network = self.cluster.loop.network
        others = sorted({end.process.name for end in network.ends})
        for name in self.cluster.store_names:
            for other in others:
                if self.chance.random() < 0.4:
                    network.block(name, other, self.chance.uniform(0.2, 8.0))

    async def late(self) -> None:
        network = self.cluster.loop.network

        def begin() -> None:
            network.late_share = self.chance.choice((0.1, 0.5))

        def end() -> None:
            network.late_share = 0.02

        await self._for_a_while(begin, end)

    async def partition(self) -> None:
        """A store sees neither registry nor bus, or only one of the two."""
        name = self._a_store()
        registry, bus = self.cluster.registry, self.cluster.bus
        sets = self.chance.choice(
            (
                [registry.unreachable_for],
                [bus.unreachable_for],
                [registry.unreachable_for, bus.unreachable_for],
            )
        )
        for one in sets:
            one.add(name)
        seconds = self.chance.uniform(1.0, 12.0)
        for one in sets:
            self.cluster.loop.call_later(seconds, one.discard, name)

    async def wipe_registry(self) -> None:
        self.cluster.registry.shared.wipe()

    async def registry_away(self) -> None:
        registry = self.cluster.registry

        def begin() -> None:
            registry.is_away = True

        def end() -> None:
            registry.is_away = False

        await self._for_a_while(begin, end)

    async def bus_trouble(self) -> None:
        faults = self.cluster.bus.faults
        faults.lost = self.chance.choice((0.0, 0.1, 0.4))
        faults.doubled = self.chance.choice((0.0, 0.3))
        faults.late = self.chance.choice((0.0, 0.2))

    async def bus_away(self) -> None:
        bus = self.cluster.bus

        def begin() -> None:
            bus.is_away = True

        def end() -> None:
            bus.is_away = False

        await self._for_a_while(begin, end)

    async def purge_orders(self) -> None:
        """The work queue is emptied, or everything in it is delivered again."""
        if self.chance.random() < 0.5:
            self.cluster.bus.queue.clear()
        else:
            for message in self.cluster.bus.queue:
                message.visible_at = 0.0

    async def fail_sync(self) -> None:
        """fsync says EIO, then works again: the pages count as clean (F10)."""
        self.cluster.disk.fail_syncs += self.chance.choice((1, 1, 2))

    async def disk_full(self) -> None:
        disk = self.cluster.disk

        def begin() -> None:
            disk.is_full = True

        def end() -> None:
            disk.is_full = False

        await self._for_a_while(begin, end)

    async def disk_slow(self) -> None:
        disk = self.cluster.disk

        def begin() -> None:
            disk.is_slow = True

        def end() -> None:
            disk.is_slow = False

        await self._for_a_while(begin, end)

    async def tier2_trouble(self) -> None:
        objects = self.cluster.objects
        objects.failing = self.chance.choice((0.0, 0.3))
        objects.late = self.chance.choice((0.0, 0.3, 0.6))
        objects.is_slow = self.chance.random() < 0.3

    async def tier2_away(self) -> None:
        objects = self.cluster.objects

        def begin() -> None:
            objects.is_away = True

        def end() -> None:
            objects.is_away = False

        await self._for_a_while(begin, end)

    async def kill_tierer(self) -> None:
        name = self.chance.choice(self.cluster.tierer_names)
        self.cluster.tierers[name].kill()
        await self.process.sleep(self.chance.choice((0.0, 2.0)))
        self.cluster.start_tierer(name)

    async def stop_tierer(self) -> None:
        process = self.cluster.tierers[self.chance.choice(self.cluster.tierer_names)]
        process.stop()
        seconds = self.chance.uniform(*self.chance.choice((PAUSE_S, LONG_PAUSE_S)))
        self.cluster.loop.call_later(seconds, process.proceed)

    async def jump_clock(self) -> None:
        process = self.cluster.stores[self._a_store()].process
        process.wall_offset_ms = self.chance.choice((-3_600_000, -5_000, 5_000, 3_600_000))


async def _open_and_leave(cluster: Cluster, process: Process, number: int) -> None:
    """A take-over that is given up at once, as one whose owner dies (F35)."""
    with contextlib.suppress(LogError):
        await cluster.logs(process).open(ContainerId(number), owner=process.name)


KINDS: Final[dict[str, Trouble]] = {
    name: getattr(Nemesis, name)
    for name in (
        "kill_store",
        "kill_all",
        "power_cut",
        "stop_store",
        "move",
        "take_over_twice",
        "die_in_take_over",
        "cut",
        "cut_servers",
        "block",
        "late",
        "partition",
        "wipe_registry",
        "registry_away",
        "bus_trouble",
        "bus_away",
        "purge_orders",
        "fail_sync",
        "disk_full",
        "disk_slow",
        "tier2_trouble",
        "tier2_away",
        "kill_tierer",
        "stop_tierer",
        "jump_clock",
    )
}

PROFILES: Final[dict[str, list[str]]] = {
    "crashes": ["kill_store", "kill_all", "cut", "late", "move"],
    "power": ["die_in_take_over", "power_cut", "kill_store", "fail_sync", "disk_slow", "cut"],
    "zombies": ["stop_store", "move", "partition", "wipe_registry", "take_over_twice", "late"],
    "network": ["cut", "cut_servers", "block", "late"],
    "disk": ["fail_sync", "disk_full", "disk_slow", "power_cut", "kill_store"],
    "tiers": [
        "tier2_trouble",
        "tier2_away",
        "kill_tierer",
        "stop_tierer",
        "bus_trouble",
        "purge_orders",
        "kill_store",
    ],
    "control": ["wipe_registry", "registry_away", "partition", "bus_away", "bus_trouble", "move"],
    "everything": list(KINDS),
}


def choose_kinds(chance: random.Random) -> tuple[str, list[str]]:
    name = chance.choice(sorted(PROFILES))
    kinds = PROFILES[name]
    return name, chance.sample(kinds, min(len(kinds), chance.randint(2, 6)))
