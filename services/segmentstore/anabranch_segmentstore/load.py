"""How much each segment of a user's stream took in: what the load reports are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from anabranch_segmentstore.domain.attributes import CREATION_TIME
from anabranch_segmentstore.domain.state import ContainerState, Segment


class SegmentTaken(NamedTuple):
    """Accepted since the last report. `created_ms` is 0 when nobody said when."""

    segment: str
    bytes_count: int
    events_count: int
    length_bytes: int
    created_ms: int


@dataclass(slots=True)
class LoadBook:
    """Counts by segment number; a segment that took nothing costs nothing."""

    bytes_count: dict[int, int] = field(default_factory=dict)
    events_count: dict[int, int] = field(default_factory=dict)

    def take(self, segment: Segment, length: int, events: int) -> None:
        number = segment.id
        self.bytes_count[number] = self.bytes_count.get(number, 0) + length
        self.events_count[number] = self.events_count.get(number, 0) + events

    def report(self, state: ContainerState) -> list[SegmentTaken]:
        """Every open segment of a user's stream, quiet ones with zeros; counts start anew."""
        taken = [
            SegmentTaken(
                segment.name,
                self.bytes_count.get(segment.id, 0),
                self.events_count.get(segment.id, 0),
                segment.length,
                segment.attributes.get(CREATION_TIME, 0),
            )
            for segment in state.segments.values()
            if segment.is_user_stream and not segment.is_sealed and segment.is_durably_created
        ]
        self.bytes_count.clear()
        self.events_count.clear()
        return taken
