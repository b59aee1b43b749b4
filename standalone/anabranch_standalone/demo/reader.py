"""A reader of the demo: `python -m anabranch_standalone.demo.reader ORDER`, a process of its own.

Reads as a member of a reader group until its standard input is closed, and reports the runs of
numbers that it saw (see `verify`) twice a second.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from anabranch_standalone.demo.messages import (
    Failed,
    Mouth,
    ReaderOrder,
    ReaderProgress,
    ReaderReady,
    Run,
    leave,
)
from anabranch_standalone.demo.writer import TripEvent

REPORT_INTERVAL_S: Final = 0.5
# release_segment keeps the GIL and waits for the library's threads, and one of those may be
# waiting for the GIL to end the read before it: both would stand still for 30 s.
RELEASE_PAUSE_S: Final = 0.001
NOTHING_PAUSE_S: Final = 0.05


@dataclass(slots=True)
class Runs:
    """Puts what was read together to runs. `taken` empties it."""

    open: dict[str, Run] = field(default_factory=dict)
    closed: list[Run] = field(default_factory=list)

    def add(self, key: str, number: int, now_ns: int) -> None:
        run = self.open.get(key)
        if run is not None and number == run.last + 1:
            self.open[key] = Run(key, run.first, number, run.first_ns, now_ns)
            return
        if run is not None:
            self.closed.append(run)
        self.open[key] = Run(key, number, number, now_ns, now_ns)

    def taken(self) -> list[Run]:
        runs = [*self.closed, *self.open.values()]
        self.closed, self.open = [], {}
        return runs


class TripReader:
    def __init__(self, order: ReaderOrder) -> None:
        self.order = order
        self.runs = Runs()
        self.events_count = self.length_bytes = self.garbled_count = 0
        self._decoder = msgspec.json.Decoder(TripEvent)

    async def read(self, reader: Any) -> None:
        """Read for ever."""
        while True:
            segment_slice = await reader.get_segment_slice_async()
            if segment_slice is None:  # no segment is this reader's share just now
                await asyncio.sleep(NOTHING_PAUSE_S)
                continue
            for event in segment_slice:
                self.take(bytes(event.data()))
            await asyncio.sleep(RELEASE_PAUSE_S)
            reader.release_segment(segment_slice)

    def take(self, data: bytes) -> None:
        self.events_count += 1
        self.length_bytes += len(data)
        try:
            event = self._decoder.decode(data)
        except msgspec.DecodeError:
            self.garbled_count += 1
        else:
            self.runs.add(event.place, event.number, time.monotonic_ns())

    def report(self) -> ReaderProgress:
        return ReaderProgress(
            self.order.reader,
            self.events_count,
            self.length_bytes,
            self.garbled_count,
            self.runs.taken(),
        )


async def serve(order: ReaderOrder, mouth: Mouth) -> None:
    import pravega_client

    manager = pravega_client.StreamManager(order.controller)
    group = manager.create_reader_group(order.group, order.scope, order.stream, False)
    reader = group.create_reader(order.reader)
    mouth.say(ReaderReady(order.reader))
    trips = TripReader(order)
    reading = asyncio.create_task(trips.read(reader))
    asked_to_stop = asyncio.create_task(_end_of_input())
    while not asked_to_stop.done() and not reading.done():
        await asyncio.wait([asked_to_stop, reading], timeout=REPORT_INTERVAL_S)
        mouth.say(trips.report())
    if reading.done():
        await reading  # raises what ended it
    reading.cancel()
    asked_to_stop.cancel()


async def _end_of_input() -> None:
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    await stream.read()


def main() -> int:
    order, mouth = msgspec.json.decode(sys.argv[1], type=ReaderOrder), Mouth()
    try:
        asyncio.run(serve(order, mouth))
    except (ValueError, OSError) as error:  # what the client package raises for a lost cluster
        mouth.say(Failed(who=order.reader, reason=str(error)))
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
