"""Tier 2 in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import google_crc32c
from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
)

from anabranch_testkit.fakes.faults import Fault, no_fault


class MemoryObjectStore:
    """ObjectStore in a dictionary. A fault "after create" is a put that timed out but happened."""

    def __init__(self, *, fault: Fault = no_fault) -> None:
        self.fault = fault
        self.objects: dict[str, bytes] = {}

    async def create(self, name: str, parts: Sequence[bytes | memoryview]) -> ObjectInfo:
        await asyncio.sleep(0)
        self.fault("before create", name)
        if name in self.objects:
            raise ObjectExists(name)
        self.objects[name] = b"".join(parts)
        self.fault("after create", name)
        return self._info(name)

    async def read(self, name: str, offset: int, length: int) -> bytes:
        await asyncio.sleep(0)
        self.fault("before read", name)
        content = self._content(name)
        if offset + length > len(content):
            reason = f"has {len(content)} bytes, asked for {offset}+{length}"
            raise ObjectDamaged(name, reason)
        return content[offset : offset + length]

    async def head(self, name: str) -> ObjectInfo:
        await asyncio.sleep(0)
        self.fault("before head", name)
        return self._info(name)

    async def delete(self, name: str) -> None:
        await asyncio.sleep(0)
        self.fault("before delete", name)
        self.objects.pop(name, None)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        self.fault("before list", prefix)
        for name in [one for one in self.objects if one.startswith(prefix)]:
            await asyncio.sleep(0)
            yield name

    async def close(self) -> None:
        """Nothing to close; the real ones have threads or connections."""

    def _content(self, name: str) -> bytes:
        try:
            return self.objects[name]
        except KeyError:
            raise ObjectNotFound(name) from None

    def _info(self, name: str) -> ObjectInfo:
        content = self._content(name)
        return ObjectInfo(name, len(content), google_crc32c.value(content))
