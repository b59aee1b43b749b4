"""How a service process starts, stops and fails, seen from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = """
import asyncio, sys
from anabranch_kit import run
from anabranch_kit.logging import configure_logging

configure_logging(service="example", member="example-0")
{limits}

async def main(stop):
    print("started", flush=True)
    {body}

sys.exit(run.run_service(main, uvloop={uvloop}))
"""


@contextmanager
def service(
    body: str, *, uvloop: bool = True, flags: tuple[str, ...] = (), limits: str = ""
) -> Iterator[subprocess.Popen[str]]:
    program = PROGRAM.format(body=body, uvloop=uvloop, limits=limits)
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def outcome(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, str]]]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, [json.loads(line) for line in errors.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("uvloop", [True, False])
def test_signal_stops_cleanly(number: signal.Signals, uvloop: bool) -> None:
    """Ctrl-C or a container's stop would end in a traceback or a kill."""
    with service("await stop.wait()", uvloop=uvloop) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        status, lines = outcome(process)
    assert status == 0
    assert [line["event"] for line in lines] == ["service.stopping", "service.stopped"]
    assert lines[0]["service"] == "example"
    assert lines[0]["member"] == "example-0"


def test_failure_is_logged_once_with_its_cause() -> None:
    """A dead service would leave no trace of why."""
    with service("raise ValueError('the cause')") as process:
        status, lines = outcome(process)
    assert status == 1
    assert [line["event"] for line in lines] == ["service.failed"]
    assert "ValueError: the cause" in lines[0]["exception"]


def test_cannot_start_is_one_line_without_a_traceback() -> None:
    """A port that is taken would read like a bug."""
    body = "async with asyncio.TaskGroup(): raise run.CannotStart('port 1 is taken')"
    with service(body) as process:
        status, lines = outcome(process)
    assert status == 3
    assert lines[0]["reason"] == "port 1 is taken"
    assert "exception" not in lines[0]


def test_ending_unasked_is_a_failure() -> None:
    """A service that fell asleep would count as finished and not be started again."""
    with service("return") as process:
        status, lines = outcome(process)
    assert status == 1
    assert lines[-1]["event"] == "service.ended_unasked"


def test_service_that_ignores_the_stop_is_cancelled_then_ended() -> None:
    """A hanging service would never go."""
    limits = "run.STOP_CLEAN_S, run.STOP_TIMEOUT_S = 0.1, 0.3"
    with service("await asyncio.sleep(60)", limits=limits) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        status, lines = outcome(process)
    assert (status, lines[-1]["event"]) == (0, "service.stop_forced")
    body = """
    while True:
        try: await asyncio.sleep(60)
        except asyncio.CancelledError: pass"""
    with service(body, limits=limits) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        status, lines = outcome(process)
    assert (status, lines[-1]["event"]) == (70, "service.stop_timeout")


def test_without_assertions_it_does_not_run() -> None:
    """`python -O` would take away the checks that guard data."""
    with service("await stop.wait()", flags=("-O",)) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "python -O" in errors
