"""TCP in virtual time: connections with delays, cuts, stalls and silence, as asyncio transports.

Bytes of one direction arrive in order, in pieces, each after a delay of its own; connections
overtake each other. What a client gave up may still reach the server later (faults F33).

* `cut`: one end learns of it now, the other after what is on its way has arrived.
* `block`: between two processes nothing arrives until a given time; TCP sends it again then.
* `vanish`: the host of a process is gone without a word; its peers hear nothing, ever.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anabranch_testkit.simulation.loop import Process, SimulatedLoop

DELAY_S = (0.0001, 0.002)
LATE_S = (0.01, 0.4)
LAG_SHARE = 0.3
WRITE_BUFFER_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 30.0

Factory = Callable[[], asyncio.BaseProtocol]


class Network:
    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._listening: dict[tuple[str, int], tuple[Factory, Process]] = {}
        self._blocked: dict[frozenset[str], float] = {}
        self._links_count = 0
        self.late_share = 0.02
        self.ends: list[SimulatedTransport] = []

    def listen(self, process: Process, factory: Factory, host: str, port: int) -> None:
        self._listening[host, port] = factory, process

    async def connect(
        self, process: Process, factory: Factory, host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Raises ConnectionRefusedError; waits where nobody answers."""
        self._links_count += 1
        chance = random.Random(f"{self._loop.seed}/link/{self._links_count}")
        await asyncio.sleep(chance.uniform(*DELAY_S))
        heard = self._listening.get((host, port))
        if heard is None or not heard[1].is_alive:
            raise ConnectionRefusedError(111, f"nobody listens on {host}:{port}")
        make, server = heard
        wait_s = self.blocked_until(process, server) - self._loop.time()
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, CONNECT_TIMEOUT_S))
        if not server.is_alive or self._listening.get((host, port)) != heard:
            raise ConnectionRefusedError(111, f"nobody listens on {host}:{port}")
        protocol = factory()
        here = SimulatedTransport(self, process, protocol, chance, (host, port))
        there = SimulatedTransport(self, server, None, chance, (process.name, self._links_count))
        here.peer, there.peer = there, here
        self.ends += [here, there]
        self._loop.call_soon(there.accept, make, context=server.context)
        protocol.connection_made(here)
        return here, protocol

    # --- Faults ---

    def blocked_until(self, one: Process, other: Process) -> float:
        return self._blocked.get(frozenset((one.name, other.name)), 0.0)

    def block(self, one: str, other: str, seconds: float) -> None:
        self._blocked[frozenset((one, other))] = self._loop.time() + seconds

    def heal(self) -> None:
        self._blocked.clear()
        self.late_share = 0.0

    def cut(self, ends: Iterable[SimulatedTransport]) -> None:
        for end in list(ends):
            end.reset("cut by the network")

    def died(self, process: Process, *, vanished: bool = False) -> None:
        """The kernel of a dead process's host resets its connections, unless the host is gone."""
        for key, (_, listener) in list(self._listening.items()):
            if listener is process:
                del self._listening[key]
        for end in self.of(process):
            end.is_open = False
            self._forget(end)
            if end.peer is not None and end.peer.is_open and not vanished:
                end.peer.hear_end(ConnectionResetError(104, "reset by the peer"))

    def of(self, process: Process) -> list[SimulatedTransport]:
        return [end for end in self.ends if end.process is process]

    def _forget(self, end: SimulatedTransport) -> None:
        if end in self.ends:
            self.ends.remove(end)

    @property
    def loop(self) -> SimulatedLoop:
        return self._loop


class SimulatedTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(
        self,
        network: Network,
        process: Process,
        protocol: asyncio.BaseProtocol | None,
        chance: random.Random,
        peer_name: tuple[str, int],
    ) -> None:
        super().__init__({"peername": peer_name})
        self._network, self._loop = network, network.loop
        self.process, self.protocol = process, protocol
        self.peer: SimulatedTransport | None = None
        self.is_open = True
        self._chance = chance
        self._under_way: deque[bytes | Exception | None] = deque()  # to the peer
        self._arrives_at = 0.0  # the newest of them
        self._lags_until = 0.0
        self._inbox: deque[bytes | Exception | None] = deque()
        self._is_reading = True
        self._is_closing = False
        self._is_full = False
        self._high = WRITE_BUFFER_BYTES

    # --- asyncio's interface ---

    def accept(self, factory: Factory) -> None:
        if self.is_open:
            self.protocol = factory()
            self.protocol.connection_made(self)
            self._hand_over()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or not self.is_open or not data:
            return
        self._send(bytes(data))
        if not self._is_full and self._buffered > self._high:
            self._is_full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """What was written still arrives."""
        if not self._is_closing:
            self._is_closing = True
            self._send(None)
            self._loop.call_soon(self._lost, None)

    def abort(self) -> None:
        self.reset("aborted")

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._loop.call_soon(self._hand_over)

    def is_reading(self) -> bool:
        return self._is_reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = WRITE_BUFFER_BYTES if high is None else high

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    # --- The way there ---

    @property
    def _protocol(self) -> Any:
        assert self.protocol is not None, "accepted before it is used"
        return self.protocol

    @property
    def _buffered(self) -> int:
        waiting = [*self._under_way, *(self.peer._inbox if self.peer else ())]
        return sum(len(piece) for piece in waiting if isinstance(piece, bytes))

    def _send(self, piece: bytes | Exception | None) -> None:
        assert self.peer is not None, "both ends are made together"
        now = self._loop.time()
        late = self._chance.random() < self._network.late_share
        delay = self._chance.uniform(*(LATE_S if late else DELAY_S))
        blocked = self._network.blocked_until(self.process, self.peer.process)
        self._arrives_at = max(self._arrives_at, max(now, blocked) + delay)
        self._under_way.append(piece)
        # The receiving kernel takes it, whatever its process does.
        context = self._network.loop.kernel
        self._loop.call_at(self._arrives_at, self._arrived, context=context)

    def _arrived(self) -> None:
        if self._loop.time() < self._lags_until:
            self._loop.call_at(self._lags_until, self._arrived, context=self._network.loop.kernel)
            return
        piece, peer = self._under_way.popleft(), self.peer
        assert peer is not None, "both ends are made together"
        if not peer.is_open:
            return  # its host said so when it closed, or is gone without a word
        peer._inbox.append(piece)
        self._loop.call_soon(peer._hand_over, context=peer.process.context)

    def hear_end(self, error: Exception | None) -> None:
        """The other end is gone; said behind what is on its way from there."""
        assert self.peer is not None, "both ends are made together"
        self.peer._send(error)

    def reset(self, reason: str) -> None:
        """This end is gone now; what is on its way still arrives, then the other hears of it."""
        if not self.is_open:
            return
        self._is_closing = True
        if self._chance.random() < LAG_SHARE and self._network.late_share > 0:
            # A lost packet: what was sent before it arrives long after the sender gave up.
            self._lags_until = self._loop.time() + self._chance.uniform(0.0, 0.5)
        self._send(ConnectionResetError(104, reason))
        self._loop.call_soon(
            self._lost, ConnectionAbortedError(103, reason), context=self.process.context
        )

    def _lost(self, error: Exception | None) -> None:
        if self.is_open:
            self.is_open = False
            self._is_closing = True
            self._inbox.clear()
            self._network._forget(self)
            if self.protocol is not None:
                self.protocol.connection_lost(error)

    # --- Reading ---

    def _hand_over(self) -> None:
        while self._inbox and self._is_reading and self.is_open and self.protocol is not None:
            piece = self._inbox.popleft()
            if isinstance(piece, bytes):
                self._feed(piece)
                self._has_room()
            else:
                if piece is None:
                    self._protocol.eof_received()
                self._is_closing = True
                self._lost(piece)

    def _has_room(self) -> None:
        peer = self.peer
        if peer is not None and peer._is_full and peer._buffered <= peer._high // 4:
            peer._is_full = False
            self._loop.call_soon(peer._resume_writing, context=peer.process.context)

    def _resume_writing(self) -> None:
        if self.is_open:
            self._protocol.resume_writing()

    def _feed(self, data: bytes) -> None:
        cut = self._chance.randrange(len(data) + 1) if self._chance.random() < 0.2 else len(data)
        for piece in (data[:cut], data[cut:]):
            rest = memoryview(piece)
            while rest and self.is_open:
                room = self._protocol.get_buffer(-1)
                count = min(len(room), len(rest))
                room[:count] = rest[:count]
                rest = rest[count:]
                self._protocol.buffer_updated(count)


def is_arrival(handle: asyncio.Handle) -> bool:
    """Is it the callback that hands arrived bytes over?"""
    callback = handle._callback  # type: ignore[attr-defined]
    return getattr(callback, "__func__", None) is SimulatedTransport._hand_over
