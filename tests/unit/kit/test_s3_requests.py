"""What the answers of an S3 store mean, and how often something is tried."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from anabranch_kit.adapters.s3_object_store import S3ObjectStore
from anabranch_kit.adapters.s3_object_store_check import Ability
from anabranch_kit.adapters.s3_object_store_location import parse_s3_url
from anabranch_kit.adapters.s3_object_store_requests import S3Limits, S3Requests
from anabranch_kit.ids import new_id
from anabranch_kit.ports.object_store import (
    ObjectExists,
    ObjectStoreUnavailable,
    UnsupportedObjectStore,
)
from anabranch_testkit.fakes import FakeClock
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

LIMITS = S3Limits(attempts_max=3, pause_first_s=1.0, pause_max_s=2.0)
PUT = {"anabranch-crc32c": "9a71bb4c", "anabranch-length": "5"}  # of b"hello"
OURS = {"Metadata": PUT, "ContentLength": 5}
CUT = EndpointConnectionError(endpoint_url="http://store")


def answered(status: int, code: str = "") -> ClientError:
    error = {"Code": code or str(status), "Message": "so it is"}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "Any")


class ScriptedClient:
    """Answers each call with the next line of the script; `calls` has their names."""

    def __init__(self) -> None:
        self.script: Iterator[Any] = iter(())
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        async def call(**arguments: Any) -> Any:
            self.calls.append(name)
            outcome = next(self.script)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return call


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> ScriptedClient:
    scripted = ScriptedClient()

    async def connect(_: S3Requests) -> ScriptedClient:
        return scripted

    monkeypatch.setattr(S3Requests, "_connect", connect)
    return scripted


@pytest.fixture
async def store(client: ScriptedClient, fake_clock: FakeClock) -> AsyncIterator[S3ObjectStore]:
    made = S3ObjectStore(
        parse_s3_url("s3://bucket/prefix?endpoint=http://store"),
        clock=fake_clock,
        new_id=new_id,
        chance=random.Random(1),
        limits=LIMITS,
    )
    made._ability = Ability(multipart=True, verifies_crc32c=True)
    yield made
    await made.close()


async def in_time(clock: FakeClock, work: Any, seconds: float = 10.0) -> Any:
    """The result of `work` when so much time passes."""
    task = asyncio.ensure_future(work)
    await clock.advance(seconds)
    assert task.done(), "it waits longer than its limits allow"
    return await task


@pytest.mark.parametrize(
    "passing",
    [CUT, answered(500), answered(503, "SlowDown"), answered(429), answered(400, "RequestTimeout")],
)
async def test_what_passes_is_tried_again(
    store: S3ObjectStore, client: ScriptedClient, fake_clock: FakeClock, passing: Exception
) -> None:
    """A store that is restarted would fail every request of that moment."""
    client.script = iter([passing, passing, OURS])
    info = await in_time(fake_clock, store.head("c/one"))
    assert info.length_bytes == 5
    assert client.calls == ["head_object"] * 3


async def test_attempts_and_pauses_have_an_end(
    store: S3ObjectStore, client: ScriptedClient, fake_clock: FakeClock
) -> None:
    """A tierer would hold an order for ever while the store is away."""
    client.script = iter([CUT] * 3)
    # Two pauses of at most 1 and 2 seconds.
    with pytest.raises(ObjectStoreUnavailable, match="3 times: see that http://store runs"):
        await in_time(fake_clock, store.head("c/one"), 3.0)


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        (answered(403, "AccessDenied"), "s3:PutObject"),
        (answered(403, "SignatureDoesNotMatch"), "Check ANABRANCH_S3_ACCESS_KEY_ID"),
        (answered(403, "RequestTimeTooSkewed"), "Set the clock"),
        (answered(404, "NoSuchBucket"), "Create the bucket bucket"),
        (answered(301, "PermanentRedirect"), "region"),
        (answered(507, "InsufficientStorage"), "Free space"),
        (answered(501, "NotImplemented"), "docs/tier2.md"),
        (NoCredentialsError(), "Set ANABRANCH_S3_ACCESS_KEY_ID"),
    ],
)
async def test_what_lasts_is_told_at_once(
    store: S3ObjectStore, client: ScriptedClient, refusal: Exception, advice: str
) -> None:
    """An operator would wait through retries, and then not know what to do."""
    client.script = iter([refusal])
    with pytest.raises(ObjectStoreUnavailable, match=advice):
        await store.create("c/one", [b"hello"])
    assert client.calls == ["put_object"]


async def test_a_race_that_nobody_won_is_run_again(
    store: S3ObjectStore, client: ScriptedClient, fake_clock: FakeClock
) -> None:
    """A deletion next to a creation would fail the order."""
    client.script = iter([answered(409, "ConditionalRequestConflict"), answered(404), {}])
    info = await in_time(fake_clock, store.create("c/one", [b"hello"]))
    assert info.length_bytes == 5
    assert client.calls == ["put_object", "head_object", "put_object"]


async def test_a_put_without_answer_is_looked_for_before_it_is_sent_again(
    store: S3ObjectStore, client: ScriptedClient, fake_clock: FakeClock
) -> None:
    """A long chunk would be sent several times over a slow line."""
    client.script = iter([CUT, OURS])
    assert (await in_time(fake_clock, store.create("c/one", [b"hello"]))).length_bytes == 5
    assert client.calls == ["put_object", "head_object"]


async def test_a_put_that_lands_between_two_attempts_is_ours(
    store: S3ObjectStore, client: ScriptedClient, fake_clock: FakeClock
) -> None:
    """The second attempt would take the first one for somebody else's object."""
    client.script = iter([CUT, answered(404), answered(412), OURS])
    assert (await in_time(fake_clock, store.create("c/one", [b"hello"]))).length_bytes == 5


