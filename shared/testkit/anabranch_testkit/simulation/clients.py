"""Clients over the wire protocol: writers, readers, transactions, tables, and who seals segments.

The writer is a small one that keeps the protocol's rules for exactly once: it asks what is
stored (SetupAppend), sends everything behind that, in blocks that are cut anew each time, several
under way, and counts as done only what was acknowledged. It gives connections up freely, so that
old bytes of it are still on their way when the new connection writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from anabranch_kit.ports.registry import RegistryUnavailable
from anabranch_kit.wire_connection import (
    Address,
    ClientRequest,
    SegmentStoreConnection,
    SegmentStoreError,
)
from anabranch_wire import commands as c
from anabranch_wire.codec import decode_reply, encode
from anabranch_wire.constants import WIRE_VERSION_HIGH, WIRE_VERSION_LOW
from anabranch_wire.framing import FrameSplitter
from anabranch_wire.hashing import container_of

from anabranch_testkit.simulation.auditor import EVENT, encode_event
from anabranch_testkit.simulation.cluster import Cluster
from anabranch_testkit.simulation.loop import Process

REPLY_TIMEOUT_S = 4.0
PAUSE_S = (0.02, 0.6)
BLOCKS_UNDER_WAY_MAX = 6
REPLIES_MAX = 10_000

ReplyT = TypeVar("ReplyT")


class Unknown(Exception):
    """No answer: what was asked for may have happened, or may happen yet."""


class Peer(asyncio.BufferedProtocol):
    """A connection at the level of commands."""

    def __init__(self) -> None:
        self._splitter = FrameSplitter()
        self._replies: deque[c.Command] = deque()
        self._news = asyncio.Event()
        self._is_lost = False
        self.transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, process: Process, address: Address) -> Peer:
        """Raises OSError."""
        _, protocol = await process.loop.create_connection(cls, *address)
        assert isinstance(protocol, Peer), "made by the factory"
        protocol.send(c.Hello(WIRE_VERSION_HIGH, WIRE_VERSION_LOW))
        return protocol

    def send(self, *commands: c.Command) -> None:
        if self.transport is not None:
            self.transport.write(b"".join(map(encode, commands)))

    def try_reply(self) -> c.Command | None:
        return self._replies.popleft() if self._replies else None

    async def reply(self) -> c.Command:
        """The next one that is no Hello. Raises Unknown."""
        while True:
            while self._replies:
                reply = self._replies.popleft()
                if not isinstance(reply, c.Hello):
                    return reply
            if self._is_lost:
                raise Unknown
            self._news.clear()
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    await self._news.wait()
            except TimeoutError:
                raise Unknown from None

    def give_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # --- asyncio's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "the simulation's"
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._is_lost = True
        self._news.set()

    def eof_received(self) -> None:
        """connection_lost follows."""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._splitter.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        for code, payload in self._splitter.buffer_updated(nbytes):
            assert len(self._replies) < REPLIES_MAX, "replies are read"
            self._replies.append(decode_reply(code, payload))
        self._news.set()


class Client:
    """What all clients share: where segments are, and requests with an unknown outcome."""

    def __init__(self, cluster: Cluster, process: Process) -> None:
        self.cluster, self.process = cluster, process
        self.auditor, self.chance = cluster.auditor, process.chance
        self._registry = cluster.registry.client(process)
        self._connections: dict[Address, SegmentStoreConnection] = {}
        self._located: dict[int, Address] = {}

    async def locate(self, segment: str) -> Address:
        """Asks until somebody serves it. The answer is used until something fails, as clients
        do; it may be that of an owner which sleeps, and wakes up as one no more."""
        number = container_of(segment, self.cluster.sizes.containers)
        while True:
            if number in self._located:
                return self._located[number]
            with contextlib.suppress(RegistryUnavailable):
                serving = (await self._registry.serving()).get(number)
                if serving is not None:
                    self._located[number] = Address(serving.host, serving.port)
                    continue
            await self.pause()

    async def pause(self) -> None:
        self._located.clear()
        await self.process.sleep(self.chance.uniform(*PAUSE_S))

    async def ask(self, segment: str, request: ClientRequest) -> c.Reply:
        """One attempt. Raises Unknown; WrongHost counts as that too."""
        address = await self.locate(segment)
        try:
            connection = self._connections.get(address)
            if connection is None or not connection.is_usable:
                connection = await SegmentStoreConnection.connect(address, timeout_s=3.0)
                self._connections[address] = connection
            reply = await connection.request(request, timeout_s=REPLY_TIMEOUT_S)
        except SegmentStoreError as error:
            await self.pause()
            raise Unknown from error
        if isinstance(reply, c.WrongHost):
            await self.pause()
            raise Unknown
        return reply

    async def insist(
        self, segment: str, request: ClientRequest, *success: type[c.Reply]
    ) -> c.Reply:
        """Again and again until one of these replies comes; any other is a finding."""
        while True:
            try:
                reply = await self.ask(segment, request)
            except Unknown:
                continue
            if not isinstance(reply, success):
                self.auditor.blame(f"{request} was answered with {reply}")
            return reply

    async def create(self, segment: str) -> None:
        request = c.CreateSegment(0, segment, 0, 0)
        await self.insist(segment, request, c.SegmentCreated, c.SegmentAlreadyExists)

    async def info(self, segment: str) -> c.StreamSegmentInfo:
        reply = await self.insist(segment, c.GetStreamSegmentInfo(0, segment), c.StreamSegmentInfo)
        assert isinstance(reply, c.StreamSegmentInfo), "or it was a finding"
        return reply


@dataclass(slots=True)
class Chain:
    """The segments of one key, in order: a segment's successor exists before it is sealed."""

    segments: list[str]
    reconnected: asyncio.Event = field(default_factory=asyncio.Event)

    def after(self, segment: str) -> str | None:
        index = self.segments.index(segment) + 1
        return self.segments[index] if index < len(self.segments) else None


