"""A segment store on a socket, and a client that speaks frames to it."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from anabranch_wire import commands as c
from anabranch_wire.codec import decode_reply, encode
from anabranch_wire.framing import FrameSplitter

REPLY_TIMEOUT_S = 10.0
WRITER = UUID("00112233-4455-6677-8899-aabbccddeeff")


def load_neighbour(path: Path) -> ModuleType:
    """Tests are not a package, so what several share is loaded from its file."""
    name = f"shared_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


class Peer:
    """A client at the level of frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._splitter = FrameSplitter()
        self._replies: list[c.Command] = []

    def send(self, *commands: c.Command) -> None:
        """All in one write."""
        self.writer.write(b"".join(map(encode, commands)))

    async def reply(self) -> c.Command:
        """The next reply; fails when the server closes the connection."""
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            while not self._replies:
                data = await self.reader.read(65536)
                assert data, "the server closed the connection"
                frames = self._splitter.receive(data)
                self._replies += [decode_reply(code, payload) for code, payload in frames]
        return self._replies.pop(0)

    async def ask(self, command: c.Command) -> c.Command:
        self.send(command)
        return await self.reply()

    async def closed(self) -> list[c.Command]:
        """Wait until the server closes the connection; the replies that came before."""
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            try:
                while data := await self.reader.read(65536):
                    frames = self._splitter.receive(data)
                    self._replies += [decode_reply(code, payload) for code, payload in frames]
            except ConnectionError:
                pass  # closed by a reset
        return self._replies

    async def is_silent(self) -> bool:
        """Nothing is on its way: the answer to a KeepAlive comes first."""
        return await self.ask(c.KeepAlive()) == c.KeepAlive()

    async def create(self, segment: str) -> None:
        reply = await self.ask(c.CreateSegment(1, segment, 0, 0))
        assert isinstance(reply, c.SegmentCreated), reply

    async def set_up(self, segment: str, writer: UUID = WRITER) -> int:
        reply = await self.ask(c.SetupAppend(2, writer, segment))
        assert isinstance(reply, c.AppendSetup), reply
        return reply.last_event_number

    def close(self) -> None:
        self.writer.close()


class Peers:
    """Opens connections, and closes them all in the end."""

    def __init__(self) -> None:
        self._open: list[Peer] = []

    async def connect(self, faked: Any) -> Peer:
        self._open.append(Peer(*await asyncio.open_connection(faked.host, faked.port)))
        return self._open[-1]

    def close(self) -> None:
        for peer in self._open:
            peer.close()


@pytest.fixture
def support() -> ModuleType:
    return load_neighbour(Path(__file__).parents[2] / "compat" / "store_with_fakes.py")


@pytest.fixture
async def faked(tmp_path: Path, support: ModuleType) -> AsyncIterator[Any]:
    async with support.faked_store(tmp_path, containers=2) as running:
        yield running


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    opened = Peers()
    yield opened
    opened.close()


@pytest.fixture
def sync_peers() -> Peers:
    """For a test that runs its loop itself, and closes them."""
    return Peers()


@pytest.fixture
async def peer(faked: Any, peers: Peers) -> Peer:
    return await peers.connect(faked)


def block(number: int, data: bytes, *, events: int = 1, request_id: int = 9) -> c.AppendBlockEnd:
    """An append as the Rust client sends it."""
    return c.AppendBlockEnd(WRITER, len(data), data, events, number, request_id)


@pytest.fixture(name="block")
def block_fixture() -> Any:
    return block
