"""The read cache: blocks of segment bytes, bounded for the whole process.

What is in it is also in the log or in tier 2, so anything may be thrown out at any time; the
least recently used block goes first. Blocks never change (bytes, or a view of a buffer that
nobody writes to any more) and are handed out without a copy. Short neighbours at the end of a
segment are joined, so that a trickle of small appends does not become a heap of tiny objects.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from typing import Final

CACHE_BYTES_DEFAULT: Final = 64 * 1024 * 1024
BLOCK_OVERHEAD_BYTES: Final = 256  # what a block costs beyond its bytes: keys, links, headers
JOINED_BLOCK_LENGTH_MAX: Final = 16 * 1024

SegmentKey = tuple[int, int]  # container, segment
Block = bytes | memoryview


class BlockCache:
    """Shared by all containers of a process; a key's blocks never overlap."""

    def __init__(self, bytes_max: int = CACHE_BYTES_DEFAULT) -> None:
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self._blocks: OrderedDict[tuple[SegmentKey, int], Block] = OrderedDict()
        self._starts: dict[SegmentKey, list[int]] = {}

    def put(self, key: SegmentKey, start: int, block: Block, *, around: int | None = None) -> None:
        """Keep what is missing of `block`, which lies at `start`, around an offset in it.

        Blocks that are there stay; the default for `around` is `start`.
        """
        wanted = start if around is None else around
        end = start + len(block)
        low, high = start, end
        starts = self._starts.setdefault(key, [])
        index = bisect_right(starts, wanted) - 1
        if index >= 0:
            before_start = starts[index]
            before = self._blocks[key, before_start]
            low = max(low, before_start + len(before))
            if low == start and self._join(key, before_start, before, start, block, starts, index):
                return
        if index + 1 < len(starts):
            high = min(high, starts[index + 1])
        if low <= wanted < high:
            kept = block if (low, high) == (start, end) else block[low - start : high - start]
            insort(starts, low)
            self._blocks[key, low] = kept
            self._grow(len(kept) + BLOCK_OVERHEAD_BYTES)
        elif not starts:
            del self._starts[key]

    def _join(
        self,
        key: SegmentKey,
        before_start: int,
        before: Block,
        start: int,
        block: Block,
        starts: list[int],
        index: int,
    ) -> bool:
        """Make one block of two short ones; only at the end of what is cached."""
        is_last = index + 1 == len(starts)
        is_neighbour = before_start + len(before) == start
        if not is_last or not is_neighbour or len(before) + len(block) > JOINED_BLOCK_LENGTH_MAX:
            return False
        self._blocks[key, before_start] = b"".join((before, block))
        self._blocks.move_to_end((key, before_start))
        self._grow(len(block))
        return True

    def get(self, key: SegmentKey, offset: int) -> tuple[int, Block] | None:
        """The block that holds the byte at `offset`, and where it starts."""
        starts = self._starts.get(key)
        if not starts:
            return None
        index = bisect_right(starts, offset) - 1
        if index < 0:
            return None
        start = starts[index]
        block = self._blocks[key, start]
        if offset >= start + len(block):
            return None
        self._blocks.move_to_end((key, start))
        return start, block

    def move(self, source: SegmentKey, target: SegmentKey, base: int) -> None:
        """A merge: the source's blocks are now the target's, from `base` on."""
        for start in self._starts.pop(source, ()):
            block = self._blocks.pop((source, start))
            self.bytes_used -= len(block) + BLOCK_OVERHEAD_BYTES
            self.put(target, base + start, block)

    def drop(self, key: SegmentKey, *, before: int | None = None) -> None:
        """Forget a segment, or its blocks that end at or below `before`."""
        starts = self._starts.get(key, [])
        kept: list[int] = []
        for start in starts:
            block = self._blocks[key, start]
            if before is not None and start + len(block) > before:
                kept.append(start)
            else:
                del self._blocks[key, start]
                self.bytes_used -= len(block) + BLOCK_OVERHEAD_BYTES
        if kept:
            self._starts[key] = kept
        else:
            self._starts.pop(key, None)

    def drop_container(self, container: int) -> None:
        """A container stopped here; what it cached may be overtaken by its next owner."""
        for key in [key for key in self._starts if key[0] == container]:
            self.drop(key)

    def _grow(self, added: int) -> None:
        self.bytes_used += added
        while self.bytes_used > self.bytes_max and self._blocks:
            (key, start), block = self._blocks.popitem(last=False)
            self.bytes_used -= len(block) + BLOCK_OVERHEAD_BYTES
            starts = self._starts[key]
            del starts[bisect_right(starts, start) - 1]
            if not starts:
                del self._starts[key]
