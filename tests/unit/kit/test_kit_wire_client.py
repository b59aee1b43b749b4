"""The services' client to segment stores, against a small server that speaks the wire library."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest
from anabranch_kit import wire_client, wire_connection
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.wire_client import (
    Address,
    ConnectFailed,
    ConnectionLost,
    ReadEndedEarly,
    Refused,
    RequestTimedOut,
    SegmentNotLocated,
    SegmentStoreClient,
    SegmentStoreConnection,
    SegmentStorePool,
    StoreUnavailable,
    UnexpectedReply,
)
from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from anabranch_wire.codec import decode_request, encode
from anabranch_wire.errors import EncodingError
from anabranch_wire.framing import FrameSplitter

SEGMENT = "s/t/0.#epoch.0"
WRITER = UUID(int=5)

Answer = c.Command | None
"""What the server says; None: nothing, and it goes on."""


class CloseConnection(Exception):
    """Raised by an answer: the server hangs up instead."""


class Server:
    """Answers each request by the function `answer`, which a test may exchange at any time."""

    def __init__(self) -> None:
        self.answer: Callable[[c.Request], Answer] = lambda request: None
        self.hello: Answer = c.Hello(17, 5)
        self.requests: list[c.Request] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.connections_count = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    @property
    def address(self) -> Address:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return Address(host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_count += 1
        self.writers.append(writer)
        splitter = FrameSplitter()
        try:
            while data := await reader.read(65_536):
                for code, payload in splitter.receive(data):
                    request = decode_request(code, payload)
                    if isinstance(request, c.Hello):
                        reply = self.hello
                    else:
                        self.requests.append(request)
                        reply = self.answer(request)
                    if reply is not None:
                        writer.write(encode(reply))
                await writer.drain()
        except (CloseConnection, ConnectionError):
            pass
        finally:
            writer.close()
            self.writers.remove(writer)

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def pool() -> AsyncIterator[SegmentStorePool]:
    made = SegmentStorePool(connect_timeout_s=2)
    yield made
    await made.close()


def client_of(
    pool: SegmentStorePool,
    server: Server,
    *,
    deadline_s: float = 20,
    request_timeout_s: float = 5,
    token: Callable[[], str] = str,
) -> SegmentStoreClient:
    async def locate(segment: str) -> tuple[str, int]:
        return server.address

    return SegmentStoreClient(
        pool,
        locate,
        SystemClock(),
        chance=random.Random(1),
        token=token,
        deadline_s=deadline_s,
        request_timeout_s=request_timeout_s,
    )


def echo(reply: Callable[[int], c.Command]) -> Callable[[c.Request], Answer]:
    """An answer that carries the request's id."""

    def answer(request: c.Request) -> Answer:
        assert not isinstance(request, c.Hello | c.KeepAlive | c.AppendBlock | c.Padding)
        return reply(request.request_id)

    return answer


def say_in_turn(*replies: Callable[[int], c.Command]) -> Callable[[c.Request], Answer]:
    rest = list(replies)

    def answer(request: c.Request) -> Answer:
        return echo(rest.pop(0))(request)

    return answer


def hang_up(request: c.Request) -> Answer:
    raise CloseConnection


# --- One connection ------------------------------------------------------------------------


async def test_replies_find_their_requests_in_any_order(server: Server) -> None:
    """A store answers out of order; a caller would get another segment's length."""
    held: list[c.GetStreamSegmentInfo] = []

    def answer(request: c.Request) -> Answer:
        assert isinstance(request, c.GetStreamSegmentInfo)
        held.append(request)
        if len(held) == 10:
            for each in reversed(held):
                length = int(each.segment)
                info = c.StreamSegmentInfo(
                    each.request_id, each.segment, True, False, False, 0, length
                )
                server.writers[0].write(encode(info))
        return None

    server.answer = answer
    connection = await SegmentStoreConnection.connect(server.address)
    replies = await asyncio.gather(
        *(connection.request(c.GetStreamSegmentInfo(0, str(number))) for number in range(10))
    )
    assert [reply.write_offset for reply in replies] == list(range(10))
    await connection.close()
    assert not connection.is_usable


