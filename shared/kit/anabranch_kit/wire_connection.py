"""Connections to segment stores, for services that talk to them: controller and tierer.

`SegmentStoreConnection` is one TCP connection: Hello, then requests and replies, matched by the
request ids that the connection itself hands out. `SegmentStorePool` keeps a few of them per
store. Neither retries; `wire_client.SegmentStoreClient` does.

**What is unknown.** A request that was handed to the connection and has no reply may have been
carried out or not: ConnectionLost and RequestTimedOut say so, ConnectFailed says that nothing
was sent. All requests of the segment store that the services use are idempotent, or become so by
what counts as success (`wire_client.py`), so repeating them is safe.

**Bounds.** IN_FLIGHT_COUNT_MAX requests per connection, more wait their turn;
CONNECTIONS_PER_STORE_MAX connections per store. Received data is bounded by `FrameSplitter`, data
to send by the transport's high-water mark, behind which senders wait.

**A connection with a timed-out request** may be one to a host that died without a word. It takes
no new requests and closes when its last one has ended, so that the next request gets a new one.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Final, NamedTuple, cast

import structlog
from anabranch_wire import commands as c
from anabranch_wire.codec import decode_reply, encode_parts
from anabranch_wire.constants import WIRE_VERSION_HIGH, WIRE_VERSION_LOW
from anabranch_wire.errors import ProtocolError
from anabranch_wire.framing import FrameSplitter

CONNECT_TIMEOUT_S: Final = 5.0  # as Pravega's clients
REQUEST_TIMEOUT_S: Final = 30.0  # as Rust's; a store answers or closes within 60 s
IN_FLIGHT_COUNT_MAX: Final = 64
CONNECTIONS_PER_STORE_MAX: Final = 4

log = structlog.stdlib.get_logger("anabranch.wire")

ClientRequest = (
    c.SegmentRequest
    | c.TableRequest
    | c.AdminRequest
    | c.SetupAppend
    | c.AppendBlockEnd
    | c.ConditionalAppend
    | c.ConditionalBlockEnd
)


class Address(NamedTuple):
    """Where a segment store listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class SegmentStoreError(Exception):
    """Any failure of a request to a segment store."""


class ConnectFailed(SegmentStoreError):
    """No connection came about: nothing was sent."""

    def __init__(self, address: Address, reason: str) -> None:
        super().__init__(f"no connection to segment store {address}: {reason}")
        self.address, self.reason = address, reason


class ConnectionLost(SegmentStoreError):
    """The connection ended before the reply: the request may have been carried out or not."""

    def __init__(self, address: Address, reason: str) -> None:
        super().__init__(f"connection to segment store {address} lost: {reason}")
        self.address, self.reason = address, reason


class RequestTimedOut(SegmentStoreError):
    """No reply in time: the request may have been carried out, or may still be."""

    def __init__(self, address: Address, request: str, timeout_s: float) -> None:
        super().__init__(f"segment store {address} did not answer {request} in {timeout_s:g} s")
        self.address, self.request, self.timeout_s = address, request, timeout_s


