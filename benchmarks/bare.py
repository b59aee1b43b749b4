"""The bare append path: receive appends, sync each batch, acknowledge, and nothing else.

    python benchmarks/bare.py --file FILE

A yardstick for benchmarks/append.py, not a store: no checks, no checksums, no reads, no recovery,
one file that is written round and round. It says on standard output which port it listens on.
What it is faster by than the segment store on the same machine is what the store's promises cost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import uvloop
from anabranch_wire import commands as c
from anabranch_wire.codec import decode_request, encode
from anabranch_wire.constants import WIRE_VERSION_HIGH, WIRE_VERSION_LOW
from anabranch_wire.framing import FrameSplitter

FILE_BYTES = 1024 * 1024 * 1024
PARTS_PER_WRITE = 1000  # below the system's 1024

Done = Callable[[], None]


class BareLog:
    """What arrives while a batch is being synced makes the next batch."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self._file, 0, FILE_BYTES)
        self._offset = 0
        self._parts: list[c.Data] = []
        self._waiting: list[Done] = []
        self._is_busy = False

    def append(self, part: c.Data, done: Done) -> None:
        self._parts.append(part)
        self._waiting.append(done)
        if not self._is_busy:
            self._start()

    def _start(self) -> None:
        parts, waiting = self._parts, self._waiting
        self._parts, self._waiting, self._is_busy = [], [], True
        length = sum(map(len, parts))
        if self._offset + length > FILE_BYTES:
            self._offset = 0
        write = self._loop.run_in_executor(self._thread, self._write, parts, self._offset)
        self._offset += length
        write.add_done_callback(lambda written: self._written(written, waiting))

    def _write(self, parts: list[c.Data], offset: int) -> None:
        for first in range(0, len(parts), PARTS_PER_WRITE):
            offset += os.pwritev(self._file, parts[first : first + PARTS_PER_WRITE], offset)
        os.fdatasync(self._file)

    def _written(self, written: asyncio.Future[None], waiting: list[Done]) -> None:
        written.result()
        for done in waiting:
            done()
        self._is_busy = False
        if self._waiting:
            self._start()


class BareStore(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, log: BareLog) -> None:
        self._log, self._frames = log, FrameSplitter()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not a subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        for code, payload in self._frames.buffer_updated(nbytes):
            self._handle(decode_request(code, payload))

    def _handle(self, command: c.Request) -> None:
        match command:
            case c.AppendBlockEnd():
                reply = c.DataAppended(
                    command.writer_id,
                    command.last_event_number,
                    0,
                    command.request_id,
                    0,
                )
                self._log.append(command.data, lambda: self._send(reply))
            case c.SetupAppend(request_id, writer, segment):
                self._send(c.AppendSetup(request_id, segment, writer, 0))
            case c.CreateSegment(request_id, segment):
                self._send(c.SegmentCreated(request_id, segment))
            case c.Hello():
                self._send(c.Hello(WIRE_VERSION_HIGH, WIRE_VERSION_LOW))
            case _:
                raise AssertionError(f"the yardstick does not know {command!r:.80}")

    def _send(self, reply: c.Reply) -> None:
        if self._transport is not None:
            self._transport.write(encode(reply))


async def serve(path: Path) -> None:
    log = BareLog(path)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BareStore(log), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="what it writes to")
    uvloop.run(serve(parser.parse_args().file))


if __name__ == "__main__":
    main()
