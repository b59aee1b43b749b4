"""Who is alive, and which segment store holds which container: what Pravega keeps in ZooKeeper.

Nothing in the registry is the truth about data: it can be wiped at any moment, and the
members and the container map are written anew within a lease (architecture, promise 4).
The log of a container decides who may write; the registry only says who should try.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec

Role = Literal["controller", "segmentstore", "autoscaler", "tierer"]


class Member(msgspec.Struct, frozen=True):
    """One process of the cluster.

    `id` is stable over restarts ("segmentstore-0"), `incarnation` is new for each start.
    """

    id: str
    incarnation: str
    role: Role
    host: str
    port: int
    started_ms: int
    pid: int = 0


class Assignment(msgspec.Struct, frozen=True):
    """Who should hold a container. Written by the controller that has the placement lease."""

    container: int
    member: str
    generation: int


class Serving(msgspec.Struct, frozen=True):
    """Who says that it serves a container now. Written by the segment store when it is ready."""

    container: int
    member: str
    incarnation: str
    host: str
    port: int
    epoch: int


class ClusterInfo(msgspec.Struct, frozen=True):
    """What it takes to locate a segment from the registry alone. The event log has the original."""

    cluster_id: str
    containers_count: int
    hash_name: str = "murmur3_128/guava-consistent"


class RegistryUnavailable(Exception):
    """The registry did not answer in time."""

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(f"registry: {operation}: {reason}")
        self.operation, self.reason = operation, reason


class Registry(Protocol):
    """All methods raise RegistryUnavailable when the registry cannot be reached."""

    async def announce(self, member: Member, *, lease_ms: int) -> None:
        """Register or refresh a member; it expires `lease_ms` after the last call."""
        ...

    async def withdraw(self, member: Member) -> None:
        """Strike a member and its serving records off at once, if it is still this incarnation."""
        ...

    async def members(self, role: Role | None = None) -> list[Member]: ...

    async def set_cluster(self, info: ClusterInfo) -> None: ...

    async def cluster(self) -> ClusterInfo | None: ...

    async def assign(self, assignments: list[Assignment]) -> None:
        """Replace the assignment of the containers named, all at once."""
        ...

    async def assignments(self) -> dict[int, Assignment]: ...

    async def set_serving(self, serving: Serving) -> None: ...

    async def clear_serving(self, container: int, *, incarnation: str) -> None:
        """Remove the record if it is of this incarnation."""
        ...

    async def serving(self) -> dict[int, Serving]:
        """Serving records of incarnations that are still members."""
        ...

    async def acquire_lease(self, name: str, holder: str, *, lease_ms: int) -> bool:
        """Take or extend the named lease; False when another holder has it."""
        ...

    async def release_lease(self, name: str, holder: str) -> None: ...

    def changes(self, *, poll_s: float) -> AsyncIterator[None]:
        """One item at once, then one after each notice of a change and at least every `poll_s`.

        A notice is a hint to look, never the news itself. Rides out an unavailable registry.
        """
        ...
