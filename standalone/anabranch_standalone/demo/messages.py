"""What the writer and the readers of the demo are told, and what they say: JSON, a line each.

They are processes of their own, because a call of the client package can keep Python's
global lock for a while.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import msgspec


class WriterOrder(msgspec.Struct, frozen=True):
    """`plan` is a file with the trips (MessagePack); `event_length_bytes` fills each event up."""

    controller: str
    scope: str
    stream: str
    plan: str
    seconds: float
    event_length_bytes: int
    seed: int


class ReaderOrder(msgspec.Struct, frozen=True):
    controller: str
    scope: str
    stream: str
    group: str
    reader: str


class WriterStarted(msgspec.Struct, frozen=True, tag=True):
    started_ms: int


class WriterProgress(msgspec.Struct, frozen=True, tag=True):
    """`behind_s` is how far the writer lags behind its plan, in real seconds."""

    events_count: int
    length_bytes: int
    taxi_s: float
    behind_s: float


class WriterDone(msgspec.Struct, frozen=True, tag=True):
    """All is acknowledged; `counts` has the number of events of each key."""

    counts: dict[str, int]
    length_bytes: int


class ReaderReady(msgspec.Struct, frozen=True, tag=True):
    reader: str


class Run(msgspec.Struct, frozen=True, array_like=True):
    """A reader saw the events `first` to `last` of a key, one after the other.

    Times are nanoseconds of the machine's monotonic clock, which all its processes share.
    """

    key: str
    first: int
    last: int
    first_ns: int
    last_ns: int


class ReaderProgress(msgspec.Struct, frozen=True, tag=True):
    """`garbled_count`: events that were not readable as what the writer wrote."""

    reader: str
    events_count: int
    length_bytes: int
    garbled_count: int
    runs: list[Run]


class Failed(msgspec.Struct, frozen=True, tag=True):
    who: str
    reason: str


Message = WriterStarted | WriterProgress | WriterDone | ReaderReady | ReaderProgress | Failed


def leave(status: int) -> NoReturn:
    """End this process without the interpreter's own end.

    Threads of the client package still run then, and now and then one of them finds the
    interpreter gone and aborts the process ("exception not rethrown").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Mouth:
    """Where a process says its messages: what was standard output when it began.

    Standard output itself becomes standard error, for the client package logs to it.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(self, message: Message) -> None:
        """One line, at once."""
        self._out.write(msgspec.json.encode(message) + b"\n")
        self._out.flush()
