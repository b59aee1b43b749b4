"""A reader group as the controller knows it: Java's. Rust and Python keep theirs in tables.

Groups with retention subscribe to their streams: retention then keeps what they have not
read. Creating, updating and deleting are open work, like those of a stream.
"""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec
from anabranch_events.domain import (
    GroupActivated,
    GroupBatch,
    GroupCreated,
    GroupDeleted,
    GroupDeletionStarted,
    GroupEvent,
    GroupUpdateCompleted,
    GroupUpdateStarted,
    WorkTakenOver,
)
from anabranch_events.model import GroupConfig


class Group(msgspec.Struct, frozen=True):
    """`unsubscribed` are the streams that an update still has to leave."""

    scope: str
    name: str
    incarnation: str
    config: GroupConfig
    stage: Literal["creating", "active", "updating", "deleting", "deleted"]
    owner: str
    unsubscribed: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        return self.stage != "deleted"

    @property
    def has_open_work(self) -> bool:
        return self.stage in ("creating", "updating", "deleting")

    @property
    def subscriber(self) -> str:
        return f"{self.scope}/{self.name}"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The streams ("scope/stream") that must know of this group now."""
        return subscriptions(self.config)


def subscriptions(config: GroupConfig) -> tuple[str, ...]:
    return () if config.retention == "none" else tuple(sorted(config.starting_cuts))


def fold(group: Group | None, batch: GroupBatch) -> Group:
    for event in batch.events:
        group = evolve(group, event, by=batch.by)
    assert group is not None, "a message holds at least one event"
    return group


def evolve(group: Group | None, event: GroupEvent, *, by: str) -> Group:
    if isinstance(event, GroupCreated):
        assert group is None or not group.exists, "a group is created once"
        return Group(event.scope, event.group, event.incarnation, event.config, "creating", by)
    assert group is not None, "the first event of a group creates it"
    replace = msgspec.structs.replace
    match event:
        case GroupActivated():
            return replace(group, stage="active", owner=by)
        case GroupUpdateStarted(config=config, unsubscribed=left):
            return replace(group, stage="updating", config=config, unsubscribed=left, owner=by)
        case GroupUpdateCompleted():
            return replace(group, stage="active", unsubscribed=(), owner=by)
        case GroupDeletionStarted():
            return replace(group, stage="deleting", owner=by)
        case GroupDeleted():
            return replace(group, stage="deleted", owner=by)
        case WorkTakenOver():
            return replace(group, owner=by)
        case _:
            assert_never(event)


def update(group: Group, config: GroupConfig) -> GroupUpdateStarted | Literal["INVALID_CONFIG"]:
    """The request must name the stored id and the current generation."""
    if config.id != group.config.id or config.generation != group.config.generation:
        return "INVALID_CONFIG"
    wanted = set(subscriptions(config))
    return GroupUpdateStarted(
        config=msgspec.structs.replace(config, generation=config.generation + 1),
        unsubscribed=tuple(name for name in group.subscriptions if name not in wanted),
    )
