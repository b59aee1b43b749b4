"""One suite for every bus: notices, requests, work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from anabranch_kit.adapters.jetstream_provision import ensure_stream
from anabranch_kit.adapters.nats_bus import NatsBus, NatsUnreachable, connect_nats
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.bus import Bus, BusUnavailable
from anabranch_testkit.fakes import MemoryBus
from anabranch_testkit.servers import Server, nats_server
from anabranch_testkit.waiting import eventually
from nats.js.api import RetentionPolicy, StreamConfig


@dataclass
class Subject:
    bus: Bus
    queued: Callable[[], Awaitable[list[bytes]]]
    server: Server | None = None


@pytest.fixture(params=["memory", "nats"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        bus = MemoryBus()

        async def in_memory() -> list[bytes]:
            return [payload for _, payload in bus.queued]

        yield Subject(bus, in_memory)
        return
    async with nats_server() as server:
        client = await connect_nats(server.url, name="contract", clock=SystemClock())
        config = StreamConfig(
            name="WORK", subjects=["work.>"], retention=RetentionPolicy.WORK_QUEUE
        )
        await ensure_stream(client, config, clock=SystemClock())

        async def in_stream() -> list[bytes]:
            jetstream = client.jetstream()
            info = await jetstream.stream_info("WORK")
            numbers = range(info.state.first_seq, info.state.last_seq + 1)
            return [(await jetstream.get_msg("WORK", number)).data or b"" for number in numbers]

        yield Subject(NatsBus(client), in_stream, server)
        await client.close()


async def test_notices_arrive_in_order_by_pattern(subject: Subject) -> None:
    """Load reports would be counted in the wrong window."""
    heard: list[tuple[str, bytes]] = []

    async def hear(name: str, payload: bytes) -> None:
        await asyncio.sleep(0)
        heard.append((name, payload))

    subscription = await subject.bus.subscribe("load.*", hear)
    for number in range(50):
        await subject.bus.publish(f"load.{number % 3}", str(number).encode())
    await subject.bus.publish("other.1", b"not for us")
    await eventually(lambda: len(heard) == 50)
    assert heard == [(f"load.{number % 3}", str(number).encode()) for number in range(50)]
    await subscription.close()
    await subscription.close()


async def test_failing_handler_does_not_end_the_subscription(subject: Subject) -> None:
    """One poison notice would make a service deaf."""
    heard: list[bytes] = []

    async def hear(_: str, payload: bytes) -> None:
        if payload == b"poison":
            raise ValueError("cannot read this")
        heard.append(payload)

    await subject.bus.subscribe("load.*", hear)
    await subject.bus.publish("load.1", b"poison")
    await subject.bus.publish("load.1", b"good")
    await eventually(lambda: heard == [b"good"])


async def test_request_is_answered(subject: Subject) -> None:
    """A scale command would never learn its outcome."""

    async def answer(payload: bytes) -> bytes:
        return payload.upper()

    await subject.bus.serve("command.scale", answer, queue="controllers")
    assert await subject.bus.request("command.scale", b"split", timeout_s=5) == b"SPLIT"


async def test_request_without_a_server_fails_at_once(subject: Subject) -> None:
    """A worker would wait its whole time-out for a container that nobody owns."""
    async with asyncio.timeout(5):
        with pytest.raises(BusUnavailable, match="nobody serves"):
            await subject.bus.request("container.9.chunk", b"", timeout_s=60)


async def test_failed_request_is_told_to_its_sender(subject: Subject) -> None:
    """The cause of a failure would only be in another process's log."""

    async def answer(_: bytes) -> bytes:
        raise ValueError("no such\ncontainer")

    await subject.bus.serve("command.fail", answer)
    with pytest.raises(BusUnavailable, match="ValueError: no such"):
        await subject.bus.request("command.fail", b"", timeout_s=5)


async def test_slow_request_times_out(subject: Subject) -> None:
    """A requester would hang with the server that it asked."""
    release = asyncio.Event()

    async def answer(payload: bytes) -> bytes:
        await release.wait()
        return payload

    subscription = await subject.bus.serve("command.slow", answer)
    with pytest.raises(BusUnavailable, match="no answer within"):
        await subject.bus.request("command.slow", b"", timeout_s=0.1)
    release.set()
    await subscription.close()


async def test_one_slow_request_does_not_hold_up_the_others(subject: Subject) -> None:
    """A scale that takes seconds would block every other command."""
    release = asyncio.Event()

    async def answer(payload: bytes) -> bytes:
        if payload == b"slow":
            await release.wait()
        return payload

    await subject.bus.serve("command.mixed", answer)
    slow = asyncio.create_task(subject.bus.request("command.mixed", b"slow", timeout_s=10))
    assert await subject.bus.request("command.mixed", b"quick", timeout_s=5) == b"quick"
    release.set()
    assert await slow == b"slow"


async def test_closed_server_answers_no_more(subject: Subject) -> None:
    """A stopped store would go on taking reports."""

    async def answer(payload: bytes) -> bytes:
        return payload

    subscription = await subject.bus.serve("command.closed", answer)
    assert await subject.bus.request("command.closed", b"1", timeout_s=5) == b"1"
    await subscription.close()
    with pytest.raises(BusUnavailable):
        await subject.bus.request("command.closed", b"2", timeout_s=1)


async def test_work_is_stored_once_per_message_id(subject: Subject) -> None:
    """An order sent twice would be done twice."""
    await subject.bus.enqueue("work.flush.0", b"one", message_id="a")
    await subject.bus.enqueue("work.flush.0", b"one", message_id="a")
    await subject.bus.enqueue("work.flush.0", b"two", message_id="b")
    await subject.bus.enqueue("work.flush.0", b"three")
    assert await subject.queued() == [b"one", b"two", b"three"]


async def test_work_for_which_there_is_no_stream_is_refused(nats_server: Server) -> None:
    """An order would be lost without anybody noticing."""
    client = await connect_nats(nats_server.url, name="contract", clock=SystemClock())
    with pytest.raises(BusUnavailable, match="no stream holds"):
        await NatsBus(client).enqueue("nobody.keeps.this", b"")
    await client.close()


async def test_bus_works_again_after_a_restart_of_the_server(nats_server: Server) -> None:
    """Every service would have to be restarted with NATS."""
    client = await connect_nats(nats_server.url, name="contract", clock=SystemClock())
    bus = NatsBus(client)

    async def answer(payload: bytes) -> bytes:
        return payload

    await bus.serve("command.echo", answer)
    await nats_server.restart()

    async def works() -> bool:
        try:
            return await bus.request("command.echo", b"x", timeout_s=0.5) == b"x"
        except BusUnavailable:
            return False

    await eventually(works, 5)
    await client.close()


async def test_no_server_is_a_clear_error_that_comes_soon() -> None:
    """A wrong address would look like a hanging service."""
    async with asyncio.timeout(5):
        with pytest.raises(NatsUnreachable, match=r"nats://127.0.0.1:1: .*--nats-url"):
            await connect_nats("nats://127.0.0.1:1", name="x", clock=SystemClock(), wait_s=0.2)


@pytest.mark.parametrize("url", ["nats://", "nats://host:notaport", "://x"])
async def test_nonsense_address_is_named(url: str) -> None:
    """A typing error in the settings would end in a traceback."""
    with pytest.raises(NatsUnreachable, match="not an address"):
        await connect_nats(url, name="x", clock=SystemClock(), wait_s=0)
