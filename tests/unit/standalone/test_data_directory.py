"""The lock of the data directory: one cluster at a time, and no lock for ever."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from anabranch_cli.output import ExitCode, Problem
from anabranch_standalone.data_directory import STALE_CHILDREN_S, DataDirectory


class Time:
    """Sleeping moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def open(self, path: Path) -> DataDirectory:
        return DataDirectory(path, pid=os.getpid(), monotonic=lambda: self.now, sleep=self.sleep)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def locked_by(path: Path, pid: int) -> int:
    """Hold the lock as a child of `pid` would, and return the descriptor."""
    path.mkdir()
    holder = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    os.write(holder, f"{pid}\n".encode())
    return holder


def test_a_running_owner_is_named(tmp_path: Path) -> None:
    """The user would not know which process to stop."""
    holder = locked_by(tmp_path / "data", os.getppid())
    with pytest.raises(Problem) as raised:
        Time().open(tmp_path / "data")
    os.close(holder)
    assert raised.value.code is ExitCode.REFUSED
    assert str(tmp_path / "data") in raised.value.message
    assert f"process {os.getppid()}" in raised.value.message
    assert "--data" in raised.value.hint


def test_waits_for_the_dying_children_of_a_dead_owner(tmp_path: Path) -> None:
    """A restart right after kill -9 would fail, though the data is free a moment later."""
    holder = locked_by(tmp_path / "data", dead_pid())
    time = Time()
    time.on_sleep = lambda: os.close(holder) if time.now == pytest.approx(0.05) else None
    data = time.open(tmp_path / "data")
    assert (tmp_path / "data" / "LOCK").read_text() == f"{os.getpid()}\n"
    data.close()


def test_children_that_stay_are_reported_after_a_while(tmp_path: Path) -> None:
    """The start would hang without a word."""
    holder = locked_by(tmp_path / "data", dead_pid())
    time = Time()
    with pytest.raises(Problem, match="still locked by children of the dead process"):
        time.open(tmp_path / "data")
    os.close(holder)
    assert time.now == pytest.approx(STALE_CHILDREN_S, abs=1.0)


def test_a_closed_directory_can_be_opened_again(tmp_path: Path) -> None:
    """A second start after a clean stop would be refused."""
    Time().open(tmp_path / "data").close()
    Time().open(tmp_path / "data").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The user would see a stack trace for a typing error in --data."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot use the data directory") as raised:
        Time().open(tmp_path / "file" / "data")
    assert str(tmp_path / "file") in raised.value.message
