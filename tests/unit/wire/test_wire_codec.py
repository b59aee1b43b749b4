"""The codec beyond literal frames: round trips, optional fields, text, hostile payloads."""

import random
from typing import Any
from uuid import UUID

import pytest
from anabranch_wire import codec, hot
from anabranch_wire import commands as c
from anabranch_wire.constants import PAYLOAD_BYTES_MAX
from anabranch_wire.errors import (
    EmptyTableKey,
    EncodingError,
    MalformedFrame,
    ProtocolError,
    UnexpectedCommand,
    UnknownCommand,
)
from anabranch_wire.framing import FrameSplitter
from anabranch_wire.layouts import BY_CODE, CODES, NEVER_OPTIONAL, TABLE, Direction
from hypothesis import given, settings
from hypothesis import strategies as st

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
BYTES = st.binary(max_size=100)
KEY = st.builds(c.TableKey, st.binary(min_size=1, max_size=30), INT64)
OF_KIND: dict[str, st.SearchStrategy[Any]] = {
    "i8": st.integers(-128, 127),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "i64": INT64,
    "bool": st.booleans(),
    "uuid": st.uuids(),
    "utf": TEXT,
    "buf": BYTES,
    "raw": BYTES,
    "event": BYTES,
    "zeros": st.integers(0, 100),
    "list<utf>": st.lists(TEXT, max_size=4).map(tuple),
    "list<i64>": st.lists(INT64, max_size=4).map(tuple),
    "list<TableKey>": st.lists(KEY, max_size=4).map(tuple),
    "list<TableEntry>": st.lists(st.builds(c.TableEntry, KEY, BYTES), max_size=4).map(tuple),
    "list<ConditionalAttributeUpdate>": st.lists(
        st.builds(c.ConditionalAttributeUpdate, st.uuids(), st.integers(0, 4), INT64, INT64),
        max_size=3,
    ).map(tuple),
    "list<MergedSource>": st.lists(st.builds(c.MergedSource, TEXT, INT64), max_size=3).map(tuple),
    "list<StorageChunk>": st.lists(
        st.builds(c.StorageChunk, INT64, INT64, INT64, TEXT, st.booleans()), max_size=3
    ).map(tuple),
}
COMMANDS: st.SearchStrategy[c.Command] = st.one_of(
    *(
        st.tuples(*(OF_KIND[field.kind.name] for field in layout.fields)).map(layout.command._make)
        for layout in TABLE
    )
)


def cut(frame: bytes) -> tuple[int, bytes]:
    ((code, payload),) = FrameSplitter().receive(frame)
    return code, bytes(payload)


@settings(max_examples=1500, deadline=None)
@given(COMMANDS)
def test_round_trip(command: c.Command) -> None:
    """What one side says, the other would understand as something else."""
    frame = codec.encode(command)
    assert b"".join(codec.encode_parts(command)) == frame
    code, payload = cut(frame)
    assert code == CODES[type(command)]
    for form in (payload, memoryview(payload)):
        again = codec.decode(code, form)
        assert type(again) is type(command)
        assert again == command


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        *(
            st.tuples(*(OF_KIND[field.kind.name] for field in BY_CODE[code].fields)).map(
                BY_CODE[code].command._make
            )
            for code in (3, 4, 7, 9, 10)
        )
    )
)
def test_short_paths_agree_with_the_table(command: c.Command) -> None:
    """An append or read of the quick path would differ from the documented layout."""
    by_table = b"".join(codec._parts_by_table(command))
    quick = hot.encode_quickly(command)
    assert quick is None or b"".join(quick) == by_table
    code, payload = cut(by_table)
    decoder = hot.DECODERS.get(code)
    assert quick is not None or decoder is not None
    for end in range(len(payload) + 1):
        assert decoder is None or decoder(payload[:end]) in (
            None,
            _outcome(lambda end=end: codec._decode_by_table(code, payload[:end])),
        )


def _outcome(attempt: Any) -> object:
    try:
        return attempt()
    except ProtocolError as failure:
        return failure


@settings(max_examples=300, deadline=None)
@given(COMMANDS, st.binary(min_size=1, max_size=20))
def test_fields_of_a_newer_peer_are_skipped(command: c.Command, more: bytes) -> None:
    """A newer client would be thrown out for a field that we do not know."""
    code, payload = cut(codec.encode(command))
    layout = BY_CODE[code]
    if layout.fields and layout.fields[-1].kind.name in ("raw", "zeros"):
        return  # these take the rest, whatever it is
    assert codec.decode(code, payload + more) == command