async def test_a_lost_connection_fails_all_that_wait(server: Server) -> None:
    """A request would wait for ever, and nobody would know that its outcome is unknown."""
    connection = await SegmentStoreConnection.connect(server.address)
    requests = [
        asyncio.create_task(connection.request(c.SealSegment(0, SEGMENT))) for _ in range(5)
    ]
    await eventually(lambda: len(server.requests) == 5)
    server.hang_up()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 5
    assert connection.in_flight_count == 0
    with pytest.raises(ConnectionLost):
        await connection.request(c.SealSegment(0, SEGMENT))


async def test_requests_in_flight_are_bounded(server: Server) -> None:
    """A controller that seals ten thousand segments would flood one store."""
    limit = wire_connection.IN_FLIGHT_COUNT_MAX
    connection = await SegmentStoreConnection.connect(server.address)
    requests = [
        asyncio.create_task(connection.request(c.SealSegment(0, SEGMENT))) for _ in range(limit + 5)
    ]
    await eventually(lambda: len(server.requests) == limit)
    assert connection.in_flight_count == limit + 5
    server.answer = echo(lambda request_id: c.SegmentSealed(request_id, SEGMENT))
    for request in list(server.requests):
        assert isinstance(request, c.SealSegment)
        server.writers[0].write(encode(c.SegmentSealed(request.request_id, SEGMENT)))
    assert len(await asyncio.gather(*requests)) == limit + 5
    await connection.close()


async def test_no_reply_in_time(server: Server) -> None:
    """A host that died without a word would stop a workflow for ever."""
    connection = await SegmentStoreConnection.connect(server.address)
    with pytest.raises(RequestTimedOut, match="SealSegment"):
        await connection.request(c.SealSegment(0, SEGMENT), timeout_s=0.05)
    assert not connection.is_usable
    await eventually(lambda: not server.writers)


async def test_one_late_reply_does_not_take_the_others_along(server: Server) -> None:
    """A held read that is given up would fail the requests beside it."""
    connection = await SegmentStoreConnection.connect(server.address)
    other = asyncio.create_task(connection.request(c.SealSegment(0, SEGMENT)))
    await eventually(lambda: len(server.requests) == 1)
    with pytest.raises(RequestTimedOut):
        await connection.request(c.ReadSegment(SEGMENT, 0, 10), timeout_s=0.05)
    sealed, read = server.requests
    assert isinstance(read, c.ReadSegment)
    assert isinstance(sealed, c.SealSegment)
    late = c.SegmentRead(SEGMENT, 0, True, False, b"late", read.request_id)
    server.writers[0].write(encode(late) + encode(c.SegmentSealed(sealed.request_id, SEGMENT)))
    assert await other == c.SegmentSealed(sealed.request_id, SEGMENT)
    await eventually(lambda: not server.writers)


async def test_a_store_that_breaks_the_protocol(server: Server) -> None:
    """Random bytes would be taken for a reply, or leave the caller waiting."""
    connection = await SegmentStoreConnection.connect(server.address)
    request = asyncio.create_task(connection.request(c.SealSegment(0, SEGMENT)))
    await eventually(lambda: len(server.requests) == 1)
    server.writers[0].write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ConnectionLost, match="broke the protocol"):
        await request


async def test_hello_that_never_comes_or_does_not_fit(server: Server) -> None:
    """A wrong port would look like a slow store."""
    server.hello = None
    with pytest.raises(ConnectFailed, match="no Hello"):
        await SegmentStoreConnection.connect(server.address, timeout_s=0.05)
    server.hello = c.Hello(30, 20)
    with pytest.raises(ConnectFailed, match="20 to 30"):
        await SegmentStoreConnection.connect(server.address)
    server.hello = c.SealSegment(1, "a request")
    with pytest.raises(ConnectFailed, match="broke the protocol"):
        await SegmentStoreConnection.connect(server.address)
    await eventually(lambda: not server.writers)


async def test_nobody_listens(server: Server) -> None:
    """The address belongs into the message."""
    address = server.address
    await server.stop()
    with pytest.raises(ConnectFailed, match=str(address.port)):
        await SegmentStoreConnection.connect(address)


