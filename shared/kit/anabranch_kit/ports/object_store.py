"""Tier 2: immutable objects under names that are never used again."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple, Protocol

NAME_LENGTH_MAX: Final = 512
# Slash-separated parts, none of which is empty or starts with a dot.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+@#-]*(?:/[A-Za-z0-9_][A-Za-z0-9._=+@#-]*)*")


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


class UnsupportedObjectStore(Exception):
    """The settings name a tier 2 that cannot be used as it is; the reason says what to change."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"tier 2 at {url!r}: {reason}")
        self.url, self.reason = url, reason


def assert_object_name(name: str) -> None:
    """Our own names only: what this refuses is a bug of the caller."""
    assert len(name) <= NAME_LENGTH_MAX, f"an object name of {len(name)} characters"
    assert _NAME.fullmatch(name), f"no object name: {name!r}"


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