class Writer(Client):
    """Writes `count` events to the end of a chain, each once."""

    def __init__(
        self, cluster: Cluster, process: Process, number: int, chain: Chain, count: int
    ) -> None:
        super().__init__(cluster, process)
        self.number, self.chain, self.count = number, chain, count
        self.writer_id = UUID(int=(0xFEED << 100) + number)
        self.segment = chain.segments[0]
        self.acknowledged = 0
        self.sent = 0
        self._request_ids = itertools.count(1)

    async def run(self, _process: Process) -> None:
        while self.acknowledged < self.count:
            try:
                await self._session()
            except (Unknown, OSError):
                await self.pause()

    async def _session(self) -> None:
        """One connection. Raises Unknown when it ends without a word."""
        peer = await Peer.connect(self.process, await self.locate(self.segment))
        patience = self.chance.choice((5, 40, 10_000))
        try:
            await self._set_up(peer)
            under_way: deque[int] = deque()
            while self.acknowledged < self.count and patience:
                patience -= 1
                full = len(under_way) >= BLOCKS_UNDER_WAY_MAX or self.sent >= self.count
                if not full:
                    self._send_block(peer, under_way)
                    if self.chance.random() < 0.6:
                        await self.process.sleep(self.chance.uniform(0.0, 0.25))
                reply = await peer.reply() if full else peer.try_reply()
                if reply is not None and not self._take(reply, under_way):
                    return
        finally:
            peer.give_up()

    async def _set_up(self, peer: Peer) -> None:
        peer.send(c.SetupAppend(next(self._request_ids), self.writer_id, self.segment))
        reply = await peer.reply()
        match reply:
            case c.AppendSetup():
                stored = max(reply.last_event_number, 0)
                if self.chain.segments[0] == self.segment and stored < self.acknowledged:
                    self.auditor.blame(
                        f"writer {self.number}: {stored} stored, {self.acknowledged} acknowledged"
                    )
                self._acknowledge(max(stored, self.acknowledged), -1)
                self.sent = self.acknowledged
                self.chain.reconnected.set()
            case c.WrongHost():
                raise Unknown
            case _:
                self.auditor.blame(f"writer {self.number}: set up answered with {reply}")
                raise Unknown

    def _send_block(self, peer: Peer, under_way: deque[int]) -> None:
        count = min(self.chance.choice((1, 1, 2, 3, 6)), self.count - self.sent)
        length = self.chance.choice((0, 20, 20, 100, 400, 1500))
        first = self.sent + 1
        data = b"".join(
            encode_event(self.number, number, length) for number in range(first, first + count)
        )
        self.sent += count
        self.auditor.sent[self.number] = max(self.auditor.sent.get(self.number, 0), self.sent)
        request_id = next(self._request_ids)
        peer.send(c.AppendBlockEnd(self.writer_id, len(data), data, count, self.sent, request_id))
        under_way.append(self.sent)

    def _take(self, reply: c.Command, under_way: deque[int]) -> bool:
        """False when the connection has had its use."""
        match reply:
            case c.DataAppended():
                while under_way and under_way[0] <= reply.event_number:
                    under_way.popleft()
                self._acknowledge(reply.event_number, reply.current_segment_write_offset)
            case c.SegmentIsSealed():
                successor = self.chain.after(self.segment)
                if successor is None:
                    self.auditor.blame(f"{self.segment} is said to be sealed, and nobody did")
                else:
                    self.segment = successor
                return False
            case c.InvalidEventNumber():
                return False  # an older connection stored more meanwhile
            case c.Hello() | c.KeepAlive():
                pass
            case _:
                self.auditor.blame(f"writer {self.number}: append answered with {reply}")
                return False
        return True

    def _acknowledge(self, number: int, end_offset: int) -> None:
        self.acknowledged = max(self.acknowledged, number)
        self.auditor.acknowledge(self.segment, self.number, self.acknowledged, end_offset)