async def test_a_request_too_long_for_a_frame(server: Server) -> None:
    """It costs its caller an error, and nobody else the connection."""
    connection = await SegmentStoreConnection.connect(server.address)
    with pytest.raises(EncodingError):
        await connection.request(c.SealSegment(0, "x" * 70_000))
    server.answer = echo(lambda request_id: c.SegmentSealed(request_id, SEGMENT))
    await connection.request(c.SealSegment(0, SEGMENT))
    await connection.close()


# --- The pool --------------------------------------------------------------------------------


async def test_pool_uses_a_connection_again(server: Server, pool: SegmentStorePool) -> None:
    """A connection per request would cost three round trips more."""
    server.answer = echo(lambda request_id: c.SegmentSealed(request_id, SEGMENT))
    for _ in range(5):
        await client_of(pool, server).seal_segment(SEGMENT)
    assert server.connections_count == 1


async def test_pool_is_bounded(server: Server) -> None:
    """Every controller would open a thousand connections to a slow store."""
    pool = SegmentStorePool(connections_per_store_max=2)
    client = client_of(pool, server)
    requests = [asyncio.create_task(client.seal_segment(SEGMENT)) for _ in range(20)]
    await eventually(lambda: len(server.requests) == 20)
    assert server.connections_count == 2
    for request in server.requests:
        assert isinstance(request, c.SealSegment)
        for writer in server.writers:  # ids repeat between connections, so both get all
            writer.write(encode(c.SegmentSealed(request.request_id, SEGMENT)))
    await asyncio.gather(*requests)
    await pool.close()
    with pytest.raises(ConnectFailed, match="closed"):
        await pool.connection(server.address)
    await eventually(lambda: not server.writers)


async def test_pool_forgets_lost_connections(server: Server, pool: SegmentStorePool) -> None:
    """After a restart of the store its old connections would be tried for ever."""
    first = await pool.connection(server.address)
    server.hang_up()
    await eventually(lambda: not first.is_usable)
    assert (await pool.connection(server.address)) is not first


# --- What counts as success and refusal -----------------------------------------------------------

Call = Callable[[SegmentStoreClient], object]
INFO = c.StreamSegmentInfo(0, SEGMENT, True, False, False, 1, 26, 3)
SUCCESSES: list[tuple[str, Call, c.Reply, object]] = [
    ("create", lambda it: it.create_segment(SEGMENT), c.SegmentCreated(0, SEGMENT), True),
    ("create again", lambda it: it.create_segment(SEGMENT), c.SegmentAlreadyExists(0, ""), False),
    ("seal", lambda it: it.seal_segment(SEGMENT), c.SegmentSealed(0, SEGMENT), None),
    ("seal again", lambda it: it.seal_segment(SEGMENT), c.SegmentIsSealed(0, SEGMENT), None),
    ("delete", lambda it: it.delete_segment(SEGMENT), c.SegmentDeleted(0, SEGMENT), True),
    ("delete again", lambda it: it.delete_segment(SEGMENT), c.NoSuchSegment(0, SEGMENT), False),
    ("truncate", lambda it: it.truncate_segment(SEGMENT, 5), c.SegmentTruncated(0, ""), None),
    (
        "truncate again",
        lambda it: it.truncate_segment(SEGMENT, 5),
        c.SegmentIsTruncated(0, SEGMENT, 9),
        None,
    ),
    (
        "merge",
        lambda it: it.merge_segments_batch(SEGMENT, ["a", "b"]),
        c.SegmentsBatchMerged(0, SEGMENT, (c.MergedSource("a", 7), c.MergedSource("b", 9))),
        (("a", 7), ("b", 9)),
    ),
    (
        "policy",
        lambda it: it.update_segment_policy(SEGMENT, scale_type=1, target_rate=5),
        c.SegmentPolicyUpdated(0, SEGMENT),
        None,
    ),
    ("info", lambda it: it.segment_info(SEGMENT), INFO, INFO),
    ("table", lambda it: it.create_table_segment(SEGMENT), c.SegmentCreated(0, SEGMENT), True),
    (
        "table again",
        lambda it: it.create_table_segment(SEGMENT, key_length=8),
        c.SegmentAlreadyExists(0, SEGMENT),
        False,
    ),
    (
        "delete table",
        lambda it: it.delete_table_segment(SEGMENT, must_be_empty=True),
        c.SegmentDeleted(0, SEGMENT),
        True,
    ),
    (
        "delete table again",
        lambda it: it.delete_table_segment(SEGMENT, must_be_empty=False),
        c.NoSuchSegment(0, SEGMENT),
        False,
    ),
]
REFUSALS: list[tuple[Call, c.Reply]] = [
    (lambda it: it.seal_segment(SEGMENT), c.NoSuchSegment(0, SEGMENT)),
    (lambda it: it.segment_info(SEGMENT), c.NoSuchSegment(0, SEGMENT)),
    (lambda it: it.merge_segments_batch(SEGMENT, ["a"]), c.NoSuchSegment(0, SEGMENT)),
    (lambda it: it.create_segment(SEGMENT), c.AuthTokenCheckFailed(0, "", 0)),
    (lambda it: it.create_segment(SEGMENT), c.OperationUnsupported(0, "createSegment")),
    (lambda it: it.create_table_segment(SEGMENT), c.ErrorMessage(0, SEGMENT, "bad", 0)),
    (
        lambda it: it.delete_table_segment(SEGMENT, must_be_empty=True),
        c.TableSegmentNotEmpty(0, SEGMENT),
    ),
    (lambda it: it.read(SEGMENT, 0, 10), c.SegmentIsTruncated(0, SEGMENT, 9)),
    (lambda it: it.read(SEGMENT, 0, 10), c.NoSuchSegment(0, SEGMENT)),
]


