"""Where a segment is served: the answer of getURI, and the controller's own way to the stores.

**Hold, don't refuse.** The Rust and Python clients retry after 0, 1, 11, 111, 1111 and
11111 ms, so a refusal while a container moves costs them eleven seconds. `locate` waits
instead until somebody serves the container, and gives up after HOLD_S.

The map comes from the registry's serving records, kept in memory and read again at each
notice. It may be stale for a moment, which is harmless: a store answers WrongHost, and the
asker comes back. While the registry is away the last map goes on being used, because the
stores go on serving.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import Registry, RegistryUnavailable, Serving

HOLD_S: Final = 20.0  # below the clients' own limits (Rust 30 s a request, Java 5 min)
POLL_S: Final = 1.0

log = structlog.stdlib.get_logger("anabranch.locator")


class ContainerNotServed(Exception):
    """No segment store serves the container yet; the same question may be answered soon."""

    def __init__(self, segment: str, container: int, waited_s: float) -> None:
        super().__init__(
            f"container {container} of {segment} was served by no segment store"
            f" for {waited_s:g} s; is one running and able to read its log?"
        )
        self.segment, self.container, self.waited_s = segment, container, waited_s


class Locator:
    """Container map of one process. `run` keeps it fresh; `locate` may be called at any time."""

    def __init__(
        self,
        registry: Registry,
        *,
        container_of: Callable[[str], int],
        clock: Clock,
        hold_s: float = HOLD_S,
    ) -> None:
        """`container_of` maps a qualified segment name to its container's number."""
        self._registry, self._container_of, self._clock = registry, container_of, clock
        self._hold_s = hold_s
        self._serving: dict[int, Serving] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        async for _ in self._registry.changes(poll_s=POLL_S):
            try:
                serving = await self._registry.serving()
            except RegistryUnavailable as error:
                log.debug("locator.map_kept", error=str(error))
                continue
            if serving != self._serving:
                self._serving = serving
                self._changed.set()
                self._changed = asyncio.Event()

    async def locate(self, segment: str) -> tuple[str, int]:
        """Host and port of the store that serves the segment's container.

        The segment itself need not exist. Waits for a container that moves; raises
        ContainerNotServed after `hold_s`.
        """
        container = self._container_of(segment)
        try:
            async with asyncio.timeout(self._hold_s):
                serving = await self._wait_for(container)
        except TimeoutError:
            raise ContainerNotServed(segment, container, self._hold_s) from None
        return await _plain_host(serving.host), serving.port

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
