"""`python -m anabranch_testkit.simulation --seeds 1000`, or `--seed 17` to replay one."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter

from anabranch_testkit.simulation.scenario import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="anabranch_testkit.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one alone, and show what happened")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this time")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        outcome = simulate(arguments.seed)
        print("\n".join(outcome.lines))
        print(outcome)
        return bool(outcome.violations)
    begun = time.monotonic()
    failed: list[int] = []
    turns = events = ran = 0
    virtual_s = 0.0
    profiles: Counter[str] = Counter()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        outcome = simulate(seed)
        ran += 1
        turns, events = turns + outcome.turns, events + outcome.events_count
        virtual_s += outcome.virtual_s
        profiles[outcome.profile.split(":")[0]] += 1
        if ran % 20 == 0:
            gc.collect()
        if outcome.violations:
            failed.append(seed)
            if arguments.keep_going:
                print(f"seed {seed}: {outcome.violations[0]}", flush=True)
            else:
                print(outcome.report())
                print(f"\nseed {seed} failed: {outcome.violations[0]}")
                print(f"replay it with: make simulate SEED={seed}")
                return 1
        if 0 < arguments.seconds < time.monotonic() - begun:
            break
    seconds = time.monotonic() - begun
    print(
        f"{ran} seeds in {seconds:.1f} s: {virtual_s:.0f} s of virtual time, {turns} callbacks, "
        f"{events} events checked; {dict(profiles)}"
    )
    if failed:
        print(f"{len(failed)} failed: {failed}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