class ConditionalWriter(Writer):
    """A byte stream's writer: each append names the offset that it expects."""

    async def _session(self) -> None:
        peer = await Peer.connect(self.process, await self.locate(self.segment))
        try:
            await self._set_up(peer)
            info = await self.info(self.segment)
            end = info.write_offset
            while self.acknowledged < self.count:
                number = self.acknowledged + 1
                data = encode_event(self.number, number, self.chance.choice((0, 30, 300)))
                expected = end
                must_fail = self.chance.random() < 0.1
                if must_fail:
                    expected += self.chance.choice((-1, 1))
                    if expected < 0:
                        continue
                self.auditor.sent[self.number] = number
                request_id = next(self._request_ids)
                peer.send(c.ConditionalBlockEnd(self.writer_id, number, expected, data, request_id))
                reply = await peer.reply()
                match reply:
                    case c.DataAppended() if not must_fail:
                        self._acknowledge(number, reply.current_segment_write_offset)
                        end += len(data)
                    case c.ConditionalCheckFailed() if must_fail:
                        pass
                    case c.ConditionalCheckFailed():
                        # Bytes of an older connection were stored after all.
                        return
                    case c.InvalidEventNumber():
                        return
                    case _:
                        self.auditor.blame(
                            f"writer {self.number}: append at {expected} of {end} answered "
                            f"with {reply}"
                        )
                        return
                if self.chance.random() < 0.5:
                    await self.process.sleep(self.chance.uniform(0.0, 0.5))
                if self.chance.random() < 0.03:
                    return
        finally:
            peer.give_up()


class Reader(Client):
    """Reads a chain from its beginning, tells the auditor, and may truncate behind itself."""

    def __init__(
        self, cluster: Cluster, process: Process, chain: Chain, *, truncates: bool = False
    ) -> None:
        super().__init__(cluster, process)
        self.chain, self.truncates = chain, truncates

    async def run(self, _process: Process) -> None:
        segment: str | None = self.chain.segments[0]
        while segment is not None:
            await self._read_segment(segment)
            following = self.chain.after(segment)
            if following is None:
                self.auditor.blame(f"{segment} has ended, and nobody sealed it")
            segment = following

    async def _read_segment(self, segment: str) -> None:
        offset = 0
        while True:
            length = self.chance.choice((100, 2_000, 100_000))
            try:
                reply = await self.ask(segment, c.ReadSegment(segment, offset, length))
            except Unknown:
                continue
            match reply:
                case c.SegmentRead():
                    if reply.offset != offset:
                        self.auditor.blame(f"{segment}: read at {offset} began at {reply.offset}")
                    self.auditor.observe(segment, offset, bytes(reply.data))
                    offset += len(reply.data)
                    if reply.end_of_segment and not reply.data:
                        return
                case c.SegmentIsSealed():
                    continue  # sealed while the read was held: the next one says where it ends
                case _:
                    self.auditor.blame(f"read of {segment} at {offset} answered with {reply}")
                    return
            if self.truncates and self.chance.random() < 0.05:
                await self._truncate(segment, offset)
            await self.process.sleep(self.chance.uniform(0.0, 0.4))

    async def _truncate(self, segment: str, offset: int) -> None:
        """At the end of an event that was read."""
        truth = self.auditor.segments[segment]
        boundary = _boundary_before(bytes(truth.seen), offset)
        if boundary > truth.truncated_to:
            truth.truncated_to = boundary
            truth.truncations.add(boundary)
            request = c.TruncateSegment(0, segment, boundary)
            await self.insist(segment, request, c.SegmentTruncated, c.SegmentIsTruncated)


def _boundary_before(data: bytes, offset: int) -> int:
    end = 0
    while end + EVENT.size <= offset:
        following = end + EVENT.size + EVENT.unpack_from(data, end)[3]
        if following > offset:
            break
        end = following
    return end


class Scaler(Client):
    """Seals the newest segment of a chain now and then, its successor made before."""

    def __init__(self, cluster: Cluster, process: Process, chain: Chain, times: int) -> None:
        super().__init__(cluster, process)
        self.chain, self.times = chain, times

    async def run(self, _process: Process) -> None:
        for number in range(1, self.times + 1):
            await self.process.sleep(self.chance.uniform(0.3, 5.0))
            before = self.chain.segments[-1]
            scope_and_stream = before.rsplit("/", 1)[0]
            successor = f"{scope_and_stream}/{number}.#epoch.{number}"
            await self.create(successor)
            self.chain.segments.append(successor)
            if self.chance.random() < 0.7:
                await self._wait_for_a_reconnect()
            request = c.SealSegment(0, before)
            await self.insist(before, request, c.SegmentSealed, c.SegmentIsSealed)

    async def _wait_for_a_reconnect(self) -> None:
        """The writer resends then, and its old connection may not be empty yet (F1)."""
        self.chain.reconnected.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await self.chain.reconnected.wait()
        await self.process.sleep(self.chance.uniform(0.0, 0.4))


