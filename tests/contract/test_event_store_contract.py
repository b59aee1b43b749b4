"""One suite for every event log: what the controller may rely on, whichever one it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from random import Random

import nats.errors
import pytest
from anabranch_events import subjects
from anabranch_kit.adapters.jetstream_event_store import ATTEMPT_TIMEOUT_S, JetStreamEventStore
from anabranch_kit.adapters.nats_bus import connect_nats
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ports.event_store import (
    EventStore,
    EventStoreUnavailable,
    Record,
    SequenceConflict,
)
from anabranch_testkit.fakes import MemoryEventStore
from anabranch_testkit.servers import Server, nats_server
from anabranch_testkit.waiting import eventually
from nats.aio.client import Client

STREAM = subjects.stream_events("scope", "stream")
OTHER = subjects.stream_events("scope", "other")


@dataclass
class Subject:
    """`losing` drops the acknowledgement of the next append, after it was stored."""

    store: EventStore
    server: Server | None = None
    losing: bool = False


class LosingClient:
    """A connection whose next JetStream answer is lost on the way."""

    def __init__(self, client: Client, subject: Subject) -> None:
        self._client, self._subject, self._request = client, subject, client.request

    async def request(self, name: str, *arguments: object, **options: object) -> object:
        answer = await self._request(name, *arguments, **options)  # type: ignore[arg-type]
        if self._subject.losing and name.startswith("anabranch.events."):
            self._subject.losing = False
            raise nats.errors.TimeoutError
        return answer


@asynccontextmanager
async def _jetstream() -> AsyncIterator[Subject]:
    async with nats_server() as server:
        client = await connect_nats(server.url, name="contract", clock=SystemClock())
        store = JetStreamEventStore(client, clock=SystemClock())
        await store.provision()
        subject = Subject(store, server)
        client.request = LosingClient(client, subject).request  # type: ignore[method-assign,assignment]
        try:
            yield subject
        finally:
            await client.close()


@pytest.fixture(params=["memory", "jetstream"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "jetstream":
        async with _jetstream() as made:
            yield made
        return
    memory = MemoryEventStore()
    made = Subject(memory)

    def fault(moment: str, name: str) -> None:
        if made.losing and moment == "after append":
            made.losing = False
            raise EventStoreUnavailable("append", "the answer was lost")

    memory.fault = fault
    yield made


async def append(store: EventStore, text: str, expected: int, subject: str = STREAM) -> int:
    payload = text.encode()
    return await store.append(
        subject, payload, expected_sequence=expected, batch_id=f"id-{text[-64:]}"
    )


async def take(store: EventStore, count: int, *, after: int = 0, subject: str = "") -> list[Record]:
    records: list[Record] = []
    async with asyncio.timeout(20), aclosing(store.follow(after=after, subject=subject)) as found:  # type: ignore[type-var]
        async for record in found:
            records.append(record)
            if len(records) == count:
                break
    return records


async def test_appended_records_are_followed_in_order(subject: Subject) -> None:
    """The controller's state would differ from its log."""
    one = await append(subject.store, "one", 0)
    other = await append(subject.store, "other", 0, OTHER)
    two = await append(subject.store, "two", one)
    assert await take(subject.store, 3) == [
        Record(one, STREAM, b"one"),
        Record(other, OTHER, b"other"),
        Record(two, STREAM, b"two"),
    ]
    assert await take(subject.store, 1, after=one, subject=STREAM) == [Record(two, STREAM, b"two")]
    assert await subject.store.last_sequence(STREAM) == two
    assert await subject.store.last_sequence(subjects.stream_events("scope", "none")) == 0
    assert await subject.store.end() == two


async def test_second_decision_on_the_same_state_is_refused(subject: Subject) -> None:
    """Two controllers would both scale one stream."""
    one = await append(subject.store, "one", 0)
    with pytest.raises(SequenceConflict):
        await append(subject.store, "rival", 0)
    with pytest.raises(SequenceConflict):
        await append(subject.store, "too early", one + 5)
    await append(subject.store, "two", one)


async def test_a_large_decision_comes_back_as_it_was(subject: Subject) -> None:
    """A stream of thousands of segments could not be scaled, or its state would be damaged."""
    text = "".join(f"[{number},{number / 7:.17f}]" for number in range(60_000))
    assert len(text) > 1_500_000
    one = await append(subject.store, text, 0)
    subject.losing = True
    two = await append(subject.store, text + "!", one)
    records = await take(subject.store, 2)
    assert records == [Record(one, STREAM, text.encode()), Record(two, STREAM, f"{text}!".encode())]


async def test_lost_answer_is_not_taken_for_a_conflict(subject: Subject) -> None:
    """A command that succeeded would be reported as failed, or done twice."""
    one = await append(subject.store, "one", 0)
    subject.losing = True
    two = await append(subject.store, "two", one)
    assert subject.losing is False
    assert [record.payload for record in await take(subject.store, 2)] == [b"one", b"two"]
    await append(subject.store, "three", two)


