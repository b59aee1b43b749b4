"""The pure parts of JetStreamLog: messages, whose they are, frames out of them, resolution."""

from __future__ import annotations

import pytest
from anabranch_segmentstore.adapters.jetstream_log_format import (
    FENCE_MESSAGES,
    Assembler,
    Broken,
    Kind,
    Region,
    Stamp,
    check,
    decode,
    encode,
    regions,
    trimmed,
)
from anabranch_segmentstore.adapters.jetstream_log_places import MessageCache, Places
from anabranch_segmentstore.adapters.jetstream_log_resolution import Broken as StreamBroken
from anabranch_segmentstore.adapters.jetstream_log_resolution import (
    Damaged,
    Fenced,
    Leader,
    Resend,
    Stored,
    decide,
)
from hypothesis import given
from hypothesis import strategies as st

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**63)


def stamp_of(
    place: int,
    *,
    epoch: int = 1,
    position: int = 1,
    part: int = 0,
    offset: int = 0,
    is_last: bool = True,
    kind: Kind = Kind.FRAME,
) -> Stamp:
    bare = Stamp(kind, is_last, 7, part, epoch, place, position, offset, 0, 0, 0)
    return bare._replace(checksum=encode(bare, [b"body"])[1])


stamps = st.builds(
    Stamp,
    kind=st.sampled_from(Kind),
    is_last=st.booleans(),
    container=U32,
    part=U32,
    epoch=U64,
    place=U64,
    position=U64,
    offset=U64,
    snapshot=U64,
    snapshot_position=U64,
    kept_from=U64,
)


@given(stamps, st.lists(st.binary(max_size=50), max_size=4))
def test_a_message_is_read_as_it_was_written(stamp: Stamp, body: list[bytes]) -> None:
    """Nothing could be recovered."""
    message, checksum = encode(stamp, body)
    found, found_body = decode(message)
    assert found == stamp._replace(checksum=checksum)
    assert bytes(found_body) == b"".join(body)


@given(stamps, st.binary(max_size=50), st.data())
def test_a_flipped_bit_or_a_missing_tail_is_noticed(
    stamp: Stamp, body: bytes, data: st.DataObject
) -> None:
    """Damaged bytes would be served."""
    message, _ = encode(stamp, [body])
    bit = data.draw(st.integers(0, len(message) * 8 - 1))
    flipped = bytearray(message)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Broken):
        decode(bytes(flipped))
    with pytest.raises(Broken):
        decode(message[: data.draw(st.integers(0, len(message) - 1))])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (stamp_of(9), "place 9"),
        (stamp_of(8, epoch=2), "epoch 2"),
        (stamp_of(8)._replace(container=6), "container 6"),
    ],
)
def test_a_message_that_belongs_elsewhere_is_damage(wrong: Stamp, reason: str) -> None:
    """A stream that somebody copied together would pass for a log."""
    check(stamp_of(8), container=7, place=8, epoch=1)
    with pytest.raises(Broken, match=reason):
        check(wrong, container=7, place=8, epoch=1)


def test_nothing_in_a_fence_zone_belongs_to_the_log() -> None:
    """Stragglers of an older owner would be read as the new owner's frames."""
    zone = FENCE_MESSAGES
    assert regions([1], first=1, last=zone + 1, oldest=1) == []
    assert regions([1, 100, 110], first=1, last=200, oldest=1) == [
        Region(1, 2 + zone, 99),
        Region(110, 111 + zone, 200),
    ]
    assert regions([300], first=150, last=400, oldest=40) == [
        Region(40, 150, 299),
        Region(300, 301 + zone, 400),
    ]


def test_an_unfinished_run_is_cut_off_an_epoch() -> None:
    """Half a frame that nobody acknowledged would be replayed, or refused as damage."""
    region = Region(1, 10, 15)
    newest = stamp_of(15, position=4, part=2, is_last=False)
    assert trimmed(region, newest) == Region(1, 10, 12, 3)
    assert trimmed(region, stamp_of(15, position=4)) == Region(1, 10, 15, 4)
    mark = stamp_of(15, position=4, kind=Kind.RELEASE)
    assert trimmed(region, mark) == Region(1, 10, 15, 4)
    whole = stamp_of(15, position=4, part=5, is_last=False)
    assert trimmed(region, whole) is None
    with pytest.raises(Broken):
        trimmed(region, stamp_of(15, position=4, part=6, is_last=False))


