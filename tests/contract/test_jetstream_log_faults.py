"""A JetStreamLog when real servers are killed, answers are lost and owners meet; and when the
stream is full, gone or damaged (server in memory, virtual time)."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import structlog
from anabranch_kit import server_binaries
from anabranch_kit.adapters.nats_connection import connect_nats
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_segmentstore.adapters.jetstream_log import JetStreamLog, JetStreamLogStore
from anabranch_segmentstore.adapters.jetstream_log_sync import SyncReport, report_sync
from anabranch_segmentstore.ports import (
    ContainerId,
    LogDamaged,
    LogFailed,
    LogFenced,
    LogPosition,
)
from anabranch_testkit.fakes.jetstream import FakeJetStream, LoopClock, run
from anabranch_testkit.servers import Server, nats_cluster, nats_server
from anabranch_testkit.tcp_proxy import TcpProxy
from anabranch_testkit.waiting import eventually
from nats.aio.client import Client

CONTAINER = ContainerId(5)
LEASE_S = 0.5
MIB = 1024 * 1024


@asynccontextmanager
async def opened(
    url: str, *, replicas: int = 1, lease_s: float = LEASE_S
) -> AsyncIterator[tuple[Client, JetStreamLog]]:
    client = await connect_nats(url, name="test", clock=SystemClock())
    try:
        store = JetStreamLogStore(
            client,
            clock=SystemClock(),
            new_id=uuid.uuid4,
            replicas=replicas,
            lease_s=lease_s,
            margin_s=0.1,
        )
        log = await store.open(CONTAINER, owner="test")
        try:
            yield client, log
        finally:
            await log.close(clean=False)
    finally:
        await client.close()


@dataclass(slots=True)
class Load:
    """Appends frames of changing length, as many at once as the log takes, until told to stop."""

    log: JetStreamLog
    lengths: tuple[int, ...]
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    stopping: bool = False

    async def run(self) -> None:
        slots = asyncio.Semaphore(self.log.frames_in_flight_max)

        async def append(payload: bytes) -> None:
            try:
                self.acknowledged[await self.log.append([payload])] = payload
            finally:
                slots.release()

        async with asyncio.TaskGroup() as tasks:
            number = 0
            while not self.stopping:
                await slots.acquire()
                number += 1
                length = self.lengths[number % len(self.lengths)]
                tasks.create_task(append(b"%d " % number + bytes(length)))

    async def more(self, count: int) -> None:
        """Until so many more frames are acknowledged."""
        wanted = len(self.acknowledged) + count
        await eventually(lambda: len(self.acknowledged) >= wanted, 30)


async def assert_all_there(log: JetStreamLog, acknowledged: dict[int, bytes]) -> None:
    found = {frame.position: frame.payload async for frame in log.replay()}
    assert sorted(found) == list(range(1, len(found) + 1))
    for position, payload in acknowledged.items():
        assert found[position] == payload, f"acknowledged frame {position} is lost"


@pytest.mark.parametrize("payload_bytes_max", [MIB, 8 * MIB])
async def test_a_killed_server_costs_time_and_nothing_else(payload_bytes_max: int) -> None:
    """A restart of NATS would lose acknowledged events, or end the container."""
    async with nats_server(payload_bytes_max=payload_bytes_max) as server:
        async with opened(server.url, lease_s=30) as (_, log):
            load = Load(log, (10, 3000, 3 * MIB))
            running = asyncio.create_task(load.run())
            for _ in range(3):
                await load.more(10)
                await server.restart()
            await load.more(10)
            load.stopping = True
            await running
            log.check_owner()
            await log.close(clean=True)
        async with opened(server.url) as (_, again):
            await assert_all_there(again, load.acknowledged)


async def test_acknowledgements_that_are_lost_are_found_again(nats_server: Server) -> None:
    """A frame would be written twice, or the container would end, for a lost answer."""
    proxy = TcpProxy(nats_server.port)
    await proxy.open()
    try:
        async with opened(f"nats://127.0.0.1:{proxy.port}", lease_s=30) as (client, log):
            load = Load(log, (10, 70_000))
            running = asyncio.create_task(load.run())
            for turn in range(4):
                await load.more(5)
                async with stream_grows(nats_server.url):
                    proxy.hold_answers()
                await proxy.cut()
                proxy.let_answers_pass()
                await _until_reconnected(client, turn + 1)
            await load.more(5)
            load.stopping = True
            await running
    finally:
        await proxy.refuse()
    async with opened(nats_server.url) as (_, again):
        await assert_all_there(again, load.acknowledged)


@asynccontextmanager
async def stream_grows(url: str) -> AsyncIterator[None]:
    """Waits at its end until the stream has more messages than at its beginning."""
    client = await connect_nats(url, name="look", clock=SystemClock())

    async def last() -> int:
        return (await client.jetstream().stream_info("ANABRANCH_LOG_5")).state.last_seq

    try:
        before = await last()

        async def has_grown() -> bool:
            return await last() > before

        yield
        await eventually(has_grown, timeout_s=30)
    finally:
        await client.close()


async def _until_reconnected(client: Client, count: int) -> None:
    await eventually(lambda: client.stats["reconnects"] >= count)


async def test_an_owner_at_full_speed_is_fenced(nats_server: Server) -> None:
    """Messages that were under way at the take-over would be read as the new owner's."""
    for turn in range(3):
        async with opened(nats_server.url) as (_, old), opened_later(nats_server.url) as open_new:
            load = Load(old, (10, 200, 50_000))
            running = asyncio.create_task(load.run())
            await load.more(20)
            new = await open_new()
            with pytest.raises(ExceptionGroup) as errors:
                await running
            assert errors.group_contains(LogFenced)
            with pytest.raises(LogFenced):
                old.check_owner()
            new.check_owner()
            position = await new.append([b"new %d" % turn])
            found = {frame.position: frame.payload async for frame in new.replay()}
            assert list(found) == list(range(1, position + 1))
            assert load.acknowledged.items() <= found.items()
            await new.close(clean=True)


