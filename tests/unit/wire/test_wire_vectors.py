"""Every literal frame of the reference, both ways: bytes that Pravega's own encoders wrote."""

from pathlib import Path
from uuid import UUID

import pytest
from anabranch_wire import codec
from anabranch_wire import commands as c
from anabranch_wire.framing import FrameSplitter
from anabranch_wire.layouts import TABLE, Direction

VECTORS = {
    name: bytes.fromhex(digits)
    for name, digits in (
        line.split()
        for line in (Path(__file__).parents[2] / "golden" / "wire_vectors.txt").open()
        if not line.startswith("#")
    )
}
WRITER = UUID("00112233-4455-6677-8899-aabbccddeeff")
OTHER_WRITER = UUID("00000000-0000-0001-0000-000000000002")
MARK = UUID("7df9a874-246c-c9d6-9397-cdd19ead68c5")
SEGMENT, TABLE_SEGMENT = "s/t/0.#epoch.0", "s/k_kvtable/0.#epoch.0"
FLOW = 1 << 32  # the id of a Java writer's SetupAppend: flow 1, sequence 0
REQUEST = FLOW + 1
HELLO = b"\0\0\0\0\0\0\0\x05hello"
WORLD = b"\0\0\0\0\0\0\0\x05world"


def padding(length: int) -> bytes:
    return b"\xff\xff\xff\xff" + length.to_bytes(4, "big") + bytes(length)


def partial(data: bytes) -> bytes:
    return b"\xff\xff\xff\xfe" + len(data).to_bytes(4, "big") + data


