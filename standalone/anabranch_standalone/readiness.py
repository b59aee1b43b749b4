"""When a cluster is ready, and what it still lacks until then.

Ready means that a client's first call would succeed: every service holds a lease, every
container is served, the controller speaks HTTP/2 on its gRPC port (a SETTINGS frame answers
ours) and lists scopes over REST. Asked with a few raw bytes, so that the supervisor need not
carry a gRPC and an HTTP library in its memory for two questions.
"""

from __future__ import annotations

import asyncio
from typing import Final

from anabranch_kit.ports.registry import Registry, RegistryUnavailable

from anabranch_standalone.options import HOST

PROBE_TIMEOUT_S: Final = 2.0
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS: Final = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER_BYTES: Final = 9
_SETTINGS: Final = 4


async def registry_lacks(
    registry: Registry, member_ids: dict[str, int], containers_count: int
) -> list[str]:
    """`member_ids`: the pid that each member must have, so that an old record does not count."""
    try:
        members = {member.id: member.pid for member in await registry.members()}
        serving = await registry.serving()
        assignments = await registry.assignments()
    except RegistryUnavailable as error:
        return [str(error)]
    lacks = [f"{name} is not announced" for name, pid in member_ids.items() if name not in members]
    lacks += [
        f"{name} is announced with pid {members[name]}, expected {pid}"
        for name, pid in member_ids.items()
        if name in members and members[name] not in (0, pid)
    ]
    unserved = [str(number) for number in range(containers_count) if number not in serving]
    if unserved:
        lacks.append(f"nobody serves container {', '.join(unserved)}")
    moving = [
        str(number)
        for number, one in assignments.items()
        if number in serving and serving[number].member != one.member
    ]
    if moving:
        lacks.append(f"container {', '.join(moving)} moves to another segment store")
    return lacks


async def listens(port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(HOST, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def grpc_lacks(port: int) -> list[str]:
    head = await _exchange(port, _HTTP2_PREFACE + _EMPTY_SETTINGS, _FRAME_HEADER_BYTES)
    if len(head) == _FRAME_HEADER_BYTES and head[3] == _SETTINGS:
        return []
    return [f"the controller does not answer gRPC on port {port}"]


async def rest_lacks(port: int) -> list[str]:
    request = f"GET /v1/scopes HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n"
    status = await _exchange(port, request.encode(), len(b"HTTP/1.1 200"))
    if status.endswith(b" 200"):
        return []
    told = f" ({status.decode('latin-1')})" if status else ""
    return [f"the controller does not answer REST on port {port}{told}"]


async def _exchange(port: int, request: bytes, length: int) -> bytes:
    """The first `length` bytes of the answer, fewer when something stood in the way."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(request)
                return await reader.readexactly(length)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return b""
