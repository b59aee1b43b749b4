"""The HTTP server of the REST interface: uvicorn, in the loop of the service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import uvicorn
from anabranch_kit.run import CannotStart

if TYPE_CHECKING:
    from litestar import Litestar

CONNECTIONS_MAX: Final = 256  # people and scripts; beyond that uvicorn answers 503
HEAD_BYTES_MAX: Final = 64 * 1024
BACKLOG_MAX: Final = 128
STOP_GRACE_S: Final = 2


class _Server(uvicorn.Server):
    """Leaves the signals to the service that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RestEnded(Exception):
    """The HTTP server ended without being asked to."""


class RestServer:
    """Bound early, so that a taken port is said at once; serves until `stop`."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._ended = asyncio.Event()
        self._ended.set()

    def bind(self, host: str, port: int) -> int:
        """Take the port, 0 for a free one; clients wait until `serve`. Raises CannotStart."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG_MAX)
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host}:{port} for REST: {error.strerror or error}. Choose"
                " another port with --rest-port or another address with --rest-host."
            ) from error
        bound: int = self._socket.getsockname()[1]
        return bound

    async def serve(self, app: Litestar) -> None:
        """Until `stop`. Raises RestEnded when the server ends by itself."""
        assert self._socket is not None, "bound before it serves"
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            timeout_graceful_shutdown=STOP_GRACE_S,
        )
        self._server = _Server(config)
        self._ended.clear()
        try:
            await self._server.serve([self._socket])
        finally:
            self._ended.set()
        if not self._server.should_exit:
            raise RestEnded

    async def stop(self) -> None:
        """Refuse new connections, let requests in work end for STOP_GRACE_S."""
        if self._server is not None:
            self._server.should_exit = True
        await self._ended.wait()
        if self._socket is not None:
            self._socket.close()
