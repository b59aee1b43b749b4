"""`make run`, only shorter: the whole night in a minute, on a cluster of the demo's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ANABRANCH = Path(sys.executable).with_name("anabranch")
NIGHT = ("--seconds", "60", "--rate", "300", "-o", "json")
NIGHT_LIMIT_S = 240.0
STOP_LIMIT_S = 60.0


def demo(folder: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(ANABRANCH), "demo", "taxi", "--out", str(folder), *NIGHT, *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


@pytest.mark.slow
@pytest.mark.timeout(NIGHT_LIMIT_S + 30)
def test_a_night_of_taxi_trips_scales_the_stream_and_is_read_exactly_once(tmp_path: Path):
    """The first thing that a newcomer runs would fail, or show nothing."""
    process = demo(tmp_path)
    told, said = process.communicate(timeout=NIGHT_LIMIT_S)
    assert process.returncode == 0, said
    summary = json.loads(told)
    assert summary["passed"] is True
    assert set(summary["checks"].values()) == {"ok"}
    assert summary["events"] > 5_000
    assert summary["splits"] >= 3
    assert summary["merges"] >= 3
    assert summary["segments_min"] <= 2 < summary["segments_max"]
    assert (tmp_path / "taxi-heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "taxi-heatmap.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path, number: signal.Signals):
    """Every demo that was cut short would leave a whole cluster running."""
    process = demo(tmp_path)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        assert any("written" in line for line in lines), "it ended before it began"
        assert len(processes_naming(tmp_path)) > 3
        process.send_signal(number)
        deadline = time.monotonic() + STOP_LIMIT_S
        while processes_naming(tmp_path) - {process.pid} or process.poll() is None:
            assert time.monotonic() < deadline, processes_naming(tmp_path)
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()


def processes_naming(folder: Path) -> set[int]:
    """All processes with this folder in their command line."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if str(folder).encode() in command and state != "Z":
                found.add(int(entry.name))
    return found
