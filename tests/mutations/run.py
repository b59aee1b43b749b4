"""Does the simulation find planted bugs? Each patch here is one; see docs/simulation.md.

    .venv/bin/python tests/mutations/run.py [NAME ...] [--seeds 1000] [--jobs 1]

A patch is applied to a copy of the services in a temporary folder, never to the tree itself.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEMBERS = ("services/segmentstore", "services/tierer", "shared/kit")
TIMEOUT_S = 900.0
_FAILED = re.compile(r"^seed (\d+) failed: (.*)$", re.MULTILINE)


class Verdict(NamedTuple):
    """`seeds_count` 0: not found."""

    name: str
    fault: str
    seeds_count: int
    seconds: float
    finding: str


def patches() -> list[Path]:
    return sorted(HERE.glob("*.patch"))


def describe(patch: Path) -> tuple[str, str]:
    """The fault and what is wrong, from the first line."""
    fault, what = patch.read_text().splitlines()[0].split(": ", 1)
    return fault, what


def apply(patch: Path, folder: Path) -> None:
    """Copy the services to `folder` and plant the bug there. Raises CalledProcessError."""
    for member in MEMBERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / member, folder / member, ignore=ignored)
    subprocess.run(
        ["git", "apply", "-C1", str(patch)], cwd=folder, check=True, capture_output=True, text=True
    )


def hunt(patch: Path, *, seeds: int, first: int = 0) -> Verdict:
    """Run seeds against the planted bug until one finds it."""
    begun = time.monotonic()
    fault, _ = describe(patch)
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
        folder = Path(scratch)
        apply(patch, folder)
        path = os.pathsep.join(str(folder / member) for member in MEMBERS)
        command = [sys.executable, "-m", "anabranch_testkit.simulation"]
        run = subprocess.run(
            [*command, "--first", str(first), "--seeds", str(seeds)],
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    found = _FAILED.search(run.stdout)
    seconds = time.monotonic() - begun
    if found is None:
        reason = run.stderr.strip().splitlines()[-1:] or ["not found"]
        return Verdict(patch.stem, fault, 0, seconds, reason[0])
    return Verdict(patch.stem, fault, int(found[1]) - first + 1, seconds, found[2])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(arguments)
    chosen = [one for one in patches() if not options.names or one.stem in options.names]
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for verdict in pool.map(lambda patch: hunt(patch, seeds=options.seeds), chosen):
            missed += verdict.seeds_count == 0
            seeds = f"{verdict.seeds_count:5} seeds" if verdict.seeds_count else "   NOT FOUND"
            print(
                f"{verdict.name:36} {verdict.fault:4} {seeds} {verdict.seconds:6.1f} s  "
                f"{verdict.finding:.110}",
                flush=True,
            )
    print(f"{len(chosen) - missed} of {len(chosen)} planted bugs found")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
