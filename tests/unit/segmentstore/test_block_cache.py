"""The read cache: what it gives is what was put, and it stays within its limit."""

from __future__ import annotations

from anabranch_segmentstore.cache import BLOCK_OVERHEAD_BYTES, BlockCache
from hypothesis import given
from hypothesis import strategies as st


def content(segment: int, offset: int) -> int:
    return (segment * 101 + offset * 7) % 251


def block(segment: int, start: int, length: int) -> bytes:
    return bytes(content(segment, start + n) for n in range(length))


@given(st.data())
def test_the_cache_gives_what_was_put(data: st.DataObject) -> None:
    """A reader would get bytes of another place, or the memory would fill up."""
    limit = data.draw(st.sampled_from([0, 700, 2000, 1 << 20]))
    cache = BlockCache(limit)
    for _ in range(data.draw(st.integers(1, 30))):
        segment = data.draw(st.integers(1, 2))
        start, length = data.draw(st.integers(0, 300)), data.draw(st.integers(0, 120))
        action = data.draw(st.sampled_from(["put", "put", "view", "around", "drop", "below"]))
        if action == "put":
            cache.put((0, segment), start, block(segment, start, length))
        elif action == "view":
            cache.put((0, segment), start, memoryview(block(segment, start, length)))
        elif action == "around" and length:
            around = start + data.draw(st.integers(0, length - 1))
            cache.put((0, segment), start, block(segment, start, length), around=around)
            assert limit < 1 << 20 or cache.get((0, segment), around) is not None
        elif action == "drop":
            cache.drop((0, segment))
            assert cache.get((0, segment), start) is None
        else:
            cache.drop((0, segment), before=start)
        assert cache.bytes_used <= limit
        blocks_bytes = sum(len(one) + BLOCK_OVERHEAD_BYTES for one in cache._blocks.values())
        assert cache.bytes_used == blocks_bytes
        for one in (1, 2):
            for offset in range(0, 420, 13):
                found = cache.get((0, one), offset)
                if found is not None:
                    at, kept = found
                    assert at <= offset < at + len(kept)
                    assert bytes(kept) == block(one, at, len(kept))
    for one in (1, 2):
        cache.drop((0, one))
    assert cache.bytes_used == 0


def test_a_merge_moves_blocks_without_copying_them() -> None:
    """A commit would read a transaction's bytes again from the log."""
    cache = BlockCache()
    kept = block(1, 0, 100_000)
    cache.put((0, 1), 0, kept)
    cache.move((0, 1), (0, 2), 500)
    found = cache.get((0, 2), 600)
    assert found is not None
    assert found[0] == 500
    assert found[1] is kept
    assert cache.get((0, 1), 0) is None
    assert cache.bytes_used == len(kept) + BLOCK_OVERHEAD_BYTES
