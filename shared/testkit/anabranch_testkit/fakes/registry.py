"""The registry in memory, in the time of a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import (
    Assignment,
    ClusterInfo,
    Member,
    RegistryUnavailable,
    Role,
    Serving,
)


class MemoryRegistry:
    """Registry whose leases expire by `clock`. `away = True` makes every call fail."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.away = False
        self._watchers: list[asyncio.Event] = []
        self._clear()

    def _clear(self) -> None:
        self._members: dict[str, tuple[Member, float]] = {}
        self._cluster: ClusterInfo | None = None
        self._assignments: dict[int, Assignment] = {}
        self._serving: dict[int, Serving] = {}
        self._leases: dict[str, tuple[str, float]] = {}

    def wipe(self) -> None:
        """Lose everything, as FLUSHALL or a new empty server does."""
        self._clear()

    async def close(self) -> None:
        """Nothing to close; the real one has connections."""

    async def announce(self, member: Member, *, lease_ms: int) -> None:
        self._reach("announce")
        old = self._alive().get(member.id)
        self._members[member.id] = member, self._clock.monotonic() + lease_ms / 1000
        if old is None or old.incarnation != member.incarnation:
            self._notify()

    async def withdraw(self, member: Member) -> None:
        self._reach("withdraw")
        known = self._alive().get(member.id)
        if known is not None and known.incarnation == member.incarnation:
            del self._members[member.id]
        self._serving = {
            container: one
            for container, one in self._serving.items()
            if one.incarnation != member.incarnation
        }
        self._notify()

    async def members(self, role: Role | None = None) -> list[Member]:
        self._reach("members")
        return [one for one in self._alive().values() if role is None or one.role == role]

    async def set_cluster(self, info: ClusterInfo) -> None:
        self._reach("set cluster")
        self._cluster = info
        self._notify()

    async def cluster(self) -> ClusterInfo | None:
        self._reach("cluster")
        return self._cluster

    async def assign(self, assignments: list[Assignment]) -> None:
        self._reach("assign")
        self._assignments.update({one.container: one for one in assignments})
        self._notify()

    async def assignments(self) -> dict[int, Assignment]:
        self._reach("assignments")
        return dict(self._assignments)

    async def set_serving(self, serving: Serving) -> None:
        self._reach("set serving")
        old = self._serving.get(serving.container)
        if old is not None and old.epoch > serving.epoch and self._is_alive(old):
            return
        self._serving[serving.container] = serving
        self._notify()

    async def clear_serving(self, container: int, *, incarnation: str) -> None:
        self._reach("clear serving")
        old = self._serving.get(container)
        if old is not None and old.incarnation == incarnation:
            del self._serving[container]
            self._notify()

    async def serving(self) -> dict[int, Serving]:
        self._reach("serving")
        return {key: one for key, one in self._serving.items() if self._is_alive(one)}

    async def acquire_lease(self, name: str, holder: str, *, lease_ms: int) -> bool:
        self._reach("acquire lease")
        now = self._clock.monotonic()
        other, until = self._leases.get(name, ("", now))
        if other not in ("", holder) and until > now:
            return False
        self._leases[name] = holder, now + lease_ms / 1000
        return True

    async def release_lease(self, name: str, holder: str) -> None:
        self._reach("release lease")
        if self._leases.get(name, ("", 0.0))[0] == holder:
            del self._leases[name]
            self._notify()

    async def changes(self, *, poll_s: float) -> AsyncIterator[None]:
        notice = asyncio.Event()
        self._watchers.append(notice)
        try:
            while True:
                if not self.away:
                    yield
                await self._notice_or_poll(notice, poll_s)
                notice.clear()
        finally:
            self._watchers.remove(notice)

    async def _notice_or_poll(self, notice: asyncio.Event, poll_s: float) -> None:
        tasks = [
            asyncio.ensure_future(notice.wait()),
            asyncio.ensure_future(self._clock.sleep(poll_s)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def _alive(self) -> dict[str, Member]:
        now = self._clock.monotonic()
        return {key: member for key, (member, until) in self._members.items() if until > now}

    def _is_alive(self, serving: Serving) -> bool:
        member = self._alive().get(serving.member)
        return member is not None and member.incarnation == serving.incarnation

    def _notify(self) -> None:
        for notice in self._watchers:
            notice.set()

    def _reach(self, operation: str) -> None:
        if self.away:
            raise RegistryUnavailable(operation, "memory registry: switched off by the test")