@asynccontextmanager
async def opened_later(
    url: str,
) -> AsyncIterator[Callable[[], asyncio.Future[JetStreamLog] | asyncio.Task[JetStreamLog]]]:
    client = await connect_nats(url, name="new", clock=SystemClock())
    logs: list[JetStreamLog] = []

    async def open_now() -> JetStreamLog:
        store = JetStreamLogStore(
            client, clock=SystemClock(), new_id=uuid.uuid4, lease_s=LEASE_S, margin_s=0.1
        )
        logs.append(await store.open(CONTAINER, owner="new"))
        return logs[-1]

    try:
        yield lambda: asyncio.ensure_future(open_now())
    finally:
        for log in logs:
            await log.close(clean=False)
        await client.close()


async def test_a_cluster_of_three_survives_the_loss_of_any_server() -> None:
    """The replicated tier 1 would stop, or lose events, with one server."""
    async with nats_cluster() as servers:
        urls = ",".join(server.url for server in servers)
        async with opened(urls, replicas=3, lease_s=60) as (client, log):
            load = Load(log, (10, 3000, MIB))
            running = asyncio.create_task(load.run())
            for _ in range(2):
                await load.more(20)
                info = await client.jetstream().stream_info("ANABRANCH_LOG_5")
                assert info.cluster is not None
                leader = next(one for one in servers if one.name == info.cluster.leader)
                await leader.kill()
                await load.more(20)
                await leader.start()
            await load.more(10)
            load.stopping = True
            await running
            await log.close(clean=True)
        async with opened(urls, replicas=3) as (_, again):
            await assert_all_there(again, load.acknowledged)


async def test_a_message_of_somebody_else_is_named_and_not_skipped(nats_server: Server) -> None:
    """Damage would be taken for the end, and what follows would be forgotten."""
    async with opened(nats_server.url) as (_, log):
        await log.append([b"one"])
    client = await connect_nats(nats_server.url, name="stranger", clock=SystemClock())
    acknowledgement = await client.jetstream().publish("anabranch.log.5.frames", b"hello")
    await client.close()
    with pytest.raises(LogDamaged, match=f"ANABRANCH_LOG_5, message {acknowledgement.seq}") as told:
        async with opened(nats_server.url):
            pass
    assert told.value.offset == acknowledgement.seq


