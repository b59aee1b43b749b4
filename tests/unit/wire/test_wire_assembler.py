"""Appends out of append commands: what Java and Rust clients send, and every broken rule."""

from pathlib import Path
from uuid import UUID

import pytest
from anabranch_wire import assembler, codec
from anabranch_wire import commands as c
from anabranch_wire.assembler import Append, AppendAssembler
from anabranch_wire.errors import (
    AppendBeforeSetup,
    BlockOfAnotherWriter,
    BlockRestMalformed,
    BlockSizeWrong,
    BlockStillOpen,
    EventCountNotPositive,
    EventNumberWentBack,
    ProtocolError,
    TooManyWriters,
)
from anabranch_wire.framing import FrameSplitter
from hypothesis import given, settings
from hypothesis import strategies as st

WRITER = UUID("00112233-4455-6677-8899-aabbccddeeff")
OTHER = UUID("00000000-0000-0001-0000-000000000002")
SEGMENT = "s/t/0.#epoch.0"
HELLO = b"\0\0\0\0\0\0\0\x05hello"
WORLD = b"\0\0\0\0\0\0\0\x05world"
APPEND_FAMILY = (
    c.SetupAppend,
    c.AppendBlock,
    c.AppendBlockEnd,
    c.ConditionalAppend,
    c.ConditionalBlockEnd,
    c.Padding,
)
VECTORS = dict(
    line.split()
    for line in (Path(__file__).parents[2] / "golden" / "wire_vectors.txt").open()
    if not line.startswith("#")
)


def assembler_with(*writers: UUID) -> AppendAssembler:
    made = AppendAssembler()
    for writer in writers:
        assert made.handle(c.SetupAppend(1, writer, SEGMENT)) is None
    return made


def feed(made: AppendAssembler, *commands: c.AppendFamily) -> list[Append]:
    return [append for append in map(made.handle, commands) if append is not None]


def data_of(append: Append) -> bytes:
    assert append.length_bytes == sum(map(len, append.data_parts))
    return b"".join(append.data_parts)


def end(
    size: int = 0,
    data: bytes = b"",
    *,
    events: int = 1,
    number: int = 1,
    writer: UUID = WRITER,
) -> c.AppendBlockEnd:
    return c.AppendBlockEnd(writer, size, data, events, number, 7)


@pytest.mark.parametrize(
    ("name", "stored", "events"),
    [
        ("java_single", HELLO, 1),
        ("java_block_padded64", HELLO + WORLD, 2),
        ("java_block_split20", HELLO + WORLD, 2),
        ("java_block_exact26", HELLO + WORLD, 2),
        ("java_queue", HELLO + WORLD, 2),
        ("java_batch", HELLO + WORLD, 2),
        ("java_empty", b"", 1),
        ("java_empty_midblock", HELLO, 2),
        ("rust_end", HELLO + WORLD, 2),
    ],
)
def test_what_clients_send(name: str, stored: bytes, events: int) -> None:
    """Each form must store the same bytes, or a reader finds corrupt events."""
    made = assembler_with(WRITER)
    appends = []
    for frame in FrameSplitter().receive(bytes.fromhex(VECTORS[name])):
        command = codec.decode_request(*frame)
        if isinstance(command, APPEND_FAMILY):
            appends += feed(made, command)
    (append,) = appends
    assert data_of(append) == stored
    assert append.event_count == events
    assert (append.segment, append.writer_id, append.expected_offset) == (SEGMENT, WRITER, None)


def test_two_writers_on_one_connection() -> None:
    """One writer's event would land in the other's segment."""
    made = AppendAssembler()
    feed(made, c.SetupAppend(1 << 32, WRITER, "s/t/0.#epoch.0"))
    feed(made, c.SetupAppend(2 << 32, OTHER, "s/t/1.#epoch.0"))
    frames = FrameSplitter().receive(bytes.fromhex(VECTORS["java_two_writers"]))
    commands = [codec.decode_request(*frame) for frame in frames]
    first, second = feed(made, *(each for each in commands if isinstance(each, APPEND_FAMILY)))
    assert first == Append(WRITER, "s/t/0.#epoch.0", 1, 1, (HELLO,), None, 1 << 32)
    assert second.segment == "s/t/1.#epoch.0"
    assert data_of(second) == b"\0\0\0\0\0\0\0\x02aa\0\0\0\0\0\0\0\x02bb"
    assert (second.event_number, second.event_count, second.request_id) == (2, 2, 2 << 32)


