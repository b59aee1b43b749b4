"""A TCP proxy that behaves badly on request: refuses, cuts, delays, holds answers back.

It stands between a client and a server on this machine. What it does can be changed at any
time and holds for the connections that are open, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

BLOCK_BYTES = 64 * 1024
EXPECTATION = b"\r\nExpect: 100-continue"


def unchanged(block: bytes) -> bytes:
    return block


class TcpProxy:
    """`rewrite_request` and `rewrite_answer` see what passes, in blocks as they come.

    `delay_s` is waited before each block of an answer. `answer_bytes_max` cuts a connection
    after so many bytes of answers.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_s = 0.0
        self.answer_bytes_max: int | None = None
        self.rewrite_request: Callable[[bytes], bytes] = unchanged
        self.rewrite_answer: Callable[[bytes], bytes] = unchanged
        self.connections_count = 0
        self._requests_pass = _opened_gate()
        self._answers_pass = _opened_gate()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen; on the port of the last time, if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut what is open and refuse what comes, as a dead server does, until `open`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self.cut()

    async def cut(self) -> None:
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def hold_answers(self) -> None:
        """Requests still arrive and are done; the client is not told."""
        self._answers_pass.clear()

    def let_answers_pass(self) -> None:
        self._answers_pass.set()

    def hold_requests(self) -> Callable[[], None]:
        """Requests that come from now on are kept here; the call returned lets them go on.

        They arrive then, whether their client still waits or not: a request from the past. An
        HTTP client that asks whether to go on is told yes, so that all of the request is here.
        """
        self._requests_pass = held = asyncio.Event()
        return held.set

    def let_new_requests_pass(self) -> None:
        """What is held stays held."""
        self._requests_pass = _opened_gate()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "start_server runs this as a task"
        self._connections.add(task)
        self.connections_count += 1
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # cut(): the client sees a reset
        except OSError:
            writer.close()  # one side went away
        finally:
            self._connections.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self.target_port)
        try:
            async with asyncio.TaskGroup() as pumps:
                forth = pumps.create_task(self._pump_requests(reader, requests, writer))
                await self._pump_answers(answers, writer)
                forth.cancel()
        except* OSError as gone:
            raise gone.exceptions[0] from None
        finally:
            requests.close()
            writer.close()

    async def _pump_requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        while block := await reader.read(BLOCK_BYTES):
            gate = self._requests_pass
            if not gate.is_set() and EXPECTATION in block:
                client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                block = block.replace(EXPECTATION, b"", 1)
            await gate.wait()
            writer.write(self.rewrite_request(block))
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()

    async def _pump_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        passed_bytes = 0
        while block := await reader.read(BLOCK_BYTES):
            await self._answers_pass.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.answer_bytes_max is not None:
                block = block[: self.answer_bytes_max - passed_bytes]
            writer.write(self.rewrite_answer(block))
            await writer.drain()
            passed_bytes += len(block)
            if self.answer_bytes_max is not None and passed_bytes >= self.answer_bytes_max:
                writer.transport.abort()
                return


def _opened_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@asynccontextmanager
async def tcp_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(target_port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.refuse()
