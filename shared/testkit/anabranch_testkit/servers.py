"""Real NATS and Valkey servers for tests: on loopback, on free ports, in folders of their own.

A server can be killed and started again on the same port and folder in the middle of a test.
Only the process that was started here is ever signalled, by its id.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from anabranch_kit import server_binaries

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
NATS_URL_VARIABLE = "ANABRANCH_TEST_NATS_URL"
REDIS_URL_VARIABLE = "ANABRANCH_TEST_REDIS_URL"


class ServerFailed(Exception):
    """A server did not come up; has the end of what it printed."""


class Server:
    """A child server. `command` is called before each start (it may write a file)."""

    def __init__(
        self, name: str, url: str, port: int, folder: Path, command: Callable[[], list[str]]
    ) -> None:
        self.name, self.url, self.port, self.folder = name, url, port, folder
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def can_restart(self) -> bool:
        return True

    async def start(self) -> None:
        """Returns when the port answers. Raises ServerFailed."""
        assert self._process is None, f"{self.name} runs already"
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes no time here
                self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                await self.kill()
                tail = (self.folder / "output.log").read_text(errors="replace")[-2000:]
                raise ServerFailed(f"{self.name} did not come up:\n{tail}")
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """Kill it and start it again on the same port, over the same files."""
        await self.kill()
        await self.start()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
            await asyncio.sleep(0.005)


class ExternalServer(Server):
    """A server that somebody else runs; tests that restart servers skip it."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name, url, 0, Path(), list)

    @property
    def can_restart(self) -> bool:
        return False


@asynccontextmanager
async def nats_server(
    *,
    payload_bytes_max: int = server_binaries.NATS_PAYLOAD_BYTES_MAX,
    sync_interval: str = "always",
    extra_config: str = "",
) -> AsyncIterator[Server]:
    """JetStream that syncs before it acknowledges; its files go when the context ends.

    Asked for other settings it is never an external server.
    """
    defaults = (server_binaries.NATS_PAYLOAD_BYTES_MAX, "always", "")
    external = os.environ.get(NATS_URL_VARIABLE)
    if external and (payload_bytes_max, sync_interval, extra_config) == defaults:
        yield ExternalServer("nats", external)
        return
    with tempfile.TemporaryDirectory(prefix="anabranch-nats-") as name:
        server = _nats(
            Path(name),
            payload_bytes_max=payload_bytes_max,
            sync_interval=sync_interval,
            extra_config=extra_config,
        )
        await server.start()
        try:
            yield server
        finally:
            await server.kill()


@asynccontextmanager
async def nats_cluster(
    count: int = 3, *, payload_bytes_max: int = server_binaries.NATS_PAYLOAD_BYTES_MAX
) -> AsyncIterator[list[Server]]:
    """Servers with routes to each other; ready when they have elected a leader is up to the
    caller (a stream's creation waits for it)."""
    route_ports = [server_binaries.free_port() for _ in range(count)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in route_ports)
    servers: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="anabranch-nats-") as name:
        for index, route_port in enumerate(route_ports):
            folder = Path(name) / str(index)
            folder.mkdir()
            cluster = (
                f'cluster {{ name: test, listen: "127.0.0.1:{route_port}", routes: [{routes}] }}\n'
            )
            servers.append(
                _nats(
                    folder,
                    payload_bytes_max=payload_bytes_max,
                    sync_interval="always",
                    extra_config=cluster,
                    server_name=f"test-{index}",
                )
            )
        try:
            for server in servers:
                await server.start()
            yield servers
        finally:
            for server in servers:
                await server.kill()


def _nats(
    folder: Path,
    *,
    payload_bytes_max: int,
    sync_interval: str,
    extra_config: str,
    server_name: str = "test",
) -> Server:
    binary, port = server_binaries.find_nats_server().path, server_binaries.free_port()
    config = folder / "nats.conf"
    server_binaries.write_nats_config(
        config,
        port=port,
        store=folder / "store",
        name=server_name,
        payload_bytes_max=payload_bytes_max,
        sync_interval=sync_interval,
    )
    with config.open("a") as file:
        file.write(extra_config)
    command = server_binaries.nats_command(binary, config)
    return Server(server_name, f"nats://127.0.0.1:{port}", port, folder, lambda: command)


@asynccontextmanager
async def valkey_server() -> AsyncIterator[Server]:
    external = os.environ.get(REDIS_URL_VARIABLE)
    if external:
        yield ExternalServer("valkey", external)
        return
    binary = server_binaries.find_valkey_server().path
    with tempfile.TemporaryDirectory(prefix="anabranch-valkey-") as name:
        folder, port = Path(name), server_binaries.free_port()
        command = server_binaries.valkey_command(binary, port=port, folder=folder)
        server = Server("valkey", f"redis://127.0.0.1:{port}/0", port, folder, lambda: command)
        await server.start()
        try:
            yield server
        finally:
            await server.kill()


async def _answers(port: int) -> bool:
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
