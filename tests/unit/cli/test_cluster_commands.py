"""`anabranch cluster …` against a real Valkey, as a user calls it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from anabranch_kit.adapters.redis_registry import RedisRegistry
from anabranch_kit.ports.registry import Assignment, ClusterInfo, Member, Serving
from anabranch_testkit.servers import Server
from anabranch_wire.hashing import container_of

SEGMENT = "shop/orders/7.#epoch.2"


async def anabranch(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("anabranch"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def registry(redis_registry: RedisRegistry) -> RedisRegistry:
    """Four containers; all but the last are served, and the last is assigned."""
    member = Member("segmentstore-0", "i1", "segmentstore", "127.0.0.1", 12345, 1, 4711)
    await redis_registry.set_cluster(ClusterInfo("c", 4))
    await redis_registry.announce(member, lease_ms=60_000)
    await redis_registry.assign([Assignment(number, member.id, 1) for number in range(4)])
    for number in range(3):
        serving = Serving(number, member.id, "i1", "127.0.0.1", 12345, number + 10)
        await redis_registry.set_serving(serving)
    return redis_registry


async def test_where_names_the_container_and_its_store_from_redis_alone(
    registry: RedisRegistry, valkey_server: Server
) -> None:
    """An operator could not find the process that a segment's trouble belongs to."""
    code, out, _ = await anabranch(
        "cluster", "where", SEGMENT, "--redis", valkey_server.url, "-o", "json"
    )
    answer = json.loads(out)
    container = container_of(SEGMENT, 4)
    assert code == 0
    assert container < 3, "the segment of this test lives in a served container"
    assert answer == {
        "segment": SEGMENT,
        "container": container,
        "segmentstore": "segmentstore-0",
        "address": "127.0.0.1:12345",
        "epoch": container + 10,
        "assigned_to": "segmentstore-0",
        "state": "serving",
    }


async def test_a_container_that_nobody_serves_says_so(
    registry: RedisRegistry, valkey_server: Server
) -> None:
    """A gap in the map would look like a served container."""
    code, out, _ = await anabranch(
        "cluster", "containers", "--redis", valkey_server.url, "-o", "jsonl"
    )
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["state"] for row in rows] == ["serving"] * 3 + ["not served"]
    assert rows[3]["assigned_to"] == "segmentstore-0"


async def test_members_are_listed(registry: RedisRegistry, valkey_server: Server) -> None:
    """An operator could not see who is alive."""
    code, out, _ = await anabranch("cluster", "members", "--redis", valkey_server.url)
    assert code == 0
    assert "segmentstore-0" in out
    assert "127.0.0.1:12345" in out
    assert "4711" in out


async def test_a_name_that_is_no_segment_is_refused(valkey_server: Server) -> None:
    """A typing error would be located somewhere."""
    code, out, err = await anabranch("cluster", "where", "orders", "--redis", valkey_server.url)
    assert code == 2
    assert out == ""
    assert "'orders' is no name for a segment" in err


async def test_a_silent_redis_has_its_own_exit_code(unused_tcp_port: int) -> None:
    """A script could not tell an unreachable cluster from a missing segment."""
    url = f"redis://127.0.0.1:{unused_tcp_port}"
    code, _, err = await anabranch("cluster", "where", SEGMENT, "--redis", url)
    assert code == 3
    assert url in err
    assert "--redis" in err


async def test_a_redis_without_a_cluster_is_reported(valkey_server: Server) -> None:
    """The number of containers would be guessed."""
    code, _, err = await anabranch("cluster", "where", SEGMENT, "--redis", valkey_server.url)
    assert code == 4
    assert "knows no cluster" in err