@pytest.mark.parametrize(
    ("call", "reply", "result"),
    [case[1:] for case in SUCCESSES],
    ids=[case[0] for case in SUCCESSES],
)
async def test_success(
    server: Server, pool: SegmentStorePool, call: Call, reply: c.Reply, result: object
) -> None:
    """A workflow that is done would be tried again, or one that is not would go on."""
    server.answer = echo(lambda request_id: reply._replace(request_id=request_id))
    got = await call(client_of(pool, server, token=lambda: "token"))  # type: ignore[misc]
    if isinstance(got, c.StreamSegmentInfo):
        got = got._replace(request_id=0)
    assert got == result
    (request,) = server.requests
    assert "token" in request


@pytest.mark.parametrize(("call", "reply"), REFUSALS, ids=lambda case: type(case).__name__)
async def test_refusal(server: Server, pool: SegmentStorePool, call: Call, reply: c.Reply) -> None:
    """What cannot get better by waiting would hold a user's call for a minute."""
    server.answer = echo(lambda request_id: reply._replace(request_id=request_id))
    with pytest.raises(Refused) as caught:
        await call(client_of(pool, server))  # type: ignore[misc]
    assert type(caught.value.reply) is type(reply)
    assert len(server.requests) == 1


# --- Retries ---------------------------------------------------------------------------------


async def test_wrong_host_and_lost_connections_lead_to_a_fresh_lookup(
    pool: SegmentStorePool,
) -> None:
    """A container that moved would be looked for at its old store."""
    old, closing, new = Server(), Server(), Server()
    for each in (old, closing, new):
        await each.start()
    old.answer = echo(lambda request_id: c.WrongHost(request_id, SEGMENT))
    closing.answer = hang_up
    new.answer = echo(lambda request_id: c.SegmentSealed(request_id, SEGMENT))
    places = [old.address, closing.address, new.address]

    async def locate(segment: str) -> tuple[str, int]:
        assert segment == SEGMENT
        return places.pop(0)

    client = SegmentStoreClient(pool, locate, SystemClock(), chance=random.Random(1))
    await client.seal_segment(SEGMENT)
    assert [len(each.requests) for each in (old, closing, new)] == [1, 1, 1]
    for each in (old, closing, new):
        await each.stop()


