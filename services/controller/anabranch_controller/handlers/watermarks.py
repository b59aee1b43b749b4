"""Writers' times, from which watermarks are made."""

from __future__ import annotations

from anabranch_events.domain import WriterRemoved, WriterTimestampNoted

from anabranch_controller.api import NoteTimestampOutcome, RemoveWriterOutcome, StreamCut
from anabranch_controller.errors import NotFound
from anabranch_controller.event_log import Write, Written, write
from anabranch_controller.handlers.base import Handlers, is_stream_name, require
from anabranch_controller.keys import StreamKey


class WatermarkHandlers(Handlers):
    async def note_timestamp_from_writer(
        self, scope: str, stream: str, *, writer: str, timestamp: int, position: StreamCut
    ) -> NoteTimestampOutcome:
        require("writer", writer)
        if not is_stream_name(scope, stream):
            raise NotFound("stream", f"{scope}/{stream}")
        key = StreamKey(scope, stream)
        noted = WriterTimestampNoted(writer, timestamp, tuple(sorted(position.items())))

        def decide() -> Write | NoteTimestampOutcome:
            found = self._stream(key)
            if found is None:
                raise NotFound("stream", f"{scope}/{stream}")
            before = found.writers.get(writer)
            if before is None:
                return write(noted)
            if before.timestamp > timestamp:
                return "INVALID_TIME"
            if any(position.get(one, offset) < offset for one, offset in before.position.items()):
                return "INVALID_POSITION"
            same = before.timestamp == timestamp and before.position == position
            return "SUCCESS" if same and before.alive else write(noted)

        result: Written | NoteTimestampOutcome = await self._ctx.log.change(key.subject, decide)
        return "SUCCESS" if isinstance(result, Written) else result

    async def remove_writer(self, scope: str, stream: str, writer: str) -> RemoveWriterOutcome:
        if not is_stream_name(scope, stream):
            return "UNKNOWN_WRITER"
        key = StreamKey(scope, stream)

        def decide() -> Write | RemoveWriterOutcome:
            found = self._stream(key)
            known = None if found is None else found.writers.get(writer)
            if known is None:
                return "UNKNOWN_WRITER"
            return write(WriterRemoved(writer)) if known.alive else "SUCCESS"

        result: Written | RemoveWriterOutcome = await self._ctx.log.change(key.subject, decide)
        return "SUCCESS" if isinstance(result, Written) else result
