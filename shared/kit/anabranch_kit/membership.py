"""A process's heartbeat in the registry: here I am, reach me there.

A member is announced with a lease and refreshed three times as often, so that two lost
refreshes are forgiven. A registry that is away or was wiped is met by announcing again:
nothing else has to happen, since nothing in the registry is the truth about data.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import Member, Registry, RegistryUnavailable

LEASE_MS: Final = 3_000  # the lease of the zombie rule (docs/architecture.md): seconds, not minutes
REFRESH_S: Final = 1.0
WITHDRAW_TIMEOUT_S: Final = 1.0  # a stopping process does not wait longer for a silent registry

assert LEASE_MS >= 3 * REFRESH_S * 1000, "two lost refreshes must not cost the membership"

log = structlog.stdlib.get_logger("anabranch.membership")


async def keep_announced(
    registry: Registry,
    member: Member,
    *,
    clock: Clock,
    lease_ms: int = LEASE_MS,
    refresh_s: float = REFRESH_S,
) -> None:
    """Announce `member` until cancelled, then strike it off. Run it in the service's TaskGroup.

    An unavailable registry is logged when it goes and when it comes back, and never ends
    the heartbeat.
    """
    away = False
    try:
        while True:
            try:
                await registry.announce(member, lease_ms=lease_ms)
            except RegistryUnavailable as error:
                if not away:
                    log.warning("membership.unannounced", member=member.id, error=str(error))
                away = True
            else:
                if away:
                    log.info("membership.announced_again", member=member.id)
                away = False
            await clock.sleep(refresh_s)
    finally:
        await _withdraw(registry, member)


async def _withdraw(registry: Registry, member: Member) -> None:
    try:
        async with asyncio.timeout(WITHDRAW_TIMEOUT_S):
            await registry.withdraw(member)
    except (RegistryUnavailable, TimeoutError) as error:
        # The lease ends it a few seconds later.
        log.info("membership.left_without_notice", member=member.id, error=str(error))