@pytest.mark.parametrize(
    ("sync_interval", "expected"),
    [
        ("always", SyncReport(always=["test"])),
        ("120s", SyncReport(lax={"test": 120.0})),
    ],
)
async def test_a_server_that_does_not_sync_is_told_of(
    sync_interval: str, expected: SyncReport
) -> None:
    """An operator would believe that a power cut loses nothing."""
    port = server_binaries.free_port()
    extra = f'http: "127.0.0.1:{port}"\n'
    async with nats_server(sync_interval=sync_interval, extra_config=extra) as server:
        client = await connect_nats(server.url, name="test", clock=SystemClock())
        try:
            with structlog.testing.capture_logs() as events:
                url = f"http://127.0.0.1:{port}"
                assert await report_sync(client, monitor_urls=[url], replicas=1) == expected
                unknown = await report_sync(client, monitor_urls=[], replicas=1)
                assert unknown.unknown
        finally:
            await client.close()
    levels = [(event["event"], event["log_level"]) for event in events]
    first = (
        ("log.jetstream_sync_lax", "warning") if expected.lax else ("log.jetstream_syncs", "info")
    )
    assert levels == [first, ("log.jetstream_sync_unknown", "warning")]


# --- With a server in memory ---------------------------------------------------------------------


async def open_fake(server: FakeJetStream, *, lease_s: float = 3.0) -> JetStreamLog:
    store = JetStreamLogStore(
        server.client(),  # type: ignore[arg-type]
        clock=LoopClock(),
        new_id=uuid.uuid4,
        lease_s=lease_s,
    )
    return await store.open(CONTAINER, owner="test")


def fake() -> FakeJetStream:
    return FakeJetStream(random.Random(1))


async def filled(server: FakeJetStream) -> list[int]:
    """Five frames of several messages; the places of their messages."""
    log = await open_fake(server)
    first = server.last + 1
    for index in range(5):
        await log.append([b"%d" % index * 20_000])
    places = list(range(first, server.last + 1))
    await log.close(clean=False)
    return places


async def replay_all(server: FakeJetStream) -> None:
    log = await open_fake(server)
    async for _ in log.replay():
        pass


