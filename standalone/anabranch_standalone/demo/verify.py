"""Was every trip read exactly once, and each key in order?

Each event carries its key and that key's own number, 0, 1, 2, …. A reader reports runs: it saw
numbers 7 to 12 of key 161 one after the other, from this time to that. A key is well when its
runs, put in the order of their numbers, follow each other without gap or overlap and in time:
the reader of a successor segment may not have begun before that of its predecessor ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from anabranch_standalone.demo.messages import Run

EXAMPLES_MAX: Final = 5


@dataclass(slots=True)
class Verdict:
    """Counts of events; `examples` names the first few troubles."""

    events_count: int = 0
    missing_count: int = 0
    doubled_count: int = 0
    unknown_count: int = 0
    out_of_order_count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        troubles = (
            self.missing_count,
            self.doubled_count,
            self.unknown_count,
            self.out_of_order_count,
        )
        return not any(troubles)

    def sentence(self) -> str:
        if self.is_good:
            return f"all {self.events_count:,} events read exactly once and in order per key"
        return (
            f"{self.missing_count:,} missing, {self.doubled_count:,} doubled,"
            f" {self.unknown_count:,} never written, {self.out_of_order_count:,} out of order"
            f" ({'; '.join(self.examples)})"
        )

    def note(self, example: str) -> None:
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(example)


def verify(written: Mapping[str, int], runs: Iterable[Run]) -> Verdict:
    """`written` has how many events each key has."""
    verdict = Verdict(events_count=sum(written.values()))
    by_key: dict[str, list[Run]] = {key: [] for key in written}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    for key, of_key in sorted(by_key.items()):
        _verify_key(verdict, key, written.get(key, 0), of_key)
    return verdict


def _verify_key(verdict: Verdict, key: str, count: int, runs: list[Run]) -> None:
    expected, last_ns = 0, 0
    for run in sorted(runs, key=lambda run: (run.first, run.first_ns)):
        if run.first > expected:
            verdict.missing_count += run.first - expected
            verdict.note(f"key {key}: {expected} to {run.first - 1} missing")
        elif run.first < expected:
            overlap = min(run.last + 1, expected) - run.first
            verdict.doubled_count += overlap
            verdict.note(f"key {key}: {overlap} read again from {run.first} on")
        if run.first_ns < last_ns and run.last >= expected:
            verdict.out_of_order_count += 1
            verdict.note(f"key {key}: {run.first} was read before its predecessor")
        expected, last_ns = max(expected, run.last + 1), max(last_ns, run.last_ns)
    if expected < count:
        verdict.missing_count += count - expected
        verdict.note(f"key {key}: {expected} to {count - 1} missing")
    elif expected > count:
        verdict.unknown_count += expected - count
        verdict.note(f"key {key}: {count} to {expected - 1} were never written")
