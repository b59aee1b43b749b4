"""What every DurableLog promises, whatever it stores in: run once per implementation.

Another implementation joins by a factory in STORES. `open_again` opens the same log by a second
store, as another process would, while the first one is still there.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from anabranch_kit.adapters.nats_connection import connect_nats
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_segmentstore.adapters.file_log import FileLogStore
from anabranch_segmentstore.adapters.jetstream_log import JetStreamLogStore
from anabranch_segmentstore.ports import (
    ContainerId,
    DurableLog,
    Frame,
    LogFailed,
    LogFenced,
    LogPosition,
    LogStore,
)
from anabranch_testkit.servers import nats_server

CONTAINER = ContainerId(3)
StoreFactory = Callable[[], Awaitable[LogStore]]
OpenLog = Callable[[], Awaitable[DurableLog]]


@asynccontextmanager
async def files() -> AsyncIterator[StoreFactory]:
    with tempfile.TemporaryDirectory(prefix="anabranch-log-") as name:

        async def make_store() -> LogStore:
            return FileLogStore(Path(name), new_id=uuid.uuid4, file_bytes=256 * 1024)

        yield make_store


@asynccontextmanager
async def jetstream(payload_bytes_max: int) -> AsyncIterator[StoreFactory]:
    """Each store has a connection of its own, as each process would. The lease is short, for
    an opener waits until it has run out."""
    async with AsyncExitStack() as owned:
        server = await owned.enter_async_context(nats_server(payload_bytes_max=payload_bytes_max))

        async def make_store() -> LogStore:
            client = await connect_nats(server.url, name="test", clock=SystemClock())
            owned.push_async_callback(client.close)
            return JetStreamLogStore(
                client, clock=SystemClock(), new_id=uuid.uuid4, lease_s=0.3, margin_s=0.05
            )

        yield make_store


STORES: dict[str, Callable[[], AbstractAsyncContextManager[StoreFactory]]] = {
    "files": files,
    "jetstream-64K": lambda: jetstream(64 * 1024),
    "jetstream-8M": lambda: jetstream(8 * 1024 * 1024),
}


@pytest.fixture(params=sorted(STORES))
async def open_log(request: pytest.FixtureRequest) -> AsyncIterator[OpenLog]:
    stores: list[LogStore] = []
    logs: list[DurableLog] = []

    async with STORES[request.param]() as make_store:

        async def open_again() -> DurableLog:
            stores.append(await make_store())
            logs.append(await stores[-1].open(CONTAINER, owner=f"store-{len(stores)}"))
            return logs[-1]

        yield open_again
        for log in logs:
            await log.close(clean=False)
        for store in stores:
            await store.close()


async def replayed(log: DurableLog) -> list[Frame]:
    return [frame async for frame in log.replay()]


async def test_what_was_acknowledged_is_found_after_a_restart(open_log: OpenLog) -> None:
    """A restart would lose events."""
    log = await open_log()
    payloads = [b"first", b"", b"x" * 200_000]
    positions = [await log.append([payload[:3], payload[3:]]) for payload in payloads]
    await log.close(clean=True)

    again = await open_log()
    assert positions == [1, 2, 3]
    assert again.last_position == 3
    assert again.epoch > log.epoch
    assert await replayed(again) == [
        Frame(LogPosition(index + 1), False, payload) for index, payload in enumerate(payloads)
    ]


async def test_an_empty_log_replays_nothing(open_log: OpenLog) -> None:
    """A new cluster would not start."""
    log = await open_log()
    assert (log.last_position, await replayed(log)) == (0, [])


async def test_positions_are_dense_over_epochs(open_log: OpenLog) -> None:
    """The container takes positions for ordinals of frames; a gap would look like a loss."""
    for epoch in range(4):
        log = await open_log()
        for index in range(3):
            assert await log.append([b"%d-%d" % (epoch, index)]) == epoch * 3 + index + 1
        await log.close(clean=epoch % 2 == 0)
    log = await open_log()
    assert [frame.position for frame in await replayed(log)] == list(range(1, 13))


async def test_appends_under_way_complete_in_order(open_log: OpenLog) -> None:
    """Replies would overtake each other."""
    log = await open_log()
    done: list[int] = []

    async def append(number: int) -> None:
        assert await log.append([b"%d" % number]) == number
        done.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(1, 51):
            tasks.create_task(append(number))
    assert done == list(range(1, 51))
    assert [frame.payload for frame in await replayed(log)] == [b"%d" % n for n in range(1, 51)]


async def test_replay_begins_with_the_newest_snapshot(open_log: OpenLog) -> None:
    """Recovery would take as long as the whole history."""
    log = await open_log()
    for payload in (b"a", b"b"):
        await log.append([payload])
    await log.append([b"state 1"], snapshot=True)
    await log.append([b"c"])
    await log.append([b"state 2"], snapshot=True)
    await log.append([b"d"])
    expected = [Frame(LogPosition(5), True, b"state 2"), Frame(LogPosition(6), False, b"d")]
    assert await replayed(log) == expected
    await log.close(clean=False)
    assert await replayed(await open_log()) == expected


async def test_a_range_of_a_frame_can_be_read(open_log: OpenLog) -> None:
    """Readers of data that is not in the cache and not tiered yet would get nothing."""
    log = await open_log()
    payload = bytes(range(256)) * 1000
    await log.append([b"before"])
    position = await log.append([payload])
    await log.append([b"after"])
    for start, length in ((0, 10), (65_530, 12), (100_000, 140_000), (0, 256_000), (7, 0)):
        assert await log.read(position, start, length) == payload[start : start + length]
    again = await open_log()
    assert await again.read(position, 65_530, 12) == payload[65_530:65_542]
    with pytest.raises(KeyError):
        await again.read(LogPosition(4), 0, 1)


async def test_truncation_keeps_what_is_needed(open_log: OpenLog) -> None:
    """Truncation would eat the newest snapshot or frames that were not given up."""
    log = await open_log()
    for index in range(20):
        await log.append([b"%02d" % index * 20_000])
    await log.append([b"state"], snapshot=True)
    await log.append([b"last"])
    stored = log.stored_bytes
    await log.truncate(LogPosition(15))
    assert log.stored_bytes < stored
    assert await log.read(LogPosition(15), 0, 4) == b"1414"
    with pytest.raises(KeyError):
        await log.read(LogPosition(1), 0, 4)
    await log.truncate(LogPosition(22))
    expected = [Frame(LogPosition(21), True, b"state"), Frame(LogPosition(22), False, b"last")]
    assert await replayed(log) == expected
    again = await open_log()
    assert await replayed(again) == expected
    assert again.last_position == 22


async def test_a_newer_opener_fences_the_older_one(open_log: OpenLog) -> None:
    """Two stores would acknowledge different events at one offset."""
    old = await open_log()
    await old.append([b"mine"])
    new = await open_log()
    with pytest.raises(LogFenced) as fenced:
        await old.append([b"too late"])
    assert (fenced.value.epoch, fenced.value.newer_epoch) == (old.epoch, new.epoch)
    with pytest.raises(LogFenced):
        await old.append([b"and again"])
    assert await new.append([b"next"]) == 2
    assert [frame.payload for frame in await replayed(await open_log())] == [b"mine", b"next"]


async def test_an_owner_learns_that_it_is_fenced_without_writing(open_log: OpenLog) -> None:
    """A store that slept would answer reads from stale state."""
    old = await open_log()
    old.check_owner()
    new = await open_log()
    with pytest.raises(LogFenced):
        old.check_owner()
    new.check_owner()


async def test_a_fenced_owner_deletes_nothing(open_log: OpenLog) -> None:
    """An owner that woke up late would delete what the new one needs."""
    old = await open_log()
    for _ in range(10):
        await old.append([bytes(60_000)])
    await old.append([b"state"], snapshot=True)
    new = await open_log()
    with pytest.raises(LogFenced):
        await old.truncate(LogPosition(11))
    assert await new.read(LogPosition(1), 0, 4) == bytes(4)


async def test_two_openers_at_once_have_different_epochs(open_log: OpenLog) -> None:
    """Two stores that take a container over at the same moment would both own it (F34)."""
    await open_log()
    results = await asyncio.gather(*(open_log() for _ in range(4)), return_exceptions=True)
    logs = [result for result in results if not isinstance(result, BaseException)]
    errors = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, LogFenced) for error in errors), errors
    assert len({log.epoch for log in logs}) == len(logs) >= 1
    outcomes = await asyncio.gather(*(log.append([b"x"]) for log in logs), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1


async def test_a_closed_log_refuses(open_log: OpenLog) -> None:
    """An append after the close would wait for ever."""
    log = await open_log()
    await log.close(clean=True)
    await log.close(clean=True)
    with pytest.raises(LogFailed):
        await log.append([b"late"])


async def test_replay_may_be_left_early(open_log: OpenLog) -> None:
    """A container that stops while it recovers would leave a thread in the log's files."""
    log = await open_log()
    for index in range(600):
        await log.append([b"%d" % index])
    async for frame in log.replay():
        if frame.position == 3:
            break
    assert len(await replayed(log)) == 600
