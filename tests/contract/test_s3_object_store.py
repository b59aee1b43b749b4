"""S3 as tier 2: what only S3 can do, and what a bad network or a wrong store does to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aioboto3
import pytest
from anabranch_kit.adapters import s3_object_store
from anabranch_kit.adapters.object_stores import open_object_store
from anabranch_kit.adapters.s3_object_store import S3ObjectStore
from anabranch_kit.adapters.s3_object_store_location import S3Credentials, parse_s3_url
from anabranch_kit.adapters.s3_object_store_requests import MIB, S3Client, S3Limits
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ids import new_id
from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectStoreUnavailable,
    UnsupportedObjectStore,
)
from anabranch_testkit.s3_server import S3Place
from anabranch_testkit.tcp_proxy import TcpProxy, tcp_proxy
from anabranch_testkit.waiting import eventually

pytestmark = pytest.mark.slow

PARTS = S3Limits(part_bytes=5 * MIB, single_put_bytes_max=6 * MIB)
IMPATIENT = S3Limits(request_timeout_s=2.0, pause_first_s=0.01, attempts_max=3)
LONG = [bytes([number]) * 1_000_003 for number in range(12)]


class TellingClock(SystemClock):
    """Tells when somebody pauses between two attempts."""

    def __init__(self) -> None:
        self.paused = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.paused.set()
        await super().sleep(seconds)


def make_store(
    url: str,
    credentials: S3Credentials | None,
    *,
    limits: S3Limits | None = None,
    clock: SystemClock | None = None,
    multipart: bool = True,
) -> S3ObjectStore:
    return S3ObjectStore(
        parse_s3_url(url)._replace(multipart=multipart),
        clock=clock or SystemClock(),
        new_id=new_id,
        chance=random.Random(1),
        credentials=credentials,
        limits=limits,
    )


@asynccontextmanager
async def opened(
    place: S3Place,
    prefix: str,
    *,
    proxy: TcpProxy | None = None,
    limits: S3Limits | None = None,
    clock: SystemClock | None = None,
    multipart: bool = True,
) -> AsyncIterator[S3ObjectStore]:
    url = place.url(prefix, port=proxy.port if proxy else None)
    store = make_store(url, place.credentials, limits=limits, clock=clock, multipart=multipart)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def plain_client(place: S3Place) -> AsyncIterator[S3Client]:
    assert place.credentials is not None
    session = aioboto3.Session(
        aws_access_key_id=place.credentials.access_key_id,
        aws_secret_access_key=place.credentials.secret_access_key,
        region_name="us-east-1",
    )
    async with session.client("s3", endpoint_url=place.endpoint) as client:
        yield client


def key_of(place: S3Place, name: str) -> str:
    return parse_s3_url(place.url(name)).prefix.removesuffix("/")


async def uploads_under(place: S3Place, prefix: str) -> list[str]:
    async with plain_client(place) as client:
        page = await client.list_multipart_uploads(  # type: ignore[attr-defined]
            Bucket=place.bucket
        )
    keys = [str(upload["Key"]) for upload in page.get("Uploads", ())]
    return [key for key in keys if key.startswith(key_of(place, prefix))]


@pytest.fixture
def prefix() -> str:
    return f"s3/{new_id().hex}"


@pytest.fixture(params=["seaweedfs", "moto"])
def place(request: pytest.FixtureRequest) -> S3Place:
    found: S3Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def proxy(place: S3Place) -> AsyncIterator[TcpProxy]:
    if place.port is None:
        pytest.skip("the proxy needs a store on this machine, without TLS")
    async with tcp_proxy(place.port) as proxy:
        yield proxy


# What S3 can do.


async def test_long_objects_go_in_parts_and_come_back_whole(place: S3Place, prefix: str) -> None:
    """A chunk of more than a few MiB would come back in another order, or not at all."""
    whole = b"".join(LONG)
    async with opened(place, prefix, limits=PARTS) as store:
        info = await store.create("c/long", LONG)
        assert await store.head("c/long") == info
        assert await store.read("c/long", 0, len(whole)) == whole
        assert await store.read("c/long", 999_999, 7 * MIB) == whole[999_999 : 999_999 + 7 * MIB]
        with pytest.raises(ObjectDamaged, match=f"has {len(whole)} bytes"):
            await store.read("c/long", 1, len(whole))
    assert await uploads_under(place, prefix) == []


# Of a long body moto lets several win, for it looks for the name before it has read the body.
@pytest.mark.parametrize(
    ("place", "length_bytes"),
    [("seaweedfs", 1000), ("seaweedfs", 200_000), ("seaweedfs", 7 * MIB), ("moto", 1000)],
    indirect=["place"],
)
async def test_concurrent_creators_of_any_length_have_one_winner(
    place: S3Place, prefix: str, length_bytes: int
) -> None:
    """Two workers with one order would replace each other's chunk."""
    contents = [[bytes([number]) * length_bytes] for number in range(6)]
    async with opened(place, prefix, limits=PARTS, multipart=False) as store:
        outcomes = await asyncio.gather(
            *(store.create("c/long", content) for content in contents), return_exceptions=True
        )
        winners = [number for number, one in enumerate(outcomes) if isinstance(one, ObjectInfo)]
        assert len(winners) == 1
        assert sum(isinstance(one, ObjectExists) for one in outcomes) == 5
        assert await store.read("c/long", 0, length_bytes) == contents[winners[0]][0]


