"""The writing side of a JetStreamLog: frames in, acknowledged places out.

One task per open log publishes; acknowledgements come back on an inbox of its own and complete
the frames in order. What is under way is the *window*: at most FENCE_MESSAGES messages (the
fence zone of a new owner rests on that) and BYTES_IN_FLIGHT_MAX bytes.

Nothing is sent on a new base. Whatever goes wrong (a refusal, silence, a lost connection), the
window is resolved from its oldest message on: it is published again as it was; when it is
refused, the leader tells what lies at its place, and `decide` (jetstream_log_resolution) what
that means. Only then does the rest go out again. While the server is away, appends wait.

An acknowledgement also says that there was no other owner when the message was sent. An idle
writer sends heartbeats for the sake of that: three per lease.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import nats.errors
import structlog
from anabranch_kit.ports.clock import Clock
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from anabranch_segmentstore.adapters.jetstream_log_format import (
    FENCE_MESSAGES,
    Broken,
    Kind,
    Stamp,
    StreamDamaged,
    decode,
    encode,
)
from anabranch_segmentstore.adapters.jetstream_log_opening import Opened
from anabranch_segmentstore.adapters.jetstream_log_places import Places
from anabranch_segmentstore.adapters.jetstream_log_resolution import Broken as StreamBroken
from anabranch_segmentstore.adapters.jetstream_log_resolution import (
    Damaged,
    Fenced,
    Leader,
    Resend,
    Stored,
    Verdict,
    decide,
)
from anabranch_segmentstore.adapters.jetstream_log_stream import (
    EXPECTED_HEADER,
    ContainerStream,
    StreamUnavailable,
    WrongLastSequence,
    acknowledged,
)
from anabranch_segmentstore.ports import Buffer, LogError, LogFailed, LogFenced

BYTES_IN_FLIGHT_MAX: Final = 32 * 1024 * 1024  # published and not acknowledged
SILENCE_MAX_S: Final = 5.0  # without an acknowledgement, then the window is resolved
WATCH_S: Final = 0.1  # how often a lost connection and silence are looked for
RETRY_PAUSE_S: Final = 0.05
RETRY_PAUSE_MAX_S: Final = 1.0
BROKEN_ANSWERS_MIN: Final = 5  # a deposed leader can answer from old state; it does not last
GONE_AFTER_S: Final = 10.0  # a cluster that starts may not know its streams for a moment
RELEASE_WAIT_S: Final = 5.0
HEARTBEATS_PER_LEASE: Final = 3

log = structlog.stdlib.get_logger("anabranch.log")


@dataclass(slots=True, eq=False)
class Job:
    """A frame or mark to be written; `done` gets the position that it left as the newest."""

    kind: Kind
    parts: Sequence[Buffer]
    position: int
    kept_from: int
    done: asyncio.Future[int]
    first_place: int = 0
    sent_length: int = 0
    parts_count: int = 0


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message in the window. `job` is set on the last one of a job."""

    stamp: Stamp
    message: bytes
    job: Job | None
    sent_at: float
    is_acknowledged: bool = False


