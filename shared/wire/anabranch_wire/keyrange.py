"""Key ranges of segments: which segment an event goes to.

The open segments of a stream divide the positions [0, 1) among them. For routing a range
contains its upper bound and not its lower one: an event goes to the segment with the smallest
upper bound that is not below its position, as in Java and in Rust. (Position 0, which no range
contains by that rule, goes to the first segment.)
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

LOWEST: Final = 0.0
HIGHEST: Final = 1.0

SegmentT = TypeVar("SegmentT")


class InvalidKeyRange(ValueError):
    """Bounds outside [0, 1], or the lower one not below the upper one."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(f"[{low}, {high}] is no key range: 0 <= low < high <= 1 must hold")
        self.low, self.high = low, high


class KeyRange(NamedTuple):
    """The positions between two bounds."""

    low: float
    high: float

    @classmethod
    def checked(cls, low: float, high: float) -> "KeyRange":
        """Raises InvalidKeyRange, also for what is not a number."""
        if not LOWEST <= low < high <= HIGHEST:
            raise InvalidKeyRange(low, high)
        return cls(low, high)

    @property
    def width(self) -> float:
        return self.high - self.low

    def overlaps(self, other: "KeyRange") -> bool:
        """Do both have positions in common? Ranges that only touch have not."""
        return self.low < other.high and other.low < self.high

    def contains_range(self, other: "KeyRange") -> bool:
        return self.low <= other.low and other.high <= self.high

    def split(self, count: int) -> tuple["KeyRange", ...]:
        """`count` ranges of about the same width, which meet exactly and end where this ends."""
        step = self.width / count  # multiplied, as Pravega does, so that bounds equal its bounds
        bounds = [self.low + index * step for index in range(count)] + [self.high]
        return tuple(KeyRange.checked(*bounds[at : at + 2]) for at in range(count))


WHOLE: Final = KeyRange(LOWEST, HIGHEST)


def cover_the_same(left: Sequence[KeyRange], right: Sequence[KeyRange]) -> bool:
    """Do both sets cover the same positions, each without overlap? A scale needs that."""
    first, second = _joined(left), _joined(right)
    return first is not None and first == second


def _joined(ranges: Sequence[KeyRange]) -> list[KeyRange] | None:
    """The ranges in order with neighbours made one; None if two overlap."""
    joined: list[KeyRange] = []
    for each in sorted(ranges):
        if joined and each.low < joined[-1].high:
            return None
        if joined and each.low == joined[-1].high:
            joined[-1] = KeyRange(joined[-1].low, each.high)
        else:
            joined.append(each)
    return joined


class SegmentMap(Generic[SegmentT]):
    """The open segments of a stream by the upper bound of their range."""

    def __init__(self, ranges: Mapping[SegmentT, KeyRange]) -> None:
        ordered = sorted(ranges.items(), key=lambda item: item[1].high)
        assert ordered, "a stream has a segment for every position"
        assert ordered[-1][1].high == HIGHEST, "the last segment reaches up to 1"
        self._segments = [segment for segment, _ in ordered]
        self._highs = [key_range.high for _, key_range in ordered]

    def segment_for(self, position: float) -> SegmentT:
        """The segment of a position in [0, 1]."""
        assert LOWEST <= position <= HIGHEST, "positions come from hashing"
        return self._segments[bisect_left(self._highs, position)]
