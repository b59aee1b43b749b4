"""Pytest fixtures of the testkit; tests/conftest.py names this module as a plugin.

NATS and Valkey start in some 50 ms, so each test that asks for one gets its own and may kill
it. The S3 servers take seconds and serve the whole session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from anabranch_kit.adapters.nats_bus import connect_nats
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.adapters.system_clock import SystemClock
from nats.aio.client import Client

from anabranch_testkit.fakes.clock import FakeClock
from anabranch_testkit.loop_thread import loop_thread
from anabranch_testkit.s3_server import S3Place, moto_server, seaweed_server
from anabranch_testkit.servers import Server, nats_server, valkey_server


@pytest.fixture(name="nats_server")
async def nats_server_fixture() -> AsyncIterator[Server]:
    async with nats_server() as server:
        yield server


@pytest.fixture(name="valkey_server")
async def valkey_server_fixture() -> AsyncIterator[Server]:
    async with valkey_server() as server:
        yield server


@pytest.fixture
async def nats_client(nats_server: Server) -> AsyncIterator[Client]:
    client = await connect_nats(nats_server.url, name="test", clock=SystemClock())
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def redis_registry(valkey_server: Server) -> AsyncIterator[RedisRegistry]:
    registry = RedisRegistry(valkey_server.url, clock=SystemClock())
    try:
        yield registry
    finally:
        await registry.close()


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Place]:
    with loop_thread() as thread:
        yield thread.enter(seaweed_server())


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Place]:
    with loop_thread() as thread:
        yield thread.enter(moto_server())


@pytest.fixture
def system_clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def fake_clock() -> FakeClock:
    return FakeClock()
