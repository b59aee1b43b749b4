"""The services in virtual time, with faults, from seeds (docs/simulation.md)."""

from __future__ import annotations

import gc
import os
import time

import pytest
from anabranch_testkit.simulation.scenario import simulate

pytestmark = pytest.mark.simulation

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "300"))
PARTS = 6
SECONDS_MAX = 100.0  # of all parts; a slow machine runs fewer seeds


@pytest.mark.parametrize("part", range(PARTS))
def test_no_acknowledged_event_is_lost_doubled_or_reordered(part: int) -> None:
    """Events would be lost, stored twice, or read in another order after some mix of crashes,
    power cuts, pauses, partitions and failing disks."""
    begun = time.monotonic()
    for seed in range(part, SEEDS, PARTS):
        outcome = simulate(seed)
        assert not outcome.violations, (
            f"{outcome.report()}\n\nreplay it with: make simulate SEED={seed}"
        )
        if time.monotonic() - begun > SECONDS_MAX / PARTS:
            break
    gc.collect()


@pytest.mark.parametrize("seed", [3, 7, 11])
def test_a_seed_replays_exactly(seed: int) -> None:
    """A failure that the simulation found could not be looked at a second time."""
    first, second = simulate(seed), simulate(seed)
    assert first.digest == second.digest
    assert first.turns == second.turns