EXPECTED: dict[str, list[c.Command]] = {
    "hello_17": [c.Hello(17, 5)],
    "hello_16": [c.Hello(16, 5)],
    "hello_rust": [c.Hello(15, 5)],
    "keepalive": [c.KeepAlive()],
    "setupappend": [c.SetupAppend(FLOW, WRITER, SEGMENT)],
    "appendsetup_new": [c.AppendSetup(FLOW, SEGMENT, WRITER, c.NO_EVENT)],
    "appendsetup_2": [c.AppendSetup(FLOW, SEGMENT, WRITER, 2)],
    "java_single": [
        c.AppendBlock(WRITER, HELLO),
        c.AppendBlockEnd(WRITER, 13, b"", 1, 1, FLOW),
    ],
    "java_block_padded64": [
        c.AppendBlock(WRITER, HELLO + WORLD + padding(38)),
        c.AppendBlockEnd(WRITER, 26, b"", 2, 2, FLOW),
    ],
    "java_block_split20": [
        c.AppendBlock(WRITER, HELLO + partial(WORLD[:7])),
        c.AppendBlockEnd(WRITER, 13, WORLD[7:], 2, 2, FLOW),
    ],
    "java_block_exact26": [
        c.AppendBlock(WRITER, HELLO + partial(WORLD)),
        c.AppendBlockEnd(WRITER, 13, b"", 2, 2, FLOW),
    ],
    "java_queue": [
        c.AppendBlock(WRITER, HELLO + WORLD),
        c.AppendBlockEnd(WRITER, 26, b"", 2, 2, FLOW),
    ],
    "java_batch": [
        c.AppendBlock(WRITER, HELLO + WORLD),
        c.AppendBlockEnd(WRITER, 26, b"", 2, 2, FLOW),
    ],
    "java_empty": [c.AppendBlock(WRITER, b""), c.AppendBlockEnd(WRITER, 0, b"", 1, 3, FLOW)],
    "java_empty_midblock": [
        c.AppendBlock(WRITER, HELLO + padding(51)),
        c.AppendBlockEnd(WRITER, 13, b"", 2, 2, FLOW),
        c.KeepAlive(),
    ],
    "java_two_writers": [
        c.AppendBlock(WRITER, HELLO + padding(51)),
        c.AppendBlockEnd(WRITER, 13, b"", 1, 1, FLOW),
        c.AppendBlock(OTHER_WRITER, b"\0\0\0\0\0\0\0\x02aa\0\0\0\0\0\0\0\x02bb"),
        c.AppendBlockEnd(OTHER_WRITER, 20, b"", 2, 2, 2 << 32),
        c.KeepAlive(),
    ],
    "rust_end": [c.AppendBlockEnd(WRITER, 26, HELLO + WORLD, 2, 2, 3)],
    "dataappended": [c.DataAppended(WRITER, 2, c.NO_EVENT, FLOW, 26)],
    "condappend": [c.ConditionalAppend(WRITER, 1, 26, b"hello", REQUEST)],
    "condfailed": [c.ConditionalCheckFailed(WRITER, 1, REQUEST)],
    "condblockend": [c.ConditionalBlockEnd(WRITER, 0, 0, HELLO, REQUEST)],
    "readsegment": [c.ReadSegment(SEGMENT, 0, 1 << 20, "", FLOW)],
    "segmentread": [c.SegmentRead(SEGMENT, 0, True, False, HELLO + WORLD, FLOW)],
    "segmentread_eos": [c.SegmentRead(SEGMENT, 26, False, True, b"", FLOW)],
    "createsegment": [c.CreateSegment(REQUEST, SEGMENT, 0, 0)],
    "createsegment_rate": [c.CreateSegment(REQUEST, SEGMENT, target_rate=100, scale_type=2)],
    "segmentcreated": [c.SegmentCreated(REQUEST, SEGMENT)],
    "wronghost": [c.WrongHost(REQUEST, SEGMENT)],
    "nosuchsegment": [c.NoSuchSegment(REQUEST, SEGMENT, "", -1)],
    "sealed": [c.SegmentIsSealed(FLOW, SEGMENT, "", offset=3)],
    "truncated": [c.SegmentIsTruncated(FLOW, SEGMENT, start_offset=13, offset=0)],
    "invalidevent": [c.InvalidEventNumber(WRITER, FLOW, "", event_number=2)],
    "authfail": [c.AuthTokenCheckFailed(REQUEST, "", c.TOKEN_EXPIRED)],
    "error": [c.ErrorMessage(REQUEST, SEGMENT, "bad", c.ERROR_ILLEGAL_ARGUMENT)],
    "getinfo": [c.GetStreamSegmentInfo(REQUEST, SEGMENT)],
    "info": [
        c.StreamSegmentInfo(
            REQUEST, SEGMENT, True, False, False, last_modified=1_700_000_000_000, write_offset=26
        )
    ],
    "updatetable": [
        c.UpdateTableEntries(
            REQUEST, TABLE_SEGMENT, "", (c.TableEntry(c.TableKey(b"k1", c.NOT_EXISTS), b"v1"),)
        )
    ],
    "tableupdated": [c.TableEntriesUpdated(REQUEST, (0,))],
    "removekeys": [c.RemoveTableKeys(REQUEST, TABLE_SEGMENT, "", (c.TableKey(b"k1"),))],
    "readtable": [c.ReadTable(REQUEST, TABLE_SEGMENT, "", (c.TableKey(b"k1"),))],
    "tableread_missing": [
        c.TableRead(REQUEST, TABLE_SEGMENT, (c.TableEntry(c.TableKey(b"k1", c.NOT_EXISTS), b""),))
    ],
    "readtablekeys": [
        c.ReadTableKeys(REQUEST, TABLE_SEGMENT, "", 10, from_key=b"\0\0", to_key=b"\xff\xff")
    ],
    "readtablekeys_rust": [c.ReadTableKeys(REQUEST, TABLE_SEGMENT, "", 10)],
    "tableentriesread": [
        c.TableEntriesRead(
            REQUEST, TABLE_SEGMENT, (c.TableEntry(c.TableKey(b"k1", 0), b"v1"),), b""
        )
    ],
    "deltaread": [
        c.TableEntriesDeltaRead(
            REQUEST,
            TABLE_SEGMENT,
            (c.TableEntry(c.TableKey(b"k1", 0), b"v1"),),
            should_clear=False,
            reached_end=True,
            last_position=21,
        )
    ],
    "createtable": [c.CreateTableSegment(REQUEST, TABLE_SEGMENT, key_length=2)],
    "tableinfo": [
        c.TableSegmentInfo(
            REQUEST, TABLE_SEGMENT, start_offset=0, length=21, entry_count=1, key_length=2
        )
    ],
    "merge": [
        c.MergeSegments(REQUEST, SEGMENT, SEGMENT + "#transaction.00000000000000010000000000000002")
    ],
    "mergebatch": [c.MergeSegmentsBatch(REQUEST, SEGMENT, ("x",))],
    "batchmerged": [c.SegmentsBatchMerged(REQUEST, SEGMENT, (c.MergedSource("x", 26),))],
    "locate": [c.LocateOffset(REQUEST, SEGMENT, 20)],
    "located": [c.OffsetLocated(REQUEST, SEGMENT, 26)],
    "transient": [c.CreateTransientSegment(REQUEST, WRITER, SEGMENT)],
    "getattr": [c.GetSegmentAttribute(REQUEST, SEGMENT, MARK)],
    "updattr": [c.UpdateSegmentAttribute(REQUEST, SEGMENT, MARK, 100, c.NULL_ATTRIBUTE)],
    "truncatereq": [c.TruncateSegment(REQUEST, SEGMENT, 13)],
    "seal": [c.SealSegment(REQUEST, SEGMENT)],
    "chunks": [c.StorageChunksListed(REQUEST, (c.StorageChunk(10, 10, 0, "c", True),))],
}
SHORTER_THAN_WE_WRITE = {"readtablekeys_rust": "Rust leaves three of four arguments away"}

