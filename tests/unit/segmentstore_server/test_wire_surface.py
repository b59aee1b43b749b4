"""Requests of the wire protocol and their replies, over a socket, one feature at a time.

docs/wire-commands.md names a test for each command; test_wire_commands_page.py holds it to that.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import UUID

import pytest
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from anabranch_wire.attributes import SCALE_POLICY_RATE, SCALE_POLICY_TYPE
from anabranch_wire.codec import encode

SEGMENT: Final = "scope/stream/0.#epoch.0"
TABLE: Final = "scope/table_kvtable/0.#epoch.0"
TRANSACTION: Final = "scope/stream/0.#epoch.0#transaction.{:032x}"
WRITER: Final = UUID("00112233-4455-6677-8899-aabbccddeeff")
OTHER_WRITER: Final = UUID("00000000-0000-0001-0000-000000000002")
MARK: Final = UUID("7df9a874-246c-c9d6-9397-cdd19ead68c5")
NULL: Final = -(2**63)
MISSING: Final = "scope/missing/0.#epoch.0"
EVENT_BYTES: Final = 1024 * 1024


async def write(peer: Any, segment: str, data: bytes, writer: UUID = WRITER) -> None:
    await peer.create(segment)
    await peer.set_up(segment, writer)
    reply = await peer.ask(c.AppendBlockEnd(writer, len(data), data, 1, 1, 9))
    assert isinstance(reply, c.DataAppended), reply


async def read_all(peer: Any, segment: str) -> bytes:
    info = await peer.ask(c.GetStreamSegmentInfo(50, segment))
    data = b""
    while len(data) < info.write_offset:
        data += bytes((await peer.ask(c.ReadSegment(segment, len(data), 2**21, "", 51))).data)
    return data


async def test_a_segment_from_creation_to_deletion(peer: Any) -> None:
    """The controller could not make, seal, truncate or remove the segments of a stream."""
    await write(peer, SEGMENT, b"0123456789")
    assert await peer.ask(c.CreateSegment(1, SEGMENT, 0, 0)) == c.SegmentAlreadyExists(1, SEGMENT)
    assert await peer.ask(c.TruncateSegment(2, SEGMENT, 4)) == c.SegmentTruncated(2, SEGMENT)
    assert await peer.ask(c.TruncateSegment(3, SEGMENT, 3)) == c.SegmentIsTruncated(
        3, SEGMENT, 4, "", 3
    )
    assert await peer.ask(c.ReadSegment(SEGMENT, 1, 9, "", 4)) == c.SegmentIsTruncated(
        4, SEGMENT, 4, "", 1
    )
    assert await peer.ask(c.SealSegment(5, SEGMENT)) == c.SegmentSealed(5, SEGMENT)
    assert await peer.ask(c.SealSegment(6, SEGMENT)) == c.SegmentIsSealed(6, SEGMENT, "", -1)
    info = await peer.ask(c.GetStreamSegmentInfo(7, SEGMENT))
    assert (info.is_sealed, info.start_offset, info.write_offset) == (True, 4, 10)
    end = await peer.ask(c.ReadSegment(SEGMENT, 10, 9, "", 8))
    assert (end.at_tail, end.end_of_segment, bytes(end.data)) == (False, True, b"")
    assert await peer.ask(c.DeleteSegment(9, SEGMENT)) == c.SegmentDeleted(9, SEGMENT)
    assert await peer.ask(c.DeleteSegment(10, SEGMENT)) == c.NoSuchSegment(10, SEGMENT)
    await peer.create(SEGMENT)  # Pravega refuses the name for ever


async def test_a_conditional_append_with_an_event_header(peer: Any) -> None:
    """A state synchronizer of Java could not write."""
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    reply = await peer.ask(c.ConditionalAppend(WRITER, 1, 0, b"hello", 31))
    assert reply == c.DataAppended(WRITER, 1, NULL, 31, 13)
    assert await read_all(peer, SEGMENT) == bytes.fromhex("0000000000000005") + b"hello"


async def test_an_append_in_two_frames_with_padding(peer: Any) -> None:
    """A Java writer sends every event so."""
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    padding = encode(c.Padding(3))
    peer.send(c.AppendBlock(WRITER, b"hello" + padding), c.AppendBlockEnd(WRITER, 5, b"", 1, 1, 9))
    assert await peer.reply() == c.DataAppended(WRITER, 1, NULL, 9, 5)
    part = encode(c.PartialEvent(b"wor"))
    peer.send(c.AppendBlock(WRITER, part), c.AppendBlockEnd(WRITER, 0, b"ld", 1, 2, 9))
    assert await peer.reply() == c.DataAppended(WRITER, 2, 1, 9, 10)
    assert await read_all(peer, SEGMENT) == b"helloworld"


async def test_attributes_and_policy(peer: Any) -> None:
    """Marks of synchronizers and record sizes of index streams would be lost or overwritten."""
    await peer.create(SEGMENT)

    async def value(attribute: UUID) -> int:
        reply = await peer.ask(c.GetSegmentAttribute(1, SEGMENT, attribute))
        assert isinstance(reply, c.SegmentAttribute)
        return reply.value

    assert await value(MARK) == NULL
    for new, expected, success in ((5, NULL, True), (6, NULL, False), (6, 5, True)):
        asked = c.UpdateSegmentAttribute(2, SEGMENT, MARK, new, expected)
        assert await peer.ask(asked) == c.SegmentAttributeUpdated(2, success=success)
    assert await value(MARK) == 6
    changed = await peer.ask(c.UpdateSegmentPolicy(3, SEGMENT, 100, 2))
    assert changed == c.SegmentPolicyUpdated(3, SEGMENT)
    assert (await value(SCALE_POLICY_TYPE), await value(SCALE_POLICY_RATE)) == (2, 100)
    await peer.ask(c.SealSegment(4, SEGMENT))
    sealed = c.SegmentIsSealed(5, SEGMENT, "", -1)
    assert await peer.ask(c.UpdateSegmentPolicy(5, SEGMENT, 100, 2)) == sealed
    missing = await peer.ask(c.GetSegmentAttribute(6, MISSING, MARK))
    assert missing == c.NoSuchSegment(6, MISSING)


async def test_an_offset_is_located_at_an_event_boundary(peer: Any) -> None:
    """A batch reader of Java 0.14 would cut an event in two."""
    await write(peer, SEGMENT, b"0123456789")
    assert await peer.ask(c.LocateOffset(1, SEGMENT, 3)) == c.OffsetLocated(1, SEGMENT, 10)
    assert await peer.ask(c.LocateOffset(2, MISSING, 3)) == c.NoSuchSegment(2, MISSING)


async def test_a_merge_and_what_it_refuses(peer: Any) -> None:
    """Transactions would commit twice, or not at all."""
    source = TRANSACTION.format(1)
    await write(peer, source, b"source", OTHER_WRITER)
    await write(peer, SEGMENT, b"target", WRITER)
    update = c.ConditionalAttributeUpdate(MARK, 4, 7, 8)
    refused = await peer.ask(c.MergeSegments(1, SEGMENT, source, "", (update,)))
    assert refused == c.SegmentAttributeUpdated(1, success=False)
    assert await peer.ask(c.MergeSegments(2, SEGMENT, source)) == c.SegmentsMerged(
        2, SEGMENT, source, 12
    )
    assert await peer.ask(c.MergeSegments(3, SEGMENT, source)) == c.SegmentsMerged(
        3, SEGMENT, source, 12
    )
    assert await read_all(peer, SEGMENT) == b"targetsource"
    never = TRANSACTION.format(2)
    assert await peer.ask(c.MergeSegments(4, SEGMENT, never)) == c.NoSuchSegment(4, never)


async def test_a_batch_is_merged_in_its_order_whatever_else_is_asked(peer: Any) -> None:
    """Transactions would be read in another order than they were committed in."""
    await write(peer, SEGMENT, b"-")
    sources = [TRANSACTION.format(number) for number in range(10, 30)]
    for number, source in enumerate(sources):
        await write(peer, source, b"%d," % number, OTHER_WRITER)
    order = (*reversed(sources), MISSING.replace("missing", "stream") + "#transaction.gone")
    # Several requests in one write: none of them may come between two sources.
    peer.send(
        c.MergeSegmentsBatch(1, SEGMENT, order[:11]),
        c.MergeSegmentsBatch(2, SEGMENT, order[11:]),
        c.GetStreamSegmentInfo(3, SEGMENT),
    )
    replies = {reply.request_id: reply for reply in [await peer.reply() for _ in range(3)]}
    merged = [*replies[1].merged, *replies[2].merged]
    assert [one.source for one in merged] == list(order)
    lengths = [one.new_target_write_offset for one in merged]
    assert lengths == sorted(lengths)
    expected = b"-" + b"".join(b"%d," % number for number in reversed(range(20)))
    assert await read_all(peer, SEGMENT) == expected


async def test_a_batch_into_a_missing_or_sealed_target(peer: Any) -> None:
    """A commit would hang instead of failing."""
    await write(peer, SEGMENT, b"x")
    await peer.ask(c.SealSegment(1, SEGMENT))
    source = TRANSACTION.format(1)
    await peer.create(source)
    sealed = await peer.ask(c.MergeSegmentsBatch(2, SEGMENT, (source,)))
    assert sealed == c.SegmentIsSealed(2, SEGMENT, "", -1)
    missing = await peer.ask(c.MergeSegmentsBatch(3, MISSING, (f"{MISSING}#transaction.1",)))
    assert missing == c.NoSuchSegment(3, MISSING)


async def test_a_large_event_of_many_chunks(faked: Any, peers: Any) -> None:
    """Events above 8 MB would be refused, torn, or gone with the connection."""
    writer, reader = await peers.connect(faked), await peers.connect(faked)
    await write(writer, SEGMENT, b"before")
    transient = (await writer.ask(c.CreateTransientSegment(3, OTHER_WRITER, SEGMENT))).segment
    await writer.set_up(transient, OTHER_WRITER)
    chunks = [bytes([number]) * EVENT_BYTES for number in range(10)]
    writer.send(
        *(
            c.ConditionalBlockEnd(OTHER_WRITER, number, number * EVENT_BYTES, chunk, 40 + number)
            for number, chunk in enumerate(chunks)
        )
    )
    for number in range(10):
        reply = await writer.reply()
        assert (reply.event_number, reply.request_id) == (number, 40 + number)
        assert reply.current_segment_write_offset == (number + 1) * EVENT_BYTES
    merged = await writer.ask(c.MergeSegments(5, SEGMENT, transient))
    assert merged == c.SegmentsMerged(5, SEGMENT, transient, 6 + 10 * EVENT_BYTES)
    writer.close()
    await eventually(lambda: faked.store.connections_count == 1)
    assert await read_all(reader, SEGMENT) == b"before" + b"".join(chunks)


async def test_a_half_written_large_event_goes_with_its_connection(faked: Any, peers: Any) -> None:
    """Its chunks would stay for ever; a held read on it would too."""
    writer, other = await peers.connect(faked), await peers.connect(faked)
    await write(writer, SEGMENT, b"before")
    transient = (await writer.ask(c.CreateTransientSegment(3, OTHER_WRITER, SEGMENT))).segment
    await writer.set_up(transient, OTHER_WRITER)
    await writer.ask(c.ConditionalBlockEnd(OTHER_WRITER, 0, 0, b"half", 40))
    other.send(c.ReadSegment(transient, 4, 100, "", 6))
    assert await other.is_silent()
    writer.writer.transport.abort()
    ended = await other.reply()
    assert (type(ended), bytes(ended.data), ended.at_tail) == (c.SegmentRead, b"", True)
    gone = await other.ask(c.GetStreamSegmentInfo(7, transient))
    assert gone == c.NoSuchSegment(7, transient)


async def test_a_transient_segment_that_is_being_made_while_its_connection_goes(
    faked: Any, peers: Any
) -> None:
    """A client that gives up at once would leave a segment behind that nobody deletes."""
    other = await peers.connect(faked)
    container_count = {host.number: len(host.container.state.segments) for host in _hosts(faked)}
    for _ in range(20):
        hasty = await peers.connect(faked)
        hasty.send(c.CreateTransientSegment(3, OTHER_WRITER, SEGMENT))
        await asyncio.sleep(0)
        hasty.writer.transport.abort()
    await eventually(lambda: faked.store.connections_count == 1)
    assert await other.is_silent()

    def is_clean() -> bool:
        now = {host.number: len(host.container.state.segments) for host in _hosts(faked)}
        return now == container_count

    await eventually(is_clean)


def _hosts(faked: Any) -> Any:
    return faked.store.serving


def entry(key: bytes, value: bytes, version: int = c.NO_VERSION) -> c.TableEntry:
    return c.TableEntry(c.TableKey(key, version), value)


async def test_a_table_from_creation_to_deletion(peer: Any) -> None:
    """Reader groups of Rust, key-value tables and the Java controller would not work."""
    assert await peer.ask(c.CreateTableSegment(1, TABLE)) == c.SegmentCreated(1, TABLE)
    put = await peer.ask(c.UpdateTableEntries(2, TABLE, "", (entry(b"a", b"1"), entry(b"b", b"2"))))
    assert isinstance(put, c.TableEntriesUpdated)
    first, second = put.updated_versions

    bad = await peer.ask(c.UpdateTableEntries(3, TABLE, "", (entry(b"a", b"9", second),)))
    assert bad == c.TableKeyBadVersion(3, TABLE)
    absent = await peer.ask(c.UpdateTableEntries(4, TABLE, "", (entry(b"z", b"9", first),)))
    assert absent == c.TableKeyDoesNotExist(4, TABLE)

    got = await peer.ask(c.ReadTable(5, TABLE, "", (c.TableKey(b"b"), c.TableKey(b"z"))))
    assert got == c.TableRead(5, TABLE, (entry(b"b", b"2", second), entry(b"z", b"", -1)))
    keys = await peer.ask(c.ReadTableKeys(6, TABLE, "", 10))
    assert {key.key for key in keys.keys} == {b"a", b"b"}
    again = await peer.ask(c.ReadTableKeys(7, TABLE, "", 10, keys.continuation_token))
    assert again.keys == ()
    entries = await peer.ask(c.ReadTableEntries(8, TABLE, "", 10))
    assert sorted(one.value for one in entries.entries) == [b"1", b"2"]
    delta = await peer.ask(c.ReadTableEntriesDelta(9, TABLE, "", second, 10))
    assert ([one.value for one in delta.entries], delta.reached_end) == ([b"2"], True)

    info = await peer.ask(c.GetTableSegmentInfo(10, TABLE))
    assert (info.entry_count, info.key_length, info.length) == (2, 0, delta.last_position)
    full = await peer.ask(c.DeleteTableSegment(11, TABLE, must_be_empty=True))
    assert full == c.TableSegmentNotEmpty(11, TABLE)
    removed = await peer.ask(
        c.RemoveTableKeys(12, TABLE, "", (c.TableKey(b"a", first), c.TableKey(b"b", second)))
    )
    assert removed == c.TableKeysRemoved(12, TABLE)
    assert await peer.ask(c.DeleteTableSegment(13, TABLE, must_be_empty=True)) == c.SegmentDeleted(
        13, TABLE
    )
    assert await peer.ask(c.GetTableSegmentInfo(14, TABLE)) == c.NoSuchSegment(14, TABLE)


async def test_what_a_fixed_key_table_refuses(peer: Any) -> None:
    """A client would wait for an answer, or lose its connection, where Pravega says no."""
    await peer.ask(c.CreateTableSegment(1, TABLE, "", key_length=2))
    refused = await peer.ask(c.ReadTableEntriesDelta(2, TABLE, "", 0, 10))
    assert refused == c.OperationUnsupported(2, "readTableEntriesDelta")
    wrong = await peer.ask(c.UpdateTableEntries(3, TABLE, "", (entry(b"abc", b""),)))
    assert (type(wrong), wrong.request_id, wrong.error_code) == (c.ErrorMessage, 3, 0)


async def test_no_token_is_needed_and_any_is_taken(peer: Any) -> None:
    """A client of a cluster without authorization would be asked for a token."""
    for number, token in enumerate(("", "garbage", "e30.e30.e30")):
        segment = f"scope/stream/{number}.#epoch.0"
        created = await peer.ask(c.CreateSegment(1, segment, 0, 0, token))
        assert created == c.SegmentCreated(1, segment)
        reply = await peer.ask(c.SetupAppend(2, WRITER, segment, token))
        assert isinstance(reply, c.AppendSetup)


@pytest.mark.parametrize("request_id", [0, -1, 2**63 - 1, -(2**63)])
async def test_equal_and_odd_request_ids(peer: Any, request_id: int) -> None:
    """Java gives all reads of a reader one id."""
    await write(peer, SEGMENT, b"0123456789")
    peer.send(*(c.ReadSegment(SEGMENT, offset, 8, "", request_id) for offset in range(10)))
    replies = [await peer.reply() for _ in range(10)]
    assert {reply.request_id for reply in replies} == {request_id}
    assert {reply.offset for reply in replies} == set(range(10))
