"""A program: the real supervisor over fake children. Arguments: DATA READY_FILE [CHILD…].

Each CHILD is NAME=BEHAVIOUR: `stay` runs until SIGTERM, `stubborn` ignores SIGTERM, `die`
exits at once with code 1, `refuse` with 2 as for bad settings, `damaged` runs and logs that
it will not serve its data. `stay` writes NAME.stopped
into DATA when it stops, so that a test sees the order.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from anabranch_cli.addresses import ClusterFile
from anabranch_cli.output import Problem, fail
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.registry import Member, Registry
from anabranch_standalone import supervisor
from anabranch_standalone.children import ChildSpec
from anabranch_standalone.data_directory import DataDirectory
from anabranch_standalone.options import Options
from anabranch_standalone.supervisor import Supervisor
from anabranch_testkit.fakes.registry import MemoryRegistry

CHILD = """
import json, os, signal, sys
name, behaviour, data = sys.argv[1:]
if behaviour == "die":
    sys.exit("the disk is on fire")
if behaviour == "refuse":
    print("no such setting", file=sys.stderr)
    sys.exit(2)

def stop(*_):
    if behaviour == "stubborn":
        return
    with open(os.path.join(data, "stopped"), "a") as file:
        file.write(name + "\\n")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
if behaviour == "damaged":
    reason = "container 0: damaged log: wal/0 at byte 17"
    event = {"event": "container.given_up", "reason": reason}
    print(json.dumps(event), file=sys.stderr, flush=True)
    signal.pause()
open(os.path.join(data, name + ".up"), "w").close()
while True:
    signal.pause()
"""


class FakeCluster:
    def __init__(self, options: Options, data: DataDirectory, behaviours: list[str]) -> None:
        self.options, self.data = options, data
        self._specs = [
            self._spec(*behaviour.split("="), wave) for wave, behaviour in enumerate(behaviours)
        ]

    def _spec(self, name: str, behaviour: str, wave: int) -> ChildSpec:
        command = (sys.executable, "-c", CHILD, name, behaviour, str(self.data.path))
        return ChildSpec(name, command, {}, wave, is_member=True)

    def servers(self) -> list[ChildSpec]:
        return []

    def services(self) -> list[ChildSpec]:
        return self._specs

    def listeners(self) -> dict[str, int]:
        return {}

    async def lacks(self, registry: Registry, pids: dict[str, int]) -> list[str]:
        for name, pid in pids.items():
            member = Member(name, f"run-{pid}", "tierer", "127.0.0.1", 0, 0, pid)
            await registry.announce(member, lease_ms=600_000)
        ups = [name for name in pids if not (self.data.path / f"{name}.up").exists()]
        return [f"{name} is not up" for name in ups]

    def addresses(self, pids: dict[str, int]) -> ClusterFile:
        return ClusterFile(
            "tcp://c", "http://r", ("s",), "nats://n", "redis://r", str(self.data.path), pids
        )


class TellingRegistry(MemoryRegistry):
    """Writes down who was struck off."""

    def __init__(self, path: Path) -> None:
        super().__init__(SystemClock())
        self._path = path

    async def withdraw(self, member: Member) -> None:
        await super().withdraw(member)
        with self._path.open("a") as file:
            file.write(f"{member.id} {member.pid}\n")


async def run(cluster: FakeCluster) -> None:
    registry = TellingRegistry(cluster.data.path / "withdrawn")
    await Supervisor(cluster, registry, clock=SystemClock()).run()


def main() -> None:
    supervisor.STOP_LIMIT_S = 1.0
    supervisor.HURRY_AFTER_S = 0.0
    folder, ready_file, *behaviours = sys.argv[1:]
    try:
        data = DataDirectory(
            Path(folder), pid=os.getpid(), monotonic=time.monotonic, sleep=time.sleep
        )
        options = Options(data=Path(folder), ready_file=Path(ready_file))
        asyncio.run(run(FakeCluster(options, data, behaviours)))
    except Problem as problem:
        fail(problem)


if __name__ == "__main__":
    main()