async def test_pauses_double_until_the_deadline(server: Server, pool: SegmentStorePool) -> None:
    """A cluster without stores would be asked in a tight loop, or for ever."""
    clock, asked_at = FakeClock(), []

    async def locate(segment: str) -> tuple[str, int]:
        asked_at.append(clock.monotonic())
        raise SegmentNotLocated(segment, "no store is alive")

    client = SegmentStoreClient(pool, locate, clock, chance=random.Random(3), deadline_s=10)
    call = asyncio.create_task(client.seal_segment(SEGMENT))
    await clock.advance(30)
    with pytest.raises(StoreUnavailable, match="no store is alive") as caught:
        await call
    assert caught.value.attempts_count == len(asked_at) < 25
    assert asked_at[-1] <= 10
    pauses = [after - before for before, after in itertools.pairwise(asked_at)]
    assert wire_client.PAUSE_FIRST_S / 2 <= pauses[0] <= wire_client.PAUSE_FIRST_S * 1.5
    assert max(pauses) <= wire_client.PAUSE_MAX_S * 1.5


async def test_the_last_failure_is_named(server: Server, pool: SegmentStorePool) -> None:
    """An operator would see "unavailable" and not why."""
    server.answer = echo(lambda request_id: c.WrongHost(request_id, SEGMENT))
    with pytest.raises(StoreUnavailable) as caught:
        await client_of(pool, server, deadline_s=0.2).segment_info(SEGMENT)
    assert isinstance(caught.value.last, UnexpectedReply)
    assert isinstance(caught.value.last.reply, c.WrongHost)


async def test_other_errors_of_locate_are_not_retried(pool: SegmentStorePool) -> None:
    """A bug in the lookup would show as a store that is away."""

    async def locate(segment: str) -> tuple[str, int]:
        raise KeyError(segment)

    client = SegmentStoreClient(pool, locate, SystemClock(), chance=random.Random(1))
    with pytest.raises(KeyError):
        await client.seal_segment(SEGMENT)


async def test_a_lost_reply_of_a_create(server: Server, pool: SegmentStorePool) -> None:
    """Carried out once, asked twice: the second answer counts as success."""
    replies = [
        lambda request_id: None,
        lambda request_id: c.SegmentAlreadyExists(request_id, SEGMENT),
    ]

    def answer(request: c.Request) -> Answer:
        assert isinstance(request, c.CreateSegment)
        reply = replies.pop(0)(request.request_id)
        if reply is None:
            raise CloseConnection
        return reply

    server.answer = answer
    assert await client_of(pool, server).create_segment(SEGMENT) is False


# --- Data ------------------------------------------------------------------------------------


async def test_read_range_puts_short_replies_together(
    server: Server, pool: SegmentStorePool
) -> None:
    """A store may give less than was asked for; a chunk of tier 2 would have a hole."""
    data = bytes(range(256)) * 20

    def answer(request: c.Request) -> Answer:
        assert isinstance(request, c.ReadSegment)
        # Never less than 8 bytes, as a store does: the last piece is cut by the client.
        piece = data[request.offset : request.offset + max(8, min(request.suggested_length, 999))]
        return c.SegmentRead(SEGMENT, request.offset, False, False, piece, request.request_id)

    server.answer = answer
    client = client_of(pool, server)
    pieces = [bytes(piece) async for piece in client.read_range(SEGMENT, 5, 3001)]
    assert b"".join(pieces) == data[5:3006]
    assert len(pieces) == 4


async def test_read_range_beyond_the_end(server: Server, pool: SegmentStorePool) -> None:
    """A chunk would be shorter than its journalled length, without an error."""

    def answer(request: c.Request) -> Answer:
        assert isinstance(request, c.ReadSegment)
        piece = b"0123456789"[request.offset :]
        return c.SegmentRead(SEGMENT, request.offset, False, True, piece, request.request_id)

    server.answer = answer
    with pytest.raises(ReadEndedEarly) as caught:
        _ = [piece async for piece in client_of(pool, server).read_range(SEGMENT, 0, 20)]
    assert (caught.value.offset, caught.value.wanted_end) == (10, 20)


async def test_an_append_is_stored_once(server: Server, pool: SegmentStorePool) -> None:
    """The connection breaks after the append is stored: sending it again would double it."""
    stored: list[bytes] = []

    def answer(request: c.Request) -> Answer:
        if isinstance(request, c.SetupAppend):
            number = 1 if stored else c.NO_EVENT
            return c.AppendSetup(request.request_id, SEGMENT, WRITER, number)
        assert isinstance(request, c.AppendBlockEnd)
        stored.append(bytes(request.data))
        raise CloseConnection

    server.answer = answer
    assert await client_of(pool, server).append(SEGMENT, WRITER, b"x" * 9, event_number=1) is None
    assert stored == [b"x" * 9]