class SegmentStoreConnection(asyncio.BufferedProtocol):
    """One connection. Made by `connect`; whoever made it closes it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._request_ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[c.Reply]] = {}
        self._slots = asyncio.Semaphore(IN_FLIGHT_COUNT_MAX)
        self._users_count = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._hello: asyncio.Future[c.Hello] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        self._retired = False
        self._reason = "closed by us"

    @classmethod
    async def connect(
        cls, address: Address, *, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> SegmentStoreConnection:
        """Raises ConnectFailed, also when the store speaks no wire version that we do."""
        loop = asyncio.get_running_loop()
        connection = cls(address)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.create_connection(lambda: connection, address.host, address.port)
                connection._send(c.Hello(WIRE_VERSION_HIGH, WIRE_VERSION_LOW))
                hello = await connection._hello
        except TimeoutError:
            connection._give_up()
            raise ConnectFailed(address, f"no Hello within {timeout_s:g} s") from None
        except (OSError, ConnectionLost) as error:
            connection._give_up()
            raise ConnectFailed(address, str(error)) from error
        except BaseException:
            connection._give_up()
            raise
        if hello.high_version < WIRE_VERSION_LOW or hello.low_version > WIRE_VERSION_HIGH:
            await connection.close()
            versions = f"{hello.low_version} to {hello.high_version}"
            raise ConnectFailed(address, f"it speaks wire versions {versions}")
        return connection

    @property
    def is_usable(self) -> bool:
        """May new requests be sent? False after a loss, a time-out or `close`."""
        return not self._lost.is_set() and not self._retired

    @property
    def in_flight_count(self) -> int:
        """Requests that wait for a reply or for their turn."""
        return self._users_count

    async def request(
        self, command: ClientRequest, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> c.Reply:
        """The reply, whatever it says. The request id in `command` is replaced.

        Requests of one connection run side by side at the store; wait for a reply if the next
        request depends on it. Raises ConnectionLost or RequestTimedOut, outcome unknown, and
        EncodingError when the request does not fit into a frame, nothing sent.
        """
        self._users_count += 1
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                return await self._exchange(command)
        except TimeoutError:
            self._retired = True
            raise RequestTimedOut(self.address, type(command).__name__, timeout_s) from None
        finally:
            self._users_count -= 1
            if self._retired and self._users_count == 0:
                self._abort("a request timed out")

    async def _exchange(self, command: ClientRequest) -> c.Reply:
        await self._writable.wait()
        if self._lost.is_set():
            raise ConnectionLost(self.address, self._reason)
        request_id = next(self._request_ids)
        reply: asyncio.Future[c.Reply] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = reply
        try:
            self._send(command._replace(request_id=request_id))
            return await reply
        finally:
            del self._waiting[request_id]

    async def close(self) -> None:
        """End the connection; what still waits for a reply gets ConnectionLost."""
        self._retired = True
        if self._transport is not None:
            self._transport.close()
            await self._lost.wait()

    def _send(self, command: c.Command) -> None:
        assert self._transport is not None, "connect() waits for the transport"
        self._transport.writelines(encode_parts(command))

    def _give_up(self) -> None:
        self._hello.cancel()  # nobody waits for it any more
        self._abort("connecting failed")

    def _abort(self, reason: str) -> None:
        if self._transport is not None and not self._lost.is_set():
            self._reason = reason
            self._transport.abort()

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # TCP gives one that reads and writes; uvloop's is no subclass of asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._splitter.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for code, payload in self._splitter.buffer_updated(nbytes):
                self._received(decode_reply(code, payload))
        except ProtocolError as error:
            log.warning("wire.reply_malformed", store=str(self.address), error=str(error))
            self._abort(f"it broke the protocol: {error}")

    def _received(self, reply: c.Reply) -> None:
        if isinstance(reply, c.Hello):
            if not self._hello.done():
                self._hello.set_result(reply)
            return
        if isinstance(reply, c.KeepAlive):
            return
        waiting = self._waiting.get(reply.request_id)
        # A reply that nobody waits for any more belongs to a request that was given up.
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def eof_received(self) -> None:
        self._reason = "closed by the store"

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._reason = str(exc) or type(exc).__name__
        self._lost.set()
        self._writable.set()  # who waits there finds the connection lost
        failure = ConnectionLost(self.address, self._reason)
        if not self._hello.done():
            self._hello.set_exception(failure)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(failure)


class SegmentStorePool:
    """A few connections per store, opened when needed. The owner closes it."""

    def __init__(
        self,
        *,
        connections_per_store_max: int = CONNECTIONS_PER_STORE_MAX,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._connections: dict[Address, list[SegmentStoreConnection]] = {}
        self._opening: dict[Address, asyncio.Lock] = {}
        self._per_store_max = connections_per_store_max
        self._connect_timeout_s = connect_timeout_s
        self._closed = False

    async def connection(self, address: Address) -> SegmentStoreConnection:
        """An idle connection, else a new one, else the one with the fewest requests.

        Raises ConnectFailed. The pool owns the connection.
        """
        idle = self._idle(address)
        if idle is not None:
            return idle
        async with self._opening.setdefault(address, asyncio.Lock()):
            idle = self._idle(address)
            if idle is not None:
                return idle
            usable = self._usable(address)
            if len(usable) >= self._per_store_max:
                return min(usable, key=lambda each: each.in_flight_count)
            return await self._open(address)

    def _idle(self, address: Address) -> SegmentStoreConnection | None:
        usable = self._usable(address)
        return next((each for each in usable if each.in_flight_count == 0), None)

    def _usable(self, address: Address) -> list[SegmentStoreConnection]:
        """Also forgets the connections that have ended."""
        usable = [each for each in self._connections.get(address, ()) if each.is_usable]
        if usable:
            self._connections[address] = usable
        else:
            self._connections.pop(address, None)
        return usable

    async def _open(self, address: Address) -> SegmentStoreConnection:
        self._refuse_if_closed(address)
        connection = await SegmentStoreConnection.connect(
            address, timeout_s=self._connect_timeout_s
        )
        try:
            self._refuse_if_closed(address)
        except ConnectFailed:
            await connection.close()
            raise
        self._connections.setdefault(address, []).append(connection)
        return connection

    def _refuse_if_closed(self, address: Address) -> None:
        if self._closed:
            raise ConnectFailed(address, "the pool is closed")

    async def close(self) -> None:
        self._closed = True
        connections = [each for some in self._connections.values() for each in some]
        self._connections.clear()
        for connection in connections:
            await connection.close()
