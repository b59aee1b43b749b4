"""Work that one instance of the cluster does for all, as long as it holds a lease.

Two at once for a moment (the registry was wiped, or an instance was paused) must be
harmless: whoever writes decides by conditional writes, the lease only saves effort.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final

import structlog
from anabranch_kit.membership import LEASE_MS
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import Registry, RegistryUnavailable

REFRESH_S: Final = 1.0
assert LEASE_MS >= 3 * REFRESH_S * 1000, "two lost refreshes must not cost the lease"

log = structlog.stdlib.get_logger("anabranch.duty")


class Duty:
    """`work` runs for ever; it is cancelled when the lease is lost. Its failure ends `run`."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Coroutine[None, None, None]],
        registry: Registry,
        *,
        holder: str,
        clock: Clock,
    ) -> None:
        """`holder` names this process start, so that a restarted one does not inherit a lease."""
        self._name, self._work, self._registry = name, work, registry
        self._holder, self._clock = holder, clock

    async def run(self) -> None:
        """Work whenever the lease is ours, until cancelled; then give it back."""
        try:
            while True:
                while not await self._holds_lease(before=False):
                    await self._clock.sleep(REFRESH_S)
                log.info("duty.taken", duty=self._name)
                async with asyncio.TaskGroup() as group:
                    work = group.create_task(self._work())
                    while await self._holds_lease(before=True):
                        await self._clock.sleep(REFRESH_S)
                    work.cancel()
                log.info("duty.lost", duty=self._name)
        finally:
            await self._release()

    async def _holds_lease(self, *, before: bool) -> bool:
        """A registry that is away changes nothing."""
        try:
            return await self._registry.acquire_lease(self._name, self._holder, lease_ms=LEASE_MS)
        except RegistryUnavailable:
            return before

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(REFRESH_S):
                await self._registry.release_lease(self._name, self._holder)
        except (RegistryUnavailable, TimeoutError) as error:
            log.info("duty.lease_left_to_expire", duty=self._name, error=str(error))