class Transactions(Client):
    """Segments that are written, and merged into one that others write to: all or nothing."""

    def __init__(
        self, cluster: Cluster, process: Process, target: str, numbers: Sequence[int]
    ) -> None:
        super().__init__(cluster, process)
        self.target, self.numbers = target, numbers
        self.merged: list[int] = []

    async def run(self, process: Process) -> None:
        for number in self.numbers:
            await self.process.sleep(self.chance.uniform(0.1, 3.0))
            source = f"{self.target}#transaction.{UUID(int=number).hex}"
            await self.create(source)
            events_count = self.chance.randint(1, 12)
            writer = Writer(self.cluster, process, number, Chain([source]), events_count)
            await writer.run(process)
            if self.chance.random() < 0.2:
                await self.insist(
                    source, c.DeleteSegment(0, source), c.SegmentDeleted, c.NoSuchSegment
                )
                self._forget(source, number)
                continue
            await self.insist(source, c.SealSegment(0, source), c.SegmentSealed, c.SegmentIsSealed)
            await self.insist(
                self.target,
                c.MergeSegments(0, self.target, source),
                c.SegmentsMerged,
                c.NoSuchSegment,
            )
            self.merged.append(number)
            self._move_ends(source)

    def _move_ends(self, source: str) -> None:
        """Its acknowledged ends counted in the source."""
        for key in [key for key in self.auditor.ends if key[0] == source]:
            del self.auditor.ends[key]

    def _forget(self, source: str, number: int) -> None:
        self._move_ends(source)
        self.auditor.acknowledged.pop(number, None)
        self.auditor.sent.pop(number, None)


@dataclass(slots=True)
class KeyHistory:
    """One key of a table: versions rise; a read sees at least what was known when it began."""

    newest: int = -1
    values: dict[int, bytes] = field(default_factory=dict)
    replaced: set[int] = field(default_factory=set)


class TableClient(Client):
    """Conditional updates of a few keys that several clients share; their histories must be
    those of one register per key."""

    def __init__(
        self,
        cluster: Cluster,
        process: Process,
        table: str,
        histories: dict[bytes, KeyHistory],
        count: int,
    ) -> None:
        super().__init__(cluster, process)
        self.table, self.histories, self.count = table, histories, count

    async def run(self, _process: Process) -> None:
        await self.insist(
            self.table,
            c.CreateTableSegment(0, self.table),
            c.SegmentCreated,
            c.SegmentAlreadyExists,
        )
        for number in range(self.count):
            key = self.chance.choice(sorted(self.histories))
            with contextlib.suppress(Unknown):
                await self._change(key, b"%s %d" % (self.process.name.encode(), number))
            await self.process.sleep(self.chance.uniform(0.0, 0.5))

    async def read(self, key: bytes) -> int:
        """The key's version; -1 when it is not there."""
        history = self.histories[key]
        known = history.newest
        request = c.ReadTable(0, self.table, "", (c.TableKey(key),))
        reply = await self.ask(self.table, request)
        if not isinstance(reply, c.TableRead):
            self.auditor.blame(f"read of {self.table} answered with {reply}")
            raise Unknown
        entry = reply.entries[0]
        version = entry.key.version
        if version < known:
            self.auditor.blame(f"{key!r}: version {version} read, {known} was known before")
        if version >= 0:
            value = bytes(entry.value)
            if history.values.setdefault(version, value) != value:
                self.auditor.blame(f"{key!r}: version {version} has two values")
            history.newest = max(history.newest, version)
        return version

    async def _change(self, key: bytes, value: bytes) -> None:
        history = self.histories[key]
        before = await self.read(key)
        entry = c.TableEntry(c.TableKey(key, before), value)
        reply = await self.ask(self.table, c.UpdateTableEntries(0, self.table, "", (entry,)))
        match reply:
            case c.TableEntriesUpdated():
                version = reply.updated_versions[0]
                if before in history.replaced:
                    self.auditor.blame(f"{key!r}: version {before} was replaced twice")
                history.replaced.add(before)
                if history.values.setdefault(version, value) != value:
                    self.auditor.blame(f"{key!r}: version {version} has two values")
                if version <= before:
                    self.auditor.blame(f"{key!r}: version {version} follows {before}")
                history.newest = max(history.newest, version)
            case c.TableKeyBadVersion() | c.TableKeyDoesNotExist():
                pass  # somebody else was faster
            case _:
                self.auditor.blame(f"update of {self.table} answered with {reply}")