OLDER = [
    ("SetupAppend", "ends with its token", c.SetupAppend, 0),
    ("AppendBlockEnd", "no request id", c.AppendBlockEnd, 1),
    ("ConditionalAppend", "no request id", c.ConditionalAppend, 1),
    ("DataAppended", "neither previous, request id nor offset", c.DataAppended, 3),
    ("ConditionalCheckFailed", "no request id", c.ConditionalCheckFailed, 1),
    ("ReadSegment", "no request id", c.ReadSegment, 1),
    ("SegmentRead", "no request id", c.SegmentRead, 1),
    ("StreamSegmentInfo", "no start offset", c.StreamSegmentInfo, 1),
    ("CreateSegment", "Rust: no rollover size", c.CreateSegment, 1),
    ("CreateTableSegment", "Rust: ends after the token", c.CreateTableSegment, 3),
    ("MergeSegments", "Rust: no attribute updates", c.MergeSegments, 1),
    ("SegmentsMerged", "no offset", c.SegmentsMerged, 1),
    ("UpdateTableEntries", "no offset", c.UpdateTableEntries, 1),
    ("RemoveTableKeys", "no offset", c.RemoveTableKeys, 1),
    ("ReadTableKeys", "Rust: one argument", c.ReadTableKeys, 3),
    ("ReadTableEntries", "no arguments", c.ReadTableEntries, 4),
    ("WrongHost", "no stack", c.WrongHost, 1),
    ("SegmentIsSealed", "neither stack nor offset", c.SegmentIsSealed, 2),
    ("NoSuchSegment", "no offset", c.NoSuchSegment, 1),
    ("InvalidEventNumber", "neither stack nor number", c.InvalidEventNumber, 2),
    ("SegmentIsTruncated", "neither stack nor offset", c.SegmentIsTruncated, 2),
    ("SegmentAlreadyExists", "no stack", c.SegmentAlreadyExists, 1),
    ("OperationUnsupported", "no stack", c.OperationUnsupported, 1),
    ("AuthTokenCheckFailed", "neither stack nor code", c.AuthTokenCheckFailed, 2),
]


@pytest.mark.parametrize(("name", "case", "command", "missing"), OLDER)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_shorter_form_gets_the_defaults(
    name: str, case: str, command: type[c.Command], missing: int, data: st.DataObject
) -> None:
    """The Rust client and older Java clients leave trailing fields away."""
    layout = BY_CODE[CODES[command]]
    assert name == layout.command.__name__
    values = [data.draw(OF_KIND[field.kind.name]) for field in layout.fields]
    kept = len(values) - missing
    parts: list[c.Data] = []
    for field, value in zip(layout.fields[:kept], values, strict=False):
        field.kind.write(parts, value)
    defaults = [layout.command._field_defaults[field.name] for field in layout.fields[kept:]]
    assert codec.decode(layout.code, b"".join(parts)) == command._make(values[:kept] + defaults)


def test_all_optional_fields_are_among_the_shorter_forms() -> None:
    """A field that became mandatory by mistake would throw older clients out."""
    optional = {
        layout.command
        for layout in TABLE
        if any(field.least_bytes != NEVER_OPTIONAL for field in layout.fields)
    }
    assert optional == {command for _, _, command, missing in OLDER if missing}


@settings(max_examples=400, deadline=None)
@given(COMMANDS, st.data())
def test_cut_short_payload_is_refused_or_has_defaults(command: c.Command, data: Any) -> None:
    """A lying frame length would be read beyond its end, or crash the server."""
    code, payload = cut(codec.encode(command))
    end = data.draw(st.integers(0, len(payload)))
    for form in (payload[:end], memoryview(payload)[:end]):
        try:
            shorter = codec.decode(code, form)
        except (MalformedFrame, EmptyTableKey):
            continue
        assert type(shorter) is type(command)


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(sorted(BY_CODE)), st.binary(max_size=120))
def test_random_payload_is_refused_or_decoded(code: int, payload: bytes) -> None:
    """Random bytes would end in an exception that no connection handler knows."""
    try:
        command = codec.decode(code, payload)
    except ProtocolError:
        return
    assert CODES[type(command)] == code