async def test_own_success_is_found_below_a_later_message(subject: Subject) -> None:
    """A repeated append would fail because somebody was quick to build upon it."""
    one = await append(subject.store, "one", 0)
    await append(subject.store, "two", one)
    assert await append(subject.store, "one", 0) == one


async def test_concurrent_appends_have_one_winner(subject: Subject) -> None:
    """Of two instances that decide at once, both would believe to have won."""
    outcomes = await asyncio.gather(
        *(append(subject.store, f"rival-{number}", 0) for number in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, SequenceConflict) for outcome in outcomes) == 7


async def test_barrier_is_above_all_before_it_and_reaches_a_follower(subject: Subject) -> None:
    """A stale instance would tell writers that an open stream is sealed (faults F37)."""
    one = await append(subject.store, "one", 0)
    first = await subject.store.barrier("controller-0")
    other = await subject.store.barrier("controller-1")
    again = await subject.store.barrier("controller-0")
    assert one < first < other < again == await subject.store.end()
    # Only the newest barrier of each instance is kept.
    assert [record.sequence for record in await take(subject.store, 3)] == [one, other, again]


async def test_many_records_come_complete_to_several_followers(subject: Subject) -> None:
    """A projection would miss an event under load."""
    followers = [asyncio.create_task(take(subject.store, 300)) for _ in range(2)]
    for number in range(300):
        await append(subject.store, str(number), 0, subjects.stream_events("scope", f"s{number}"))
    for follower in followers:
        payloads = [int(record.payload) for record in await follower]
        assert payloads == list(range(300))


async def test_follower_and_writer_ride_out_a_restart_of_the_server() -> None:
    """A restarted NATS would need restarted controllers."""
    async with _jetstream() as subject:
        assert subject.server is not None
        if not subject.server.can_restart:
            pytest.skip("the server is not ours to kill")
        seen: list[int] = []

        async def follow() -> None:
            async for record in subject.store.follow():
                seen.append(int(record.payload))

        follower = asyncio.create_task(follow())
        last = 0
        try:
            for number in range(60):
                if number in (20, 40):
                    await subject.server.kill()
                    restart = asyncio.create_task(subject.server.start())
                last = await append(subject.store, str(number), last)
            await restart
            await eventually(lambda: len(seen) >= 60, 10)
            assert seen == list(range(60))
            assert not follower.done()
        finally:
            follower.cancel()


async def test_provisioning_again_changes_nothing_and_keeps_history() -> None:
    """A restarted controller would lose or refuse its own log."""
    async with _jetstream() as subject:
        assert isinstance(subject.store, JetStreamEventStore)
        await append(subject.store, "one", 0)
        await subject.store.provision()
        info = await subject.store._jetstream.stream_info(subjects.EVENTS_STREAM)
        assert info.state.messages == 1
        assert info.config.allow_direct is False
        assert info.config.deny_delete is True
        assert info.config.max_msgs == -1
        assert info.config.max_age == 0


async def test_too_large_a_decision_is_refused_at_once() -> None:
    """An append that no server takes would be tried until the time is up."""
    async with _jetstream() as subject:
        noise = Random(1).randbytes(1_500_000).hex()  # half of it is left when compressed
        with pytest.raises(ValueError, match="the limit is"):
            await append(subject.store, noise, 0)


async def test_closed_connection_ends_a_follower_with_an_error() -> None:
    """A service whose connection is gone would look alive and follow nothing."""
    async with nats_server() as server:
        client = await connect_nats(server.url, name="contract", clock=SystemClock())
        store = JetStreamEventStore(client, clock=SystemClock())
        await store.provision()
        waiting = asyncio.create_task(take(store, 1))
        await eventually(lambda: client._subs)
        await client.close()
        with pytest.raises(EventStoreUnavailable, match="closed"):
            await waiting


async def test_paused_server_neither_doubles_nor_loses() -> None:
    """An append whose answer comes too late would be stored twice or reported as failed."""
    async with _jetstream() as subject:
        assert subject.server is not None
        if not subject.server.can_restart:
            pytest.skip("the server is not ours to pause")
        one = await append(subject.store, "one", 0)
        subject.server.pause()
        try:
            waiting = asyncio.create_task(append(subject.store, "two", one))
            # Longer than one attempt, so that the message is sent at least twice.
            await asyncio.sleep(ATTEMPT_TIMEOUT_S + 0.5)
            assert not waiting.done()
        finally:
            subject.server.resume()
        two = await asyncio.wait_for(waiting, 10)
        assert await subject.store.end() == two == one + 1
        assert [record.payload for record in await take(subject.store, 2)] == [b"one", b"two"]
