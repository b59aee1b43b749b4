"""How long to leave something alone that has just failed. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAUSE_FIRST_S: Final = 0.5
PAUSE_MAX_S: Final = 30.0


@dataclass(slots=True)
class Backoff:
    """One dependency, shared by all orders: when tier 2 is away for one, it is for all.

    The pause doubles with each failure in a row. Orders that fail together, because they were
    under way together, count once.
    """

    failures: int = 0
    down_until: float = 0.0

    @property
    def is_down(self) -> bool:
        return self.failures > 0

    def pause_s(self, now: float) -> float:
        """How long to wait from `now` before the next attempt; 0 when one may be made."""
        return max(0.0, self.down_until - now)

    def failed(self, now: float) -> float:
        """Note a failure; returns the pause."""
        if now >= self.down_until:
            self.failures += 1
            pause = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** (self.failures - 1))
            self.down_until = now + pause
        return self.pause_s(now)

    def succeeded(self) -> bool:
        """Note a success; True when this ends an outage."""
        was_down, self.failures, self.down_until = self.is_down, 0, 0.0
        return was_down
