"""One run: a cluster, clients, a nemesis for a while, then quiet, then the audit."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from anabranch_wire import commands as c

from anabranch_testkit.simulation.auditor import Auditor
from anabranch_testkit.simulation.clients import (
    Chain,
    Client,
    ConditionalWriter,
    KeyHistory,
    Reader,
    Scaler,
    TableClient,
    Transactions,
    Unknown,
    Writer,
)
from anabranch_testkit.simulation.cluster import Cluster, Sizes
from anabranch_testkit.simulation.damage import damage_and_look
from anabranch_testkit.simulation.loop import (
    PROCESS,
    Process,
    SimulatedLoop,
    Stuck,
    run_simulated,
)
from anabranch_testkit.simulation.nemesis import Nemesis, choose_kinds

TROUBLE_S = (6.0, 25.0)
DAMAGE_SHARE = 0.3
QUIET_S_MAX = 240.0  # after the faults have ended everything must be done within this
LINES_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seed showed. `digest` is that of everything that happened."""

    seed: int
    profile: str
    violations: list[str]
    digest: str
    turns: int
    virtual_s: float
    events_count: int
    lines: list[str] = field(repr=False)

    def report(self) -> str:
        shown = [*self.lines[-LINES_SHOWN:], "", *self.violations]
        return "\n".join([f"seed {self.seed} ({self.profile}):", *shown])


def simulate(seed: int) -> Outcome:
    """Run a seed. It raises nothing: what goes wrong is among the violations."""
    loop = SimulatedLoop(seed)
    chance = random.Random(f"{seed}/scenario")
    profile, kinds = choose_kinds(chance)
    auditor = Auditor()
    with _silence(loop), _no_collections():
        try:
            scenario = _Scenario(loop, chance, auditor, kinds)
            run_simulated(loop, scenario.run())
        except Stuck as stuck:
            auditor.blame(f"stuck: {stuck}")
    auditor.violations += loop.failures
    return Outcome(
        seed,
        f"{profile}: {' '.join(kinds)}",
        auditor.violations,
        loop.digest.hexdigest(),
        loop.turns,
        loop.time(),
        auditor.events_count,
        list(loop.lines),
    )


