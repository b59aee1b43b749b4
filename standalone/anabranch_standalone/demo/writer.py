"""The demo's writer: `python -m anabranch_standalone.demo.writer ORDER`, a process of its own.

Follows the plan by the clock: whatever is due is written, and when the cluster cannot take it
as fast, the writer falls behind and catches up. Says how far it is twice a second, after a
flush, so that what it calls written is acknowledged.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from anabranch_standalone.demo.messages import (
    Failed,
    Mouth,
    WriterDone,
    WriterOrder,
    WriterProgress,
    WriterStarted,
    leave,
)
from anabranch_standalone.demo.nightclock import NIGHT_S, label
from anabranch_standalone.demo.trips import Trip

INFLIGHT_EVENTS_MAX: Final = 5_000
REPORT_INTERVAL_S: Final = 0.5
PAUSE_S: Final = 0.01


class TripEvent(msgspec.Struct, frozen=True):
    """What is written: `number` counts the trips of this place."""

    place: str
    number: int
    trip: int
    pickup: str
    passengers: int
    miles: float
    fare: float
    receipt: str = ""


def make_event(trip: Trip, number: int, index: int, length_bytes: int, rng: random.Random) -> bytes:
    """A trip as JSON of `length_bytes`, if that is enough to hold it."""
    miles = round(rng.lognormvariate(0.7, 0.7), 2)
    event = TripEvent(
        place=trip.place,
        number=number,
        trip=index,
        pickup=label(trip.at_s),
        passengers=rng.choice((1, 1, 1, 1, 2, 2, 3, 5)),
        miles=miles,
        fare=round(2.5 + 2.5 * miles, 2),
    )
    missing = length_bytes - len(msgspec.json.encode(event))
    if missing > 0:
        event = msgspec.structs.replace(event, receipt="-" * missing)
    return msgspec.json.encode(event)


def write(order: WriterOrder, mouth: Mouth) -> None:
    import pravega_client

    trips = msgspec.msgpack.decode(Path(order.plan).read_bytes(), type=list[Trip])
    manager = pravega_client.StreamManager(order.controller)
    writer = manager.create_writer(order.scope, order.stream, INFLIGHT_EVENTS_MAX)
    rng, speed = random.Random(order.seed), NIGHT_S / order.seconds
    numbers: Counter[str] = Counter()
    length_bytes, index = 0, 0
    mouth.say(WriterStarted(started_ms=time.time_ns() // 1_000_000))
    started_s = time.monotonic()
    reported_s = started_s
    while index < len(trips):
        due_s = (time.monotonic() - started_s) * speed
        while index < len(trips) and trips[index].at_s <= due_s:
            trip = trips[index]
            event = make_event(trip, numbers[trip.place], index, order.event_length_bytes, rng)
            writer.write_event_bytes(event, trip.place)
            numbers[trip.place] += 1
            length_bytes += len(event)
            index += 1
            if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
                break
        now_s = time.monotonic()
        if now_s - reported_s >= REPORT_INTERVAL_S:
            reported_s = now_s
            writer.flush()
            taxi_s = trips[min(index, len(trips) - 1)].at_s
            behind_s = max(0.0, (now_s - started_s) - taxi_s / speed)
            mouth.say(WriterProgress(index, length_bytes, taxi_s, behind_s))
        else:
            time.sleep(PAUSE_S)
    writer.flush()
    mouth.say(WriterDone(counts=dict(numbers), length_bytes=length_bytes))


def main() -> int:
    order, mouth = msgspec.json.decode(sys.argv[1], type=WriterOrder), Mouth()
    try:
        write(order, mouth)
    except (ValueError, OSError) as error:  # what the client package raises for a lost cluster
        mouth.say(Failed(who="the writer", reason=str(error)))
        return 1
    return 0


if __name__ == "__main__":
    leave(main())