def test_damaged_frames_are_refused_or_decoded() -> None:
    """One flipped byte in a real frame would end in an unknown exception, or in a long loop."""
    chance = random.Random(20261121)
    entry = c.TableEntry(c.TableKey(b"key", 7), b"value")
    commands = [
        c.UpdateTableEntries(1, "s/t/0", "token", (entry, entry)),
        c.MergeSegments(1, "t", "s", "", (c.ConditionalAttributeUpdate(_UUID, 4, 1, 2),)),
        c.MergeSegmentsBatch(1, "t", ("a", "b"), "token"),
        c.ReadTableEntries(1, "s", "", 5, b"token", b"", b"from", b"to"),
        c.StorageChunksListed(1, (c.StorageChunk(1, 2, 3, "chunk", True),)),
        c.ConditionalAppend(_UUID, 1, 2, b"event", 3),
        c.SegmentRead("s", 1, True, False, b"data", 4),
    ]
    for command in commands:
        code, payload = cut(codec.encode(command))
        for _ in range(2000):
            damaged = bytearray(payload)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            try:
                codec.decode(code, memoryview(bytes(damaged)))
            except ProtocolError:
                continue


_UUID = UUID(int=5)


@pytest.mark.parametrize("count", [-1, 2**31 - 1, 1_000_000])
def test_a_claimed_count_costs_nothing(count: int) -> None:
    """Twenty bytes that claim two thousand million keys would take the server's memory."""
    head = (1).to_bytes(8, "big") + b"\x00\x01s" + b"\x00\x00"
    payload = head + count.to_bytes(4, "big", signed=True) + bytes(40)
    with pytest.raises(MalformedFrame, match="claims"):
        codec.decode(CODES[c.ReadTable], payload)


@pytest.mark.parametrize("length", [-1, 1, 2**31 - 1, -(2**31)])
def test_a_lying_inner_length_is_refused(length: int) -> None:
    """Data of another frame, or of another client, would be stored."""
    payload = bytes(16) + bytes(4) + length.to_bytes(4, "big", signed=True)
    with pytest.raises(MalformedFrame) as caught:
        codec.decode(CODES[c.AppendBlockEnd], payload)
    assert (caught.value.name, caught.value.field) == ("AppendBlockEnd", "data")


# --- Table keys


def _read_table(key_part: bytes) -> bytes:
    return (77).to_bytes(8, "big") + b"\x00\x03a/b" + b"\x00\x00" + b"\x00\x00\x00\x01" + key_part


@pytest.mark.parametrize(
    "key_part",
    [bytes.fromhex("0000000c00000000"), bytes.fromhex("0000000c00000000ffffffffffffffff")],
    ids=["as Java writes it", "as Rust writes it"],
)
def test_an_empty_key_names_its_request(key_part: bytes) -> None:
    """One empty key made a whole container of Pravega unusable; the client gets an answer."""
    # Java's claims twelve bytes and writes four, so more has to follow it in the frame.
    with pytest.raises(EmptyTableKey) as caught:
        codec.decode(CODES[c.ReadTable], _read_table(key_part + bytes(8)))
    assert (caught.value.request_id, caught.value.segment) == (77, "a/b")


def test_an_empty_key_is_never_sent() -> None:
    """A reply with an empty key would be misread from there on."""
    with pytest.raises(EncodingError, match=r"TableKeysRead\.keys"):
        codec.encode(c.TableKeysRead(1, "s", (c.TableKey(b"", 1),), b""))


@pytest.mark.parametrize("total", [-1, 0, 3, 100])
def test_a_key_with_a_lying_total_is_refused(total: int) -> None:
    """Java refuses it too: nothing behind it can be trusted."""
    key = total.to_bytes(4, "big", signed=True) + b"\x00\x00\x00\x01k" + bytes(8)
    with pytest.raises(MalformedFrame):
        codec.decode(CODES[c.ReadTable], _read_table(key))


# --- Text


@pytest.mark.parametrize(
    ("text", "java"),
    [
        ("plain", "706c61696e"),
        ("é", "c3a9"),
        ("日本", "e697a5e69cac"),
        ("\0", "c080"),
        ("a\0b", "61c08062"),
        ("😀", "eda0bdedb880"),
        ("a😀é\0", "61eda0bdedb880c3a9c080"),
    ],
)
def test_both_forms_of_utf_8_are_read_and_javas_is_written(text: str, java: str) -> None:
    """A name outside ASCII would come back as another name."""
    command = c.SegmentCreated(1, text)
    code, payload = cut(codec.encode(command))
    assert payload[10:].hex() == java
    assert codec.decode(code, payload) == command
    standard = text.encode()
    assert codec.decode(code, payload[:8] + len(standard).to_bytes(2, "big") + standard) == command


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\xbd", b"\xc0\x81", b"\xf8\x88"])
def test_what_is_no_text_is_refused(bad: bytes) -> None:
    """Half a character would be stored in a name that nobody can ask for."""
    payload = bytes(8) + len(bad).to_bytes(2, "big") + bad
    with pytest.raises(MalformedFrame, match="UTF-8"):
        codec.decode(CODES[c.SegmentCreated], payload)