@pytest.mark.parametrize("what", ["flip", "cut", "remove"])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.9999])
def test_damage_is_refused_with_its_place(what: str, where: float) -> None:
    """A damaged frame would be served, or silently dropped with all that follows."""

    async def scenario() -> None:
        server = fake()
        places = await filled(server)
        place = places[int(where * len(places))]
        subject, message = server.messages[place]
        match what:
            case "flip":
                flipped = bytearray(message)
                flipped[len(flipped) // 2] ^= 1
                server.messages[place] = subject, bytes(flipped)
            case "cut":
                server.messages[place] = subject, message[:-1]
            case _:
                del server.messages[place]
        with pytest.raises(LogDamaged, match=f"ANABRANCH_LOG_5, message {place}:") as told:
            await replay_all(server)
        assert (told.value.file, told.value.offset) == ("ANABRANCH_LOG_5", place)

    run(scenario())


def test_a_lost_beginning_is_damage() -> None:
    """Frames that are not tiered yet would be missed only when somebody reads them."""

    async def scenario() -> None:
        server = fake()
        places = await filled(server)
        server.answer("$JS.API.STREAM.PURGE.X", {"seq": places[4]})
        with pytest.raises(LogDamaged, match="message 1: it and what follows is missing"):
            await open_fake(server)

    run(scenario())


def test_a_damaged_message_is_not_read() -> None:
    """A reader would get bytes that nobody wrote."""

    async def scenario() -> None:
        server = fake()
        log = await open_fake(server)
        position = await log.append([bytes(20_000)])
        place = server.last
        subject, message = server.messages[place]
        server.messages[place] = subject, message[:-1] + b"x"
        assert await log.read(position, 0, 100) == bytes(100)
        with pytest.raises(LogDamaged):
            await log.read(position, 19_000, 1000)

    run(scenario())


def test_a_full_server_holds_appends_back_and_lets_truncations_through() -> None:
    """A full disk would end the container, or stay full because nothing may be purged."""

    async def scenario() -> None:
        server = fake()
        log = await open_fake(server)
        for _ in range(5):
            await log.append([bytes(20_000)])
        snapshot = await log.append([b"state"], snapshot=True)
        server.is_full = True
        waiting = asyncio.create_task(log.append([b"late"]))
        await asyncio.sleep(5)
        assert not waiting.done()
        await log.truncate(snapshot)
        assert await waiting == snapshot + 1
        with pytest.raises(KeyError):
            await log.read(LogPosition(1), 0, 1)
        await log.close(clean=False)
        again = await open_fake(server)
        assert [frame.payload async for frame in again.replay()] == [b"state", b"late"]

    run(scenario())


def test_a_purge_without_its_mark_is_no_damage() -> None:
    """A crash while the disk was full would make the container refuse to start."""

    async def scenario() -> None:
        server = fake()
        log = await open_fake(server)
        for _ in range(5):
            await log.append([bytes(20_000)])
        snapshot = await log.append([b"state"], snapshot=True)
        place = server.last
        await log.append([b"more"])
        await log.close(clean=False)
        server.answer("$JS.API.STREAM.PURGE.X", {"seq": place})
        again = await open_fake(server)
        assert [frame.position async for frame in again.replay()] == [snapshot, snapshot + 1]

    run(scenario())


def test_a_deleted_stream_ends_the_log() -> None:
    """Appends would wait for ever, and nobody would know why."""

    async def scenario() -> None:
        server = fake()
        log = await open_fake(server)
        server.is_gone = True
        with pytest.raises(LogFailed, match="does not exist any more"):
            await log.append([b"lost"])

    run(scenario())


def test_an_owner_that_hears_nothing_for_a_lease_falls_silent() -> None:
    """A store that is cut off would answer from old state while another one writes (F6)."""

    async def scenario() -> None:
        server = fake()
        log = await open_fake(server)
        await asyncio.sleep(60)
        log.check_owner()  # heartbeats kept it the owner
        server.faults.lost = 1.0
        await asyncio.sleep(1.9)
        log.check_owner()
        await asyncio.sleep(1.2)
        with pytest.raises(LogFailed, match="confirmed nothing"):
            log.check_owner()
        server.faults.lost = 0.0
        await asyncio.sleep(10)
        log.check_owner()

    run(scenario())


def test_a_new_owner_waits_for_the_lease_unless_the_old_one_released() -> None:
    """Two stores would answer at once, one of them from old state."""

    async def scenario() -> None:
        server = fake()
        clock = LoopClock()
        log = await open_fake(server)
        first_s = clock.monotonic()
        assert first_s < 1, "nobody was there before"
        await log.append([b"x"])
        await log.close(clean=True)
        log = await open_fake(server)
        released_s = clock.monotonic() - first_s
        assert released_s < 1
        await log.close(clean=False)
        before_s = clock.monotonic()
        await open_fake(server)
        assert clock.monotonic() - before_s >= 4

    run(scenario())


def test_a_frame_is_found_without_a_note_of_its_place() -> None:
    """After a restart, or in a very long log, readers would not find frames."""

    async def scenario() -> None:
        server = fake()
        for epoch in range(3):
            log = await open_fake(server)
            for index in range(20):
                payload = b"%d-%d" % (epoch, index) + bytes((index % 3) * 9000)
                assert await log.append([payload]) == epoch * 20 + index + 1
            await log.close(clean=epoch == 1)
        log = await open_fake(server)
        for position in (60, 1, 33, 20, 21, 40, 41):
            expected = b"%d-%d" % divmod(position - 1, 20)
            assert await log.read(LogPosition(position), 0, len(expected)) == expected
        for position in (0, 61):
            with pytest.raises(KeyError):
                await log.read(LogPosition(position), 0, 1)

    run(scenario())
