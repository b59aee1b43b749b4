"""Cuts a stream of bytes into frames, in memory that is bounded by the names below.

Made for `asyncio.BufferedProtocol`, without importing asyncio: the event loop asks for
`get_buffer`, lets the kernel write into it, and tells `buffer_updated` how much arrived.
Clients and tests may call `receive` with bytes instead.

Who owns the memory of a payload: the consumer, for as long as it likes. A payload that arrived
whole within the receive buffer, up to SMALL_PAYLOAD_BYTES_MAX, is a `bytes` object of its own.
A bigger one is received into a buffer made for this frame alone and handed out as a read-only
memoryview of it; nothing here touches that buffer again. So keeping an append until it is
durable costs the append and nothing around it, and big data is never copied.

The buffer of a big frame grows with what has arrived, not with what the header announced: who
announces 16 MiB and sends nothing costs one receive buffer. Who has sent a big frame to its end
is believed as much the next time, so that in a stream of big frames nothing is copied.

A violation raises a ProtocolError. Frames that came whole before it in the same read are then
not handed out: Pravega does not answer a good request in front of a bad one either. After that
the splitter is of no further use and raises the same error again.
"""

from struct import Struct
from typing import Final, NamedTuple

from anabranch_wire.commands import Data
from anabranch_wire.constants import FRAME_HEADER_BYTES, PAYLOAD_BYTES_MAX
from anabranch_wire.errors import FrameTooLong, NegativeFrameLength, ProtocolError

RECEIVE_BUFFER_BYTES: Final = 64 * 1024  # per connection; one read of the kernel
SMALL_PAYLOAD_BYTES_MAX: Final = 16 * 1024  # copied out of the receive buffer
GROWTH_FACTOR: Final = 4  # of a big frame's buffer: at most a third is copied again

_HEADER = Struct(">ii")

assert SMALL_PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES <= RECEIVE_BUFFER_BYTES


class Frame(NamedTuple):
    """A whole frame; what `codec.decode` takes."""

    code: int
    payload: Data


class _BigFrame:
    """A frame on its way into a buffer of its own."""

    __slots__ = ("buffer", "code", "filled", "length", "view")

    def __init__(self, code: int, length: int, beginning: memoryview, believed: int) -> None:
        self.code, self.length, self.filled = code, length, len(beginning)
        self.buffer = bytearray(min(length, believed))
        self.view = memoryview(self.buffer)
        self.view[: self.filled] = beginning

    def room(self) -> memoryview:
        """Where the next bytes go: at least one, and none of the next frame."""
        if self.filled == len(self.buffer):
            grown = bytearray(min(self.length, self.filled * GROWTH_FACTOR))
            grown[: self.filled] = self.buffer
            self.buffer, self.view = grown, memoryview(grown)
        return self.view[self.filled :]

    def frame(self) -> Frame:
        return Frame(self.code, self.view.toreadonly())


class FrameSplitter:
    """One direction of one connection.

    Memory: RECEIVE_BUFFER_BYTES, and while a big frame is on its way at most its length and,
    for the moment of growing, a quarter of it again. Of what only was announced: no more than
    the last big frame was long.
    """

    __slots__ = (
        "_believed",
        "_big",
        "_buffer",
        "_end",
        "_failure",
        "_payload_bytes_max",
        "_start",
        "_view",
    )

    def __init__(self, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._buffer = bytearray(RECEIVE_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0  # of the first byte that belongs to no frame yet
        self._end = 0  # of what has arrived
        self._big: _BigFrame | None = None
        self._believed = RECEIVE_BUFFER_BYTES  # of an announced length, before it arrives
        self._failure: ProtocolError | None = None

    def get_buffer(self, size_hint: int = -1) -> memoryview:
        """Where the next bytes of the connection go; never empty."""
        if self._big is not None:
            return self._big.room()
        return self._view[self._end :]

    def buffer_updated(self, count: int) -> list[Frame]:
        """`count` bytes were written into `get_buffer()`: the frames that are whole now."""
        if self._failure is not None:
            raise self._failure
        big = self._big
        if big is not None:
            big.filled += count
            if big.filled < big.length:
                return []
            self._big = None
            self._believed = max(RECEIVE_BUFFER_BYTES, big.length)
            return [big.frame()]
        self._end += count
        try:
            return self._split()
        except ProtocolError as failure:
            self._failure = failure
            raise

    def receive(self, data: Data) -> list[Frame]:
        """`data` came from the connection: the frames that are whole now."""
        frames: list[Frame] = []
        rest = memoryview(data)
        while rest:
            room = self.get_buffer()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            frames += self.buffer_updated(count)
            rest = rest[count:]
        return frames

    @property
    def is_between_frames(self) -> bool:
        """Has no part of a frame arrived? Then an end of the connection cuts nothing off."""
        return self._big is None and self._start == self._end

    @property
    def unfinished_bytes(self) -> int:
        """How much has arrived of the frame that is on its way, its header left out if it is big;
        grows until the frame is whole."""
        return self._end - self._start if self._big is None else self._big.filled

    def _split(self) -> list[Frame]:
        view, start, end = self._view, self._start, self._end
        frames: list[Frame] = []
        while end - start >= FRAME_HEADER_BYTES:
            code, length = _HEADER.unpack_from(view, start)
            if not 0 <= length <= self._payload_bytes_max:
                raise self._bad_length(code, length)
            behind = start + FRAME_HEADER_BYTES + length
            if length > SMALL_PAYLOAD_BYTES_MAX:
                arrived = view[start + FRAME_HEADER_BYTES : min(behind, end)]
                big = _BigFrame(code, length, arrived, self._believed)
                if behind > end:
                    self._big, start = big, end
                    break
                frames.append(big.frame())
            elif behind > end:
                break
            else:
                frames.append(Frame(code, view[start + FRAME_HEADER_BYTES : behind].tobytes()))
            start = behind
        self._start = start
        self._make_room()
        return frames

    def _make_room(self) -> None:
        """Move what is left to the front: less than one small frame."""
        left = self._end - self._start
        assert left < FRAME_HEADER_BYTES + SMALL_PAYLOAD_BYTES_MAX, "a whole frame was left"
        if self._start:
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left

    def _bad_length(self, code: int, length: int) -> ProtocolError:
        if length < 0:
            return NegativeFrameLength(code, length)
        return FrameTooLong(code, length, self._payload_bytes_max)
