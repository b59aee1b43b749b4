"""The supervisor of a standalone cluster: starts its processes, keeps them, stops them.

Start: NATS and Valkey first (both are up within a tenth of a second), then all services at
once, for most of their start is loading code. Then one task per child waits for its death;
a dead service is struck off the registry at once (the controller holds clients' calls until
its successor serves, see "Hold, don't refuse" in docs/architecture.md) and started again
after the pause that `restarts` names. A child that cannot be kept ends the cluster.

Stop: by waves, who uses a process before the process itself, SIGTERM and after a limit
SIGKILL. A second signal kills at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from anabranch_cli.addresses import ClusterFile
from anabranch_cli.output import ExitCode, Problem, note
from anabranch_kit.ports.clock import Clock
from anabranch_kit.ports.registry import Registry, RegistryUnavailable

from anabranch_standalone import children, readiness, restarts
from anabranch_standalone.children import Child, ChildSpec, describe_end
from anabranch_standalone.cluster import Cluster
from anabranch_standalone.held_port import HeldPort, can_hold

SERVERS_LIMIT_S: Final = 15.0
READY_LIMIT_S: Final = 60.0
READY_POLL_S: Final = 0.05
HELD_POLL_S: Final = 0.02
# A service leaves within 10 s by itself (anabranch_kit.run); the servers within 1 s.
STOP_LIMIT_S: Final = 12.0
# A second signal within this time is the first one's echo: some senders signal a process and
# its group (`timeout` does), and a terminal's Ctrl-C may come with the sender's own SIGTERM.
HURRY_AFTER_S: Final = 0.5
STRIKE_OFF_LIMIT_S: Final = 1.0
# SIGCHLD tells of a death at once; this catches one that came between two signals.
REAP_POLL_S: Final = 1.0
LOG_CHECK_S: Final = 30.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StopRequested(Exception):
    """A signal asked for the end."""


class Supervisor:
    """One run of one cluster. The data directory stays its caller's."""

    def __init__(self, cluster: Cluster, registry: Registry, *, clock: Clock) -> None:
        self._cluster, self._registry, self._clock = cluster, registry, clock
        self._children: dict[str, Child] = {}
        self._stop = asyncio.Event()
        self._stopped_at = 0.0
        self._ready = False

    @property
    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children.items()}

    @property
    def _logs(self) -> Path:
        return self._cluster.options.log_dir or self._cluster.data.logs

    async def run(self) -> None:
        """Until a signal. Raises Problem when a child cannot be kept or the start fails."""
        trouble: Problem | None = None
        with _signals(self._on_signal, self._reap):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._until_stop())
                    group.create_task(self._watch())
                    await self._start(group)
            except* _StopRequested:
                note("stopping …")
            except* Problem as problems:
                # Several children can give up together; the first one's report is enough.
                trouble = _first(problems)
            finally:
                self._remove_files()
                await self._stop_all()
        if trouble is not None:
            raise trouble

    async def _start(self, group: asyncio.TaskGroup) -> None:
        started = self._clock.monotonic()
        for spec in self._cluster.servers():
            self._keep(group, spec)
        await self._until_servers_listen()
        for spec in self._cluster.services():
            self._keep(group, spec)
        await self._until_ready()
        took = self._clock.monotonic() - started
        self._ready = True
        self._write_files()
        for line in address_table(self._cluster.addresses(self.pids), took):
            print(line)
        print("", end="", flush=True)

    # --- Keeping children ------------------------------------------------------------------

    def _keep(self, group: asyncio.TaskGroup, spec: ChildSpec) -> None:
        self._spawn(spec)
        group.create_task(self._keep_alive(group, spec))

    async def _keep_alive(self, group: asyncio.TaskGroup, spec: ChildSpec) -> None:
        deaths: list[float] = []
        while True:
            child = self._children[spec.name]
            exit_code = await child.wait()
            deaths = [*deaths[-restarts.DEATHS_MAX :], self._clock.monotonic()]
            match restarts.decide(deaths, exit_code, was_ready=self._ready):
                case restarts.GiveUp(reason):
                    raise _given_up(child, exit_code, reason)
                case restarts.Restart(pause_s):
                    held = self._hold(spec)
                    note(
                        f"{spec.name} (pid {child.pid}) {describe_end(exit_code)}; "
                        f"starting it again (log: {child.log})"
                    )
                    await self._strike_off(child)
                    await self._clock.sleep(pause_s)
                    self._spawn(spec)
                    if held is not None:
                        group.create_task(self._let_go(held, self._children[spec.name]))

    def _hold(self, spec: ChildSpec) -> HeldPort | None:
        if spec.held_port is None or not can_hold():
            return None
        try:
            return HeldPort(spec.held_port)
        except OSError as error:
            note(f"cannot hold port {spec.held_port} of {spec.name} meanwhile: {error.strerror}")
            return None

    async def _let_go(self, held: HeldPort, child: Child) -> None:
        """Close a held port once the child listens itself, or has died again."""
        try:
            while child.exit_code is None and not held.has_successor():
                await self._clock.sleep(HELD_POLL_S)
        finally:
            held.close()

    def _spawn(self, spec: ChildSpec) -> None:
        try:
            child = children.start(spec, logs=self._logs, lock_fd=self._cluster.data.lock_fd)
        except OSError as error:
            raise Problem(
                f"cannot start {spec.name} ({spec.command[0]}): {error.strerror}",
                hint="run `make setup` again",
            ) from error
        self._children[spec.name] = child
        if self._ready:
            self._write_files()

    async def _strike_off(self, child: Child) -> None:
        """Take the dead member's records out of the registry; its lease would do it later."""
        if not child.spec.is_member:
            return
        with contextlib.suppress(RegistryUnavailable, TimeoutError):
            async with asyncio.timeout(STRIKE_OFF_LIMIT_S):
                for member in await self._registry.members():
                    if member.pid == child.pid:
                        await self._registry.withdraw(member)

    async def _watch(self) -> None:
        """The safety net beside SIGCHLD, and the bound on the log files."""
        checked = self._clock.monotonic()
        while True:
            await self._clock.sleep(REAP_POLL_S)
            self._reap()
            if self._clock.monotonic() - checked > LOG_CHECK_S:
                checked = self._clock.monotonic()
                for child in self._children.values():
                    children.turn_over(child.log)

    def _reap(self) -> None:
        for child in list(self._children.values()):
            child.reap()

    # --- Becoming ready ----------------------------------------------------------------------

    async def _until_servers_listen(self) -> None:
        deadline = self._clock.monotonic() + SERVERS_LIMIT_S
        for name, port in self._cluster.listeners().items():
            while not await readiness.listens(port):
                if self._clock.monotonic() > deadline:
                    raise self._not_ready([f"{name} does not listen on port {port}"])
                await self._clock.sleep(READY_POLL_S / 5)

    async def _until_ready(self) -> None:
        deadline = self._clock.monotonic() + READY_LIMIT_S
        while lacks := await self._cluster.lacks(self._registry, self.pids):
            if refusals := [line for child in self._children.values() for line in child.refusals()]:
                raise Problem(
                    "the cluster cannot start:\n  " + "\n  ".join(refusals),
                    hint=f"the logs are in {self._logs}",
                    code=ExitCode.REFUSED,
                )
            if self._clock.monotonic() > deadline:
                raise self._not_ready(lacks)
            await self._clock.sleep(READY_POLL_S)

    def _not_ready(self, lacks: list[str]) -> Problem:
        quoted = [
            f"  {child.spec.name}: {line}"
            for child in self._children.values()
            for line in child.log_tail()[-2:]
        ]
        return Problem(
            "\n".join(["the cluster did not become ready: " + "; ".join(lacks), *quoted]),
            hint=f"the logs are in {self._logs}",
            code=ExitCode.TIMED_OUT,
        )

    # --- The end -----------------------------------------------------------------------------

    def _on_signal(self, number: signal.Signals) -> None:
        now = self._clock.monotonic()
        if not self._stop.is_set():
            self._stopped_at = now
        elif now - self._stopped_at > HURRY_AFTER_S:
            note(f"{number.name} again: killing the processes of the cluster")
            for child in self._children.values():
                child.signal(signal.SIGKILL)
        self._stop.set()

    async def _until_stop(self) -> None:
        await self._stop.wait()
        raise _StopRequested

    async def _stop_all(self) -> None:
        self._stop.set()  # a signal from here on hurries
        waves = sorted({child.spec.wave for child in self._children.values()}, reverse=True)
        reaper = asyncio.create_task(self._watch())
        try:
            for wave in waves:
                members = [child for child in self._children.values() if child.spec.wave == wave]
                ends = await asyncio.gather(
                    *(child.stop(limit_s=STOP_LIMIT_S) for child in members)
                )
                for child, clean in zip(members, ends, strict=True):
                    if not clean:
                        note(f"{child.spec.name} did not stop within {STOP_LIMIT_S:.0f} s: killed")
        finally:
            reaper.cancel()

    # --- Files -------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        ready_file = self._cluster.options.ready_file
        return [self._cluster.data.cluster_file, *([ready_file] if ready_file else [])]

    def _write_files(self) -> None:
        content = msgspec.json.encode(self._cluster.addresses(self.pids))
        for path in self._files():
            write_atomically(path, content + b"\n")

    def _remove_files(self) -> None:
        for path in self._files():
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the whole new one. Raises Problem."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        raise Problem(
            f"cannot write {path}: {error.strerror}",
            hint="name a file in a folder that exists with --ready-file",
            code=ExitCode.REFUSED,
        ) from error


