"""One container's life in this store: opened, served, restarted after a failure, given up.

The container is a failure domain of its own: whatever ends it (a failed disk, a bug), the
process and the other containers go on. It is opened anew from its log, at most RESTARTS_MAX
times in RESTART_WINDOW_S, then it is given up with an error in the log: somebody has to look.
A damaged log is given up at once, for opening it again would tell the same. A disk that is too
full to open a log is waited for. Fenced by another store, it just ends; the store's registry
loop (store.py) decides whether to try again.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from anabranch_events import subjects
from anabranch_events.bus import ChunkAnswer, ChunkReport
from anabranch_kit.membership import LEASE_MS
from anabranch_kit.ports.bus import Bus, BusUnavailable
from anabranch_kit.ports.clock import Clock

from anabranch_segmentstore.api import SegmentContainer
from anabranch_segmentstore.container import Container
from anabranch_segmentstore.domain.errors import ContainerStopped
from anabranch_segmentstore.ports import (
    ContainerId,
    DurableLog,
    LogDamaged,
    LogError,
    LogFailed,
    LogFenced,
    LogStore,
)

RESTARTS_MAX: Final = 3
RESTART_WINDOW_S: Final = 60.0
RESTART_PAUSE_S: Final = 0.2
DISK_FULL_PAUSE_S: Final = 5.0  # each attempt may leave an empty epoch in the log's directory
READY_WAIT_S: Final = 15.0  # how long requests wait for a container that is being opened
SUBSCRIBE_AGAIN_S: Final = 1.0
OWNER_CHECK_S: Final = LEASE_MS / 1000 / 3  # of a container that has nothing to answer

Opener = Callable[[ContainerId, DurableLog], Awaitable[Container]]
log = structlog.stdlib.get_logger("anabranch.hosting")


class ContainerHost:
    """Runs one container until stopped, fenced or given up. `run` it in a task; `stop` ends it."""

    def __init__(
        self,
        number: ContainerId,
        *,
        owner: str,
        logs: LogStore,
        open_container: Opener,
        bus: Bus,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        """`open_container` recovers a container from its log and starts its tiering;
        `on_change` is called when the container has begun or ceased to serve."""
        self.number = number
        self._owner, self._logs, self._open = owner, logs, open_container
        self._bus, self._clock, self._on_change = bus, clock, on_change
        self._container: Container | None = None
        self._stopping = asyncio.Event()
        self._changed = asyncio.Condition()
        self._starts: deque[float] = deque()
        self.is_silent = False  # a container ended here, and none answers in its place yet
        self.given_up = ""  # why
        self.is_over = False

    # --- What others ask ---

    @property
    def container(self) -> Container | None:
        """The container, while it serves."""
        return self._container

    async def ready(self, segment: str) -> SegmentContainer:
        """The container, once it serves. Raises ContainerStopped."""
        container = self._container
        if container is not None:
            return container
        try:
            async with asyncio.timeout(READY_WAIT_S), self._changed:
                await self._changed.wait_for(lambda: self._container or self.is_over)
        except TimeoutError:
            raise ContainerStopped(segment, "it is still being opened") from None
        opened = self.container
        if opened is None:
            raise ContainerStopped(segment, self.given_up or "it has stopped")
        return opened

    def confirm(self, segment: str) -> None:
        """Before a reply leaves: that this is still the owner. Raises ContainerStopped."""
        container = self._container
        if container is None:
            raise ContainerStopped(segment, self.given_up or "it has stopped")
        try:
            container.log.check_owner()
        except LogError as error:
            container.fail(error)
            raise ContainerStopped(segment, str(error)) from error

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Finish what was accepted and close the log; `run` returns then."""
        self._stopping.set()

    # --- Its life ---

    async def run(self) -> None:
        """Until stopped, fenced or given up."""
        try:
            while not self._stopping.is_set():
                reason = await self._live()
                if not await self._may_restart(reason):
                    return
        finally:
            self.is_over = True
            await self._serve(None)

    async def _may_restart(self, reason: Exception | None) -> bool:
        match reason:
            case None:
                return False
            case LogFenced():
                log.warning("container.fenced", container=self.number, reason=str(reason))
                return False
            case LogDamaged():
                self._give_up(reason)
                return False
            case LogFailed() if _is_disk_full(reason):
                log.warning("container.disk_full", container=self.number, reason=str(reason))
                await self._pause(DISK_FULL_PAUSE_S)
                return True
        now = self._clock.monotonic()
        while self._starts and now - self._starts[0] > RESTART_WINDOW_S:
            self._starts.popleft()
        if len(self._starts) >= RESTARTS_MAX:
            self._give_up(reason)
            return False
        self._starts.append(now)
        log.error(
            "container.restarting",
            container=self.number,
            reason=str(reason),
            exc_info=_traceback_of(reason),
        )
        await self._pause(RESTART_PAUSE_S)
        return True

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless asked to stop."""
        pause = asyncio.ensure_future(self._clock.sleep(seconds))
        asked = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([pause, asked], return_when=asyncio.FIRST_COMPLETED)
        pause.cancel()
        asked.cancel()

    def _give_up(self, reason: Exception) -> None:
        self.given_up = f"container {self.number} was given up: {reason}"
        log.error(
            "container.given_up",
            container=self.number,
            restarts=len(self._starts),
            reason=str(reason),
            exc_info=_traceback_of(reason),
        )

    async def _live(self) -> Exception | None:
        """Open, serve, close. The reason of the end, None when it was asked to stop."""
        try:
            opened = await self._logs.open(self.number, owner=self._owner)
        except Exception as error:  # noqa: BLE001  the edge of the container's failure domain
            return error
        is_clean = False
        try:
            container = await self._open(self.number, opened)
            reason = await self._run(container)
            is_clean = reason is None
        except Exception as error:  # noqa: BLE001  the edge of the container's failure domain
            return error
        else:
            return reason
        finally:
            await opened.close(clean=is_clean)

    async def _run(self, container: Container) -> Exception | None:
        ended = asyncio.ensure_future(container.run())
        asked = asyncio.ensure_future(self._stopping.wait())
        reports = asyncio.ensure_future(self._serve_reports(container))
        watch = asyncio.ensure_future(self._watch(container))
        log.info("container.serving", container=self.number, epoch=container.log.epoch)
        await self._serve(container)
        try:
            await asyncio.wait([ended, asked, reports, watch], return_when=asyncio.FIRST_COMPLETED)
            for helper in (reports, watch):
                if helper.done():
                    helper.result()
            return ended.result() if ended.done() else None
        finally:
            await self._serve(None)
            asked.cancel()
            reports.cancel()
            watch.cancel()
            await asyncio.wait([reports, watch])
            await container.stop()
            await ended
            self.is_silent = True
            self._on_change()
            log.info("container.stopped", container=self.number)

    async def _serve(self, container: Container | None) -> None:
        if self._container is container and not self.is_over:
            return
        self._container = container
        self.is_silent = self.is_silent and container is None
        async with self._changed:
            self._changed.notify_all()
        self._on_change()

    async def _watch(self, container: Container) -> None:
        """Ask for the owner in quiet times too, until cancelled."""
        while True:
            await self._clock.sleep(OWNER_CHECK_S)
            try:
                container.log.check_owner()
            except LogError as error:
                container.fail(error)

    async def _serve_reports(self, container: Container) -> None:
        """Answer the tierers' reports until cancelled, whenever the bus is there."""

        async def handle(payload: bytes) -> bytes:
            report = msgspec.json.decode(payload, type=ChunkReport)
            answer: ChunkAnswer = await container.chunk_report(report)
            return msgspec.json.encode(answer)

        subject = subjects.chunk_reports(self.number)
        while True:
            try:
                subscription = await self._bus.serve(subject, handle)
                break
            except BusUnavailable:
                await self._clock.sleep(SUBSCRIBE_AGAIN_S)
        try:
            await asyncio.get_running_loop().create_future()  # until cancelled
        finally:
            await subscription.close()


def _is_disk_full(reason: LogFailed) -> bool:
    cause = reason.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def _traceback_of(reason: Exception) -> Exception | None:
    """A bug's traceback is worth reading; a disk's error says all in its message."""
    return None if isinstance(reason, LogError) else reason
