"""Streams: create, update, truncate, seal, delete, list."""

from __future__ import annotations

from functools import partial

from anabranch_events.model import StreamConfig
from anabranch_wire.names import INTERNAL_SCOPE, mark_stream_name

from anabranch_controller import requests
from anabranch_controller.api import (
    CreateStreamOutcome,
    DeleteStreamOutcome,
    Page,
    StreamCut,
    UpdateStreamOutcome,
)
from anabranch_controller.context import gather_bounded
from anabranch_controller.domain import stream_decisions as decisions
from anabranch_controller.domain.stream import OpenScale, Stream
from anabranch_controller.domain.stream_decisions import BadConfig
from anabranch_controller.errors import InvalidArgument
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.handlers.base import (
    Handlers,
    is_new_stream_name,
    is_scope_name,
    is_stream_name,
    page,
    require,
    stores_needed,
)
from anabranch_controller.keys import ScopeKey, StreamKey
from anabranch_controller.ports import SegmentMissing
from anabranch_controller.workflows.segments import name_of_segment


class StreamHandlers(Handlers):
    async def create_stream(
        self, scope: str, stream: str, config: StreamConfig
    ) -> CreateStreamOutcome:
        require("scope", scope)
        config = _checked(config)
        if not is_new_stream_name(stream):
            return "INVALID_STREAM_NAME"
        if not is_scope_name(scope) or scope == INTERNAL_SCOPE:
            return "SCOPE_NOT_FOUND"

        def decide() -> Write | CreateStreamOutcome:
            directory = self._scope(scope)
            if directory is None or not directory.is_open:
                return "SCOPE_NOT_FOUND"
            if stream in directory.streams:
                return "STREAM_EXISTS"
            return write(*requests.stream_reservations(self._ctx, directory, stream, config))

        key = StreamKey(scope, stream)
        result: Written | CreateStreamOutcome = await self._ctx.log.change(
            ScopeKey(scope).subject, decide
        )
        if result != "SCOPE_NOT_FOUND":
            await requests.settled(self._ctx, key)
            await requests.settled(self._ctx, StreamKey(scope, mark_stream_name(stream)))
        return "SUCCESS" if isinstance(result, Written) else result

    async def update_stream(
        self, scope: str, stream: str, config: StreamConfig
    ) -> UpdateStreamOutcome:
        config = _checked(config)
        before = await self._loaded_stream(scope, stream)
        if before is None:
            return "STREAM_NOT_FOUND"
        key = StreamKey(scope, stream)
        result: Written | UpdateStreamOutcome | None = await requests.in_the_slot(
            self._ctx, key, lambda found: decisions.update(found, config)
        )
        if not isinstance(result, Written):
            return result or "STREAM_NOT_FOUND"

        def through() -> bool | None:
            now = self._stream(key)
            if now is None or now.incarnation != before.incarnation:
                return True
            scaling = isinstance(now.work, OpenScale) and now.work.started.cause == "policy"
            return True if now.updates_count > before.updates_count and not scaling else None

        await self._ctx.until(key.subject, through, what=f"the update of {scope}/{stream}")
        return "SUCCESS"

    async def truncate_stream(self, scope: str, stream: str, cut: StreamCut) -> UpdateStreamOutcome:
        before = await self._loaded_stream(scope, stream)
        if before is None:
            return "STREAM_NOT_FOUND"
        if before.stage == "active" and not await self._reaches(before, cut):
            return "FAILURE"
        key = StreamKey(scope, stream)
        result: Written | UpdateStreamOutcome | None = await requests.in_the_slot(
            self._ctx, key, lambda found: decisions.truncate(found, cut)
        )
        if not isinstance(result, Written):
            return result or "STREAM_NOT_FOUND"

        def through() -> bool | None:
            now = self._stream(key)
            if now is None or now.incarnation != before.incarnation:
                return True
            return True if now.truncations_count > before.truncations_count else None

        await self._ctx.until(key.subject, through, what=f"the truncation of {scope}/{stream}")
        return "SUCCESS"

    async def _reaches(self, stream: Stream, cut: StreamCut) -> bool:
        """Is each segment as long as the cut says? A store would refuse it for ever."""
        if isinstance(decisions.truncate(stream, cut), str):
            return False
        key = StreamKey(stream.scope, stream.name)

        async def one(identity: int, offset: int) -> bool:
            try:
                info = await self._ctx.stores.info(name_of_segment(key, identity))
            except SegmentMissing:
                return False
            return offset <= info.length_bytes

        with stores_needed():
            reached = await gather_bounded(
                partial(one, identity, offset) for identity, offset in cut.items() if offset > 0
            )
        return all(reached)

    async def seal_stream(self, scope: str, stream: str) -> UpdateStreamOutcome:
        if not is_stream_name(scope, stream):
            return "STREAM_NOT_FOUND"
        found = await requests.seal(self._ctx, StreamKey(scope, stream))
        return "SUCCESS" if found else "STREAM_NOT_FOUND"

    async def delete_stream(self, scope: str, stream: str) -> DeleteStreamOutcome:
        if not is_stream_name(scope, stream):
            return "STREAM_NOT_FOUND"
        match await requests.delete(self._ctx, StreamKey(scope, stream)):
            case True:
                return "SUCCESS"
            case False:
                return "STREAM_NOT_FOUND"
            case None:
                return "STREAM_NOT_SEALED"

    async def stream_exists(self, scope: str, stream: str) -> bool:
        require("scope", scope)
        require("stream", stream)
        return await self._loaded_stream(scope, stream) is not None

    async def list_streams(self, scope: str, token: str) -> Page:
        require("scope", scope)
        if scope == INTERNAL_SCOPE:
            return page((), token)
        found = await self._loaded_scope(scope)
        if found is None:
            return Page("SCOPE_NOT_FOUND", (), "")
        return page(found.streams, token)

    async def list_streams_for_tag(self, scope: str, tag: str, token: str) -> Page:
        require("scope", scope)
        require("tag", tag)
        if scope == INTERNAL_SCOPE:
            return page((), token)
        await self._ctx.log.load_all()
        found = self._scope(scope)
        if found is None:
            return Page("SCOPE_NOT_FOUND", (), "")
        tagged = [name for name in found.streams if self._has_tag(StreamKey(scope, name), tag)]
        return page(tagged, token)

    def _has_tag(self, key: StreamKey, tag: str) -> bool:
        stream = self._stream(key)
        return stream is not None and tag in stream.config.tags

    async def stream_configuration(self, scope: str, stream: str) -> StreamConfig:
        return (await self._need_stream(scope, stream)).config


def _checked(config: StreamConfig) -> StreamConfig:
    """Raises InvalidArgument."""
    try:
        return decisions.checked_config(config)
    except BadConfig as error:
        raise InvalidArgument(error.field, error.why) from error
