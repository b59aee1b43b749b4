"""Reader groups of Java, and the subscriptions by which retention knows of them."""

from __future__ import annotations

from uuid import UUID

import msgspec
from anabranch_events.domain import DomainEvent, GroupReserved, SubscriberCutUpdated
from anabranch_events.model import GroupConfig, ScalingPolicy, StreamConfig
from anabranch_wire.names import reader_group_stream_name

from anabranch_controller import requests
from anabranch_controller.api import (
    CreateGroupOutcome,
    GroupOutcome,
    GroupReply,
    StreamCut,
    SubscribersReply,
    UpdateGroupOutcome,
    UpdateGroupReply,
    UpdateSubscriberOutcome,
)
from anabranch_controller.domain import cuts
from anabranch_controller.domain import group as groups
from anabranch_controller.domain.group import Group
from anabranch_controller.domain.scope import Scope
from anabranch_controller.errors import InvalidArgument, NotFound
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.handlers.base import (
    Handlers,
    is_given_name,
    is_scope_name,
    is_stream_name,
)
from anabranch_controller.keys import GroupKey, ScopeKey, StreamKey

STATE_CONFIG = StreamConfig(scaling=ScalingPolicy(min_segments=1), rollover_size_bytes=4 << 20)
"""Of the stream that holds a group's shared state (reference, 2.3)."""

_NO_ID = UUID(int=0)


