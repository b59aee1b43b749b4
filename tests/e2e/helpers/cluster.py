"""A cluster started as a user starts it: `anabranch standalone --ready-file`."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ANABRANCH = Path(sys.executable).with_name("anabranch")
READY_LIMIT_S = 60.0  # on a busy machine; what is promised is measured by a test of its own
STOP_LIMIT_S = 40.0
FREE_PORTS = tuple(
    part
    for flag in ("controller-port", "rest-port", "segmentstore-port", "nats-port", "redis-port")
    for part in (f"--{flag}", "0")
)
PR_SET_PDEATHSIG = 1


class StandaloneCluster:
    """`start`, `stop`, `kill` as often as a test likes, always over the same data."""

    def __init__(
        self, folder: Path, *flags: str, environment: dict[str, str] | None = None
    ) -> None:
        self.data = folder / "data"
        self.ready_file = folder / "ready.json"
        self._log = folder / "standalone.log"
        self._flags = flags
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.started_in_s = 0.0

    # --- Starting and ending ---------------------------------------------------------------

    def spawn(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start the supervisor without waiting for it."""
        command = [
            *(ANABRANCH, "standalone", "--data", self.data, "--ready-file", self.ready_file),
            *FREE_PORTS,
            *self._flags,
            *flags,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                preexec_fn=die_with_parent(),
            )
        return self._process

    def start(self, *flags: str) -> None:
        """Returns when the ready file is there."""
        started, busy_s = time.monotonic(), machine_busy_s()
        process = self.spawn(*flags)
        while not self.ready_file.exists():
            assert process.poll() is None, f"the cluster ended:\n{self.log()}"
            assert time.monotonic() < started + READY_LIMIT_S, f"not ready:\n{self.log()}"
            time.sleep(0.01)
        took_s = time.monotonic() - started
        own_s = sum(cpu_s(pid) for pid in (process.pid, *self.pids.values()))
        others_s = max(0.0, machine_busy_s() - busy_s - own_s)
        # What other programs took of the machine meanwhile could have been ours, but no start
        # is quicker than its own work.
        cores = os.cpu_count() or 1
        self.started_in_s = max(took_s - others_s / cores, own_s / cores)

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        assert self._process is not None, "the cluster runs"
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(STOP_LIMIT_S)
        self._process = None
        return code

    def kill_everything(self) -> None:
        """SIGKILL to the supervisor and every process of the cluster at once."""
        assert self._process is not None, "the cluster runs"
        pids = [self._process.pid, *self.pids.values()]
        for pid in pids:
            kill_quietly(pid)
        self._process.wait(STOP_LIMIT_S)
        wait_until(lambda: not any(is_alive(pid) for pid in pids), 10.0, "the processes are gone")
        self._process = None
        self.ready_file.unlink(missing_ok=True)

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor alone; its children have to follow by themselves."""
        assert self._process is not None, "the cluster runs"
        self._process.kill()
        self._process.wait()
        self._process = None
        self.ready_file.unlink()

    def wait_for_successor(self, name: str, old_pid: int) -> None:
        """Until a killed process was started again."""
        wait_until(lambda: self.pids[name] != old_pid, 10.0, f"{name} was started again")

    def end(self) -> None:
        """Whatever state the test left it in."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self, name: str) -> int:
        """SIGKILL one process; its old pid."""
        pid = self.pids[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    # --- Looking -----------------------------------------------------------------------------

    @property
    def addresses(self) -> dict[str, object]:
        return json.loads(self.ready_file.read_text())

    @property
    def pids(self) -> dict[str, int]:
        pids = self.addresses["pids"]
        assert isinstance(pids, dict)
        return pids

    @property
    def controller(self) -> str:
        return str(self.addresses["controller"])

    @property
    def supervisor_pid(self) -> int:
        assert self._process is not None, "the cluster runs"
        return self._process.pid

    def log(self) -> str:
        """What the supervisor printed, and the end of each process's log."""
        parts = [self._log.read_text(errors="replace")]
        for path in sorted((self.data / "log").glob("*.log")):
            parts.append(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}")
        return "\n".join(parts)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `anabranch …` against this cluster."""
        environment = {**os.environ, "ANABRANCH_CLUSTER": str(self.ready_file)}
        return subprocess.run(
            [ANABRANCH, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env=environment,
            check=False,
        )


def wait_until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)


def machine_busy_s() -> float:
    """Seconds that all cores together have worked since the machine started (man 5 proc_stat)."""
    user, nice, system, _, _, irq, softirq, steal, *_ = (
        int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Seconds that a process has worked."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill_quietly(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it died with its parent


def die_with_parent() -> Callable[[], None]:
    """So that an aborted test run leaves no cluster behind."""
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return arrange
