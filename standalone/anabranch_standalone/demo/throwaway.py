"""A standalone cluster for one demo: in a temporary folder, on free ports, gone afterwards."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from anabranch_cli.addresses import ClusterFile, read_cluster_file
from anabranch_cli.output import ExitCode, Problem

READY_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 20.0
POLL_S: Final = 0.05
OUTPUT_SHOWN_LENGTH: Final = 2_000
PR_SET_PDEATHSIG: Final = 1


@asynccontextmanager
async def throwaway_cluster() -> AsyncIterator[ClusterFile]:
    """Raises Problem when the cluster does not come up."""
    with tempfile.TemporaryDirectory(prefix="anabranch-taxi-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        process = await _start(folder)
        try:
            yield await _until_ready(process, folder)
        finally:
            await _stop(process)


def end_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """What a child calls before it becomes a program: on Linux it gets this signal when we die.

    The library is looked up here, for a forked child must not import.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return ask


async def _start(folder: Path) -> asyncio.subprocess.Process:
    ports = [f"--{listener}-port=0" for listener in ("controller", "rest", "segmentstore")]
    with (folder / "output.log").open("wb") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "anabranch_cli.main",
            "standalone",
            f"--data={folder / 'data'}",
            f"--ready-file={folder / 'ready.json'}",
            *ports,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for the demo, which stops the cluster after its own writer and readers.
            start_new_session=True,
            # A demo that is killed takes its cluster with it.
            preexec_fn=end_with_parent(signal.SIGTERM),
        )


async def _until_ready(process: asyncio.subprocess.Process, folder: Path) -> ClusterFile:
    ready = folder / "ready.json"
    try:
        async with asyncio.timeout(READY_LIMIT_S):
            while not ready.exists():
                if process.returncode is not None:
                    raise Problem(
                        f"the cluster did not start (status {process.returncode})",
                        hint=_tail(folder / "output.log"),
                    )
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise Problem(
            f"the cluster was not ready within {READY_LIMIT_S:g} s",
            hint=_tail(folder / "output.log"),
            code=ExitCode.TIMED_OUT,
        ) from None
    return read_cluster_file(ready)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(path: Path) -> str:
    text = path.read_text(errors="replace").strip()
    return f"read what it said:\n{text[-OUTPUT_SHOWN_LENGTH:]}"
