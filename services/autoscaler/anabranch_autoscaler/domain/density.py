"""Where in the key space the load lies, learned from the rates of segments.

Routing keys never reach the server, so all that can be measured is how much each segment
takes in: the integral of the load over its key range. The density is a list of cells with a
rate each. A measured segment sets the sum of its cells to the measured rate and keeps their
proportions, which were learned when narrower segments lay there; where nothing narrower was
ever measured there is one cell, and half its load is its middle. The proportions fade towards
even with time, for they may be true no longer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Final

CELLS_MAX: Final = 4096  # some 200 KB per stream at most; most streams have a handful
RATE_MIN: Final = 1e-6  # a silent range keeps its proportions
PART_SHARE_MIN: Final = 1 / 64  # of a range's width: no part is cut narrower at once


@dataclass(slots=True)
class Density:
    """Cell i spans [bounds[i], bounds[i + 1]) and carries rates[i]."""

    bounds: list[float] = field(default_factory=lambda: [0.0, 1.0])
    rates: list[float] = field(default_factory=lambda: [RATE_MIN])

    def load(self, low: float, high: float) -> float:
        """The rate that is thought to fall into [low, high)."""
        total = 0.0
        for index in range(bisect_right(self.bounds, low) - 1, len(self.rates)):
            left, right = self.bounds[index], self.bounds[index + 1]
            if left >= high:
                break
            total += self.rates[index] * (min(right, high) - max(left, low)) / (right - left)
        return total

    def observe(self, low: float, high: float, rate: float, *, keep: float = 1.0) -> None:
        """[low, high) takes in `rate` now; `keep` is how much of the proportions is believed."""
        assert 0 <= low < high <= 1
        assert 0 <= keep <= 1
        self._boundary(low)
        self._boundary(high)
        first, end = bisect_left(self.bounds, low), bisect_left(self.bounds, high)
        known = sum(self.rates[first:end])
        level = max(rate, RATE_MIN)
        for index in range(first, end):
            width = (self.bounds[index + 1] - self.bounds[index]) / (high - low)
            proportion = self.rates[index] / known if known > 0 else width
            self.rates[index] = level * (keep * proportion + (1 - keep) * width)
        self._bound_cells()

    def cuts(self, low: float, high: float, parts: int) -> list[float]:
        """Where to cut [low, high) into `parts` of equal load, as `parts` - 1 rising keys."""
        assert parts >= 2
        width_min = (high - low) * min(PART_SHARE_MIN, 0.5 / parts)
        total = self.load(low, high)
        cuts: list[float] = []
        for part in range(1, parts):
            wanted = self._where(low, high, total * part / parts)
            lowest = (cuts[-1] if cuts else low) + width_min
            highest = high - width_min * (parts - part)
            cuts.append(min(max(wanted, lowest), highest))
        return cuts

    def _where(self, low: float, high: float, load: float) -> float:
        """The key up to which [low, …) carries `load`."""
        passed = 0.0
        for index in range(bisect_right(self.bounds, low) - 1, len(self.rates)):
            left, right = max(self.bounds[index], low), min(self.bounds[index + 1], high)
            if left >= high:
                break
            width = self.bounds[index + 1] - self.bounds[index]
            here = self.rates[index] * (right - left) / width
            if passed + here >= load and here > 0:
                return left + (right - left) * (load - passed) / here
            passed += here
        return high

    def _boundary(self, key: float) -> None:
        """Make `key` the bound of a cell."""
        index = bisect_left(self.bounds, key)
        if self.bounds[index] == key:
            return
        left, right = self.bounds[index - 1], self.bounds[index]
        rate = self.rates[index - 1]
        share = (key - left) / (right - left)
        self.bounds.insert(index, key)
        self.rates[index - 1 : index] = [rate * share, rate * (1 - share)]

    def _bound_cells(self) -> None:
        """Give up the narrowest cells first: they are the remains of long-gone segments.

        A quarter at a time, so that a stream with more segments than cells does not pay for
        it at every observation.
        """
        if len(self.rates) <= CELLS_MAX:
            return
        inner = range(1, len(self.rates))
        by_width = sorted(inner, key=lambda i: self.bounds[i + 1] - self.bounds[i - 1])
        gone = set(by_width[: len(self.rates) - CELLS_MAX * 3 // 4])
        rates: list[float] = []
        for index, rate in enumerate(self.rates):
            if index in gone:
                rates[-1] += rate
            else:
                rates.append(rate)
        self.bounds = [bound for index, bound in enumerate(self.bounds) if index not in gone]
        self.rates = rates
