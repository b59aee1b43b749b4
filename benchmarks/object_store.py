"""What tier 2 costs: put and get of 4 KiB, 1 MiB and 8 MiB, in a folder and in S3.

    python benchmarks/object_store.py [--rounds 5]

The S3 server is SeaweedFS from its wheel, on this machine; ANABRANCH_TEST_S3_URL names another.
`bare client` sends the same bytes to the same server with the S3 library alone: no condition,
no checksum of ours, no look at what came back. All rows take turns in one run; a figure is the
median over the rounds. Every object is read back and compared before a number counts. A put is
durable in the folder (fsync of file and directory); what S3 promises is the server's affair, and
SeaweedFS as started here leaves it to the page cache.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import aioboto3
from anabranch_kit.adapters.file_object_store import FileObjectStore
from anabranch_kit.adapters.s3_object_store import S3ObjectStore
from anabranch_kit.adapters.s3_object_store_location import parse_s3_url
from anabranch_kit.adapters.system_clock import SystemClock
from anabranch_kit.ids import new_id
from anabranch_testkit.s3_server import S3Place, seaweed_server

KIB, MIB = 1024, 1024 * 1024
# Bytes of an object, objects per round.
SIZES = ((4 * KIB, 64), (1 * MIB, 24), (8 * MIB, 8))
AT_ONCE = 8


class Store(Protocol):
    async def create(self, name: str, parts: list[bytes]) -> object: ...
    async def read(self, name: str, offset: int, length: int) -> bytes: ...


class Figures(NamedTuple):
    """Of one round: milliseconds of one call alone, MiB/s of several, CPU ms per call."""

    alone_ms: float
    together_mib_s: float
    cpu_ms: float


class BareClient:
    def __init__(self, client: object, bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix

    async def create(self, name: str, parts: list[bytes]) -> object:
        target = {"Bucket": self._bucket, "Key": self._prefix + name}
        return await self._client.put_object(**target, Body=parts[0])  # type: ignore[attr-defined]

    async def read(self, name: str, offset: int, length: int) -> bytes:
        target = {"Bucket": self._bucket, "Key": self._prefix + name}
        answer = await self._client.get_object(  # type: ignore[attr-defined]
            **target, Range=f"bytes={offset}-{offset + length - 1}"
        )
        data: bytes = await answer["Body"].read()
        return data


@asynccontextmanager
async def stores(folder: Path) -> AsyncIterator[dict[str, Store]]:
    async with AsyncExitStack() as owned:
        files = FileObjectStore(folder)
        owned.push_async_callback(files.close)
        place: S3Place = await owned.enter_async_context(seaweed_server())
        location = parse_s3_url(place.url(f"bench/{new_id().hex}"))
        s3 = S3ObjectStore(
            location,
            clock=SystemClock(),
            new_id=new_id,
            chance=random.Random(1),
            credentials=place.credentials,
        )
        owned.push_async_callback(s3.close)
        await s3.check()
        who = place.credentials
        session = aioboto3.Session(
            aws_access_key_id=who.access_key_id if who else None,
            aws_secret_access_key=who.secret_access_key if who else None,
            region_name=location.region,
        )
        client = await owned.enter_async_context(
            session.client("s3", endpoint_url=location.endpoint)
        )
        bare = BareClient(client, location.bucket, location.prefix + "bare/")
        yield {"folder": files, "S3": s3, "bare client": bare}


async def measure(calls: list[Callable[[], Awaitable[object]]], length: int) -> Figures:
    """The first half one by one, the second half AT_ONCE at a time."""
    half = len(calls) // 2
    cpu = time.process_time()
    alone: list[float] = []
    for call in calls[:half]:
        start = time.perf_counter()
        await call()
        alone.append(time.perf_counter() - start)
    todo = iter(calls[half:])

    async def work() -> None:
        for call in todo:
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    together_s = time.perf_counter() - start
    cpu_s = time.process_time() - cpu
    return Figures(
        alone_ms=statistics.median(alone) * 1000,
        together_mib_s=length * (len(calls) - half) / together_s / MIB,
        cpu_ms=cpu_s / len(calls) * 1000,
    )


async def one_round(store: Store, length: int, count: int) -> tuple[Figures, Figures]:
    contents = {f"c/{new_id().hex}": os.urandom(length) for _ in range(count)}
    puts = [lambda n=n, c=c: store.create(n, [c]) for n, c in contents.items()]
    put = await measure(puts, length)

    async def read_back(name: str, content: bytes) -> None:
        assert await store.read(name, 0, length) == content, f"{name} came back changed"

    gets = [lambda n=n, c=c: read_back(n, c) for n, c in contents.items()]
    return put, await measure(gets, length)


async def run(rounds: int) -> None:
    results: dict[tuple[int, str, str], list[Figures]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        async with stores(Path(name)) as opened:
            for number in range(rounds):
                # In turn, and the other way round every second time.
                order = list(opened.items())[:: 1 if number % 2 == 0 else -1]
                for length, count in SIZES:
                    for kind, store in order:
                        put, get = await one_round(store, length, count)
                        results.setdefault((length, "put", kind), []).append(put)
                        results.setdefault((length, "get", kind), []).append(get)
    heads = ("size", "", "store", "one, ms", f"{AT_ONCE} at once, MiB/s", "client CPU, ms each")
    print("| {:>8} | {:<4} | {:<11} | {:>8} | {:>18} | {:>19} |".format(*heads))
    print("|---:|---|---|---:|---:|---:|")
    for (length, what, kind), figures in results.items():
        alone, together, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
        size = f"{length // KIB} KiB" if length < MIB else f"{length // MIB} MiB"
        print(
            f"| {size:>8} | {what:<4} | {kind:<11} | "
            f"{alone:8.2f} | {together:18.1f} | {cpu:19.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(run(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