# Made by hand from the layouts of the reference, for commands that the appendix does not show.
BY_HAND = {
    "ffffffff00000003000000": c.Padding(3),
    "fffffffe000000026869": c.PartialEvent(b"hi"),
    "0000000000000002" + "6869": c.Event(b"hi"),
    "0000001d0000000b0000000000000007" + "000173": c.SegmentSealed(7, "s"),
    "0000001e0000000d0000000000000007" + "000173" + "0000": c.DeleteSegment(7, "s"),
    "0000001f0000000b0000000000000007" + "000173": c.SegmentDeleted(7, "s"),
    "00000020000000120000000000000007" + "000173" + "0000000a" + "01" + "0000": (
        c.UpdateSegmentPolicy(7, "s", 10, 1)
    ),
    "000000210000000b0000000000000007" + "000173": c.SegmentPolicyUpdated(7, "s"),
    "00000023000000100000000000000007" + "0000000000000064": c.SegmentAttribute(7, 100),
    "00000025000000090000000000000007" + "01": c.SegmentAttributeUpdated(7, True),
    "000000270000000b0000000000000007" + "000173": c.SegmentTruncated(7, "s"),
    "0000003b000000160000000000000007" + "000174" + "000173" + "000000000000001a": (
        c.SegmentsMerged(7, "t", "s", 26)
    ),
    "00000034000000100000000000000007" + "000173" + "0003626164": (
        c.SegmentAlreadyExists(7, "s", "bad")
    ),
    "00000039000000100000000000000007" + "000173" + "0003626164": (
        c.OperationUnsupported(7, "s", "bad")
    ),
    "000000440000000d0000000000000007" + "000173" + "0000": c.GetTableSegmentInfo(7, "s"),
    "000000470000000e0000000000000007" + "000173" + "01" + "0000": (
        c.DeleteTableSegment(7, "s", True)
    ),
    "0000004d0000000b0000000000000007" + "000173": c.TableKeysRemoved(7, "s"),
    "000000500000000d0000000000000007" + "000173" + "0000": c.TableSegmentNotEmpty(7, "s"),
    "000000510000000d0000000000000007" + "000173" + "0000": c.TableKeyDoesNotExist(7, "s"),
    "000000520000000d0000000000000007" + "000173" + "0000": c.TableKeyBadVersion(7, "s"),
    "00000054000000250000000000000007" + "000173" + "00000001"
    "0000000d" + "00000001" + "6b" + "0000000000000005" + "00000001" + "ff": (
        c.TableKeysRead(7, "s", (c.TableKey(b"k", 5),), b"\xff")
    ),
    "00000055000000210000000000000007" + "000173" + "0000" + "00000005"
    "00000000" + "00000000" + "00000000" + "00000000": c.ReadTableEntries(7, "s", "", 5),
    "00000058000000190000000000000007" + "000173" + "0000" + "0000000000000009" + "00000005": (
        c.ReadTableEntriesDelta(7, "s", "", 9, 5)
    ),
    "fffffffd0000000e" + "00000003" + "0000" + "0000000000000007": c.FlushToStorage(3, "", 7),
    "fffffffc00000008" + "0000000000000007": c.StorageFlushed(7),
    "fffffffb0000000d" + "000173" + "0000" + "0000000000000007": c.ListStorageChunks("s", "", 7),
}