async def test_listings_go_over_pages(
    place: S3Place, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector of orphans would see the first thousand objects only."""
    monkeypatch.setattr(s3_object_store, "LIST_PAGE_NAMES", 2)
    async with opened(place, prefix) as store:
        names = [f"container-1/{number}" for number in range(5)]
        for name in names:
            await store.create(name, [b"x"])
        assert [name async for name in store.list("container-1/")] == names
        assert [name async for name in store.list("")] == names


async def test_a_check_leaves_nothing_behind(place: S3Place, prefix: str) -> None:
    """Each start of a service would leave objects in the bucket."""
    async with opened(place, prefix) as store:
        ability = await store.check()
        assert ability.multipart
        known = {"seaweedfs": True, "moto": False}
        assert ability.verifies_crc32c == known.get(place.server.name, ability.verifies_crc32c)
    async with plain_client(place) as client:
        page = await client.list_objects_v2(Bucket=place.bucket, Prefix=key_of(place, prefix))
    assert page.get("Contents", []) == []
    assert await uploads_under(place, prefix) == []


async def test_objects_of_others_are_no_objects(place: S3Place, prefix: str) -> None:
    """A file that somebody copied into the bucket would be served as a chunk."""
    async with plain_client(place) as client:
        await client.put_object(
            Bucket=place.bucket, Key=key_of(place, f"{prefix}/c/foreign"), Body=b"foreign"
        )
    async with opened(place, prefix) as store:
        with pytest.raises(ObjectDamaged, match="put there by another"):
            await store.head("c/foreign")
        with pytest.raises(ObjectDamaged, match="put there by another"):
            await store.read("c/foreign", 0, 3)
        with pytest.raises(ObjectExists):
            await store.create("c/foreign", [b"foreign"])


async def test_replaced_objects_are_found_out(place: S3Place, prefix: str) -> None:
    """A restored copy of the wrong length would be served up to its end."""
    async with opened(place, prefix) as store, plain_client(place) as client:
        await store.create("c/one", [b"0123456789"])
        target = {"Bucket": place.bucket, "Key": key_of(place, f"{prefix}/c/one")}
        kept = (await client.head_object(**target))["Metadata"]
        await client.put_object(**target, Body=b"01234", Metadata=kept)
        for reading in (store.head("c/one"), store.read("c/one", 0, 2)):
            with pytest.raises(ObjectDamaged, match="created with 10 bytes and has 5"):
                await reading
        await client.put_object(**target, Body=b"012345678X", Metadata=kept)
        with pytest.raises(ObjectDamaged, match="do not have the checksum"):
            await store.read("c/one", 0, 10)


async def test_a_name_is_opened_by_its_url(
    place: S3Place, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The services would not find the bucket that their settings name."""
    for variable, value in place.environment.items():
        monkeypatch.setenv(variable, value)
    store = await open_object_store(place.url(prefix), clock=SystemClock(), new_id=new_id)
    await store.create("c/one", [b"1"])
    assert await store.read("c/one", 0, 1) == b"1"
    await store.close()


# Late, cut, slow, down.


async def test_a_put_that_happened_unanswered_is_recognised(
    place: S3Place, proxy: TcpProxy, prefix: str
) -> None:
    """The same bytes would be written again under another name, or the order never done."""
    clock = TellingClock()
    async with opened(place, prefix, proxy=proxy, limits=IMPATIENT, clock=clock) as store:
        await store.check()
        proxy.hold_answers()
        creation = asyncio.create_task(store.create("c/late", [b"late"]))
        await clock.paused.wait()
        proxy.let_answers_pass()
        info = await creation
        assert info.length_bytes == 4
        assert await store.read("c/late", 0, 4) == b"late"


async def test_an_upload_that_was_completed_unanswered_is_recognised(
    place: S3Place, proxy: TcpProxy, prefix: str
) -> None:
    """A long chunk would be uploaded again and again while the store is slow."""
    clock = TellingClock()
    limits = IMPATIENT._replace(part_bytes=5 * MIB, single_put_bytes_max=6 * MIB)
    async with opened(place, prefix, proxy=proxy, limits=limits, clock=clock) as store:
        await store.check()

        def hold_completion(block: bytes) -> bytes:
            if block.startswith(b"POST") and b"uploadId=" in block:
                proxy.hold_answers()
            return block

        proxy.rewrite_request = hold_completion
        creation = asyncio.create_task(store.create("c/long", LONG))
        await clock.paused.wait()
        proxy.let_answers_pass()
        info = await creation
        assert await store.read("c/long", 0, info.length_bytes) == b"".join(LONG)


async def test_a_put_from_the_past_replaces_nothing(
    place: S3Place, proxy: TcpProxy, prefix: str
) -> None:
    """A paused worker's request would overwrite what a container's log points to (F6)."""
    once = IMPATIENT._replace(attempts_max=1)
    async with (
        opened(place, prefix, proxy=proxy, limits=once) as paused,
        opened(place, prefix) as other,
    ):
        await paused.check()
        let_go = proxy.hold_requests()
        with pytest.raises(ObjectStoreUnavailable):
            await paused.create("c/one", [b"from the past"])
        proxy.let_new_requests_pass()
        await other.create("c/one", [b"present"])
        answered = asyncio.Event()

        def see_refusal(block: bytes) -> bytes:
            if block.startswith(b"HTTP/1.1 412"):
                answered.set()
            return block

        proxy.rewrite_answer = see_refusal
        let_go()
        await asyncio.wait_for(answered.wait(), 10)
        assert await other.read("c/one", 0, 7) == b"present"
        with pytest.raises(ObjectExists):
            await paused.create("c/one", [b"from the past"])


async def test_an_unanswered_put_is_not_ours_when_another_is_there(
    place: S3Place, proxy: TcpProxy, prefix: str
) -> None:
    """Somebody else's bytes would be reported as this order's."""
    clock = TellingClock()
    async with (
        opened(place, prefix, proxy=proxy, limits=IMPATIENT, clock=clock) as store,
        opened(place, prefix) as other,
    ):
        await store.check()
        proxy.hold_requests()
        creation = asyncio.create_task(store.create("c/one", [b"mine"]))
        await clock.paused.wait()
        await other.create("c/one", [b"else"])
        proxy.let_new_requests_pass()
        with pytest.raises(ObjectExists):
            await creation


async def test_an_outage_is_told_and_passes(place: S3Place, proxy: TcpProxy, prefix: str) -> None:
    """The services would have to be started again after each outage of tier 2 (F24)."""
    async with opened(place, prefix, proxy=proxy, limits=IMPATIENT) as store:
        await store.create("c/before", [b"before"])
        await proxy.refuse()
        for operation in (
            store.create("c/during", [b"during"]),
            store.read("c/before", 0, 6),
            store.head("c/before"),
            store.delete("c/before"),
            anext(store.list("c/")),
        ):
            with pytest.raises(
                ObjectStoreUnavailable, match="3 times: see that http://127"
            ) as told:
                await operation
            assert told.value.name.startswith("c/")
        await proxy.open()
        assert await store.read("c/before", 0, 6) == b"before"
        await store.create("c/during", [b"during"])


async def test_a_start_during_an_outage_is_checked_later(
    place: S3Place, proxy: TcpProxy, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that restarts while tier 2 is away would stay away, too."""
    for variable, value in place.environment.items():
        monkeypatch.setenv(variable, value)
    await proxy.refuse()
    url = place.url(prefix, port=proxy.port)
    store = await open_object_store(url, clock=SystemClock(), new_id=new_id)
    assert isinstance(store, S3ObjectStore)
    with pytest.raises(ObjectStoreUnavailable):
        await store.create("c/one", [b"1"])
    await proxy.open()
    assert (await store.create("c/one", [b"1"])).length_bytes == 1
    await store.close()


async def test_cut_answers_are_asked_for_again(
    place: S3Place, proxy: TcpProxy, prefix: str
) -> None:
    """Half of a range would be taken for the whole."""
    content = random.Random(7).randbytes(MIB)
    async with opened(place, prefix, proxy=proxy, limits=IMPATIENT) as store:
        await store.create("c/one", [content])
        proxy.answer_bytes_max = 100_000
        with pytest.raises(ObjectStoreUnavailable, match="read c/one"):
            await store.read("c/one", 0, MIB)
        reading = asyncio.create_task(store.read("c/one", 0, MIB))
        seen = proxy.connections_count
        await eventually(lambda: proxy.connections_count > seen)
        proxy.answer_bytes_max = None
        assert await reading == content


async def test_a_slow_store_is_waited_for(place: S3Place, proxy: TcpProxy, prefix: str) -> None:
    """A store that is slow for a while would count as dead."""
    async with opened(place, prefix, proxy=proxy, limits=IMPATIENT) as store:
        proxy.delay_s = 0.1
        await store.create("c/one", [b"slow"])
        assert await store.read("c/one", 0, 4) == b"slow"


async def test_a_failed_upload_is_aborted(place: S3Place, proxy: TcpProxy, prefix: str) -> None:
    """Parts that no listing shows would be paid for, for ever."""
    limits = IMPATIENT._replace(part_bytes=5 * MIB, single_put_bytes_max=6 * MIB, attempts_max=1)
    async with opened(place, prefix, proxy=proxy, limits=limits) as store:
        await store.check()

        def spoil_part(block: bytes) -> bytes:
            if block.startswith(b"PUT") and b"partNumber=2" in block:
                return block.replace(b"HTTP/1.1", b"HTTP/x.y", 1)
            return block

        proxy.rewrite_request = spoil_part
        with pytest.raises(ObjectStoreUnavailable, match="create c/long"):
            await store.create("c/long", LONG)
        with pytest.raises(ObjectNotFound):
            await store.head("c/long")
    assert await uploads_under(place, prefix) == []


async def test_a_cancelled_upload_is_aborted(place: S3Place, proxy: TcpProxy, prefix: str) -> None:
    """Each stop of a tierer would leave parts behind."""
    async with opened(place, prefix, proxy=proxy, limits=PARTS) as store:
        await store.check()
        sent = asyncio.Event()

        def see_part(block: bytes) -> bytes:
            if b"partNumber=2" in block:
                sent.set()
            return block

        proxy.rewrite_request = see_part
        creation = asyncio.create_task(store.create("c/long", LONG))
        await asyncio.wait_for(sent.wait(), 20)
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation
    assert await uploads_under(place, prefix) == []


# Stores that cannot be trusted, and settings that are wrong.


@pytest.fixture
async def moto_proxy(moto: S3Place) -> AsyncIterator[TcpProxy]:
    """moto takes changed requests, because it checks no signature."""
    assert moto.port is not None
    async with tcp_proxy(moto.port) as proxy:
        yield proxy


async def test_a_store_that_ignores_conditions_is_refused(
    moto: S3Place, moto_proxy: TcpProxy, prefix: str
) -> None:
    """Objects would be replaced, and acknowledged bytes lost, without any error."""
    async with opened(moto, prefix, proxy=moto_proxy) as store:
        moto_proxy.rewrite_request = lambda block: block.replace(b"If-None-Match", b"X-None-Match")
        with pytest.raises(UnsupportedObjectStore, match="ignores the condition If-None-Match"):
            await store.check()
        with pytest.raises(ObjectStoreUnavailable, match="ignores the condition If-None-Match"):
            await store.create("c/one", [b"1"])


async def test_without_conditional_uploads_objects_go_in_one_put(
    moto: S3Place, moto_proxy: TcpProxy, prefix: str
) -> None:
    """An upload would replace an object, on stores whose condition holds for puts only."""

    def no_condition_on_completion(block: bytes) -> bytes:
        return block.replace(b"If-None-Match", b"X-None-Match") if b"POST" in block[:4] else block

    async with opened(moto, prefix, proxy=moto_proxy, limits=PARTS) as store:
        moto_proxy.rewrite_request = no_condition_on_completion
        assert not (await store.check()).multipart
        info = await store.create("c/long", LONG)
        assert await store.read("c/long", 0, info.length_bytes) == b"".join(LONG)
        with pytest.raises(ObjectExists):
            await store.create("c/long", LONG)


async def test_a_race_with_another_creator_is_settled(
    moto: S3Place, moto_proxy: TcpProxy, prefix: str
) -> None:
    """AWS answers 409 while another put of the name is under way; the order would fail."""
    async with opened(moto, prefix, proxy=moto_proxy, limits=IMPATIENT) as store:
        await store.create("c/one", [b"1"])
        moto_proxy.rewrite_answer = lambda block: block.replace(b"HTTP/1.1 412", b"HTTP/1.1 409")
        with pytest.raises(ObjectExists):
            await store.create("c/one", [b"2"])


async def test_bits_that_flip_on_the_way_are_read_again(
    moto: S3Place, moto_proxy: TcpProxy, prefix: str
) -> None:
    """A reader would get bytes that nobody wrote."""
    content = b"precious" * 100
    async with opened(moto, prefix, proxy=moto_proxy) as store:
        await store.create("c/one", [content])
        moto_proxy.rewrite_answer = lambda block: block.replace(b"precious", b"precioux")
        with pytest.raises(ObjectDamaged, match="do not have the checksum"):
            await store.read("c/one", 0, len(content))

        def flip_once(block: bytes) -> bytes:
            if b"precious" not in block:
                return block
            moto_proxy.rewrite_answer = lambda later: later
            return block.replace(b"precious", b"precioux")

        moto_proxy.rewrite_answer = flip_once
        assert await store.read("c/one", 0, len(content)) == content


async def test_a_vanished_bucket_is_no_lost_object(moto: S3Place, prefix: str) -> None:
    """A segment store would call every chunk lost when the bucket is renamed."""
    url = moto.url(prefix).replace(moto.bucket, "another-bucket")
    async with plain_client(moto) as client:
        await client.create_bucket(Bucket="another-bucket")  # type: ignore[attr-defined]
        store = make_store(url, moto.credentials)
        await store.check()
        await client.delete_bucket(Bucket="another-bucket")  # type: ignore[attr-defined]
    for operation in (
        store.read("c/one", 0, 1),
        store.head("c/one"),
        store.create("c/one", [b"1"]),
        anext(store.list("c/")),
    ):
        with pytest.raises(ObjectStoreUnavailable, match="Create the bucket another-bucket"):
            await operation
    await store.close()


async def test_wrong_settings_are_told_at_the_start(seaweedfs: S3Place, prefix: str) -> None:
    """An operator would learn of a wrong key when the disk of tier 1 is full."""
    assert seaweedfs.credentials is not None
    known = seaweedfs.credentials.access_key_id
    right = seaweedfs.url(prefix)
    for url, credentials, message in (
        (right, S3Credentials(known, "wrong"), "Check ANABRANCH_S3_ACCESS_KEY_ID"),
        (right, S3Credentials("unknown", "wrong"), "Check ANABRANCH_S3_ACCESS_KEY_ID"),
        (
            right.replace(seaweedfs.bucket, "not-there"),
            seaweedfs.credentials,
            "Create the bucket not-there",
        ),
    ):
        store = make_store(url, credentials)
        with pytest.raises(UnsupportedObjectStore, match=message):
            await store.check()
        await store.close()
