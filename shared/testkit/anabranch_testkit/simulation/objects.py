"""Tier 2 in virtual time: slow, away, and late: a put that timed out may happen all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import google_crc32c
from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectStoreUnavailable,
    assert_object_name,
)

from anabranch_testkit.simulation.loop import Process, SimulatedLoop

DELAY_S = (0.002, 0.03)
SLOW_S = (0.5, 6.0)
PATIENCE_S = 5.0  # after that the caller is told that it failed


@dataclass(slots=True)
class SimulatedObjects:
    """The server. `failing` is the share of calls that fail before they did anything, `late` that
    of puts whose answer is lost and that happen later."""

    loop: SimulatedLoop
    is_away: bool = False
    is_slow: bool = False
    failing: float = 0.0
    late: float = 0.0
    objects: dict[str, bytes] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.loop.seed}/objects")

    def client(self, process: Process) -> ObjectsClient:
        return ObjectsClient(self, process)

    def put(self, name: str, data: bytes) -> bool:
        """Create-only; False when the name is taken."""
        if name in self.objects:
            return False
        self.objects[name] = data
        self.loop.trace("object.put", name, len(data))
        return True


class ObjectsClient:
    """ObjectStore of one process."""

    def __init__(self, server: SimulatedObjects, process: Process) -> None:
        self._server, self._chance = server, process.chance

    async def create(self, name: str, parts: Sequence[bytes | memoryview]) -> ObjectInfo:
        assert_object_name(name)
        data = b"".join(parts)
        await self._reach("create", name)
        server = self._server
        if self._chance.random() < server.late:
            delay_s = self._chance.uniform(0.0, 3 * PATIENCE_S)
            # The server has it all; that nobody waits for it any more changes nothing.
            server.loop.call_later(delay_s, server.put, name, data, context=server.loop.kernel)
            await asyncio.sleep(PATIENCE_S)
            raise ObjectStoreUnavailable("create", name, "no answer in time")
        if not server.put(name, data):
            raise ObjectExists(name)
        await asyncio.sleep(self._delay())
        return ObjectInfo(name, len(data), google_crc32c.value(data))

    async def read(self, name: str, offset: int, length: int) -> bytes:
        await self._reach("read", name)
        data = self._content(name)
        if offset + length > len(data):
            reason = f"has {len(data)} bytes, asked for {offset}+{length}"
            raise ObjectDamaged(name, reason)
        return data[offset : offset + length]

    async def head(self, name: str) -> ObjectInfo:
        await self._reach("head", name)
        data = self._content(name)
        return ObjectInfo(name, len(data), google_crc32c.value(data))

    async def delete(self, name: str) -> None:
        await self._reach("delete", name)
        self._server.loop.trace("object.deleted", name)
        if self._server.objects.pop(name, None) is not None:
            self._server.deleted.add(name)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        await self._reach("list", prefix)
        for name in sorted(self._server.objects):
            if name.startswith(prefix):
                yield name

    async def close(self) -> None:
        """Nothing to close."""

    def _content(self, name: str) -> bytes:
        try:
            return self._server.objects[name]
        except KeyError:
            raise ObjectNotFound(name) from None

    def _delay(self) -> float:
        return self._chance.uniform(*(SLOW_S if self._server.is_slow else DELAY_S))

    async def _reach(self, operation: str, name: str) -> None:
        delay_s = self._delay()
        if delay_s > PATIENCE_S or self._server.is_away:
            await asyncio.sleep(PATIENCE_S)
            raise ObjectStoreUnavailable(operation, name, "no answer")
        await asyncio.sleep(delay_s)
        if self._chance.random() < self._server.failing:
            raise ObjectStoreUnavailable(operation, name, "503")
