"""The HTTP server of the REST interface: uvicorn, in the loop of the service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from anabranch_kit.run import CannotStart
from litestar import Litestar

CONNECTIONS_MAX: Final = 256  # people and scripts; beyond that uvicorn answers 503
HEAD_BYTES_MAX: Final = 64 * 1024
STOP_GRACE_S: Final = 2


class _Server(uvicorn.Server):
    """Leaves the signals to the service that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RestServer:
    """Serves between `start` and `stop`."""

    def __init__(self, app: Litestar) -> None:
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
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 takes a free one. Returns the port, raises CannotStart."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise CannotStart(
                f"cannot listen on {host}:{port} for REST: {error.strerror or error}. Choose"
                " another port with --rest-port or another address with --rest-host."
            ) from error
        bound: int = listening.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve([listening]), name="rest")
        return bound

    async def wait(self) -> None:
        """Until the server ends, which it does only when it was stopped or has failed."""
        assert self._serving is not None, "not started"
        await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """Refuse new connections, let requests in work end for STOP_GRACE_S."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving
