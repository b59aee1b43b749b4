"""The simulation has teeth: planted bugs that it has to find (docs/simulation.md).

All of them: `.venv/bin/python tests/mutations/run.py`, some minutes.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.simulation

HERE = Path(__file__).parent
QUICKLY_FOUND = ("accept_any_number_above", "forget_writers_on_recovery", "retry_failed_fsync")
SEEDS = 60


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations_run", HERE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


run = _load()


@pytest.mark.parametrize("patch", run.patches(), ids=lambda patch: patch.stem)
def test_each_planted_bug_still_applies(patch: Path, tmp_path: Path) -> None:
    """A planted bug would be counted as found because its patch is broken, or never be tried."""
    fault, what = run.describe(patch)
    assert fault.startswith("F")
    assert what.endswith(".")
    run.apply(patch, tmp_path)


@pytest.mark.parametrize("name", QUICKLY_FOUND)
def test_a_planted_bug_is_found(name: str) -> None:
    """The simulation would say that all is well whatever the services did."""
    verdict = run.hunt(HERE / f"{name}.patch", seeds=SEEDS)
    assert verdict.seeds_count, verdict
