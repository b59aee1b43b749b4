"""Where a segment is served: the answer of getURI, and the controller's own way to the stores.

**Hold, don't refuse.** The Rust and Python clients retry after 0, 1, 11, 111, 1111 and
11111 ms, so a refusal while a container moves costs them eleven seconds. `locate` waits
instead until somebody serves the container, as long as its caller allows.

The map comes from the registry's serving records, kept in memory and read again at each
notice. A container that is served by one store and assigned to another is on its way: it
counts as served by nobody. The map may be stale for a moment, which is harmless: a store
answers WrongHost, and the asker comes back. While the registry is away the last map goes on
being used, because the stores go on serving.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import structlog
from anabranch_kit.ports.registry import Registry, RegistryUnavailable, Serving
from anabranch_wire.hashing import container_of

from anabranch_controller.api import Endpoint
from anabranch_controller.ports import SegmentStoreUnavailable

POLL_S: Final = 1.0

log = structlog.stdlib.get_logger("anabranch.locator")


class Locator:
    """Container map of one process. `run` keeps it fresh; `locate` may be called at any time."""

    def __init__(self, registry: Registry, *, containers_count: int) -> None:
        self._registry, self._containers_count = registry, containers_count
        self._serving: dict[int, Serving] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        async for _ in self._registry.changes(poll_s=POLL_S):
            try:
                serving = await self._registry.serving()
                assignments = await self._registry.assignments()
            except RegistryUnavailable as error:
                log.debug("locator.map_kept", error=str(error))
                continue
            serving = {
                number: one
                for number, one in serving.items()
                if number not in assignments or assignments[number].member == one.member
            }
            if serving != self._serving:
                self._serving = serving
                self._changed.set()
                self._changed = asyncio.Event()

    def unserved(self) -> list[int]:
        """The containers that nobody serves, as far as is known here."""
        return [number for number in range(self._containers_count) if number not in self._serving]

    async def locate(self, segment: str, *, wait_s: float) -> Endpoint:
        """As `ports.SegmentLocator` has it: waits at most `wait_s` for a container that moves."""
        container = container_of(segment, self._containers_count)
        try:
            async with asyncio.timeout(wait_s):
                serving = await self._wait_for(container)
        except TimeoutError:
            reason = (
                f"no segment store has served its container {container} for {wait_s:g} s;"
                " is one running, and can it read its log?"
            )
            raise SegmentStoreUnavailable("locate", segment, reason) from None
        try:
            return Endpoint(await _plain_host(serving.host), serving.port)
        except OSError as error:
            reason = f"its store calls itself {serving.host}, which has no address: {error}"
            raise SegmentStoreUnavailable("locate", segment, reason) from error

    async def _wait_for(self, container: int) -> Serving:
        while (serving := self._serving.get(container)) is None:
            await self._changed.wait()
        return serving


async def _plain_host(host: str) -> str:
    """`host`, or its address when it holds an underscore.

    The Rust client finds host and port with a pattern that knows no underscore
    (controller.md 1.8), and docker compose likes to put one into names.
    """
    if "_" not in host:
        return host
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])