async def test_a_taken_name_is_told_from_a_late_put(
    store: S3ObjectStore, client: ScriptedClient, fake_clock: FakeClock
) -> None:
    """Other bytes would count as stored."""
    other = {"Metadata": {**PUT, "anabranch-crc32c": "00000000"}, "ContentLength": 5}
    client.script = iter([CUT, other])
    with pytest.raises(ObjectExists):
        await in_time(fake_clock, store.create("c/one", [b"hello"]))
    client.script = iter([answered(412)])
    with pytest.raises(ObjectExists):
        await store.create("c/one", [b"hello"])


async def test_the_last_attempt_is_looked_for_too(
    store: S3ObjectStore, client: ScriptedClient, fake_clock: FakeClock
) -> None:
    """An outage that begins right after the put would cost the order another round."""
    client.script = iter([CUT, answered(404), CUT, answered(404), CUT, OURS])
    assert (await in_time(fake_clock, store.create("c/one", [b"hello"]))).length_bytes == 5
    client.script = iter([CUT] * 6)
    with pytest.raises(ObjectStoreUnavailable, match="create c/one"):
        await in_time(fake_clock, store.create("c/one", [b"hello"]))


async def test_a_store_without_conditions_is_refused_at_the_check(
    store: S3ObjectStore, client: ScriptedClient
) -> None:
    """Stores that do not know the header say 501; others, worse, say nothing."""
    store._ability = None
    not_known = answered(501, "NotImplemented")
    client.script = iter([{}, not_known, not_known, {}, {}])
    with pytest.raises(UnsupportedObjectStore, match="NotImplemented"):
        await store.check()
    client.script = iter([{}, {}, {}, {}, {}])
    with pytest.raises(UnsupportedObjectStore, match="ignores the condition If-None-Match"):
        await store.check()
    # Both creators of a moment refused, then one let through: it looks first and writes later.
    taken = answered(412)
    client.script = iter([{}, {}, taken, {}, {}, {}])
    with pytest.raises(UnsupportedObjectStore, match="ignores the condition If-None-Match"):
        await store.check()
