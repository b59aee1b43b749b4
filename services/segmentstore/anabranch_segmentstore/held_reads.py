"""Reads held at the tails of segments, until there is something to tell them.

A held read costs a future and a list entry. It is forgotten the moment that its reader gives
up, or each time-out of a client would leave one behind (wire-protocol.md 4.5).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, Literal

from anabranch_segmentstore.domain.state import Segment

HELD_READS_MAX: Final = 100_000
"""Per container, about a kilobyte each with its request. More get an empty answer at once."""

Outcome = Literal["data", "sealed", "gone"]


@dataclass(slots=True, eq=False)
class _HeldRead:
    offset: int
    outcome: asyncio.Future[Outcome]


@dataclass(slots=True)
class HeldReads:
    count: int = 0
    _by_segment: dict[int, list[_HeldRead]] = field(default_factory=dict)
    _is_over: bool = False

    def __bool__(self) -> bool:
        return self.count > 0

    async def hold(self, segment: Segment, offset: int) -> Outcome:
        """Until the segment has durable bytes at `offset` ("data"), or never will."""
        if self._is_over or self.count >= HELD_READS_MAX:
            return "gone"
        held = _HeldRead(offset, asyncio.get_running_loop().create_future())
        self._by_segment.setdefault(segment.id, []).append(held)
        self.count += 1
        try:
            return await held.outcome
        finally:
            self.count -= 1
            reads = self._by_segment[segment.id]
            reads.remove(held)
            if not reads:
                del self._by_segment[segment.id]

    def wake(self, segment: Segment, outcome: Outcome) -> None:
        """Tell the reads that this concerns: of "data", those that there is data for."""
        for held in self._by_segment.get(segment.id, ()):
            is_concerned = outcome != "data" or held.offset < segment.durable_length
            if is_concerned and not held.outcome.done():
                held.outcome.set_result(outcome)

    def end(self) -> None:
        """The container ended: nothing will come any more."""
        self._is_over = True
        for reads in self._by_segment.values():
            for held in reads:
                if not held.outcome.done():
                    held.outcome.set_result("gone")