def test_conditional_append_stores_the_event_header() -> None:
    """Without it a state synchronizer cannot read its own updates back."""
    made = assembler_with(WRITER)
    (append,) = feed(made, c.ConditionalAppend(WRITER, 1, 26, b"hello", 9))
    assert data_of(append) == HELLO
    assert append[2:4] == (1, 1)
    assert (append.expected_offset, append.request_id) == (26, 9)


def test_conditional_block_is_stored_as_it_is() -> None:
    """A byte stream, or a piece of a large event, would get bytes that nobody wrote."""
    (append,) = feed(assembler_with(WRITER), c.ConditionalBlockEnd(WRITER, 0, 0, b"raw", 9))
    assert append == Append(WRITER, SEGMENT, 0, 1, (b"raw",), 0, 9)


def test_without_a_block_the_size_is_not_looked_at() -> None:
    """Rust fills it in, but a server that believed it would cut data off."""
    (append,) = feed(assembler_with(WRITER), end(-5, b"data"))
    assert data_of(append) == b"data"


def test_a_full_block_ignores_what_its_end_carries() -> None:
    """Recorded of Pravega; clients send it empty."""
    (append,) = feed(assembler_with(WRITER), c.AppendBlock(WRITER, b"full"), end(4, b"more"))
    assert data_of(append) == b"full"


def test_bytes_behind_the_embedded_frame_are_ignored() -> None:
    """Recorded of Pravega."""
    block = HELLO + b"\xff\xff\xff\xfe\0\0\0\x02ab" + b"behind"
    (append,) = feed(assembler_with(WRITER), c.AppendBlock(WRITER, block), end(13, b"cd"))
    assert data_of(append) == HELLO + b"abcd"


def test_other_commands_may_come_while_a_block_is_open() -> None:
    """A KeepAlive or a read between a block and its end is normal; they never get here."""
    made = assembler_with(WRITER)
    assert feed(made, c.AppendBlock(WRITER, HELLO)) == []
    assert feed(made, end(13))[0].data_parts == (HELLO,)


# --- Numbers


def test_numbers_may_repeat_but_not_go_back() -> None:
    """A stale block would be stored behind newer events."""
    made = assembler_with(WRITER)
    assert len(feed(made, end(number=5), end(number=5), end(number=9))) == 3
    with pytest.raises(EventNumberWentBack) as caught:
        made.handle(end(number=8))
    assert (caught.value.event_number, caught.value.remembered) == (8, 9)


def test_negative_numbers_are_refused() -> None:
    """The memory starts at 0; 0 itself is the first piece of a large event."""
    assert len(feed(assembler_with(WRITER), end(number=0))) == 1
    with pytest.raises(EventNumberWentBack):
        assembler_with(WRITER).handle(end(number=-1))


def test_conditional_numbers_count_too() -> None:
    """Also those of conditional appends that fail later on."""
    made = assembler_with(WRITER)
    feed(made, c.ConditionalBlockEnd(WRITER, 4, 99, b"", 1))
    with pytest.raises(EventNumberWentBack):
        made.handle(end(number=3))
    with pytest.raises(EventNumberWentBack):
        made.handle(c.ConditionalAppend(WRITER, 3, 0, b"", 1))


def test_a_second_setup_points_to_another_segment_and_starts_again() -> None:
    """The memory is per writer id only: appends go to the segment of its last setup."""
    made = assembler_with(WRITER)
    feed(made, end(number=9), c.SetupAppend(2, WRITER, "s/t/1.#epoch.0"))
    (append,) = feed(made, end(number=1))
    assert append.segment == "s/t/1.#epoch.0"


# --- Broken rules


@pytest.mark.parametrize(
    "command",
    [
        c.AppendBlock(OTHER, b""),
        end(writer=OTHER),
        c.ConditionalAppend(OTHER, 1, 0, b"", 1),
        c.ConditionalBlockEnd(OTHER, 1, 0, b"", 1),
    ],
    ids=lambda command: type(command).__name__,
)
def test_append_before_setup(command: c.AppendFamily) -> None:
    """Without SetupAppend nobody has checked the token, or knows the segment."""
    with pytest.raises(AppendBeforeSetup, match=type(command).__name__) as caught:
        assembler_with(WRITER).handle(command)
    assert caught.value.writer_id == OTHER


@pytest.mark.parametrize(
    "command",
    [
        c.SetupAppend(1, OTHER, SEGMENT),
        c.AppendBlock(WRITER, b""),
        c.ConditionalAppend(WRITER, 1, 0, b"", 1),
        c.ConditionalBlockEnd(WRITER, 1, 0, b"", 1),
        c.Padding(3),
    ],
    ids=lambda command: type(command).__name__,
)
def test_append_command_inside_a_block(command: c.AppendFamily) -> None:
    """Data of two appends would be mixed."""
    made = assembler_with(WRITER)
    made.handle(c.AppendBlock(WRITER, b"open"))
    with pytest.raises(BlockStillOpen, match=type(command).__name__):
        made.handle(command)


