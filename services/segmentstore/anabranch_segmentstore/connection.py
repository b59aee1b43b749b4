"""One client connection: bytes in, commands in order, replies out.

Commands are started in the order of their arrival and finish when they finish: a held read
delays nothing. Appends go to the container at once (writers.py); every other request is a task
of the connection (requests.py). SetupAppend alone stops the connection until it is answered,
because the appends behind it need its answer.

Nothing here grows without bound; when a limit is reached, the connection is not read any more,
and TCP slows the client:

* the container is busy (its own limit), until it says that it is idle;
* REQUESTS_BYTES_MAX of this connection's appends and other requests are under way;
* the client does not read its replies (WRITE_BUFFER_BYTES_MAX);
* REQUESTS_MAX requests are under way.

Reads fetch nothing while READS_BYTES_MAX of replies to reads are being made, or while the
client does not read: thousands may be held, but few hold bytes.

Nobody holds memory by doing nothing (patience.py): a peer that leaves a frame unfinished, or its
replies unread, is cut off. A peer that is merely idle is not, however many reads it has held.

A fault of the peer closes the connection without a reply, and so does a bug in here, which is
logged once: the connection is the smallest failure domain.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final, Protocol, cast

import structlog
from anabranch_wire import commands as c
from anabranch_wire.assembler import AppendAssembler
from anabranch_wire.codec import decode_request, encode_parts
from anabranch_wire.constants import WIRE_VERSION_HIGH, WIRE_VERSION_LOW
from anabranch_wire.errors import EmptyTableKey, ProtocolError
from anabranch_wire.framing import Frame, FrameSplitter

from anabranch_segmentstore import administration, requests
from anabranch_segmentstore.api import READ_LENGTH_MAX, SegmentContainer
from anabranch_segmentstore.domain import errors
from anabranch_segmentstore.patience import LOOK_S, Impatience, Owing, watch_for_vanished_peer
from anabranch_segmentstore.writers import Writer, WriterForgotten, setup_refusal

REQUESTS_BYTES_MAX: Final = 32 * 1024 * 1024  # two of the longest appends
READS_BYTES_MAX: Final = 16 * 1024 * 1024  # eight of the longest read replies
WRITE_BUFFER_BYTES_MAX: Final = 4 * 1024 * 1024  # two of the longest read replies
REQUESTS_MAX: Final = 16_384  # under way, held reads among them; about 2 KiB each

log = structlog.stdlib.get_logger("anabranch.connection")


class Pause(enum.Enum):
    """Why a connection is not read for now."""

    SETUP = "a writer is being set up"
    BUSY = "the container is busy"
    BYTES = "too many bytes of this connection's requests are under way"
    PEER = "the client does not read"
    REQUESTS = "too many requests are under way"
    CLOSED = "it is closing"


class Site(requests.Site, administration.Site, Protocol):
    """What a connection needs of the store."""

    def opened(self, connection: Connection) -> bool:
        """False when there are too many."""
        ...

    def closed(self, connection: Connection) -> None: ...

    def drop_transients(self, names: set[str]) -> None:
        """Delete the transient segments of a connection that is gone."""
        ...


class Connection(asyncio.BufferedProtocol):
    """Made by the server for each accepted socket; `is_admin`: of the administrative port."""

    def __init__(self, site: Site, *, is_admin: bool = False) -> None:
        self._site, self._is_admin = site, is_admin
        self._splitter = FrameSplitter()
        self._assembler = AppendAssembler()
        self._context = requests.Context(site, set())
        self._reads_bytes = 0
        self._reads_waiting: deque[asyncio.Future[None]] = deque()
        self._writers: dict[object, Writer] = {}
        self._due: dict[Writer, None] = {}  # in order of their first acknowledgement
        self._frames: deque[Frame] = deque()
        self._pauses: set[Pause] = set()
        self._payload_bytes = 0  # of the command that is being started
        self._is_turn_due = self._is_flush_due = self._is_reading = False
        self._requests_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._replies: list[c.Data] = []
        self._replies_bytes = 0  # handed to the transport so far
        self._has_finished_frame = False  # since the last look
        self._frame_patience, self._reply_patience = Impatience(), Impatience()
        self._next_look: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.peer = ""

    # --- asyncio's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self._is_reading = True
        self.peer = str(transport.get_extra_info("peername"))
        watch_for_vanished_peer(transport.get_extra_info("socket"))
        self._next_look = self._loop.call_later(LOOK_S, self._look)
        if not self._site.opened(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._next_look is not None:
            self._next_look.cancel()
        self._pauses.add(Pause.CLOSED)
        self._frames.clear()
        for task in self._tasks:
            task.cancel()
        self._site.drop_transients(self._context.transients)
        self._site.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._splitter.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        try:
            frames = self._splitter.buffer_updated(nbytes)
        except ProtocolError as fault:
            self._abort(fault)
            return
        if frames:
            self._has_finished_frame = True
            self._frames.extend(frames)
        if self._frames and not self._is_turn_due:
            self._turn()

    def pause_writing(self) -> None:
        self._pause(Pause.PEER)

    def resume_writing(self) -> None:
        self._resume(Pause.PEER)
        self._admit_waiting()

    # --- Commands, in order ---

    def _turn(self) -> None:
        """Start what has arrived, until something has to be waited for."""
        self._is_turn_due = False
        try:
            while self._frames and not self._pauses:
                command = self._next_command()
                if command is not None and self._start(command):
                    # A task begins in the next round of the loop; what comes behind it in
                    # the connection begins behind it.
                    self._call_turn()
                    break
        except ProtocolError as fault:
            self._abort(fault)
        except Exception as bug:
            log.exception("connection.bug", peer=self.peer)
            self._abort(bug)

    def _call_turn(self) -> None:
        if not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._turn)

    def _next_command(self) -> c.Request | None:
        code, payload = self._frames.popleft()
        self._payload_bytes = len(payload)
        try:
            return decode_request(code, payload, admin=self._is_admin)
        except EmptyTableKey as fault:
            problem = "table keys may not be empty"
            reply = c.ErrorMessage(
                fault.request_id, fault.segment, problem, c.ERROR_ILLEGAL_ARGUMENT
            )
            self.send(reply)
            return None

    def _start(self, command: c.Request) -> bool:
        """Handle a command; True when a task was started for it."""
        match command:
            case (
                c.AppendBlock()
                | c.AppendBlockEnd()
                | c.ConditionalAppend()
                | c.ConditionalBlockEnd()
                | c.Padding()
            ):
                self._take_append(command)
                return False
            case c.SetupAppend():
                self._assembler.handle(command)
                self._pause(Pause.SETUP)
                self._spawn(self._set_up(command))
                return True
            case c.KeepAlive():
                self.send(command)
                return False
            case c.Hello():
                self._hello(command)
                return False
            case c.FlushToStorage() | c.ListStorageChunks():
                assert self._is_admin, "decode_request lets them through on the admin port only"
                self._spawn(self._administer(command))
                return True
            case c.ReadSegment():
                self._spawn(self._read(command))
                return True
            case _:
                self._requests_bytes += self._payload_bytes
                self._pause_if_full()
                self._spawn(self._answer(command, self._payload_bytes))
                return True

    def _hello(self, hello: c.Hello) -> None:
        self.send(c.Hello(WIRE_VERSION_HIGH, WIRE_VERSION_LOW))
        if hello.low_version > WIRE_VERSION_HIGH or hello.high_version < WIRE_VERSION_LOW:
            spoken = f"{hello.low_version} to {hello.high_version}"
            self.close_after_replies(f"the client speaks wire versions {spoken}")

    # --- Appends ---

    async def _set_up(self, command: c.SetupAppend) -> None:
        reply: c.Reply | None
        try:
            container = await self._site.container_of(command.segment)
        except errors.ContainerStopped:
            self.send(c.WrongHost(command.request_id, command.segment))
            self._writers.pop(command.writer_id, None)
            self._resume(Pause.SETUP)
            return
        try:
            stored = await container.setup_append(command.segment, command.writer_id)
            self._site.confirm(command.segment)
        except errors.Refusal as refusal:
            self._writers.pop(command.writer_id, None)
            reply = setup_refusal(refusal, command)
            if reply is None:
                self.close_after_replies(str(refusal))
        else:
            self._writers[command.writer_id] = Writer(
                self, container, command.segment, command.writer_id, stored
            )
            reply = c.AppendSetup(command.request_id, command.segment, command.writer_id, stored)
        if reply is not None:
            self.send(reply)
        self._resume(Pause.SETUP)

    def _take_append(
        self,
        command: c.AppendBlock
        | c.AppendBlockEnd
        | c.ConditionalAppend
        | c.ConditionalBlockEnd
        | c.Padding,
    ) -> None:
        append = self._assembler.handle(command)
        if append is None:
            return
        writer = self._writers.get(append.writer_id)
        if writer is None:
            raise WriterForgotten(append.writer_id)
        taken_bytes = writer.append(append)
        self._requests_bytes += taken_bytes
        self._pause_if_full()
        if writer.container.is_busy:
            self._wait_for(writer.container)

    def _wait_for(self, container: SegmentContainer) -> None:
        if Pause.BUSY not in self._pauses:
            self._pause(Pause.BUSY)
            container.when_idle(lambda: self._resume(Pause.BUSY))

    def _pause_if_full(self) -> None:
        if self._requests_bytes > REQUESTS_BYTES_MAX:
            self._pause(Pause.BYTES)

    def finished(self, length_bytes: int) -> None:
        self._requests_bytes -= length_bytes
        if Pause.BYTES in self._pauses and self._requests_bytes <= REQUESTS_BYTES_MAX // 2:
            self._resume(Pause.BYTES)

    def acknowledgement_due(self, writer: Writer) -> None:
        self._due[writer] = None
        self._call_flush()

    def forget(self, writer: Writer) -> None:
        if self._writers.get(writer.writer_id) is writer:
            del self._writers[writer.writer_id]

    # --- Other requests ---

    async def _answer(self, command: c.SegmentRequest | c.TableRequest, payload_bytes: int) -> None:
        try:
            self._reply(command, await requests.answer(self._context, command))
        finally:
            self.finished(payload_bytes)

    async def _administer(self, command: administration.Command) -> None:
        self._reply(command, await administration.answer(self._site, command))

    async def _read(self, command: c.ReadSegment) -> None:
        admitted = 0

        async def admit(length: int) -> None:
            nonlocal admitted
            while self._reads_bytes >= READS_BYTES_MAX or Pause.PEER in self._pauses:
                turn = self._loop.create_future()
                self._reads_waiting.append(turn)
                await turn
            self._reads_bytes += length
            admitted = length

        try:
            context = self._context._replace(admit=admit)
            self._reply(command, await requests.answer(context, command))
        finally:
            self._reads_bytes -= admitted
            self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Let as many of the reads that wait look again as there is room for, in order."""
        room = 0 if Pause.PEER in self._pauses else READS_BYTES_MAX - self._reads_bytes
        while room > 0 and self._reads_waiting:
            turn = self._reads_waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= READ_LENGTH_MAX

    def _reply(
        self,
        command: c.SegmentRequest | c.TableRequest | administration.Command,
        reply: c.Reply | None,
    ) -> None:
        if reply is None:
            self.close_after_replies(f"no reply exists for what became of {command!r:.200}")
        else:
            self.send(reply)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        if len(self._tasks) >= REQUESTS_MAX:
            self._pause(Pause.REQUESTS)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("connection.bug", peer=self.peer, exc_info=bug)
            self._abort(bug)
        if Pause.REQUESTS in self._pauses and len(self._tasks) <= REQUESTS_MAX // 2:
            self._resume(Pause.REQUESTS)

    # --- Replies ---

    def send(self, reply: c.Reply) -> None:
        """Queue a reply; what is queued in one round of the loop leaves in one write."""
        if self._due:
            self._flush_due()
        self._queue(reply)

    def acknowledge(self, reply: c.DataAppended) -> None:
        self._queue(reply)

    def _queue(self, reply: c.Reply) -> None:
        if Pause.CLOSED not in self._pauses:
            self._replies += encode_parts(reply)
            self._call_flush()

    def _flush_due(self) -> None:
        due, self._due = self._due, {}
        for writer in due:
            writer.flush()

    def _call_flush(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._due:
            self._flush_due()
        replies, self._replies = self._replies, []
        if replies and self._transport is not None:
            self._replies_bytes += sum(map(len, replies))
            self._transport.writelines(replies)

    # --- Pausing and closing ---

    def _look(self) -> None:
        """From time to time: cut off a peer that leaves a frame or its replies lying about."""
        if self._transport is None:
            return
        unread_bytes = self._transport.get_write_buffer_size()
        is_behind = unread_bytes > 0
        # While the connection is not read, what is missing of a frame is not the peer's fault.
        is_unfinished = (
            self._is_reading
            and not self._has_finished_frame
            and not self._splitter.is_between_frames
        )
        self._has_finished_frame = False
        now, taken_bytes = self._loop.time(), self._replies_bytes - unread_bytes
        arrived_bytes = self._splitter.unfinished_bytes
        if self._frame_patience.is_over(is_unfinished, arrived_bytes, now):
            self._abort(Owing(self.peer, f"a frame, of which {arrived_bytes} bytes have come"))
        elif self._reply_patience.is_over(is_behind, taken_bytes, now):
            self._abort(
                Owing(self.peer, f"to read its replies, of which {unread_bytes} bytes wait")
            )
        else:
            self._next_look = self._loop.call_later(LOOK_S, self._look)

    def _pause(self, reason: Pause) -> None:
        self._pauses.add(reason)
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _resume(self, reason: Pause) -> None:
        self._pauses.discard(reason)
        if self._pauses or self._transport is None:
            return
        if self._frames:
            self._call_turn()
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()

    def close_if_writing_to(self, container: int) -> None:
        """Its writers have to look for the new owner; they might not ask before they fail."""
        numbers = (self._site.container_number(writer.segment) for writer in self._writers.values())
        if any(number == container for number in numbers):
            self.close_after_replies(f"container {container} has ended here")

    def close_after_replies(self, reason: str) -> None:
        """Take nothing more; send what is queued, then close."""
        if Pause.CLOSED in self._pauses or self._transport is None:
            return
        log.info("connection.closing", peer=self.peer, reason=reason)
        self._flush()
        self._pause(Pause.CLOSED)
        self._frames.clear()
        self._transport.close()

    def _abort(self, reason: BaseException) -> None:
        """Close at once; replies that have not left are dropped."""
        if self._transport is None:
            return
        log.info("connection.aborted", peer=self.peer, reason=str(reason))
        self._pauses.add(Pause.CLOSED)
        self._frames.clear()
        self._replies.clear()
        self._transport.abort()
