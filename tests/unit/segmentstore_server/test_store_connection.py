"""A connection to the segment store, frame by frame."""

from __future__ import annotations

import asyncio
from typing import Any, get_args
from uuid import UUID

import pytest
import uvloop
from anabranch_segmentstore import connection as connection_module
from anabranch_segmentstore.connection import Connection
from anabranch_segmentstore.requests import REQUESTS
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c

SEGMENT = "scope/stream/0.#epoch.0"
WRITER = UUID("00112233-4455-6677-8899-aabbccddeeff")
NO_EVENT = -(2**63)


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], scope="module")
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops: their transports pause, close and report in ways of their own."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


def test_every_request_has_a_handler() -> None:
    """A client that sends it would end its connection with a bug of ours."""
    requests = {*get_args(c.SegmentRequest), *get_args(c.TableRequest)}
    assert set(REQUESTS) == requests
    for command, request in REQUESTS.items():
        assert request.routed_by in command._fields, command
        assert not request.offset_field or request.offset_field in command._fields, command


async def test_hello_is_answered(peer: Any) -> None:
    """No client would connect."""
    assert await peer.ask(c.Hello(15, 5)) == c.Hello(17, 5)


async def test_an_incompatible_client_is_told_and_closed(peer: Any) -> None:
    """A request behind such a Hello would be done by a server that the client cannot read."""
    peer.send(c.Hello(25, 20), c.CreateSegment(1, SEGMENT, 0, 0))
    assert await peer.closed() == [c.Hello(17, 5)]


async def test_appends_are_acknowledged_in_a_chain(peer: Any, block: Any) -> None:
    """The Java client drops a connection whose acknowledgements do not follow each other."""
    await peer.create(SEGMENT)
    assert await peer.set_up(SEGMENT) == NO_EVENT
    peer.send(*(block(number, b"x" * number) for number in range(1, 6)))
    before, offset = NO_EVENT, 0
    while before < 5:
        reply = await peer.reply()
        assert isinstance(reply, c.DataAppended)
        assert (reply.writer_id, reply.request_id) == (WRITER, 9)
        assert reply.previous_event_number == before
        offset += sum(range(max(before, 0) + 1, reply.event_number + 1))
        assert reply.current_segment_write_offset == offset
        before = reply.event_number


async def test_acknowledgements_of_different_requests_are_not_merged(peer: Any, block: Any) -> None:
    """A large event's writer waits for an answer to each of its chunks."""
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    peer.send(*(block(number, b"x", request_id=100 + number) for number in range(1, 4)))
    replies = [await peer.reply() for _ in range(3)]
    assert [reply.request_id for reply in replies] == [101, 102, 103]


async def test_setup_and_append_in_one_write_keep_their_order(peer: Any, block: Any) -> None:
    """A client that does not wait would lose its connection."""
    peer.send(c.CreateSegment(1, SEGMENT, 0, 0), c.SetupAppend(2, WRITER, SEGMENT), block(1, b"x"))
    replies = [await peer.reply() for _ in range(3)]
    assert [type(reply) for reply in replies] == [c.SegmentCreated, c.AppendSetup, c.DataAppended]


async def test_a_resent_block_is_stored_once(faked: Any, peers: Any, block: Any) -> None:
    """A client that reconnects while its old connection still has bytes on the way would have
    its events stored twice (F33)."""
    old, new = await peers.connect(faked), await peers.connect(faked)
    await old.create(SEGMENT)
    await old.set_up(SEGMENT)
    assert await new.set_up(SEGMENT) == NO_EVENT
    old.send(block(1, b"a"))
    assert isinstance(await old.reply(), c.DataAppended)
    new.send(block(2, b"ab", events=2))
    assert await new.closed() == [c.InvalidEventNumber(WRITER, 9, "", 2)]
    third = await peers.connect(faked)
    assert await third.set_up(SEGMENT) == 1
    third.send(block(2, b"b"))
    assert (await third.reply()).current_segment_write_offset == 2


async def test_the_stored_number_is_not_stored_again(peer: Any, block: Any) -> None:
    """An event would be doubled by a client that repeats itself."""
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    peer.send(block(1, b"abc"))
    await peer.reply()
    peer.send(block(1, b"abc"))
    info = await peer.ask(c.GetStreamSegmentInfo(3, SEGMENT))
    assert (type(info), info.write_offset) == (c.StreamSegmentInfo, 3)
    peer.send(block(2, b"d"))
    assert (await peer.reply()).previous_event_number == 1