class _Scenario:
    def __init__(
        self, loop: SimulatedLoop, chance: random.Random, auditor: Auditor, kinds: list[str]
    ) -> None:
        self.loop, self.chance, self.auditor, self.kinds = loop, chance, auditor, kinds
        self.cluster = Cluster(loop, Sizes.choose(chance), auditor)
        self.writes: dict[int, Sequence[str]] = {}
        self.clients: dict[str, asyncio.Task[None]] = {}
        self.chains: list[Chain] = []
        self.readers: list[asyncio.Task[None]] = []
        self.histories = {b"key-%d" % number: KeyHistory() for number in range(3)}
        self.transactions: Transactions | None = None

    async def run(self) -> None:
        process = Process(self.loop, "nemesis")
        self.cluster.start()
        nemesis = Nemesis(self.cluster, process, self.kinds)
        started = process.start(self._clients())
        await process.start(nemesis.run(self.chance.uniform(*TROUBLE_S)))
        nemesis.heal()
        try:
            async with asyncio.timeout(QUIET_S_MAX):
                await started
                await asyncio.gather(*self.clients.values())
                await self._audit()
        except TimeoutError:
            busy = [name for name, task in self.clients.items() if not task.done()]
            waits = f"clients that are not done: {' '.join(busy) or 'none'}"
            self.auditor.blame(f"no progress within {QUIET_S_MAX:g} s of quiet; {waits}")
        if self.chance.random() < DAMAGE_SHARE and not self.auditor.violations:
            await self._damage()

    # --- Clients ---

    async def _clients(self) -> None:
        chance = self.chance
        number = 0
        for stream in range(chance.randint(1, 2)):
            number += 1
            await self._chain_of(f"sim/chain{stream}", number)
        number += 1
        target = "sim/target/0.#epoch.0"
        await self._target(target, number)
        if chance.random() < 0.5:
            number += 1
            await self._conditional("sim/bytes/0.#epoch.0", number)
        if chance.random() < 0.5:
            self._tables()

    async def _chain_of(self, stream: str, number: int) -> None:
        chain = Chain([f"{stream}/0.#epoch.0"])
        self.chains.append(chain)
        self.writes[number] = chain.segments
        await self._setup(chain.segments[0])
        count = self.chance.randint(20, 250)
        self._start(f"writer-{number}", lambda p: Writer(self.cluster, p, number, chain, count))
        truncates = self.chance.random() < 0.4
        self._start_reader(f"reader-{number}", chain, truncates=truncates)
        times = self.chance.choice((0, 1, 3, 6))
        if times:
            self._start(f"scaler-{number}", lambda p: Scaler(self.cluster, p, chain, times))

    async def _target(self, segment: str, number: int) -> None:
        chain = Chain([segment])
        self.chains.append(chain)
        self.writes[number] = chain.segments
        await self._setup(segment)
        count = self.chance.randint(20, 150)
        self._start(f"writer-{number}", lambda p: Writer(self.cluster, p, number, chain, count))
        self._start_reader(f"reader-{number}", chain, truncates=False)
        numbers = range(100, 100 + self.chance.randint(0, 6))
        self._start("transactions", lambda p: self._make_transactions(p, segment, numbers))

    def _make_transactions(
        self, process: Process, target: str, numbers: Sequence[int]
    ) -> Transactions:
        self.transactions = Transactions(self.cluster, process, target, numbers)
        return self.transactions

    async def _conditional(self, segment: str, number: int) -> None:
        chain = Chain([segment])
        self.chains.append(chain)
        self.writes[number] = chain.segments
        await self._setup(segment)
        count = self.chance.randint(10, 80)
        self._start(
            f"writer-{number}", lambda p: ConditionalWriter(self.cluster, p, number, chain, count)
        )
        self._start_reader(f"reader-{number}", chain, truncates=self.chance.random() < 0.3)

    def _tables(self) -> None:
        for client in range(self.chance.randint(1, 3)):
            count = self.chance.randint(10, 60)
            self._start(
                f"table-{client}",
                lambda p, count=count: TableClient(
                    self.cluster, p, "sim/_tables/table/0.#epoch.0", self.histories, count
                ),
            )

    async def _setup(self, segment: str) -> None:
        await Client(self.cluster, Process(self.loop, "setup")).create(segment)

    def _start(self, name: str, make: Any) -> Any:
        process = Process(self.loop, name)
        client = make(process)
        self.clients[name] = process.start(client.run(process))
        return client

    def _start_reader(self, name: str, chain: Chain, *, truncates: bool) -> None:
        process = Process(self.loop, name)
        reader = Reader(self.cluster, process, chain, truncates=truncates)
        self.readers.append(process.start(reader.run(process)))

    # --- The end ---

    async def _damage(self) -> None:
        for task in self.readers:
            task.cancel()
        segments = [segment for chain in self.chains for segment in chain.segments]
        process = Process(self.loop, "damage")
        await process.start(damage_and_look(self.cluster, process, segments))

    async def _audit(self) -> None:
        process = Process(self.loop, "auditor")
        await process.start(self._read_everything(process))
        for container in self.cluster.live_containers():
            self.auditor.check_storage(container, self.cluster.objects.objects)
        if self.transactions is not None:
            for number in self.transactions.merged:
                self.writes[number] = [self.transactions.target]
        self.auditor.check_events(self.writes)
        for task in self.readers:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self.auditor.blame(f"a reader failed: {task.exception()!r}")

    async def _read_everything(self, process: Process) -> None:
        """What is there now, mostly from where it is colder than the cache."""
        if self.chance.random() < 0.5:
            for name in self.cluster.store_names:
                self.cluster.stores[name].process.kill()
                self.cluster.start_store(name)
        client = Client(self.cluster, process)
        for chain in self.chains:
            for segment in chain.segments:
                info = await client.info(segment)
                await self._read_all(client, segment, info.start_offset, info.write_offset)
                self.auditor.check_segment(segment, info.start_offset, info.write_offset)
        if any(name.startswith("table") for name in self.clients):
            table = TableClient(
                self.cluster, process, "sim/_tables/table/0.#epoch.0", self.histories, 0
            )
            for key in sorted(self.histories):
                while True:
                    try:
                        await table.read(key)
                        break
                    except Unknown:
                        continue

    async def _read_all(self, client: Client, segment: str, start: int, end: int) -> None:
        offset = start
        while offset < end:
            request = c.ReadSegment(segment, offset, end - offset)
            reply = await client.insist(segment, request, c.SegmentRead, c.SegmentIsTruncated)
            if isinstance(reply, c.SegmentIsTruncated):
                # A reader still truncates behind itself.
                if reply.start_offset not in self.auditor.segments[segment].truncations:
                    self.auditor.blame(f"{segment}: nobody truncated it at {reply.start_offset}")
                    return
                offset = reply.start_offset
                continue
            if not isinstance(reply, c.SegmentRead) or not reply.data:
                self.auditor.blame(f"{segment}: nothing at {offset} of {end}: {reply}")
                return
            self.auditor.observe(segment, offset, bytes(reply.data))
            offset += len(reply.data)


# --- Logs and memory ------------------------------------------------------------------------------


@contextmanager
def _silence(loop: SimulatedLoop) -> Iterator[None]:
    """The services' log events go to the run's own record."""

    def keep(_logger: object, level: str, event: Any) -> Any:
        process = PROCESS.get()
        name = process.name if process is not None else "-"
        traceback = event.pop("exc_info", None)
        details = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
        if traceback is not None:
            details += f" {traceback!r}"
        loop.lines.append(f"{loop.time():12.6f} {name} {level} {event['event']} {details}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _no_collections() -> Iterator[None]:
    """A collection ends suspended coroutines, at a moment that no seed decides."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