def test_text_that_does_not_fit_is_not_sent() -> None:
    """A cut or wrapped length would make the whole frame unreadable."""
    with pytest.raises(EncodingError, match=r"ErrorMessage\.message.*65536"):
        codec.encode(c.ErrorMessage(1, "s", "x" * 65_536, 0))
    assert len(codec.encode(c.ErrorMessage(1, "s", "x" * 65_535, 0))) > 65_535
    with pytest.raises(EncodingError, match="surrogate"):
        codec.encode(c.SegmentCreated(1, "\ud800"))


def test_a_number_that_does_not_fit_is_not_sent() -> None:
    """A wrong answer would look right to the client."""
    with pytest.raises(EncodingError, match=r"SegmentAttribute\.value"):
        codec.encode(c.SegmentAttribute(1, 2**63))
    with pytest.raises(EncodingError, match=r"DataAppended\.event_number"):
        codec.encode(c.DataAppended(_UUID, 2**63))


# --- Size, direction, memory


def test_the_longest_frame_and_one_byte_more() -> None:
    """A frame that the peer refuses would cost the connection and all that waits on it."""
    longest = PAYLOAD_BYTES_MAX - 16
    assert len(codec.encode(c.AppendBlock(_UUID, bytes(longest)))) == 0xFFFFFF
    with pytest.raises(EncodingError, match="16777208"):
        codec.encode(c.AppendBlock(_UUID, bytes(longest + 1)))
    with pytest.raises(EncodingError):
        codec.encode(c.SegmentRead("s", 0, False, False, bytes(PAYLOAD_BYTES_MAX), 1))


def test_big_data_is_not_copied() -> None:
    """Each read of 2 MiB would cost another 2 MiB and a millisecond."""
    data = bytes(100_000)
    parts = codec.encode_parts(c.SegmentRead("s", 0, False, False, data, 1))
    assert any(part is data for part in parts)
    payload = memoryview(b"".join(parts))[8:]
    read = codec.decode(CODES[c.SegmentRead], payload)
    assert isinstance(read, c.SegmentRead)
    assert isinstance(read.data, memoryview)
    assert read.data.obj is payload.obj


@pytest.mark.parametrize("code", [6, 13, 19, 43, 54, 62, 72, 73, 92, 99, 101, 256, -7, -126, 2**30])
def test_unassigned_and_retired_codes(code: int) -> None:
    """A receiver closes the connection on them; it must not take them for something else."""
    for attempt in (codec.decode, codec.decode_request, codec.decode_reply):
        with pytest.raises(UnknownCommand) as caught:
            attempt(code, b"")
        assert caught.value.code == code


def test_a_server_takes_requests_only() -> None:
    """A reply, a bare event or an admin command would be acted on, or crash the server."""
    for layout in TABLE:
        allowed = layout.direction in (Direction.REQUEST, Direction.BOTH) or layout.code == -1
        if not allowed:
            with pytest.raises(UnexpectedCommand, match=layout.command.__name__):
                codec.decode_request(layout.code, b"")
    assert codec.decode_request(100, b"") == c.KeepAlive()
    assert codec.decode_request(-1, bytes(5)) == c.Padding(5)


def test_the_administrative_port_takes_no_appends() -> None:
    """Recorded: SetupAppend on that port closes the connection, other requests work."""
    flush = cut(codec.encode(c.FlushToStorage(0, "", 1)))
    assert codec.decode_request(*flush, admin=True) == c.FlushToStorage(0, "", 1)
    setup = cut(codec.encode(c.SetupAppend(1, _UUID, "s")))
    with pytest.raises(UnexpectedCommand):
        codec.decode_request(*setup, admin=True)
    info = cut(codec.encode(c.GetStreamSegmentInfo(1, "s")))
    assert codec.decode_request(*info, admin=True) == c.GetStreamSegmentInfo(1, "s")


def test_a_client_takes_replies_only() -> None:
    """A confused server would be taken for a client."""
    with pytest.raises(UnexpectedCommand):
        codec.decode_reply(*cut(codec.encode(c.SealSegment(1, "s"))))
    assert codec.decode_reply(*cut(codec.encode(c.SegmentSealed(1, "s")))) == (1, "s")