def test_padding_on_its_own_is_ignored() -> None:
    """Recorded of Pravega."""
    assert assembler_with(WRITER).handle(c.Padding(100)) is None


def test_end_of_another_writers_block() -> None:
    """One writer's data would be stored under the other's name."""
    made = assembler_with(WRITER, OTHER)
    made.handle(c.AppendBlock(WRITER, b"data"))
    with pytest.raises(BlockOfAnotherWriter):
        made.handle(end(4, writer=OTHER))


@pytest.mark.parametrize("events", [0, -1])
def test_block_without_events(events: int) -> None:
    """The event count of the segment, which scaling looks at, would be wrong."""
    with pytest.raises(EventCountNotPositive):
        assembler_with(WRITER).handle(end(events=events))


@pytest.mark.parametrize("size", [-1, 5])
def test_size_outside_the_block(size: int) -> None:
    """Bytes that were never sent would count as acknowledged."""
    made = assembler_with(WRITER)
    made.handle(c.AppendBlock(WRITER, b"data"))
    with pytest.raises(BlockSizeWrong):
        made.handle(end(size))


@pytest.mark.parametrize(
    ("rest", "data"),
    [
        (b"\xff\xff\xff\xff", b""),
        (b"\xff\xff\xff\xff\0\0\0\x05abcd", b""),
        (b"\xff\xff\xff\xfe\xff\xff\xff\xff", b""),
        (b"\0\0\0\0\0\0\0\x02ab", b""),
        (b"\0\0\0\x64\0\0\0\0", b""),
        (b"\xff\xff\xff\xff\0\0\0\0", b"data after padding"),
    ],
    ids=["short", "too long", "negative", "an event", "KeepAlive", "padding and data"],
)
def test_rest_of_a_block_that_is_no_rest(rest: bytes, data: bytes) -> None:
    """Half an event would be stored, and every reader of the segment stops there."""
    made = assembler_with(WRITER)
    made.handle(c.AppendBlock(WRITER, HELLO + rest))
    with pytest.raises(BlockRestMalformed):
        made.handle(end(13, data))


def test_writers_of_one_connection_are_bounded() -> None:
    """A client that sets up writers for ever would fill the memory."""
    made = AppendAssembler()
    for number in range(assembler.WRITERS_COUNT_MAX):
        made.handle(c.SetupAppend(1, UUID(int=number), SEGMENT))
    made.handle(c.SetupAppend(1, UUID(int=0), SEGMENT))
    with pytest.raises(TooManyWriters):
        made.handle(c.SetupAppend(1, UUID(int=2**100), SEGMENT))


# --- Any cut of any events into blocks


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=8),
    st.integers(1, 200),
)
def test_a_block_of_any_size_stores_its_events_once(events: list[bytes], block: int) -> None:
    """Java cuts its appends where the announced block ends; nothing may be lost or doubled."""
    made = assembler_with(WRITER)
    stored, number, waiting = b"", 0, list(events)
    while waiting:
        content, count, rest = b"", 0, b""
        while waiting and len(content) + len(waiting[0]) < block:
            content, count = content + waiting.pop(0), count + 1
        room = block - len(content)
        if waiting:
            event, count = waiting.pop(0), count + 1
            filler = b"\xff\xff\xff\xfe" + room.to_bytes(4, "big") + event[:room]
            rest = event[room:]
        else:
            filler = b"\xff\xff\xff\xff" + room.to_bytes(4, "big") + bytes(room)
        number += count
        for append in feed(
            made,
            c.AppendBlock(WRITER, content + filler),
            end(len(content), rest, events=count, number=number),
        ):
            stored += data_of(append)
    assert stored == b"".join(events)
    assert number == len(events)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=60), max_size=6), st.lists(st.sampled_from([1, 3, 4, 5, 89, -1]))
)
def test_random_append_frames(payloads: list[bytes], codes: list[int]) -> None:
    """Hostile bytes would end in an exception that no connection handler knows."""
    made = assembler_with(UUID(int=0))
    for code, payload in zip(codes, payloads, strict=False):
        try:
            command = codec.decode_request(code, payload)
            assert isinstance(command, APPEND_FAMILY)
            made.handle(command)
        except ProtocolError:
            return