async def test_append_gives_the_new_length(server: Server, pool: SegmentStorePool) -> None:
    """Tests and tools read what they wrote from there."""
    server.answer = say_in_turn(
        lambda request_id: c.AppendSetup(request_id, SEGMENT, WRITER, c.NO_EVENT),
        lambda request_id: c.DataAppended(WRITER, 4, c.NO_EVENT, request_id, 1_000_000),
    )
    data = memoryview(bytes(1_000_000))
    length = await client_of(pool, server).append(SEGMENT, WRITER, data, event_number=4)
    assert length == 1_000_000
    sent = server.requests[1]
    assert isinstance(sent, c.AppendBlockEnd)
    assert (len(sent.data), sent.last_event_number, sent.num_events) == (1_000_000, 4, 1)


async def test_append_to_a_sealed_segment_is_refused(
    server: Server, pool: SegmentStorePool
) -> None:
    """It would be tried again until the deadline."""
    server.answer = say_in_turn(
        lambda request_id: c.AppendSetup(request_id, SEGMENT, WRITER, 3),
        lambda request_id: c.SegmentIsSealed(request_id, SEGMENT, "", 4),
    )
    with pytest.raises(Refused):
        await client_of(pool, server).append(SEGMENT, WRITER, b"x", event_number=4)


async def test_an_event_is_appended_only_where_the_segment_ends(
    server: Server, pool: SegmentStorePool
) -> None:
    """Two controllers would both write a watermark."""
    end = 40

    def answer(request: c.Request) -> Answer:
        if isinstance(request, c.SetupAppend):
            return c.AppendSetup(request.request_id, SEGMENT, request.writer_id, -(2**63))
        assert isinstance(request, c.ConditionalAppend)
        if request.expected_offset != end:
            return c.ConditionalCheckFailed(
                request.writer_id, request.event_number, request.request_id
            )
        return c.DataAppended(
            request.writer_id, request.event_number, -1, request.request_id, end + 10
        )

    server.answer = answer
    client = client_of(pool, server)
    assert await client.append_event_at(SEGMENT, WRITER, b"xy", expected_offset=40) is True
    assert await client.append_event_at(SEGMENT, UUID(int=6), b"xy", expected_offset=30) is False


async def test_a_lost_reply_of_a_conditional_append_is_no_failure(
    server: Server, pool: SegmentStorePool
) -> None:
    """The event is there: its author would take it for another's."""
    stored: list[int] = []

    def answer(request: c.Request) -> Answer:
        if isinstance(request, c.SetupAppend):
            last = stored[-1] if stored else -(2**63)
            return c.AppendSetup(request.request_id, SEGMENT, request.writer_id, last)
        assert isinstance(request, c.ConditionalAppend)
        stored.append(request.event_number)
        raise CloseConnection

    server.answer = answer
    client = client_of(pool, server)
    assert await client.append_event_at(SEGMENT, WRITER, b"xy", expected_offset=0) is True
    assert len(stored) == 1


async def test_attributes_are_read_and_changed(server: Server, pool: SegmentStorePool) -> None:
    """Readers begin where the mark of a segment says."""
    values = {WRITER: c.NULL_ATTRIBUTE}

    def answer(request: c.Request) -> Answer:
        if isinstance(request, c.GetSegmentAttribute):
            return c.SegmentAttribute(request.request_id, values[request.attribute_id])
        assert isinstance(request, c.UpdateSegmentAttribute)
        fits = values[request.attribute_id] == request.expected_value
        if fits:
            values[request.attribute_id] = request.new_value
        return c.SegmentAttributeUpdated(request.request_id, fits)

    server.answer = answer
    client = client_of(pool, server)
    assert await client.segment_attribute(SEGMENT, WRITER) == c.NULL_ATTRIBUTE
    change = client.update_segment_attribute
    assert await change(SEGMENT, WRITER, 7, expected=c.NULL_ATTRIBUTE) is True
    assert await change(SEGMENT, WRITER, 8, expected=c.NULL_ATTRIBUTE) is False
    assert await client.segment_attribute(SEGMENT, WRITER) == 7
