"""Which segment store should hold which container.

`place` is the rule, a pure function: it keeps what it can, moves as few containers as an
even spread allows (counts differ by one at most), and always gives the same answer to the
same question. `Placement` applies it: every controller instance watches the registry, and
the one that holds the lease writes. Losing the lease in the middle is harmless, because an
assignment only says who *should* try: the container's log decides who may write.

**A wiped registry.** Members announce themselves again one after another. Were containers
placed on whoever is there first, each wipe would move them about. So an instance remembers
the last assignments that it saw, writes them back at once, and for one lease moves nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

import structlog
from anabranch_kit.membership import LEASE_MS
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import Assignment, ClusterInfo, Registry, RegistryUnavailable

LEASE_NAME: Final = "placement"
RELEASE_TIMEOUT_S: Final = 1.0  # a stopping instance leaves the rest to the lease's end
POLL_S: Final = 1.0  # also refreshes the lease, which must outlive two missed rounds

assert LEASE_MS >= 3 * POLL_S * 1000, "the lease must outlive two missed rounds"

log = structlog.stdlib.get_logger("anabranch.placement")


def place(
    previous: Mapping[int, str], stores: Collection[str], containers_count: int
) -> dict[int, str]:
    """The store of each container 0 … containers_count - 1; empty when there is no store.

    A store with more containers before gets the larger share, which makes the number of
    moves the smallest that an even spread allows.
    """
    if not stores:
        return {}
    kept = {
        container: previous[container]
        for container in range(containers_count)
        if previous.get(container) in stores
    }
    held = Counter(kept.values())
    ranked = sorted(set(stores), key=lambda store: (-held[store], store))
    share, larger_count = divmod(containers_count, len(ranked))
    room = {store: share + (index < larger_count) for index, store in enumerate(ranked)}

    placed: dict[int, str] = {}
    for container, store in kept.items():
        if room[store] > 0:
            room[store] -= 1
            placed[container] = store
    free = [store for store in ranked for _ in range(room[store])]
    for container in range(containers_count):
        if container not in placed:
            placed[container] = free.pop()

    assert not free, "every share is used up"
    return placed


class Placement:
    """Keeps the registry's assignments and cluster facts right while it holds the lease."""

    def __init__(
        self, registry: Registry, cluster: ClusterInfo, *, holder: str, clock: Clock
    ) -> None:
        """`holder` names this process start, so that a restarted one does not inherit a lease."""
        self._registry, self._cluster, self._holder, self._clock = registry, cluster, holder, clock
        self._remembered: dict[int, Assignment] = {}
        self._settled_at = clock.monotonic()

    async def run(self) -> None:
        """Watch and place until cancelled; then let another instance go on at once."""
        away = False
        try:
            async for _ in self._registry.changes(poll_s=POLL_S):
                try:
                    await self.round()
                except RegistryUnavailable as error:
                    if not away:
                        log.warning("placement.registry_away", error=str(error))
                    away = True
                else:
                    away = False
        finally:
            await self._release()

    async def round(self) -> None:
        """Look once, and write what must change. Raises RegistryUnavailable."""
        assignments = await self._registry.assignments()
        if await self._registry.acquire_lease(LEASE_NAME, self._holder, lease_ms=LEASE_MS):
            if self._remembered and not assignments:
                assignments = await self._write_back()
            await self._state_cluster()
            assignments |= await self._spread(assignments)
        self._remembered = assignments or self._remembered

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._registry.release_lease(LEASE_NAME, self._holder)
        except (RegistryUnavailable, TimeoutError) as error:
            log.info("placement.lease_left_to_expire", error=str(error))

    async def _write_back(self) -> dict[int, Assignment]:
        log.warning("placement.registry_wiped", containers=len(self._remembered))
        await self._registry.assign(list(self._remembered.values()))
        self._settled_at = self._clock.monotonic() + LEASE_MS / 1000
        return dict(self._remembered)

    async def _state_cluster(self) -> None:
        if await self._registry.cluster() != self._cluster:
            await self._registry.set_cluster(self._cluster)

    async def _spread(self, assignments: Mapping[int, Assignment]) -> dict[int, Assignment]:
        if self._clock.monotonic() < self._settled_at:
            return {}
        stores = {member.id for member in await self._registry.members("segmentstore")}
        previous = {container: one.member for container, one in assignments.items()}
        placed = place(previous, stores, self._cluster.containers_count)
        moved = {
            container: Assignment(
                container=container,
                member=store,
                generation=self._next_generation(assignments.get(container)),
            )
            for container, store in placed.items()
            if previous.get(container) != store
        }
        if moved:
            log.info(
                "placement.assigned",
                stores=len(stores),
                containers={one.container: one.member for one in moved.values()},
            )
            await self._registry.assign(list(moved.values()))
        return moved

    def _next_generation(self, before: Assignment | None) -> int:
        # Wall time keeps generations rising over a wipe that nobody remembered.
        return max(self._clock.now_ms(), before.generation + 1 if before else 0)
