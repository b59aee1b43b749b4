"""One suite for every tier 2: what tierer and segment store may rely on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import google_crc32c
import pytest
from anabranch_kit.adapters.file_object_store import FileObjectStore
from anabranch_kit.adapters.s3_object_store import S3ObjectStore
from anabranch_kit.adapters.s3_object_store_location import parse_s3_url
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ids import new_id
from anabranch_kit.ports.object_store import (
    ObjectDamaged,
    ObjectExists,
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
)
from anabranch_testkit.fakes import MemoryObjectStore
from anabranch_testkit.s3_server import S3Place

S3_SERVERS = ("seaweedfs", "moto")


@pytest.fixture(
    params=["memory", "file", *(pytest.param(one, marks=pytest.mark.slow) for one in S3_SERVERS)]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    made: ObjectStore
    match request.param:
        case "memory":
            made = MemoryObjectStore()
        case "file":
            made = FileObjectStore(tmp_path)
        case name:
            place: S3Place = request.getfixturevalue(name)
            made = S3ObjectStore(
                parse_s3_url(place.url(f"contract/{new_id().hex}")),
                clock=SystemClock(),
                new_id=new_id,
                chance=random.Random(1),
                credentials=place.credentials,
            )
    yield made
    await made.close()


async def test_object_is_read_back_in_ranges(store: ObjectStore) -> None:
    """Readers would get other bytes than were written."""
    parts = [b"hello ", memoryview(bytearray(b"tiered ")), b"world"]
    info = await store.create("container-0/1-1", parts)
    whole = b"hello tiered world"
    assert info == ObjectInfo("container-0/1-1", len(whole), google_crc32c.value(whole))
    assert await store.head("container-0/1-1") == info
    assert await store.read("container-0/1-1", 0, len(whole)) == whole
    assert await store.read("container-0/1-1", 6, 6) == b"tiered"
    assert await store.read("container-0/1-1", len(whole), 0) == b""


async def test_a_name_is_never_used_twice(store: ObjectStore) -> None:
    """A redelivered order would overwrite bytes that a container's log points to."""
    await store.create("c/name", [b"first"])
    with pytest.raises(ObjectExists):
        await store.create("c/name", [b"second"])
    assert await store.read("c/name", 0, 5) == b"first"


async def test_concurrent_creators_have_one_winner(store: ObjectStore) -> None:
    """Two workers with one order would mix their bytes."""
    contents = [bytes([number]) * 1000 for number in range(16)]
    outcomes = await asyncio.gather(
        *(store.create("c/contested", [content]) for content in contents), return_exceptions=True
    )
    winners = [number for number, one in enumerate(outcomes) if isinstance(one, ObjectInfo)]
    assert len(winners) == 1
    assert sum(isinstance(one, ObjectExists) for one in outcomes) == 15
    assert await store.read("c/contested", 0, 1000) == contents[winners[0]]


async def test_reading_beyond_the_end_is_an_error(store: ObjectStore) -> None:
    """A short object would be served as if it were whole."""
    await store.create("c/short", [b"12345"])
    with pytest.raises(ObjectDamaged, match="has 5 bytes"):
        await store.read("c/short", 2, 4)


async def test_missing_objects_are_named(store: ObjectStore) -> None:
    """An operator could not tell which object is gone."""
    with pytest.raises(ObjectNotFound, match="c/none"):
        await store.read("c/none", 0, 1)
    with pytest.raises(ObjectNotFound, match="c/none"):
        await store.head("c/none")
    await store.delete("c/none")


async def test_deleted_objects_are_gone(store: ObjectStore) -> None:
    """Deleted segments would keep their space."""
    await store.create("c/one", [b"1"])
    await store.delete("c/one")
    with pytest.raises(ObjectNotFound):
        await store.head("c/one")


async def test_listing_by_prefix(store: ObjectStore) -> None:
    """The collector of orphans would look at another container's objects."""
    for name in ("container-1/1-1", "container-1/1-2", "container-10/1-1", "container-2/1-1"):
        await store.create(name, [b"x"])
    found = [name async for name in store.list("container-1/")]
    assert sorted(found) == ["container-1/1-1", "container-1/1-2"]
    found = [name async for name in store.list("container-1")]
    assert sorted(found) == ["container-1/1-1", "container-1/1-2", "container-10/1-1"]
    assert [name async for name in store.list("none/")] == []


async def test_empty_object(store: ObjectStore) -> None:
    """An order of nothing would fail for ever."""
    assert (await store.create("c/empty", [])).length_bytes == 0
    assert await store.read("c/empty", 0, 0) == b""
