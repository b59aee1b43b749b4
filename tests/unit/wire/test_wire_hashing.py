"""Hashes and key ranges, against the figures of Java's clients."""

import itertools
import math

import mmh3
import pytest
from anabranch_wire import attributes, hashing, keyrange
from anabranch_wire.keyrange import InvalidKeyRange, KeyRange, SegmentMap
from hypothesis import given
from hypothesis import strategies as st

ROUTING_KEYS = {
    "": (0x3DBDDE9466A2F7CF, 0.24117842791623523),
    "a": (0xF18217331898DFC0, 0.9433912753816884),
    "hello": (0xA8A1A07BA5F63ABF, 0.658716230571337),
    "0": (0xCE3E23E22A0EB119, 0.8056356837424186),
    "1": (0x5E1A1B1611A05DB6, 0.36758584297933905),
    "even": (0x82D2908C1BBA38FE, 0.5110254613934806),
    "odd": (0x499B14A21D834852, 0.2875225921429889),
    "routingKey": (0xE95D6574907A530D, 0.9115813645916913),
    "user-42": (0xA74B556C39FA9985, 0.6534932507729343),
    "abcdefgh": (0xAF2B4D72A245302F, 0.6842544941776125),
    "abcdefghi": (0xC588F92A27D0B867, 0.7716212966841478),
    "The quick brown fox jumps over the lazy dog": (0xB14A5B8053A37212, 0.6925408542916907),
    "é": (0xAB3842849502AE7A, 0.6688272069632242),
    "héllo": (0x456B6BEA0C737AC3, 0.27117037262037313),
    "日本語": (0x5610E3AFACF61E59, 0.33619521178203393),
    "😀": (0xC66813BFD73041EF, 0.7750255912171164),
    "12345": (None, 0.9771441841034081),
}
TABLE_KEYS = {
    "": 0.42352702020022215,
    "00": 0.39600621034062633,
    "01": 0.2691368097624567,
    "ff": 0.08991738611385047,
    "00000000": 0.2518405200335543,
    "00000001": 0.7869216576677149,
    "0102030405060708": 0.9479925589212481,
    "000102030405060708090a0b0c0d0e0f": 0.6939972030901047,
    "000102030405060708090a0b0c0d0e0f10": 0.2534524668221487,
    "68656c6c6f": 0.7859863787458266,
}
COUNTS = (1, 4, 8, 16, 64)
CONTAINERS = {
    "scope/stream/0.#epoch.0": (0, 3, 3, 3, 46),
    "scope/stream/0.#epoch.1": (0, 3, 3, 3, 46),
    "scope/stream/0.#epoch.0#transaction.00000000000000010000000000000002": (0, 3, 3, 3, 46),
    "scope/stream/0.#epoch.0#index": (0, 3, 3, 3, 46),
    "scope/stream/1.#epoch.0": (0, 3, 5, 15, 61),
    "examples/demo/7.#epoch.3": (0, 1, 1, 1, 38),
    "_system/_requeststream/0.#epoch.0": (0, 1, 4, 4, 4),
    "scope/kvt_kvtable/0.#epoch.0": (0, 2, 2, 11, 18),
    "_system/_tables/counter": (0, 0, 6, 13, 51),
}


def test_seeds() -> None:
    """Every position would be another one."""
    assert hashing.ROUTING_SEED == 1_741_865_571
    assert hashing.TABLE_KEY_SEED == -2_020_233_499
    assert hashing.CONTAINER_SEED == 1_661_405_012
    assert hashing.ATTRIBUTE_SEED == 817_748_169


@pytest.mark.parametrize("key", ROUTING_KEYS)
def test_routing_key(key: str) -> None:
    """Two clients would send the events of one key to different segments."""
    half, position = ROUTING_KEYS[key]
    assert hashing.routing_key_position(key) == position
    if half is not None:
        assert hashing.murmur3_128(key.encode("utf-16-le"), hashing.ROUTING_SEED)[0] == half


@pytest.mark.parametrize("key", TABLE_KEYS)
def test_table_key(key: str) -> None:
    """A key would be looked for in a table segment that does not hold it."""
    assert hashing.table_key_position(bytes.fromhex(key)) == TABLE_KEYS[key]


def test_client_attribute_id() -> None:
    """Java's revisioned streams would not find their mark."""
    assert str(attributes.REVISION_STREAM_MARK) == "7df9a874-246c-c9d6-9397-cdd19ead68c5"


