"""Frames out of a stream of bytes: every cut, hostile lengths, memory."""

import random
import tracemalloc

import pytest
from anabranch_wire import framing
from anabranch_wire.constants import PAYLOAD_BYTES_MAX
from anabranch_wire.errors import FrameTooLong, NegativeFrameLength, ProtocolError
from anabranch_wire.framing import Frame, FrameSplitter
from hypothesis import given, settings
from hypothesis import strategies as st


def frame(code: int, payload: bytes) -> bytes:
    return header(code, len(payload)) + payload


def header(code: int, length: int) -> bytes:
    return code.to_bytes(4, "big", signed=True) + length.to_bytes(4, "big", signed=True)


def pump(splitter: FrameSplitter, data: bytes, step: int) -> list[Frame]:
    """As an event loop does it: the kernel writes at most `step` bytes at a time."""
    frames, at = [], 0
    while at < len(data):
        room = splitter.get_buffer(-1)
        assert len(room) > 0, "an event loop treats an empty buffer as an error"
        count = min(step, len(room), len(data) - at)
        room[:count] = data[at : at + count]
        frames += splitter.buffer_updated(count)
        at += count
    return frames


def test_cut_at_every_boundary() -> None:
    """The network cuts where it likes; a client would see a wrong frame or none."""
    sent = [(1, b""), (-127, b"hello"), (100, b""), (4, bytes(range(40)))]
    data = b"".join(frame(*each) for each in sent)
    for cut in range(len(data) + 1):
        splitter = FrameSplitter()
        assert splitter.receive(data[:cut]) + splitter.receive(data[cut:]) == sent
        assert splitter.is_between_frames


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**31), 2**31 - 1),
            st.one_of(
                st.integers(0, 60),
                st.integers(-3, 3).map(lambda near: framing.SMALL_PAYLOAD_BYTES_MAX + near),
                st.integers(-9, 9).map(lambda near: framing.RECEIVE_BUFFER_BYTES + near),
                st.integers(0, 600_000),
            ),
        ),
        max_size=12,
    ),
    st.sampled_from([7, 1000, 16_384, 65_536, 10**7]),
    st.integers(0, 2**32),
)
def test_all_sizes_in_all_pieces(shapes: list[tuple[int, int]], step: int, seed: int) -> None:
    """As above, with frames around the limits between small and big."""
    chance = random.Random(seed)
    sent = [(code, chance.randbytes(length)) for code, length in shapes]
    data = b"".join(frame(*each) for each in sent)
    step = max(step, len(data) // 5000)
    splitter = FrameSplitter()
    got = pump(splitter, data, step)
    assert [(code, bytes(payload)) for code, payload in got] == sent
    assert splitter.is_between_frames


def test_payloads_stay_as_they_were() -> None:
    """An append is kept until it is durable; the next bytes must not overwrite it."""
    splitter = FrameSplitter()
    kept: list[tuple[Frame, bytes]] = []
    for index in range(300):
        payload = bytes([index % 251]) * (index * 97)
        kept += [(each, payload) for each in pump(splitter, frame(3, payload), 4096)]
    assert len(kept) == 300
    for each, payload in kept:
        assert each.payload == payload
        assert isinstance(each.payload, bytes) or each.payload.readonly


def test_a_big_payload_is_not_copied() -> None:
    """The kernel writes an 8 MiB append where it stays, besides the steps of growing."""
    splitter = FrameSplitter()
    data = frame(4, bytes(8 << 20))
    tracemalloc.start()
    (got,) = pump(splitter, data, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(got.payload) == 8 << 20
    assert peak < 1.6 * (8 << 20)


def test_an_announcement_costs_nothing() -> None:
    """A thousand connections that announce 16 MiB each would take the server down."""
    tracemalloc.start()
    splitters = []
    for _ in range(20):
        splitter = FrameSplitter()
        assert splitter.receive(header(4, PAYLOAD_BYTES_MAX) + b"x") == []
        splitters.append(splitter)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 3 * framing.RECEIVE_BUFFER_BYTES
    assert not splitters[0].is_between_frames


def test_the_longest_frame() -> None:
    """Recorded: Pravega waits for 16 777 207 bytes of payload and closes at one more."""
    payload = bytes(PAYLOAD_BYTES_MAX)
    ((code, got),) = FrameSplitter().receive(frame(3, payload))
    assert (code, len(got)) == (3, PAYLOAD_BYTES_MAX)


@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX + 1, 2**31 - 1])
def test_too_long_is_refused_at_the_header(length: int) -> None:
    """Otherwise a connection could be used to fill the memory."""
    splitter = FrameSplitter()
    assert splitter.receive(header(9, length)[:7]) == []
    with pytest.raises(FrameTooLong) as caught:
        splitter.receive(header(9, length)[7:])
    assert (caught.value.code, caught.value.length) == (9, length)
    with pytest.raises(FrameTooLong):
        splitter.receive(frame(100, b""))


@pytest.mark.parametrize("length", [-1, -(2**31)])
def test_negative_length_is_refused_at_the_header(length: int) -> None:
    """A loop over frames would go backwards, or for ever."""
    with pytest.raises(NegativeFrameLength) as caught:
        FrameSplitter().receive(header(9, length))
    assert caught.value.length == length


def test_bad_frame_takes_the_good_one_before_it_along() -> None:
    """Recorded of Pravega: a request in the same write before a bad frame is not answered."""
    with pytest.raises(NegativeFrameLength):
        FrameSplitter().receive(frame(100, b"") + header(1, -1))


def test_a_smaller_limit() -> None:
    """A port that takes no appends can say so."""
    splitter = FrameSplitter(payload_bytes_max=100)
    assert len(splitter.receive(frame(1, bytes(100)))) == 1
    with pytest.raises(FrameTooLong):
        splitter.receive(frame(1, bytes(101)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_random_bytes(data: bytes, step: int) -> None:
    """A port scanner or an HTTP client would crash the connection instead of ending it."""
    splitter = FrameSplitter()
    try:
        frames = pump(splitter, data, step)
    except ProtocolError:
        return
    assert sum(len(each.payload) + 8 for each in frames) <= len(data)