def decoded(frames: bytes) -> list[c.Command]:
    return [codec.decode(code, payload) for code, payload in FrameSplitter().receive(frames)]


def same(left: list[c.Command], right: list[c.Command]) -> bool:
    return left == right and list(map(type, left)) == list(map(type, right))


def test_no_vector_is_left_out() -> None:
    """A frame in the reference that nobody checks could be misread without notice."""
    assert set(VECTORS) == set(EXPECTED)
    assert len(VECTORS) > 50


@pytest.mark.parametrize("name", VECTORS)
def test_vector_is_understood(name: str) -> None:
    """A client's or server's frame would be taken for something else."""
    assert same(decoded(VECTORS[name]), EXPECTED[name])


@pytest.mark.parametrize("name", sorted(VECTORS.keys() - SHORTER_THAN_WE_WRITE.keys()))
def test_vector_is_written_to_the_byte(name: str) -> None:
    """An unmodified client would not understand what we send."""
    assert b"".join(map(codec.encode, EXPECTED[name])).hex() == VECTORS[name].hex()
    parts = [part for command in EXPECTED[name] for part in codec.encode_parts(command)]
    assert b"".join(parts).hex() == VECTORS[name].hex()


@pytest.mark.parametrize("digits", BY_HAND)
def test_frame_made_by_hand(digits: str) -> None:
    """As above, for the commands that the reference shows no frame of."""
    frame, command = bytes.fromhex(digits), BY_HAND[digits]
    assert codec.encode(command).hex() == digits
    assert same(decoded(frame), [command])


def test_every_command_has_a_literal_frame() -> None:
    """A command without one could be wrong in both directions and pass its round trip."""
    shown = {type(command) for commands in EXPECTED.values() for command in commands}
    shown |= {type(command) for command in BY_HAND.values()}
    assert shown == {layout.command for layout in TABLE}


def test_the_table_is_complete() -> None:
    """A command in the unions but not in the table could not be sent; and the other way round."""
    assert set(c.Command.__args__) == {layout.command for layout in TABLE}
    requests = {layout.command for layout in TABLE if layout.direction is Direction.REQUEST}
    admin = {layout.command for layout in TABLE if layout.direction is Direction.ADMIN}
    replies = {layout.command for layout in TABLE if layout.direction is Direction.REPLY}
    both = {c.Hello, c.KeepAlive}
    assert set(c.Request.__args__) == requests | admin | both | {c.Padding}
    assert set(c.Reply.__args__) == replies | both
    assert set(c.Failure.__args__) <= replies