class Writer:
    """`start` it, then `append` and `mark`; `close` ends its task. Owned by one JetStreamLog."""

    def __init__(
        self, stream: ContainerStream, clock: Clock, opened: Opened, *, lease_s: float
    ) -> None:
        self._stream, self._clock = stream, clock
        self._epoch = opened.epoch
        self._heartbeat_s = lease_s / HEARTBEATS_PER_LEASE
        self.owned_at = opened.minted_at  # monotonic: no newer owner can have existed before
        self.places = Places()
        self.position = opened.position  # of the newest durable frame
        self.snapshot, self.snapshot_position = opened.snapshot, opened.snapshot_position
        self.begin = opened.begin
        self.frames_end = opened.begin - 1  # the place where the newest durable frame ends
        self.written_bytes = 0
        self.confirmed = opened.begin - 1  # the newest acknowledged place
        self.failure: LogError | None = None
        self.no_space = asyncio.Event()  # the server refuses for want of room
        self._body_bytes_max = stream.body_bytes_max
        # What the next message to be made gets; the durable counterparts are above.
        self._next_place = opened.begin
        self._next_position = opened.position + 1
        self._stamped_snapshot = (opened.snapshot, opened.snapshot_position)
        self._stamped_kept_from = opened.kept_from
        self._stamped_position = opened.position
        self._jobs: deque[Job] = deque()
        self._window: deque[Outgoing] = deque()
        self._window_bytes = 0
        self._news = asyncio.Event()
        self._inbox = stream.client.new_inbox()
        self._round = 0
        self._trouble = ""  # why the window must be resolved
        self._reconnects = 0
        self._heard_at = 0.0
        self._sent_at = opened.minted_at
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        client = self._stream.client
        try:
            self._subscription = await client.subscribe(f"{self._inbox}.*.*", cb=self._on_answer)
        except nats.errors.Error as error:
            raise LogFailed(self._stream.container, f"NATS: {error}") from error
        self._reconnects = client.stats["reconnects"]
        self._task = asyncio.create_task(self._run(), name=f"log-{self._stream.container}")

    def append(self, parts: Sequence[Buffer], *, snapshot: bool) -> asyncio.Future[int]:
        kind = Kind.SNAPSHOT if snapshot else Kind.FRAME
        position, self._next_position = self._next_position, self._next_position + 1
        return self._submit(Job(kind, parts, position, 0, self._future()))

    def mark(self, kind: Kind, *, kept_from: int = 0) -> asyncio.Future[int]:
        """Write a mark behind all that was appended before."""
        return self._submit(Job(kind, (), self._next_position - 1, kept_from, self._future()))

    async def close(self, *, clean: bool) -> None:
        """Idempotent. A clean one waits for what is under way and writes a release record."""
        if clean and self.failure is None:
            released = self.mark(Kind.RELEASE)
            released.add_done_callback(seen)
            done, _ = await asyncio.wait([released], timeout=RELEASE_WAIT_S)
            if not done or released.exception() is not None:
                log.warning("log.not_released", container=self._stream.container)
        if self.failure is None:
            self._end(LogFailed(self._stream.container, "it was closed"))
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                await subscription.unsubscribe()
            except nats.errors.Error as error:
                log.debug("log.unsubscribe_failed", error=str(error))

    @staticmethod
    def _future() -> asyncio.Future[int]:
        return asyncio.get_running_loop().create_future()

    def _submit(self, job: Job) -> asyncio.Future[int]:
        if self.failure is not None:
            raise self.failure
        self._jobs.append(job)
        self._news.set()
        return job.done

    # --- The task ---

    async def _run(self) -> None:
        try:
            while self.failure is None:
                if self._trouble:
                    await self._resolve()
                await self._send_what_fits()
                await self._wait_for_news()
        except LogError as error:
            self._end(error)
        except Exception as bug:
            log.exception("log.bug", container=self._stream.container)
            self._end(LogFailed(self._stream.container, f"a bug: {bug!r}"))

    def _end(self, failure: LogError) -> None:
        self.failure = failure
        jobs = [*(one.job for one in self._window if one.job is not None), *self._jobs]
        self.no_space.clear()
        self._window.clear()
        self._jobs.clear()
        self._window_bytes = 0
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(failure)

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(min(WATCH_S, self._heartbeat_s)):
                await self._news.wait()
        except TimeoutError:
            self._watch()
        self._news.clear()

    def _watch(self) -> None:
        client = self._stream.client
        if client.is_closed:
            raise LogFailed(self._stream.container, "our own connection to NATS was closed")
        if not self._window:
            if client.is_connected and self._clock.monotonic() - self._sent_at > self._heartbeat_s:
                self.mark(Kind.HEARTBEAT).add_done_callback(seen)
        elif not client.is_connected or client.stats["reconnects"] != self._reconnects:
            self._trouble = "the connection to NATS was lost"
        elif self._clock.monotonic() - self._heard_at > SILENCE_MAX_S:
            self._trouble = f"no acknowledgement within {SILENCE_MAX_S:g} s"

    # --- Sending ---

    async def _send_what_fits(self) -> None:
        while self._jobs and not self._trouble and self._has_room():
            self._sent_at = self._clock.monotonic()
            if not self._window:
                self._heard_at = self._sent_at
            outgoing = self._next_message(self._jobs[0])
            if outgoing.job is not None:
                self._jobs.popleft()
            self._window.append(outgoing)
            self._window_bytes += len(outgoing.message)
            await self._publish(outgoing)

    def _has_room(self) -> bool:
        """FENCE_MESSAGES is no matter of taste: see jetstream_log_format."""
        return len(self._window) < FENCE_MESSAGES and (
            self._window_bytes + self._body_bytes_max <= BYTES_IN_FLIGHT_MAX or not self._window
        )

    def _next_message(self, job: Job) -> Outgoing:
        """The next message of a job, stamped with its place; the job remembers how far it is."""
        body, is_last = self._cut(job)
        if job.kind is Kind.TRUNCATE:
            self._stamped_kept_from = max(self._stamped_kept_from, job.kept_from)
        stamp = Stamp(
            job.kind,
            is_last,
            self._stream.container,
            job.parts_count,
            self._epoch,
            self._next_place,
            job.position,
            job.sent_length,
            *self._stamped_snapshot,
            self._stamped_kept_from,
        )
        message, checksum = encode(stamp, body)
        if job.parts_count == 0:
            job.first_place = self._next_place
        self._next_place += 1
        job.parts_count += 1
        job.sent_length += sum(map(len, body))
        if is_last and job.kind is Kind.SNAPSHOT:
            # Whatever follows in the stream has the whole snapshot below it.
            self._stamped_snapshot = (job.first_place, job.position)
        stamp = stamp._replace(checksum=checksum)
        return Outgoing(stamp, message, job if is_last else None, self._sent_at)

    def _cut(self, job: Job) -> tuple[list[bytes | memoryview], bool]:
        """The next bytes of a job that fit into a message, and whether they are its last."""
        room, skip = self._body_bytes_max, job.sent_length
        body: list[bytes | memoryview] = []
        for part in job.parts:
            if skip >= len(part):
                skip -= len(part)
                continue
            if room == 0:
                return body, False
            view = memoryview(part)[skip : skip + room]
            is_cut = skip + len(view) < len(part)
            body.append(view)
            room -= len(view)
            skip = 0
            if is_cut:
                return body, False
        return body, True

    async def _publish(self, outgoing: Outgoing) -> None:
        place = outgoing.stamp.place
        try:
            await self._stream.client.publish(
                self._stream.frames_subject,
                outgoing.message,
                reply=f"{self._inbox}.{self._round}.{place}",
                headers={EXPECTED_HEADER: str(place - 1)},
            )
        except nats.errors.MaxPayloadError as error:
            raise LogFailed(
                self._stream.container,
                f"the server's max_payload shrank to {self._stream.client.max_payload}",
            ) from error
        except nats.errors.ConnectionClosedError as error:
            reason = "our own connection to NATS was closed"
            raise LogFailed(self._stream.container, reason) from error
        except nats.errors.Error as error:
            self._trouble = str(error) or type(error).__name__

    # --- Answers ---

    async def _on_answer(self, answer: Msg) -> None:
        """Called for each answer to a publish, in the order of their arrival."""
        if self.failure is not None:
            return
        round_name, place_name = answer.subject.rsplit(".", 2)[1:]
        try:
            place = acknowledged(answer)
        except (WrongLastSequence, StreamUnavailable) as refusal:
            # An answer to an earlier sending of the window tells nothing new.
            if int(round_name) == self._round and not self._trouble:
                self._trouble = str(refusal)
                self._news.set()
            return
        if place == int(place_name):
            self._acknowledge(place)
            self._news.set()
        elif not self._trouble:
            self._trouble = f"the message for place {place_name} was stored at {place}"
            self._news.set()

    def _acknowledge(self, place: int) -> None:
        """Complete what is stored up to the first message that is not known to be."""
        window = self._window
        index = place - window[0].stamp.place if window else -1
        if not 0 <= index < len(window):
            return  # it was resolved before its answer came
        window[index].is_acknowledged = True
        self._heard_at = self._clock.monotonic()
        while window and window[0].is_acknowledged:
            outgoing = window.popleft()
            self._window_bytes -= len(outgoing.message)
            self.written_bytes += len(outgoing.message)
            self.confirmed, self.owned_at = outgoing.stamp.place, outgoing.sent_at
            if outgoing.job is not None:
                self._complete(outgoing.job, outgoing.stamp.place)

    def _complete(self, job: Job, last_place: int) -> None:
        if job.kind is Kind.FRAME or job.kind is Kind.SNAPSHOT:
            self.position, self.frames_end = job.position, last_place
            self.places.note(job.position, job.first_place)
        if job.kind is Kind.SNAPSHOT:
            self.snapshot, self.snapshot_position = job.first_place, job.position
        if not job.done.done():
            job.done.set_result(job.position)

    # --- Resolution ---

    async def _resolve(self) -> None:
        """Until the oldest message of the window is known to be stored; then send the rest."""
        log.warning("log.append_waits", container=self._stream.container, reason=self._trouble)
        pause, broken_count = RETRY_PAUSE_S, 0
        began = self._clock.monotonic()
        while self._window:
            try:
                await self._until_connected()
                verdict = await self._ask_about_oldest()
            except StreamUnavailable as error:
                await self._note_refusal(error, began)
                verdict = Resend()
            match verdict:
                case Stored():
                    break
                case Fenced():
                    raise LogFenced(self._stream.container, self._epoch, verdict.newer_epoch)
                case Damaged():
                    raise self._damaged(verdict.reason)
                case StreamBroken():
                    broken_count += 1
                    if broken_count >= BROKEN_ANSWERS_MIN:
                        raise LogFailed(self._stream.container, verdict.reason)
                case Resend():
                    broken_count = 0
                case _:
                    assert_never(verdict)
            await self._clock.sleep(pause)
            pause = min(2 * pause, RETRY_PAUSE_MAX_S)
        log.info(
            "log.append_resumed",
            container=self._stream.container,
            waited_s=round(self._clock.monotonic() - began, 2),
        )
        await self._send_again()

    async def _until_connected(self) -> None:
        client = self._stream.client
        while not client.is_connected:
            if client.is_closed:
                raise LogFailed(self._stream.container, "our own connection to NATS was closed")
            await self._clock.sleep(RETRY_PAUSE_S)
        self._reconnects = client.stats["reconnects"]

    async def _ask_about_oldest(self) -> Verdict:
        """Publish the oldest message again, and find out what became of it when it is refused.

        Everything below it is resolved, so what lies at its place settles it. (Not so for a
        later one: that could be a straggler behind the epoch record of a new owner.)
        """
        oldest = self._window[0]
        stamp = oldest.stamp
        try:
            place = await self._stream.publish(
                self._stream.frames_subject, oldest.message, expected=stamp.place - 1
            )
        except WrongLastSequence:
            verdict = await self._judge(stamp)
            if isinstance(verdict, Stored):
                self._acknowledge(stamp.place)
                await self._look_further()
            return verdict
        if place != stamp.place:
            return await self._judge(stamp)
        self._acknowledge(place)
        return Stored()

    async def _look_further(self) -> None:
        """What comes behind a message that was stored mostly was stored too: look before all of
        it is sent again. The window may lose its head meanwhile, to answers that come late."""
        while self._window:
            stamp = self._window[0].stamp
            if await self._stamp_at(stamp.place) != stamp:
                return
            self._acknowledge(stamp.place)

    async def _judge(self, mine: Stamp) -> Verdict:
        at_place = await self._stamp_at(mine.place)
        if at_place == mine:
            return Stored()
        newest_epoch = await self._stream.newest_epoch()
        ends = await self._stream.ends()
        leader = Leader(newest_epoch, at_place, ends.first, ends.last)
        return decide(mine, self.confirmed, leader)

    async def _stamp_at(self, place: int) -> Stamp | str | None:
        message = await self._stream.message(place)
        if message is None:
            return None
        try:
            return decode(message)[0]
        except Broken as broken:
            return str(broken)

    async def _note_refusal(self, error: StreamUnavailable, began: float) -> None:
        """Tell of a full disk once. Raises LogFailed for a stream that somebody deleted."""
        if error.is_no_space and not self.no_space.is_set():
            self.no_space.set()
            log.warning("log.disk_full", container=self._stream.container, reason=str(error))
        if self._clock.monotonic() - began < GONE_AFTER_S:
            return
        try:
            await self._stream.ends()
        except StreamUnavailable as answer:
            if answer.is_gone:
                reason = f"the stream {self._stream.name} does not exist any more"
                raise LogFailed(self._stream.container, reason) from error

    async def _send_again(self) -> None:
        """All of the window once more, in order; answers to earlier sendings do not disturb."""
        self._round += 1
        self._trouble = ""
        self.no_space.clear()
        self._heard_at = self._clock.monotonic()
        for outgoing in list(self._window):
            if not outgoing.is_acknowledged and not self._trouble:
                await self._publish(outgoing)

    def _damaged(self, reason: str) -> StreamDamaged:
        place = self._window[0].stamp.place if self._window else self.confirmed
        return StreamDamaged(self._stream.container, self._stream.name, place, reason)


def seen(done: asyncio.Future[int]) -> None:
    """Nobody waits for this mark. If it failed then the log did, and the appends tell."""
    if not done.cancelled():
        done.exception()