async def test_a_failed_conditional_append_sets_the_number_back(peer: Any, block: Any) -> None:
    """A state synchronizer could not go on after it lost a race."""
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    failed = await peer.ask(c.ConditionalBlockEnd(WRITER, 1, 5, b"x", 31))
    assert failed == c.ConditionalCheckFailed(WRITER, 1, 31)
    stored = await peer.ask(c.ConditionalBlockEnd(WRITER, 2, 0, b"x", 32))
    assert stored == c.DataAppended(WRITER, 2, NO_EVENT, 32, 1)


async def test_a_sealed_segment_answers_behind_earlier_acknowledgements(
    peer: Any, block: Any
) -> None:
    """A writer would send events that are stored to the successors too."""
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    peer.send(block(1, b"a"), c.SealSegment(5, SEGMENT), block(2, b"b"), block(3, b"c"))
    replies = [await peer.reply() for _ in range(3)]
    assert replies[0] == c.DataAppended(WRITER, 1, NO_EVENT, 9, 1)
    assert c.SegmentSealed(5, SEGMENT) in replies
    assert c.SegmentIsSealed(9, SEGMENT, "", 3) in replies
    peer.send(block(4, b"d"))
    assert await peer.closed() == []


async def test_an_append_to_a_missing_segment_is_told(peer: Any, block: Any) -> None:
    """A writer would wait for ever for a transaction that was aborted under it."""
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    await peer.ask(c.DeleteSegment(4, SEGMENT))
    assert await peer.ask(block(1, b"x")) == c.NoSuchSegment(9, SEGMENT)
    assert await peer.ask(c.SetupAppend(2, WRITER, SEGMENT)) == c.NoSuchSegment(2, SEGMENT)


async def test_a_held_read_delays_nothing_and_ends_with_data(
    faked: Any, peers: Any, block: Any
) -> None:
    """A reader at the tail would stop everything else that shares its connection."""
    reader, writer = await peers.connect(faked), await peers.connect(faked)
    await reader.create(SEGMENT)
    reader.send(c.ReadSegment(SEGMENT, 0, 100, "", 7))
    assert isinstance(await reader.ask(c.GetStreamSegmentInfo(8, SEGMENT)), c.StreamSegmentInfo)
    await writer.set_up(SEGMENT)
    writer.send(block(1, b"hello"))
    read = await reader.reply()
    assert (read.segment, read.offset, bytes(read.data), read.request_id) == (
        SEGMENT,
        0,
        b"hello",
        7,
    )


async def test_held_reads_go_with_their_connection(faked: Any, peers: Any) -> None:
    """Each time-out of a Rust reader would leave a read behind for ever."""
    reader = await peers.connect(faked)
    await reader.create(SEGMENT)
    reader.send(*(c.ReadSegment(SEGMENT, 0, 100, "", number) for number in range(50)))
    assert await reader.is_silent()
    containers = [host.container for host in faked.store.serving]
    await eventually(lambda: sum(one.held_reads_count for one in containers) == 50)
    reader.close()
    await eventually(lambda: sum(one.held_reads_count for one in containers) == 0)


async def test_transient_segments_go_with_their_connection(faked: Any, peers: Any) -> None:
    """Half-written large events would fill the store."""
    first, second = await peers.connect(faked), await peers.connect(faked)
    await first.create(SEGMENT)
    created = await first.ask(c.CreateTransientSegment(3, WRITER, SEGMENT))
    assert created.segment.startswith(f"{SEGMENT}#transient.")
    assert (await second.ask(c.GetStreamSegmentInfo(4, created.segment))).exists
    first.close()

    async def is_gone() -> bool:
        reply = await second.ask(c.GetStreamSegmentInfo(4, created.segment))
        return isinstance(reply, c.NoSuchSegment)

    await eventually(is_gone)


async def test_a_broken_frame_ends_only_its_connection(faked: Any, peers: Any) -> None:
    """One bad client would end the store for all."""
    bad, good = await peers.connect(faked), await peers.connect(faked)
    await good.create(SEGMENT)
    bad.writer.write(b"\x00\x00\x03\xe7\x00\x00\x00\x00")
    assert await bad.closed() == []
    assert await good.is_silent()


async def test_a_huge_length_is_refused_at_once(peer: Any) -> None:
    """A client could make the server wait, or hold memory, for bytes that never come."""
    peer.writer.write(b"\x00\x00\x00\x0b\x7f\xff\xff\xff")
    assert await peer.closed() == []