@pytest.mark.parametrize("segment", CONTAINERS)
@pytest.mark.parametrize("count", COUNTS)
def test_container_of(segment: str, count: int) -> None:
    """Controller and store would disagree about who owns a segment."""
    expected = CONTAINERS[segment][COUNTS.index(count)]
    assert hashing.container_of(segment, count) == expected


@given(st.binary(max_size=70), st.integers(0, 2**31 - 1))
def test_both_ways_to_hash_agree(data: bytes, seed: int) -> None:
    """The one for negative seeds must be the same function."""
    assert hashing._murmur3_128(data, seed) == hashing.murmur3_128(data, seed)
    digest = mmh3.mmh3_x64_128_digest(data, seed)
    first, second = hashing.murmur3_128(data, seed)
    assert first.to_bytes(8, "little") + second.to_bytes(8, "little") == digest


@given(st.text())
def test_positions_are_fractions(key: str) -> None:
    """A position of 1 or above belongs to no segment."""
    assert 0 <= hashing.routing_key_position(key) < 1
    assert 0 <= hashing.table_key_position(key.encode()) < 1


# --- Core attributes


def test_core_attributes() -> None:
    """Clients and the controller ask for them by id."""
    assert str(attributes.EVENT_COUNT) == "80000000-0000-0000-0000-000000000001"
    assert str(attributes.TABLE_ENTRY_COUNT) == "80000000-0000-0000-0000-000000100001"
    assert attributes.is_core_attribute(attributes.SEGMENT_TYPE)
    assert not attributes.is_core_attribute(attributes.REVISION_STREAM_MARK)
    assert not attributes.is_core_attribute(attributes.RUST_INDEX_RECORD_SIZE)
    assert attributes.SegmentType.FIXED_KEY_TABLE == 5
    assert attributes.SegmentType.SYSTEM == 48
    assert [int(each) for each in attributes.UpdateType] == [0, 1, 2, 3, 4]


# --- Key ranges


def test_upper_bound_belongs_to_the_segment() -> None:
    """Java and Rust choose the smallest upper bound that is not below the position."""
    segments = SegmentMap({"low": KeyRange(0.0, 0.25), "high": KeyRange(0.25, 1.0)})
    assert segments.segment_for(0.0) == "low"
    assert segments.segment_for(0.25) == "low"
    assert segments.segment_for(math.nextafter(0.25, 1)) == "high"
    assert segments.segment_for(math.nextafter(1.0, 0)) == "high"


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_every_position_has_one_segment(count: int, position: float) -> None:
    """An event without a segment cannot be written."""
    ranges = keyrange.WHOLE.split(count)
    assert len(ranges) == count
    assert ranges[0].low == 0.0
    assert ranges[-1].high == 1.0
    assert all(left.high == right.low for left, right in itertools.pairwise(ranges))
    index = SegmentMap(dict(enumerate(ranges))).segment_for(position)
    assert position == 0 or ranges[index].low < position <= ranges[index].high


@pytest.mark.parametrize(
    ("low", "high"),
    [(-0.1, 0.5), (0.5, 1.1), (0.5, 0.5), (0.6, 0.5), (math.nan, 1.0), (0.0, math.inf)],
)
def test_ranges_that_are_none(low: float, high: float) -> None:
    """A scale request with such a range would leave keys without a segment."""
    with pytest.raises(InvalidKeyRange) as caught:
        KeyRange.checked(low, high)
    assert caught.value.high == high


def test_what_a_scale_may_replace() -> None:
    """A scale must neither lose keys nor give one to two segments."""
    halves = keyrange.WHOLE.split(2)
    assert keyrange.cover_the_same([keyrange.WHOLE], halves)
    assert keyrange.cover_the_same([halves[1], halves[0]], keyrange.WHOLE.split(2))
    assert not keyrange.cover_the_same([keyrange.WHOLE], halves[:1])
    assert not keyrange.cover_the_same([keyrange.WHOLE], [KeyRange(0, 0.6), KeyRange(0.5, 1)])
    assert not keyrange.cover_the_same([KeyRange(0, 0.6), KeyRange(0.5, 1)], [keyrange.WHOLE])
    assert halves[0].overlaps(keyrange.WHOLE)
    assert not halves[0].overlaps(halves[1])
    assert keyrange.WHOLE.contains_range(halves[1])
    assert not halves[0].contains_range(keyrange.WHOLE)
