"""Tier 2: immutable objects under names that are never used again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol


class ObjectInfo(NamedTuple):
    """`crc32c` is of the whole object."""

    name: str
    length_bytes: int
    crc32c: int


class ObjectExists(Exception):
    """The name is taken. Verify what is there, or ask for another name; never overwrite."""

    def __init__(self, name: str) -> None:
        super().__init__(f"tier 2: object {name} exists")
        self.name = name


class ObjectNotFound(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"tier 2: no object {name}")
        self.name = name


class ObjectDamaged(Exception):
    """What is stored under the name is not, or no longer, the object that was created."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"tier 2: object {name} is damaged: {reason}")
        self.name, self.reason = name, reason


class ObjectStoreUnavailable(Exception):
    """Tier 2 refused or did not answer; whether a create happened is unknown."""

    def __init__(self, operation: str, name: str, reason: str) -> None:
        super().__init__(f"tier 2: {operation} {name}: {reason}")
        self.operation, self.name, self.reason = operation, name, reason


class ObjectStore(Protocol):
    async def create(self, name: str, parts: Sequence[bytes | memoryview]) -> ObjectInfo:
        """Store a new object, durable on return. Raises ObjectExists; never replaces."""
        ...

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raises ObjectNotFound, ObjectDamaged or
        ObjectStoreUnavailable. The bytes are not checked here: no checksum covers a range."""
        ...

    async def head(self, name: str) -> ObjectInfo: ...

    async def delete(self, name: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    def list(self, prefix: str) -> AsyncIterator[str]: ...

    async def close(self) -> None: ...
