"""/health, /ready and /metrics over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from anabranch_kit.health import REQUEST_BYTES_MAX, HealthServer

reasons: list[str] = []


@pytest.fixture
async def port() -> AsyncIterator[int]:
    reasons.clear()
    server = HealthServer(lambda: list(reasons))
    yield await server.start("127.0.0.1", 0)
    await server.close()


async def ask(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


async def get(port: int, path: str) -> tuple[int, bytes]:
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_probes(port: int) -> None:
    """A supervisor would restart a healthy service, or send clients to one not ready."""
    assert await get(port, "/health") == (200, b"ok\n")
    assert await get(port, "/ready?full=1") == (200, b"ready\n")
    reasons.append("registry away")
    assert await get(port, "/ready") == (503, b"registry away\n")
    assert await get(port, "/health") == (200, b"ok\n")
    status, body = await get(port, "/metrics")
    assert status == 200
    assert b"python_info" in body
    assert (await get(port, "/else"))[0] == 404


async def test_hostile_requests_are_refused(port: int) -> None:
    """A port scanner would take a service's memory or its health port."""
    assert (await ask(port, b"POST /health HTTP/1.1\r\n\r\n"))[0] == 400
    assert (await ask(port, b"\x00\xff\r\n\r\n"))[0] == 400
    assert (await ask(port, b"GET /" + b"a" * (2 * REQUEST_BYTES_MAX) + b"\r\n\r\n"))[0] == 400
    assert await get(port, "/health") == (200, b"ok\n")
