"""Reading from the owner of a container over the wire protocol.

The owner is looked up in the registry before each attempt, with the answer kept for a moment:
an order can have thousands of ranges, and the map changes seldom. A failed attempt forgets it.
"""

from __future__ import annotations

import random
from typing import Final

from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import Registry, RegistryUnavailable, Serving
from anabranch_kit.wire_client import (
    ReadEndedEarly,
    Refused,
    SegmentNotLocated,
    SegmentStoreClient,
    SegmentStoreError,
    SegmentStorePool,
)
from anabranch_wire import commands

from anabranch_tierer.ports import OwnerUnreachable, RangeGone

# Of one read with its retries; then the order goes back to the queue and frees the slot.
READ_DEADLINE_S: Final = 5.0
READ_TIMEOUT_S: Final = 5.0
MAP_FRESH_S: Final = 0.5


class OwnerMap:
    """Which store serves a container, as the registry said at most MAP_FRESH_S ago."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry, self._clock = registry, clock
        self._serving: dict[int, Serving] = {}
        self._fresh_until = clock.monotonic()

    async def address(self, container: int, segment: str) -> tuple[str, int]:
        """Raises SegmentNotLocated."""
        if self._clock.monotonic() >= self._fresh_until:
            await self._look(segment)
        serving = self._serving.get(container)
        if serving is None:
            raise SegmentNotLocated(segment, f"no store serves container {container}")
        return serving.host, serving.port

    def forget(self) -> None:
        self._fresh_until = self._clock.monotonic()

    async def _look(self, segment: str) -> None:
        try:
            self._serving = await self._registry.serving()
        except RegistryUnavailable as error:
            # A map that was right a moment ago is better than none: a store that does not
            # serve the container any more says so itself.
            if not self._serving:
                raise SegmentNotLocated(segment, str(error)) from error
        self._fresh_until = self._clock.monotonic() + MAP_FRESH_S


class WireSegmentReader:
    """SegmentReader over a pool that the caller owns."""

    def __init__(
        self, pool: SegmentStorePool, registry: Registry, clock: Clock, *, chance: random.Random
    ) -> None:
        self._pool, self._clock, self._chance = pool, clock, chance
        self._owners = OwnerMap(registry, clock)
        self._clients: dict[int, SegmentStoreClient] = {}  # one per container of the cluster

    async def read(self, container: int, segment: str, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        try:
            async for piece in self._client(container).read_range(segment, offset, length):
                # A copy, so that the frame that it came in can be given up.
                pieces.append(bytes(piece))  # noqa: PERF401 - the comment is worth the line
        except Refused as refusal:
            match refusal.reply:
                case commands.NoSuchSegment() | commands.SegmentIsTruncated():
                    raise RangeGone(segment, offset, type(refusal.reply).__name__) from refusal
                case _:
                    raise OwnerUnreachable(container, str(refusal)) from refusal
        except ReadEndedEarly as short:
            # A container that stops answers its waiting reads with nothing.
            raise OwnerUnreachable(container, str(short)) from short
        except SegmentStoreError as error:
            self._owners.forget()
            raise OwnerUnreachable(container, str(error)) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _client(self, container: int) -> SegmentStoreClient:
        client = self._clients.get(container)
        if client is None:

            async def locate(segment: str) -> tuple[str, int]:
                return await self._owners.address(container, segment)

            client = self._clients[container] = SegmentStoreClient(
                self._pool,
                locate,
                self._clock,
                chance=self._chance,
                deadline_s=READ_DEADLINE_S,
                request_timeout_s=READ_TIMEOUT_S,
            )
        return client