async def test_a_bug_in_a_request_ends_the_connection_alone(
    faked: Any, peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug would end the process, or leave a client waiting for ever."""
    first, second = await peers.connect(faked), await peers.connect(faked)

    async def bug(*_: object) -> c.Reply:
        raise ZeroDivisionError

    request = REQUESTS[c.GetStreamSegmentInfo]._replace(handle=bug)
    monkeypatch.setitem(REQUESTS, c.GetStreamSegmentInfo, request)
    first.send(c.GetStreamSegmentInfo(1, SEGMENT))
    assert await first.closed() == []
    assert await second.is_silent()


async def test_a_client_that_does_not_read_is_not_read(faked: Any, peers: Any, block: Any) -> None:
    """Replies to a client that asks and never reads would fill the memory."""
    writer, greedy = await peers.connect(faked), await peers.connect(faked)
    await writer.create(SEGMENT)
    await writer.set_up(SEGMENT)
    size = 2 * 1024 * 1024
    writer.send(block(1, bytes(size)))
    await writer.reply()
    greedy.writer.transport.pause_reading()
    (connection,) = (
        one
        for one in faked.store._connections
        if str(greedy.writer.get_extra_info("sockname")) == one.peer
    )
    reads = 200
    greedy.send(*(c.ReadSegment(SEGMENT, 0, size, "", n) for n in range(reads)))
    await eventually(lambda: connection._transport.get_write_buffer_size() > 0)
    sent = 0

    def is_stable() -> bool:
        nonlocal sent
        before, sent = sent, connection._transport.get_write_buffer_size()
        return before == sent

    await eventually(is_stable, pause_s=0.2)
    assert sent <= connection_module.WRITE_BUFFER_BYTES_MAX + 2 * size
    assert not connection._is_reading
    greedy.writer.transport.resume_reading()
    for _ in range(reads):
        assert len((await greedy.reply()).data) == size


async def test_reads_of_one_connection_fetch_a_few_at_a_time(
    faked: Any, peers: Any, block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand reads of cold data would hold a thousand pieces of two megabytes."""
    monkeypatch.setattr(connection_module, "READS_BYTES_MAX", 100_000)
    peer = await peers.connect(faked)
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    peer.send(block(1, bytes(50_000)))
    await peer.reply()
    (connection,) = faked.store._connections
    most = 0
    read = Connection._reply

    def watched(self: Connection, *reply: Any) -> None:
        nonlocal most
        most = max(most, self._reads_bytes)
        read(self, *reply)

    monkeypatch.setattr(Connection, "_reply", watched)
    peer.send(*(c.ReadSegment(SEGMENT, 0, 50_000, "", number) for number in range(300)))
    for _ in range(300):
        assert len((await peer.reply()).data) == 50_000
    assert 0 < most <= 100_000 + 50_000
    await eventually(lambda: connection._reads_bytes == 0)


async def test_appends_stop_being_read_while_the_log_is_slow(
    faked: Any, peers: Any, block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk slower than the network would fill the memory with appends."""
    monkeypatch.setattr(connection_module, "REQUESTS_BYTES_MAX", 100_000)
    peer = await peers.connect(faked)
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    (connection,) = faked.store._connections
    most = 0
    taken = Connection.finished

    def watched(self: Connection, length_bytes: int) -> None:
        nonlocal most
        most = max(most, self._requests_bytes)
        taken(self, length_bytes)

    monkeypatch.setattr(Connection, "finished", watched)
    peer.send(*(block(number, bytes(30_000)) for number in range(1, 101)))
    while (await peer.reply()).event_number < 100:
        pass
    assert 0 < most <= 100_000 + 30_000
    assert connection._requests_bytes == 0


async def test_an_empty_table_key_is_an_illegal_argument(peer: Any) -> None:
    """The recorded server takes it, and its container fails on it for ever."""
    table = "scope/table_kvtable/0.#epoch.0"
    await peer.ask(c.CreateTableSegment(1, table))
    frame = bytes.fromhex("0000004a0000004b0000000000000009001e") + table.encode()
    assert len(table) == 30
    frame += b"\x00\x00" + (1).to_bytes(4, "big") + (12).to_bytes(4, "big") + bytes(4)
    frame += (5).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"v" + (2**64 - 1).to_bytes(8, "big")
    frame = frame[:4] + (len(frame) - 8).to_bytes(4, "big") + frame[8:]
    peer.writer.write(frame)
    reply = await peer.reply()
    assert (type(reply), reply.request_id, reply.error_code) == (c.ErrorMessage, 9, 0)
    assert await peer.is_silent()


async def test_many_connections_come_and_go(faked: Any, peers: Any) -> None:
    """Connections would be forgotten and never closed."""
    opened = await asyncio.gather(*(peers.connect(faked) for _ in range(100)))
    await asyncio.gather(*(peer.is_silent() for peer in opened))
    assert faked.store.connections_count == 100
    peers.close()
    await eventually(lambda: faked.store.connections_count == 0)