@given(st.lists(st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=4), max_size=5))
def test_frames_come_out_as_they_were_cut(frames: list[list[bytes]]) -> None:
    """Frames of several messages would be garbled."""
    assembler, place = Assembler(expected=1), 0
    for position, pieces in enumerate(frames, 1):
        offset = 0
        for part, piece in enumerate(pieces):
            place += 1
            is_last = part == len(pieces) - 1
            stamp = stamp_of(place, position=position, part=part, offset=offset, is_last=is_last)
            done = assembler.feed(stamp, memoryview(piece))
            offset += len(piece)
            assert (done is not None) == is_last
        assert done is not None
        frame, began_at = done
        assert (frame.position, frame.payload) == (position, b"".join(pieces))
        assert began_at == place - len(pieces) + 1


@pytest.mark.parametrize(
    "second",
    [
        stamp_of(2, part=2, offset=4),  # a part is missing
        stamp_of(2, part=1, offset=5),  # a byte is missing
        stamp_of(2, position=2),  # the frame never ended
        stamp_of(2, kind=Kind.HEARTBEAT),
    ],
)
def test_a_run_with_a_hole_is_damage(second: Stamp) -> None:
    """A frame would come back shorter than it was acknowledged."""
    assembler = Assembler(expected=1)
    assert assembler.feed(stamp_of(1, is_last=False), memoryview(b"body")) is None
    with pytest.raises(Broken):
        assembler.feed(second, memoryview(b"body"))


# --- Resolution ---------------------------------------------------------------------------------

MINE = stamp_of(100, epoch=20, position=5)


@given(
    newest_epoch=st.integers(0, 200),
    at_place=st.one_of(
        st.none(),
        st.just("its checksum is wrong"),
        st.just(MINE),
        st.builds(stamp_of, st.just(100), epoch=st.integers(1, 40), position=st.integers(1, 9)),
    ),
    last=st.integers(80, 120),
    confirmed=st.integers(90, 99),
)
def test_only_what_is_there_counts_as_stored(
    newest_epoch: int, at_place: Stamp | str | None, last: int, confirmed: int
) -> None:
    """A frame that is not in the stream would be acknowledged, or one written twice."""
    verdict = decide(MINE, confirmed, Leader(newest_epoch, at_place, 1, last))
    match verdict:
        case Stored():
            assert at_place == MINE
        case Resend():
            assert at_place is None
            assert newest_epoch == MINE.epoch
            assert confirmed <= last < MINE.place
        case Fenced(newer_epoch):
            assert newer_epoch == newest_epoch > MINE.epoch
        case Damaged():
            assert isinstance(at_place, str)
        case StreamBroken(reason):
            assert reason
            assert newest_epoch <= MINE.epoch
    if at_place == MINE:
        assert verdict == Stored()


@pytest.mark.parametrize(
    ("leader", "words"),
    [
        (Leader(20, None, 1, 95), "ends at 95; 99 was acknowledged"),
        (Leader(20, None, 1, 130), "100 was removed"),
        (Leader(0, None, 1, 99), "epoch 20 is gone"),
        (Leader(20, stamp_of(100, epoch=20, position=6), 1, 100), "holds frame 6 of epoch 20"),
    ],
)
def test_a_stream_that_changed_by_itself_is_named(leader: Leader, words: str) -> None:
    """An operator could not tell what to mend."""
    verdict = decide(MINE, 99, leader)
    assert isinstance(verdict, StreamBroken)
    assert words in verdict.reason


# --- Places -------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=1, max_size=200), st.integers(2, 40))
def test_a_frame_is_looked_for_where_it_is(lengths: list[int], notes_max: int) -> None:
    """A read would miss a frame that is there when the index was thinned."""
    places, begins, place = Places(notes_max), dict[int, int](), 10
    for position, length in enumerate(lengths, 1):
        begins[position] = place
        places.note(position, place)
        place += length
    assert len(places) <= notes_max
    for position, begin in begins.items():
        found = places.find(position, first=10, last=place - 1)
        assert found.first <= begin <= found.last


def test_the_message_cache_is_bounded() -> None:
    """Reads of long frames would eat the memory."""
    cache = MessageCache(bytes_max=100)
    for sequence in range(10):
        cache.put(sequence, bytes(40))
    assert [sequence for sequence in range(10) if cache.get(sequence)] == [8, 9]
    cache.put(20, bytes(101))
    assert cache.get(20) is None
    cache.drop_before(9)
    assert cache.get(8) is None
    cache.put(30, bytes(60))
    assert cache.get(9) is not None
