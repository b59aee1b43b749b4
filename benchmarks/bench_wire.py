"""What the wire protocol costs per frame, without any socket.

    python benchmarks/bench_wire.py

Prints microseconds per frame for the commands of the data path, the best of five runs.
"""

import timeit
from collections.abc import Callable
from uuid import UUID

from anabranch_wire import commands as c
from anabranch_wire.assembler import AppendAssembler
from anabranch_wire.codec import decode_reply, decode_request, encode, encode_parts
from anabranch_wire.framing import FrameSplitter

WRITER = UUID(int=5)
SEGMENT = "scope/stream/0.#epoch.0"
RUNS_COUNT = 5


def measure(what: str, action: Callable[[], object], *, per: int = 1, number: int = 20_000) -> None:
    best = min(timeit.repeat(action, number=number, repeat=RUNS_COUNT)) / number / per
    print(f"{what:<48}{best * 1e6:10.2f} µs")


def receive(splitter: FrameSplitter, data: memoryview, step: int) -> list[tuple[int, c.Data]]:
    frames: list[tuple[int, c.Data]] = []
    at = 0
    while at < len(data):
        room = splitter.get_buffer()
        count = min(step, len(room), len(data) - at)
        room[:count] = data[at : at + count]
        frames += splitter.buffer_updated(count)
        at += count
    return frames


def small_appends() -> None:
    append = encode(c.AppendBlockEnd(WRITER, 100, bytes(100), 1, 5, 7))
    count = 400
    chunk = memoryview(append * count)
    splitter = FrameSplitter()
    assembler = AppendAssembler()
    assembler.handle(c.SetupAppend(1, WRITER, SEGMENT))

    def split() -> list[tuple[int, c.Data]]:
        return receive(splitter, chunk, len(chunk))

    def assemble() -> None:
        for code, payload in split():
            command = decode_request(code, payload)
            assert isinstance(command, c.AppendBlockEnd)
            assembler.handle(command)

    measure("append of 100 B: split", split, per=count, number=50)
    measure("append of 100 B: split, decode, assemble", assemble, per=count, number=50)


def big_append() -> None:
    size = 8 << 20
    frame = memoryview(encode(c.AppendBlockEnd(WRITER, size, bytes(size), 1, 5, 7)))
    measure(
        "append of 8 MiB in reads of 256 KiB: split",
        lambda: receive(FrameSplitter(), frame, 256 << 10),
        number=5,
    )


def single_commands() -> None:
    for command in (
        c.DataAppended(WRITER, 1, 2, 3, 4),
        c.SegmentRead(SEGMENT, 5, True, False, bytes(1000), 7),
        c.SegmentRead(SEGMENT, 5, True, False, bytes(1 << 20), 7),
        c.StreamSegmentInfo(1, SEGMENT, True, False, False, 1, 2, 3),
    ):
        name = f"{type(command).__name__} of {len(encode(command))} B"
        measure(f"{name}: encode", lambda command=command: encode_parts(command))
    for request in (
        c.ReadSegment(SEGMENT, 5, 1 << 20, "", 7),
        c.CreateSegment(1, SEGMENT, 0, 0),
        c.UpdateTableEntries(1, SEGMENT, "", (c.TableEntry(c.TableKey(b"key"), b"value"),)),
    ):
        frame = encode(request)
        code, payload = int.from_bytes(frame[:4], "big", signed=True), frame[8:]
        measure(
            f"{type(request).__name__}: decode",
            lambda code=code, payload=payload: decode_request(code, payload),
        )
    reply = encode(c.SegmentRead(SEGMENT, 5, True, False, bytes(1 << 20), 7))[8:]
    measure("SegmentRead of 1 MiB: decode", lambda: decode_reply(10, memoryview(reply)))


if __name__ == "__main__":
    small_appends()
    big_append()
    single_commands()
