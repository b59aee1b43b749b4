"""Peers that hold memory and do nothing are cut off; idle ones are not."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from anabranch_segmentstore import connection as connection_module
from anabranch_segmentstore import patience
from anabranch_segmentstore.patience import PATIENCE_S, PROGRESS_BYTES_MIN, Impatience
from anabranch_testkit.waiting import eventually
from anabranch_wire import commands as c
from anabranch_wire.codec import encode

SEGMENT = "scope/stream/0.#epoch.0"
LOOK_S = 0.05
SHORT_PATIENCE_S = 0.4


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute in less than a second."""
    monkeypatch.setattr(connection_module, "LOOK_S", LOOK_S)
    monkeypatch.setattr(patience, "PATIENCE_S", SHORT_PATIENCE_S)


def connection_of(faked: Any, peer: Any) -> Any:
    address = str(peer.writer.get_extra_info("sockname"))
    (found,) = (one for one in faked.store._connections if one.peer == address)
    return found


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("bytes_count", [1, 7, 8, 20])
async def test_a_frame_that_is_never_finished(faked: Any, peers: Any, bytes_count: int) -> None:
    """Clients that begin frames and go to sleep would use up the connections of a store."""
    slow, good = await peers.connect(faked), await peers.connect(faked)
    slow.writer.write(encode(c.GetStreamSegmentInfo(1, SEGMENT))[:bytes_count])
    assert await slow.closed() == []
    assert await good.is_silent()


@pytest.mark.usefixtures("impatient")
async def test_a_frame_that_comes_a_byte_at_a_time(faked: Any, peers: Any) -> None:
    """A slow-loris would hold a big frame's memory for days."""
    slow = await peers.connect(faked)
    slow.writer.write(encode(c.UpdateTableEntries(1, SEGMENT, "", (), 0))[:4])
    slow.writer.write((1024 * 1024).to_bytes(4, "big"))
    closing = asyncio.ensure_future(slow.closed())
    sent = 0
    while not closing.done():
        slow.writer.write(b"x")
        sent += 1
        await asyncio.wait([closing], timeout=LOOK_S / 2)
    assert closing.result() == []
    assert sent > 1


@pytest.mark.usefixtures("impatient")
async def test_a_big_frame_over_a_slow_link_is_waited_for(
    faked: Any, peers: Any, block: Any
) -> None:
    """A writer on a slow link could never send a long event."""
    peer = await peers.connect(faked)
    await peer.create(SEGMENT)
    await peer.set_up(SEGMENT)
    frame = encode(block(1, bytes(PROGRESS_BYTES_MIN * 5)))
    start = asyncio.get_running_loop().time()
    for at in range(0, len(frame), PROGRESS_BYTES_MIN):
        peer.writer.write(frame[at : at + PROGRESS_BYTES_MIN])
        until = asyncio.get_running_loop().time() + SHORT_PATIENCE_S * 0.6
        await eventually(lambda until=until: asyncio.get_running_loop().time() >= until)
    assert asyncio.get_running_loop().time() - start > SHORT_PATIENCE_S * 2
    assert isinstance(await peer.reply(), c.DataAppended)


@pytest.mark.usefixtures("impatient")
async def test_an_idle_reader_is_not_cut_off(faked: Any, peers: Any) -> None:
    """Readers at the tail of a quiet stream would lose their connections every minute."""
    peer = await peers.connect(faked)
    await peer.create(SEGMENT)
    peer.send(*(c.ReadSegment(SEGMENT, 0, 100, "", number) for number in range(10)))
    until = asyncio.get_running_loop().time() + SHORT_PATIENCE_S * 3
    await eventually(lambda: asyncio.get_running_loop().time() >= until)
    assert await peer.is_silent()


@pytest.mark.usefixtures("impatient")
async def test_a_peer_that_never_reads(faked: Any, peers: Any, block: Any) -> None:
    """Its replies would lie in memory for as long as it pleases."""
    greedy, good = await peers.connect(faked), await peers.connect(faked)
    await good.create(SEGMENT)
    await good.set_up(SEGMENT)
    size = 2 * 1024 * 1024
    await good.ask(block(1, bytes(size)))
    greedy.writer.transport.pause_reading()
    greedy.send(*(c.ReadSegment(SEGMENT, 0, size, "", n) for n in range(20)))
    connection = connection_of(faked, greedy)
    await eventually(lambda: connection._transport.get_write_buffer_size() > 0)
    await eventually(lambda: faked.store.connections_count == 1)
    assert connection._transport is None
    await eventually(lambda: not connection._tasks)
    assert await good.is_silent()


@pytest.mark.usefixtures("impatient")
async def test_a_peer_that_reads_slowly_is_waited_for(faked: Any, peers: Any, block: Any) -> None:
    """A reader on a slow link would never see the end of a backlog."""
    slow = await peers.connect(faked)
    await slow.create(SEGMENT)
    await slow.set_up(SEGMENT)
    size = 2 * 1024 * 1024
    await slow.ask(block(1, bytes(size)))
    reads = 16
    slow.send(*(c.ReadSegment(SEGMENT, 0, size, "", n) for n in range(reads)))
    connection = connection_of(faked, slow)
    await eventually(lambda: connection._transport.get_write_buffer_size() > 0)
    for _ in range(reads):
        until = asyncio.get_running_loop().time() + SHORT_PATIENCE_S * 0.3
        await eventually(lambda until=until: asyncio.get_running_loop().time() >= until)
        assert len((await slow.reply()).data) == size


async def test_the_kernel_looks_for_peers_that_vanished(faked: Any, peers: Any) -> None:
    """A reader whose host lost power would be held for ever."""
    connection = connection_of(faked, await _known(peers, faked))
    kept = connection._transport.get_extra_info("socket")
    assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle_s = kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    every_s = kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
    count = kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
    assert idle_s + every_s * count <= 120
    assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 120_000


async def _known(peers: Any, faked: Any) -> Any:
    peer = await peers.connect(faked)
    assert await peer.is_silent()
    return peer


def test_a_debt_has_to_move_or_to_end() -> None:
    """Who moves too little in too long a time would never be cut off, or who moves enough."""
    debt = Impatience()
    assert not debt.is_over(True, 10, 0.0)
    assert not debt.is_over(True, 11, PATIENCE_S - 1)
    assert debt.is_over(True, 12, PATIENCE_S)

    moving = Impatience()
    for step in range(100):
        assert not moving.is_over(True, step * PROGRESS_BYTES_MIN, step * (PATIENCE_S - 1))

    paying = Impatience()
    for step in range(100):
        assert not paying.is_over(step % 2 == 0, 5, step * (PATIENCE_S - 1))
