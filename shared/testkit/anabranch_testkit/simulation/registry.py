"""The registry in virtual time: calls take a moment, and some processes cannot reach it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from anabranch_kit.ports.registry import (
    Assignment,
    ClusterInfo,
    Member,
    RegistryUnavailable,
    Role,
    Serving,
)

from anabranch_testkit.fakes.registry import MemoryRegistry
from anabranch_testkit.simulation.loop import Process, SimulatedLoop

DELAY_S = (0.0002, 0.003)
OUTAGE_NOTICED_S = 0.5


class SimulatedRegistry:
    """The server. `shared` may be wiped."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.shared = MemoryRegistry(_LoopClock(loop))
        self.is_away = False
        self.unreachable_for: set[str] = set()

    def client(self, process: Process) -> RegistryClient:
        return RegistryClient(self, process)


class _LoopClock:
    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class RegistryClient:
    """Registry of one process. A call that fails may have been carried out."""

    def __init__(self, server: SimulatedRegistry, process: Process) -> None:
        self._server, self._process = server, process

    async def announce(self, member: Member, *, lease_ms: int) -> None:
        await self._reach("announce")
        await self._server.shared.announce(member, lease_ms=lease_ms)
        await self._return("announce")

    async def withdraw(self, member: Member) -> None:
        await self._reach("withdraw")
        await self._server.shared.withdraw(member)

    async def members(self, role: Role | None = None) -> list[Member]:
        await self._reach("members")
        return await self._server.shared.members(role)

    async def set_cluster(self, info: ClusterInfo) -> None:
        await self._reach("set cluster")
        await self._server.shared.set_cluster(info)

    async def cluster(self) -> ClusterInfo | None:
        await self._reach("cluster")
        return await self._server.shared.cluster()

    async def assign(self, assignments: list[Assignment]) -> None:
        await self._reach("assign")
        await self._server.shared.assign(assignments)
        await self._return("assign")

    async def assignments(self) -> dict[int, Assignment]:
        await self._reach("assignments")
        return await self._server.shared.assignments()

    async def set_serving(self, serving: Serving) -> None:
        await self._reach("set serving")
        await self._server.shared.set_serving(serving)
        await self._return("set serving")

    async def clear_serving(self, container: int, *, incarnation: str) -> None:
        await self._reach("clear serving")
        await self._server.shared.clear_serving(container, incarnation=incarnation)

    async def serving(self) -> dict[int, Serving]:
        await self._reach("serving")
        return await self._server.shared.serving()

    async def acquire_lease(self, name: str, holder: str, *, lease_ms: int) -> bool:
        await self._reach("acquire lease")
        return await self._server.shared.acquire_lease(name, holder, lease_ms=lease_ms)

    async def release_lease(self, name: str, holder: str) -> None:
        await self._reach("release lease")
        await self._server.shared.release_lease(name, holder)

    async def changes(self, *, poll_s: float) -> AsyncIterator[None]:
        async for _ in self._server.shared.changes(poll_s=poll_s):
            yield

    async def close(self) -> None:
        """Nothing to close."""

    async def _reach(self, operation: str) -> None:
        await asyncio.sleep(self._process.chance.uniform(*DELAY_S))
        server = self._server
        if server.is_away or self._process.name in server.unreachable_for:
            await asyncio.sleep(OUTAGE_NOTICED_S)
            raise RegistryUnavailable(operation, "no answer")

    async def _return(self, operation: str) -> None:
        """The answer can be lost too (faults F7)."""
        server = self._server
        if server.is_away or self._process.name in server.unreachable_for:
            raise RegistryUnavailable(operation, "carried out, but not answered")
