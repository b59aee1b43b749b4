"""Written events with fsync, through the official client, beside what the disk does alone.

    make bench        or: python benchmarks/write.py [--seconds 10] [--data DIR] [--json FILE]

Starts a standalone cluster on free ports and writes to one segment with the unmodified
`pravega_client`, for each size of event. Every event is acknowledged only after `fdatasync` of
the log. In the same run, right after each size, it writes batches of the size that the server's log
had just written, by `pwritev` + `fdatasync` into a preallocated file beside the log: that is what
the disk does alone, and the ratio is what the table is about, for the disk is not the same twice.

CPU is that of the segment store's process, from /proc. The client and all services share the
machine with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EVENT_BYTES = (100, 1_000, 100_000)
IN_FLIGHT_BYTES_MAX = 64 * 1024 * 1024  # what the client may have unacknowledged
DISK_SECONDS = 1.0  # of each measurement of the disk alone
DISK_MEASUREMENTS = 4  # right after the writer's time; the best one counts
DISK_FILE_BYTES = 64 * 1024 * 1024
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
MIB = 1_000_000  # megabytes here are of 10^6 bytes

WRITER = """
import json, sys, time
import pravega_client
controller, stream, size, seconds, in_flight = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
manager = pravega_client.StreamManager(controller.removeprefix("tcp://"), False, False)
manager.create_scope("bench")
manager.create_stream("bench", stream, 1)
writer = manager.create_writer("bench", stream, in_flight)
event = bytes(size)
writer.write_event_bytes(event, "warm")
writer.flush()
print("started", flush=True)
begin = time.perf_counter()
count = 0
while time.perf_counter() - begin < seconds:
    for _ in range(max(1, 20_000 // size)):
        writer.write_event_bytes(event, "key")
        count += 1
writer.flush()
print(json.dumps({"events": count, "seconds": time.perf_counter() - begin}), flush=True)
"""


@dataclass
class Row:
    """One line of the table; `mb` are 10^6 bytes of events without their headers."""

    event_bytes: int
    events_per_s: float
    mb_per_s: float
    batch_kb: float
    syncs_per_s: float
    disk_alone_mb_per_s: float
    ratio: float
    server_cpu_ms_per_mb: float
    server_cpu_cores: float


@dataclass
class Reading:
    """What the server had done at one moment."""

    cpu_s: float
    batches: float
    log_bytes: float


class Cluster:
    """A standalone cluster in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        ready = directory / "ready.json"
        self._metrics_port = free_port()
        anabranch = Path(sys.executable).with_name("anabranch")
        command = [str(anabranch), "standalone", "--data", str(self.data)]
        for port in ("controller", "rest", "segmentstore", "nats", "redis"):
            command += [f"--{port}-port", "0"]
        command += ["--ready-file", str(ready)]
        environment = {
            **os.environ,
            "ANABRANCH_SEGMENTSTORE__HEALTH_PORT": str(self._metrics_port),
        }
        log = (directory / "standalone.log").open("wb")
        self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        log.close()
        wait_for(ready, self.process, directory / "standalone.log")
        self.addresses: dict[str, Any] = json.loads(ready.read_text())

    def reading(self) -> Reading:
        url = f"http://127.0.0.1:{self._metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return Reading(
            cpu_s=cpu_seconds(self.addresses["pids"]["segmentstore-0"]),
            batches=total(text, "anabranch_log_batches_total"),
            log_bytes=total(text, "anabranch_log_bytes_total"),
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def wait_for(ready: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"the cluster did not start:\n{log.read_text()}")
        time.sleep(0.05)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def total(metrics: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", metrics, re.M))


def disk_alone(directory: Path, batch_bytes: int, seconds: float) -> float:
    """Bytes per second of sequential pwritev + fdatasync of batches of one length."""
    path = directory / "disk_alone"
    size = max(DISK_FILE_BYTES, 4 * batch_bytes)
    batch = [os.urandom(min(batch_bytes, 65_536))] * max(1, batch_bytes // 65_536)
    length = sum(map(len, batch))
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        written, spent = 0, 0.0
        while spent < seconds:
            os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, size)
            os.fsync(descriptor)
            begin = time.perf_counter()
            for offset in range(0, size - length + 1, length):
                os.pwritev(descriptor, batch, offset)
                os.fdatasync(descriptor)
                written += length
                if spent + time.perf_counter() - begin > seconds:
                    break
            spent += time.perf_counter() - begin
    finally:
        os.close(descriptor)
        path.unlink()
    return written / spent


def measure(cluster: Cluster, event_bytes: int, seconds: int) -> Row:
    in_flight = max(16, min(100_000, IN_FLIGHT_BYTES_MAX // event_bytes))
    arguments = [cluster.addresses["controller"], f"size-{event_bytes}"]
    numbers = [str(event_bytes), str(seconds), str(in_flight)]
    command = [sys.executable, "-c", WRITER, *arguments, *numbers]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    if writer.stdout.readline() != "started\n":
        raise SystemExit("the writer did not start")
    before = cluster.reading()
    begin = time.perf_counter()
    written = json.loads(writer.stdout.readline())
    spent = time.perf_counter() - begin
    after = cluster.reading()
    writer.wait()

    batches = max(1.0, after.batches - before.batches)
    batch_bytes = round((after.log_bytes - before.log_bytes) / batches)
    wal = cluster.data / "wal"
    alone = max(disk_alone(wal, batch_bytes, DISK_SECONDS) for _ in range(DISK_MEASUREMENTS))
    rate = written["events"] * event_bytes / written["seconds"]
    cpu = after.cpu_s - before.cpu_s
    return Row(
        event_bytes=event_bytes,
        events_per_s=written["events"] / written["seconds"],
        mb_per_s=rate / MIB,
        batch_kb=batch_bytes / 1000,
        syncs_per_s=batches / spent,
        disk_alone_mb_per_s=alone / MIB,
        ratio=rate / alone,
        server_cpu_ms_per_mb=cpu * 1000 / (written["events"] * event_bytes / MIB),
        server_cpu_cores=cpu / spent,
    )


HEADINGS = (
    ("event", "B", "{event_bytes:,}"),
    ("events/s", "", "{events_per_s:,.0f}"),
    ("written", "MB/s", "{mb_per_s:.1f}"),
    ("mean batch", "kB", "{batch_kb:.1f}"),
    ("syncs/s", "", "{syncs_per_s:.0f}"),
    ("disk alone", "MB/s", "{disk_alone_mb_per_s:.1f}"),
    ("of the disk", "", "{ratio:.0%}"),
    ("server CPU", "ms/MB", "{server_cpu_ms_per_mb:.1f}"),
    ("server CPU", "cores", "{server_cpu_cores:.2f}"),
)


def table(rows: Sequence[Row]) -> str:
    lines = [[f"{name} {unit}".strip() for name, unit, _ in HEADINGS]]
    lines += [[form.format(**asdict(row)) for _, _, form in HEADINGS] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    rule = ["-" * (width - 1) + ":" for width in widths]
    formatted = [
        "| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(formatted)


@contextlib.contextmanager
def scratch(data: Path | None) -> Iterator[Path]:
    """A directory on the disk to be measured; the system's scratch place may be in memory."""
    directory = Path(tempfile.mkdtemp(prefix="anabranch-bench-", dir=data or Path.cwd()))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="writing time for each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=EVENT_BYTES, help="event bytes")
    parser.add_argument("--data", type=Path, help="where to write (default: the current folder)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    with scratch(arguments.data) as directory:
        cluster = Cluster(directory)
        try:
            rows = [measure(cluster, size, arguments.seconds) for size in arguments.sizes]
        finally:
            cluster.stop()
    print(table(rows))
    figures = json.dumps([asdict(row) for row in rows])
    print(figures)
    if arguments.json:
        arguments.json.write_text(figures + "\n")


if __name__ == "__main__":
    main()
