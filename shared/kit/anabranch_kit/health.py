"""/health, /ready and /metrics of a service, for probes and for Prometheus.

`/health` answers as long as the event loop turns. `/ready` answers 200 when the service says
that it can do its work, else 503 with the reasons, one a line. `/metrics` is prometheus-client's
default registry. Nothing else is served, so forty lines of HTTP do; a web framework would be
most of the service's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import prometheus_client

REQUEST_BYTES_MAX: Final = 8 * 1024
REQUEST_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 32  # probes and scrapers; more than that are turned away

Reply = tuple[int, str, bytes]
_TEXT: Final = "text/plain; charset=utf-8"
_PHRASES: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


class HealthServer:
    """Serves until closed. `not_ready` returns the reasons, none when ready."""

    def __init__(self, not_ready: Callable[[], list[str]]) -> None:
        self._not_ready = not_ready
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 takes a free one. Returns the port. Raises OSError."""
        assert self._server is None, "started twice"
        self._server = await asyncio.start_server(
            self._connected, host, port, limit=REQUEST_BYTES_MAX
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._answer(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            return  # a probe that went away learns nothing from an answer
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections > CONNECTIONS_MAX:
            reply: Reply = 503, _TEXT, b"too many connections\n"
        else:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                reply = self._reply(head)
            except asyncio.LimitOverrunError:
                reply = 400, _TEXT, b"request too long\n"
        status, content_type, body = reply
        writer.write(
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()

    def _reply(self, head: bytes) -> Reply:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or words[0] not in ("GET", "HEAD"):
            return 400, _TEXT, b"only GET\n"
        match words[1].partition("?")[0]:
            case "/health":
                return 200, _TEXT, b"ok\n"
            case "/ready":
                reasons = self._not_ready()
                text = "".join(f"{reason}\n" for reason in reasons) or "ready\n"
                return (503 if reasons else 200), _TEXT, text.encode()
            case "/metrics":
                body = prometheus_client.generate_latest()
                return 200, prometheus_client.CONTENT_TYPE_LATEST, body
            case _:
                return 404, _TEXT, b"/health, /ready or /metrics\n"
