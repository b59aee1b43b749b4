"""Pravega's own standalone, started to run the same Java programs against it.

It listens on all interfaces, so it runs in a network namespace of its own (Linux: `unshare`),
which has nothing but a loopback interface. It keeps everything in memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

CONTROLLER_PORT: Final = 19090
REST_PORT: Final = 19091
STORE_PORT: Final = 16000
ZOOKEEPER_PORT: Final = 14000
READY_LIMIT_S: Final = 120.0
READY: Final = "running locally now"
INSIDE: Final = "ANABRANCH_COMPARE_INSIDE"

SETTINGS: Final = {
    "singlenode.controller.rpc.port": CONTROLLER_PORT,
    "singlenode.controller.rest.port": REST_PORT,
    "singlenode.segmentStore.port": STORE_PORT,
    "singlenode.zk.port": ZOOKEEPER_PORT,
    "pravegaservice.container.count": 4,
    "pravegaservice.storage.impl.name": "INMEMORY",
    "pravegaservice.dataLog.impl.name": "INMEMORY",
}


class Addresses(NamedTuple):
    controller: str
    rest: str


def isolate() -> None:
    """Start this very program again where only loopback is; returns when it is there."""
    if os.environ.get(INSIDE):
        return
    command = ["unshare", "--map-root-user", "--net", "sh", "-c"]
    inner = ['ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv]
    try:
        os.execvpe("unshare", [*command, *inner], {**os.environ, INSIDE: "1"})
    except FileNotFoundError:
        sys.exit("unshare is missing (Debian: apt install util-linux): it keeps Pravega local.")


@contextmanager
def pravega(folder: Path, classpath: str) -> Iterator[Addresses]:
    """Runs until the block ends; its log is in `folder`."""
    settings = folder / "config" / "standalone-config.properties"
    settings.parent.mkdir(parents=True)
    settings.write_text("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
    log = folder / "pravega.log"
    command = ["java", "-Xmx1500m", "-cp", classpath, "io.pravega.local.LocalPravegaEmulator"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + READY_LIMIT_S
        while READY not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"Pravega did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)
        host = "127.0.0.1"
        yield Addresses(f"tcp://{host}:{CONTROLLER_PORT}", f"http://{host}:{REST_PORT}")
    finally:
        process.kill()  # it is slow to stop, and has nothing to keep
        process.wait()