def address_table(addresses: ClusterFile, took_s: float) -> list[str]:
    rows = [
        ("controller", addresses.controller),
        ("REST", addresses.rest),
        ("segment store", ", ".join(addresses.segmentstores)),
        ("NATS", addresses.nats),
        ("Redis", addresses.redis),
        ("data", addresses.data),
    ]
    width = max(len(name) for name, _ in rows)
    return [
        f"The cluster is ready ({took_s:.1f} s). Ctrl-C stops it.",
        *(f"  {name.ljust(width)}  {value}" for name, value in rows),
    ]


def _given_up(child: Child, exit_code: int, reason: str) -> Problem:
    tail = [f"  {line}" for line in child.log_tail()]
    return Problem(
        "\n".join([f"{child.spec.name} {describe_end(exit_code)} and stays down: {reason}", *tail]),
        hint=f"the whole log is in {child.log}",
    )


def _first(problems: BaseExceptionGroup[Problem]) -> Problem:
    for problem in problems.exceptions:
        return problem if isinstance(problem, Problem) else _first(problem)
    raise AssertionError("an exception group has members")


@contextlib.contextmanager
def _signals(
    on_stop: Callable[[signal.Signals], None], on_child: Callable[[], None]
) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, on_stop, number)
    loop.add_signal_handler(signal.SIGCHLD, on_child)
    try:
        yield
    finally:
        for number in (*SIGNALS, signal.SIGCHLD):
            loop.remove_signal_handler(number)
