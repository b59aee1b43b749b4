"""The facts that are fixed for the life of a cluster: the first message of the event log."""

from __future__ import annotations

from contextlib import aclosing

import msgspec
from anabranch_events import subjects
from anabranch_events.domain import ClusterCreated
from anabranch_kit.ids import NewId
from anabranch_kit.ports.event_store import EventStore, SequenceConflict
from anabranch_kit.ports.registry import ClusterInfo


class ContainersFixed(Exception):
    """The cluster was created with another number of containers."""

    def __init__(self, wanted_count: int, created_count: int) -> None:
        super().__init__(
            f"this cluster was created with {created_count} containers, not {wanted_count}, and"
            f" their number is fixed. Start with --containers {created_count}."
        )
        self.wanted_count, self.created_count = wanted_count, created_count


async def join_cluster(store: EventStore, *, containers_count: int, new_id: NewId) -> ClusterInfo:
    """Create the cluster, or read what it was created with.

    Raises ContainersFixed, EventStoreUnavailable, and msgspec.DecodeError for a first message
    that is damaged.
    """
    created = ClusterCreated(new_id().hex, containers_count)
    if await store.last_sequence(subjects.CLUSTER_EVENTS) == 0:
        try:
            await store.append(
                subjects.CLUSTER_EVENTS,
                msgspec.json.encode(created),
                expected_sequence=0,
                batch_id=created.cluster_id,
            )
        except SequenceConflict:
            created = await _read(store)  # another instance started at the same moment
    else:
        created = await _read(store)
    if created.containers_count != containers_count:
        raise ContainersFixed(containers_count, created.containers_count)
    return ClusterInfo(created.cluster_id, created.containers_count)


async def _read(store: EventStore) -> ClusterCreated:
    async with aclosing(store.follow(subject=subjects.CLUSTER_EVENTS)) as records:  # type: ignore[type-var]
        async for record in records:
            return msgspec.json.decode(record.payload, type=ClusterCreated)
    raise AssertionError("following a log does not end")
