"""The supervisor over fake children: it keeps them, stops them in order, and never leaves one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("fake_cluster.py")
LIMIT_S = 20.0


class Run:
    """One run of the fake cluster."""

    def __init__(self, folder: Path, *behaviours: str) -> None:
        self.data, self.ready_file = folder / "data", folder / "ready.json"
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, self.data, self.ready_file, *behaviours],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> dict[str, int]:
        """The pids of a ready cluster."""
        wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None)
        return json.loads(self.ready_file.read_text())["pids"]

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> tuple[int, str, str]:
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "not within the limit"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start_one(*behaviours: str) -> Run:
        runs.append(Run(tmp_path, *behaviours))
        return runs[-1]

    yield start_one
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()


def test_prints_its_addresses_and_writes_the_ready_file_when_all_is_up(start) -> None:
    """A script that waits for the ready file would never start its work."""
    run = start("first=stay", "second=stay")
    file = run.pids()
    assert set(file) == {"first", "second"}
    assert all(alive(pid) for pid in file.values())
    written = json.loads(run.ready_file.read_text())
    assert written["controller"] == "tcp://c"
    assert written["segmentstores"] == ["s"]
    code, out, _ = run.end()
    assert code == 0
    assert "tcp://c" in out
    assert "ready" in out


def test_stops_the_users_of_a_process_before_the_process(start) -> None:
    """A segment store without its bus at the end could not hand its containers back."""
    run = start("bottom=stay", "middle=stay", "top=stay")
    pids = run.pids()
    code, _, _ = run.end(signal.SIGINT)
    assert code == 0
    assert (run.data / "stopped").read_text().split() == ["top", "middle", "bottom"]
    assert not any(alive(pid) for pid in pids.values())
    assert not run.ready_file.exists(), "a stopped cluster is not ready"


def test_starts_a_killed_child_again_and_says_so(start) -> None:
    """A crash of one process would end the cluster, or go unnoticed."""
    run = start("fragile=stay", "steady=stay")
    before = run.pids()
    os.kill(before["fragile"], signal.SIGKILL)
    wait_until(lambda: run.pids()["fragile"] != before["fragile"])
    after = run.pids()
    assert alive(after["fragile"])
    assert after["steady"] == before["steady"]
    _, _, err = run.end()
    assert f"fragile (pid {before['fragile']}) was ended by SIGKILL" in err


def test_a_dead_member_is_struck_off_the_registry_at_once(start) -> None:
    """Clients would be sent to a dead process until its lease runs out."""
    run = start("fragile=stay", "steady=stay")
    pid = run.pids()["fragile"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: run.pids()["fragile"] != pid)
    assert (run.data / "withdrawn").read_text() == f"fragile {pid}\n"


def test_children_die_with_a_killed_supervisor_and_the_data_is_free_again(start) -> None:
    """After kill -9 the next start would find the ports or the data directory taken."""
    run = start("one=stay", "two=stubborn")
    pids = run.pids()
    run.end(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids.values()))
    for up in run.data.glob("*.up"):
        up.unlink()
    again = start("one=stay")
    wait_until(lambda: (run.data / "one.up").exists())
    assert again.end()[0] == 0


def test_kills_a_child_that_does_not_stop(start) -> None:
    """Ctrl-C would hang for ever on one stuck process."""
    run = start("stuck=stubborn")
    pids = run.pids()
    code, _, err = run.end()
    assert code == 0
    assert "stuck did not stop" in err
    assert not alive(pids["stuck"])


def test_a_second_signal_kills_at_once(start) -> None:
    """An impatient user would have to look for the processes by hand."""
    run = start("stuck=stubborn")
    run.pids()
    run.process.send_signal(signal.SIGINT)
    assert run.process.stderr.readline().startswith("stopping")
    run.process.send_signal(signal.SIGINT)
    _, _, err = run.end(None)
    assert "killing" in err


def test_gives_up_on_a_child_that_keeps_dying_and_quotes_its_log(start) -> None:
    """The user would stare at a start that never ends, or have to search the logs."""
    run = start("fine=stay", "broken=die")
    code, _, err = run.end(None)
    assert code == 1
    assert "broken ended with exit code 1 and stays down: it died 3 times" in err
    assert "the disk is on fire" in err
    assert "Traceback" not in err
    assert str(run.data / "log" / "broken.log") in err


def test_does_not_restart_a_child_that_refuses_its_settings(start) -> None:
    """A wrong setting would be tried again and again instead of being reported."""
    run = start("picky=refuse")
    code, _, err = run.end(None)
    assert code == 1
    assert "it refuses its settings" in err
    assert "no such setting" in err
    assert "starting it again" not in err


def test_a_child_that_refuses_its_data_ends_the_start_with_its_reason(start) -> None:
    """The user would wait a minute for a cluster that cannot become ready."""
    run = start("store=damaged")
    code, _, err = run.end(None)
    assert code == 5
    assert "container 0: damaged log: wal/0 at byte 17" in err
    assert "Traceback" not in err


def test_a_second_cluster_on_the_same_data_is_refused(start) -> None:
    """Two clusters would write over each other's data."""
    run = start("one=stay")
    run.pids()
    code, _, err = start("one=stay").end(None)
    assert code == 5
    assert str(run.data) in err
    assert f"in use by the cluster of process {run.process.pid}" in err
    assert "--data" in err
