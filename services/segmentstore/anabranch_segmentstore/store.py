"""The segment store: which containers run here, and where connections find them.

The registry says which containers this member should hold; the log of each decides whether it
may. The store follows the assignments, says in the registry what it serves, and stops a
container for which it sees another owner. A registry that is away or empty changes nothing:
what runs goes on running (architecture, "A zombie falls silent": it is the log that silences).

**Moves.** Whoever loses a container finishes what it accepted, closes the log with a release
record, and only then takes its serving record back; whoever gets it waits for that, at most
HANDOVER_WAIT_S and only while the old owner is a member, and then opens the log. So a move costs
no resent append and, with a log that waits for leases, no lease. The locator of the controllers
answers nobody meanwhile (its assignments say that the container moves).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache, partial
from typing import Any, Final

import structlog
from anabranch_kit.ids import NewId
from anabranch_kit.membership import LEASE_MS
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import (
    Assignment,
    Member,
    Registry,
    RegistryUnavailable,
    Serving,
)
from anabranch_kit.run import CannotStart
from anabranch_wire import commands as c
from anabranch_wire.hashing import container_of

from anabranch_segmentstore.api import SegmentContainer
from anabranch_segmentstore.connection import Connection
from anabranch_segmentstore.domain.errors import ContainerStopped, Refusal
from anabranch_segmentstore.forwarding import Forwarding
from anabranch_segmentstore.hosting import READY_WAIT_S, ContainerHost
from anabranch_segmentstore.ports import ContainerId

POLL_S: Final = 1.0  # the registry is looked at this often even without a notice
NAMES_CACHED_MAX: Final = 65_536  # segment names whose container is remembered, some 200 B each
CONNECTIONS_MAX: Final = 8192  # each has a receive buffer of 64 KiB
STOP_TIMEOUT_S: Final = 5.0  # for containers to drain and close
HANDOVER_WAIT_S: Final = LEASE_MS / 1000  # for the old owner of a container to hand it over

log = structlog.stdlib.get_logger("anabranch.store")


class ContainersCountChanged(CannotStart):
    """The registry names another number of containers than the one in use here."""

    def __init__(self, here: int, registry: int) -> None:
        super().__init__(
            f"the registry says that the cluster has {registry} containers, this store works "
            f"with {here}. The number is fixed when a cluster is created: is --redis-url "
            "that of another cluster?"
        )


class SegmentStore:
    """Owns the container hosts and the connections. `run` it; it ends by cancellation."""

    def __init__(
        self,
        *,
        registry: Registry,
        make_host: Callable[[ContainerId, Callable[[], None]], ContainerHost],
        clock: Clock,
        new_id: NewId,
        containers_count: int | None = None,
        claim: Callable[[str], None] | None = None,
    ) -> None:
        """`make_host` gets a container's number and what to call when it serves or ceases to;
        `claim` gets the cluster's id before the first log is opened, and may refuse it."""
        self._registry, self._make_host = registry, make_host
        self._clock, self._new_id = clock, new_id
        self._claim, self._claimed = claim, ""  # the id of the cluster
        self._count = containers_count
        self._counted = asyncio.Event()
        if containers_count is not None:
            self._counted.set()
        self._hosts: dict[int, ContainerHost] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._assignments: Mapping[int, Assignment] = {}
        self._given_up: dict[int, tuple[Assignment, str]] = {}
        self._forwarding = Forwarding()
        self._handovers: dict[int, float] = {}  # containers to come, asked for at (monotonic)
        self._connections: set[Connection] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._look_again = asyncio.Event()
        self._number_of = lru_cache(NAMES_CACHED_MAX)(self._compute_number)

    # --- What connections ask (connection.Site) ---

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def new_id(self) -> NewId:
        return self._new_id

    def container_number(self, segment: str) -> int:
        return self._number_of(segment)

    def _compute_number(self, segment: str) -> int:
        assert self._count is not None, "asked for after container_of"
        return container_of(segment, self._count)

    async def container_of(self, segment: str) -> SegmentContainer:
        if self._count is None:
            await self._wait_for_count(segment)
        host = self._hosts.get(self._number_of(segment))
        if host is None:
            raise ContainerStopped(segment, "another store holds it, or none yet")
        return await host.ready(segment)

    async def container_numbered(self, number: int) -> SegmentContainer:
        host = self._hosts.get(number)
        if host is None:
            raise ContainerStopped("", f"container {number} does not run here")
        return await host.ready("")

    async def forward(self, segment: str, command: c.TableRequest) -> c.Reply | None:
        if self._count is None:
            return None
        number = self._number_of(segment)
        if number in self._hosts:
            return None  # it is being opened here; a client that comes back is served
        return await self._forwarding.request(number, command)

    def confirm(self, segment: str) -> None:
        host = self._hosts.get(self._number_of(segment))
        if host is None:
            raise ContainerStopped(segment, "it has stopped")
        host.confirm(segment)

    async def _wait_for_count(self, segment: str) -> None:
        try:
            async with asyncio.timeout(READY_WAIT_S):
                await self._counted.wait()
        except TimeoutError:
            raise ContainerStopped(segment, "the cluster is not known yet") from None

    def opened(self, connection: Connection) -> bool:
        if len(self._connections) >= CONNECTIONS_MAX:
            log.warning("store.too_many_connections", limit=CONNECTIONS_MAX, peer=connection.peer)
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def drop_transients(self, names: set[str]) -> None:
        for name in names:
            self._errand(self._drop_transient(name))

    async def _drop_transient(self, name: str) -> None:
        try:
            await (await self.container_of(name)).delete_segment(name)
        except Refusal as refusal:
            log.debug("store.transient_kept", segment=name, reason=str(refusal))

    # --- What the rest of the process asks ---

    @property
    def serving(self) -> list[ContainerHost]:
        return [host for host in self._hosts.values() if host.container is not None]

    @property
    def connections_count(self) -> int:
        return len(self._connections)

    def not_ready(self) -> list[str]:
        """Reasons, none when every container assigned to this store serves."""
        if self._count is None:
            return ["the registry does not name a cluster yet"]
        waiting = [host for host in self._hosts.values() if host.container is None]
        reasons = [f"container {host.number} is being opened" for host in waiting]
        return reasons + [reason for _, reason in self._given_up.values()]

    # --- Following the registry ---

    async def run(self, member: Member) -> None:
        """Follow the registry until cancelled, then stop all containers cleanly."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                while True:
                    await self._look_again.wait()
                    self._look_again.clear()
                    await self._reconcile(member)
        finally:
            await self._stop_all()

    async def _watch(self) -> None:
        async for _ in self._registry.changes(poll_s=POLL_S):
            self._look_again.set()

    async def _reconcile(self, member: Member) -> None:
        """Bring hosts and serving records in line with what the registry says now."""
        try:
            await self._learn_count()
            if self._count is None:
                return
            self._assignments = await self._registry.assignments()
            serving = await self._registry.serving()
            others = {n: one for n, one in serving.items() if one.member != member.id}
            self._forwarding.update(others)
            for number in range(self._count):
                await self._reconcile_one(member, ContainerId(number), serving.get(number))
        except RegistryUnavailable as unavailable:
            # `changes` logs that it is away, and gives a turn when it is back.
            log.debug("store.registry_away", reason=str(unavailable))

    async def _learn_count(self) -> None:
        info = await self._registry.cluster()
        if info is None:
            return
        if self._claim is not None and info.cluster_id != self._claimed:
            self._claim(info.cluster_id)
            self._claimed = info.cluster_id
        if self._count is None:
            self._count = info.containers_count
            self._counted.set()
            log.info("store.cluster_known", cluster=info.cluster_id, containers=self._count)
        elif self._count != info.containers_count:
            raise ContainersCountChanged(self._count, info.containers_count)

    async def _reconcile_one(
        self, member: Member, number: ContainerId, serving: Serving | None
    ) -> None:
        assignment = self._assignments.get(number)
        is_mine = assignment is not None and assignment.member == member.id
        host = self._hosts.get(number)
        if host is None:
            if serving is not None and serving.incarnation == member.incarnation:
                await self._registry.clear_serving(number, incarnation=member.incarnation)
                serving = None
            if assignment is None or not is_mine:
                self._handovers.pop(number, None)
            elif not self._was_given_up(assignment) and self._is_free(member, number, serving):
                self._start(number)
            return
        if assignment is not None and not is_mine:
            if not host.is_stopping:
                log.info("store.container_moves", container=number, to=assignment.member)
            host.stop()
            return
        container = host.container
        if container is None:
            return
        if serving is not None and serving.incarnation != member.incarnation:
            if serving.epoch > container.log.epoch:
                log.warning("store.other_owner", container=number, owner=serving.member)
                host.stop()
                return
        elif serving is not None and serving.epoch == container.log.epoch:
            return
        await self._registry.set_serving(
            Serving(
                container=number,
                member=member.id,
                incarnation=member.incarnation,
                host=member.host,
                port=member.port,
                epoch=container.log.epoch,
            )
        )

    def _is_free(self, member: Member, number: int, serving: Serving | None) -> bool:
        """Whether the old owner is gone, has handed the container over, or takes too long."""
        if serving is not None and serving.member != member.id:
            now = self._clock.monotonic()
            asked_at = self._handovers.setdefault(number, now)
            if now - asked_at < HANDOVER_WAIT_S:
                return False
            log.warning("store.handover_late", container=number, owner=serving.member)
        self._handovers.pop(number, None)
        return True

    def _was_given_up(self, assignment: Assignment) -> bool:
        """An operator, or another generation, has to come first."""
        given_up = self._given_up.get(assignment.container)
        return given_up is not None and given_up[0] == assignment

    # --- Hosts ---

    def _start(self, number: ContainerId) -> None:
        host = self._make_host(number, partial(self._host_changed, number))
        self._hosts[number] = host
        self._given_up.pop(number, None)
        self._tasks[number] = asyncio.create_task(self._run_host(host))
        self._tasks[number].add_done_callback(self._errand_done)

    def _host_changed(self, number: int) -> None:
        self._look_again.set()
        host = self._hosts.get(number)
        if host is not None and host.is_silent:
            for connection in list(self._connections):
                connection.close_if_writing_to(number)

    async def _run_host(self, host: ContainerHost) -> None:
        """A host handles what its container does; what it raises itself is a bug of ours."""
        number = host.number
        try:
            await host.run()
        finally:
            assignment = self._assignments.get(number)
            if host.given_up and assignment is not None:
                self._given_up[number] = assignment, host.given_up
            if self._hosts.get(number) is host:
                del self._hosts[number]
                self._tasks.pop(number, None)
                self._look_again.set()

    async def _stop_all(self) -> None:
        hosts, tasks = [*self._hosts.values()], [*self._tasks.values()]
        for host in hosts:
            host.stop()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
            for task in late:
                log.warning("store.stop_timeout", after_s=STOP_TIMEOUT_S)
                task.cancel()
        for connection in list(self._connections):
            connection.close_after_replies("the store stops")
        for errand in self._errands:
            errand.cancel()
        await self._forwarding.close()

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("store.bug", exc_info=bug)