class GroupHandlers(Handlers):
    async def create_reader_group(self, scope: str, group: str, config: GroupConfig) -> GroupReply:
        _check(config)
        if not is_given_name("reader group", group):
            return GroupReply("INVALID_RG_NAME", None)
        if not is_scope_name(scope):
            return GroupReply("SCOPE_NOT_FOUND", None)
        new_id = self._ctx.new_id() if config.id == _NO_ID else config.id
        stored = msgspec.structs.replace(config, id=new_id, generation=0)
        subscriptions = [StreamKey(*name.split("/", 1)) for name in groups.subscriptions(stored)]

        def decide() -> Write | CreateGroupOutcome:
            directory = self._scope(scope)
            if directory is None or not directory.is_open:
                return "SCOPE_NOT_FOUND"
            if group in directory.groups:
                return "SUCCESS"
            if any(self._stream(key) is None for key in subscriptions):
                return "FAILURE"
            return write(*self._reservations(directory, group, stored))

        key = GroupKey(scope, group)
        result: Written | CreateGroupOutcome = await self._ctx.log.change(
            ScopeKey(scope).subject,
            decide,
            reads=[one.subject for one in subscriptions],
        )
        if isinstance(result, str) and result != "SUCCESS":
            return GroupReply(result, None)
        made = await self._ctx.until(
            key.subject, lambda: self._made(key), what=f"the creation of {scope}/{group}"
        )
        return GroupReply("SUCCESS", made.config)

    def _reservations(self, directory: Scope, group: str, config: GroupConfig) -> list[DomainEvent]:
        """The group, and the stream for its state unless it is there already."""
        now_ms = self._ctx.clock.now_ms()
        state = reader_group_stream_name(group)
        wanted: list[DomainEvent] = [GroupReserved(group, self._ctx.new_id().hex, config, now_ms)]
        if state not in directory.streams:
            wanted += requests.stream_reservations(self._ctx, directory, state, STATE_CONFIG)
        return wanted

    def _made(self, key: GroupKey) -> Group | None:
        found = self._group(key)
        return found if found is not None and found.stage != "creating" else None

    def _group(self, key: GroupKey) -> Group | None:
        """The group that the directory means, None when there is none."""
        scope = self._scope(key.scope)
        entry = None if scope is None else scope.groups.get(key.group)
        found = self._ctx.projection.groups.get(key)
        if entry is None or found is None or found.incarnation != entry.incarnation:
            return None
        return found if found.exists else None

    async def _loaded_group(self, scope: str, group: str) -> Group | None:
        """Raises NotFound for the scope."""
        if await self._loaded_scope(scope) is None:
            raise NotFound("scope", scope)
        if not is_given_name("reader group", group):
            return None
        key = GroupKey(scope, group)
        await self._ctx.log.load(key.subject)
        return self._group(key)

    async def reader_group(self, scope: str, group: str) -> GroupReply:
        found = await self._loaded_group(scope, group)
        if found is None or found.stage == "deleting":
            return GroupReply("RG_NOT_FOUND", None)
        return GroupReply("SUCCESS", found.config)

    async def update_reader_group(
        self, scope: str, group: str, config: GroupConfig
    ) -> UpdateGroupReply:
        _check(config)
        if await self._loaded_group(scope, group) is None:
            return UpdateGroupReply("RG_NOT_FOUND", config.generation)
        key = GroupKey(scope, group)
        subscriptions = [StreamKey(*name.split("/", 1)) for name in groups.subscriptions(config)]

        def decide() -> Write | UpdateGroupOutcome:
            found = self._group(key)
            if found is None or found.stage == "deleting":
                return "RG_NOT_FOUND"
            if found.stage != "active" or any(self._stream(one) is None for one in subscriptions):
                return "FAILURE"
            decision = groups.update(found, config)
            return decision if isinstance(decision, str) else write(decision)

        result: Written | UpdateGroupOutcome = await self._ctx.log.change(
            key.subject,
            decide,
            reads=[ScopeKey(scope).subject, *(one.subject for one in subscriptions)],
        )
        if not isinstance(result, Written):
            return UpdateGroupReply(result, config.generation)
        await self._ctx.until(
            key.subject,
            lambda: None if self._is_updating(key) else True,
            what=f"the update of {scope}/{group}",
        )
        return UpdateGroupReply("SUCCESS", config.generation + 1)

    def _is_updating(self, key: GroupKey) -> bool:
        found = self._group(key)
        return found is not None and found.stage == "updating"

    async def delete_reader_group(self, scope: str, group: str, group_id: str) -> GroupOutcome:
        found = await self._loaded_group(scope, group)
        if found is None or str(found.config.id) != group_id.lower():
            return "RG_NOT_FOUND"
        removed = await requests.remove_group(self._ctx, GroupKey(scope, group))
        return "SUCCESS" if removed else "RG_NOT_FOUND"

    # --- subscribers -----------------------------------------------------------------------

    async def list_subscribers(self, scope: str, stream: str) -> SubscribersReply:
        if await self._loaded_scope(scope) is None:
            raise NotFound("scope", scope)
        found = await self._loaded_stream(scope, stream)
        if found is None:
            return SubscribersReply("STREAM_NOT_FOUND", ())
        return SubscribersReply("SUCCESS", tuple(sorted(found.subscribers)))

    async def update_subscriber_stream_cut(
        self,
        scope: str,
        stream: str,
        *,
        subscriber: str,
        group_id: UUID,
        generation: int,
        cut: StreamCut,
    ) -> UpdateSubscriberOutcome:
        if await self._loaded_scope(scope) is None:
            raise NotFound("scope", scope)
        if not is_stream_name(scope, stream):
            return "STREAM_NOT_FOUND"
        key = StreamKey(scope, stream)

        def decide() -> Write | UpdateSubscriberOutcome:
            found = self._stream(key)
            if found is None:
                return "STREAM_NOT_FOUND"
            known = found.subscribers.get(subscriber)
            if known is None or known.group_id != group_id:
                return "SUBSCRIBER_NOT_FOUND"
            if known.generation != generation:
                return "GENERATION_MISMATCH"
            if not cut:
                raise InvalidArgument("stream cut", "must not be empty")
            try:
                valid = cuts.is_valid(found.epochs, cut) and (
                    not known.cut or cuts.equal_or_after(found.epochs, cut, known.cut)
                )
            except cuts.UnknownSegment:
                return "FAILURE"
            if not valid:
                return "STREAM_CUT_NOT_VALID"
            if known.cut == cut:
                return "SUCCESS"
            updated_ms = self._ctx.clock.now_ms()
            return write(SubscriberCutUpdated(subscriber, tuple(sorted(cut.items())), updated_ms))

        result: Written | UpdateSubscriberOutcome = await self._ctx.log.change(key.subject, decide)
        return "SUCCESS" if isinstance(result, Written) else result


def _check(config: GroupConfig) -> None:
    """Raises InvalidArgument."""
    if not config.starting_cuts:
        raise InvalidArgument("startingStreamCuts", "name at least one stream")
    if config.outstanding_checkpoints_max < 1:
        raise InvalidArgument(
            "maxOutstandingCheckpointRequest", f"{config.outstanding_checkpoints_max} is below 1"
        )
    for name in (*config.starting_cuts, *config.ending_cuts):
        scope, _, stream = name.partition("/")
        if not is_stream_name(scope, stream):
            raise InvalidArgument("stream cuts", f"{name!r} is no stream")
