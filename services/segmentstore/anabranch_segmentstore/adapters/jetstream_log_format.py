"""The messages of a JetStreamLog, and which of them belong to the log. No IO.

A container's log is one JetStream stream, and its messages are written by owners that come one
after another. An owner *mints* its epoch by an epoch record; the record's sequence in the stream
is the epoch's number, so no two are equal and each is greater than those before it.

**Why a take-over is followed by a fence zone.** Every publish carries the expected last sequence.
That alone does not stop an older owner that has several messages under way: the epoch record
takes the place of the first of them, which is refused, but the second expected just that sequence
and is stored behind the record (tried, on one server and on three). So an owner has at most
`FENCE_MESSAGES` messages without an answer, and after an epoch record the next `FENCE_MESSAGES`
places belong to nobody: the new owner fills those that stragglers left, and everybody ignores
what lies there. No older owner has anything under way for a place behind the zone, so from there
on the expected sequence fences: whoever is refused has lost.

**What belongs to the log** is hence told by places alone (`regions`): a message belongs to the
newest epoch record below it, unless it lies in that record's zone. A message elsewhere
that names another epoch or another place was not written by this program: damage, not something
to ignore.

A frame spans as many consecutive messages as it needs. A run without its last message was never
acknowledged; it can only be the last thing of an epoch, and is discarded there.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import google_crc32c

from anabranch_segmentstore.ports import Frame, LogDamaged, LogPosition

MAGIC: Final = b"ABJ1"  # "Anabranch log in JetStream", version 1 of the format
FENCE_MESSAGES: Final = 64
"""Part of the format: writers of all releases must agree on it (see the module's docstring)."""

_HEADER: Final = struct.Struct("<4sIBB2xIIQQQQQQQ4x")
_CHECKED_FROM: Final = 8  # magic and checksum are in front of what the checksum covers
HEADER_BYTES: Final = _HEADER.size
assert HEADER_BYTES == 80

_LAST: Final = 1  # flag: the frame ends with this message


class Kind(enum.IntEnum):
    EPOCH = 1  # a new owner; the body is its nonce and its name
    FENCE = 2  # fills a place of a fence zone
    FRAME = 3
    SNAPSHOT = 4  # a frame that makes the earlier ones unnecessary for recovery
    TRUNCATE = 5  # `kept_from` has moved; what lies below it may be purged now
    RELEASE = 6  # a clean close: the owner has nothing under way any more
    HEARTBEAT = 7  # an idle owner finds out that it still is the owner


FRAMES: Final = frozenset({Kind.FRAME, Kind.SNAPSHOT})


class Stamp(NamedTuple):
    """What a message says of itself.

    `place` is the sequence that it was written for, `position` that of its frame (for other
    kinds: of the newest frame), `part` its ordinal among the frame's messages and `offset` where
    its bytes lie in the frame. `snapshot` is the
    place and `snapshot_position` the position of the newest snapshot below it, 0 without one.
    Every message from `kept_from` on must be there. `checksum` covers all of it and the body.
    """

    kind: Kind
    is_last: bool
    container: int
    part: int
    epoch: int
    place: int
    position: int
    offset: int
    snapshot: int
    snapshot_position: int
    kept_from: int
    checksum: int = 0


class Broken(Exception):
    """These bytes are no intact message of a log."""


class StreamDamaged(LogDamaged):
    """Damage in a stream, named by stream and sequence."""

    def __init__(self, container: int, stream: str, sequence: int, reason: str) -> None:
        super().__init__(container, stream, sequence, reason)
        self.args = (
            f"container {container}: damaged log: JetStream stream {stream}, message {sequence}: "
            f"{reason}. Nothing was changed. Restore the stream from a backup (nats stream "
            "restore), or delete the stream to give up what is not in tier 2 yet.",
        )


# --- Writing and reading one message -------------------------------------------------------------


def encode(stamp: Stamp, body: Sequence[bytes | memoryview]) -> tuple[bytes, int]:
    """The message and its checksum; `body` in pieces, which are copied together once."""
    bare = _HEADER.pack(
        MAGIC,
        0,
        stamp.kind,
        stamp.is_last * _LAST,
        *stamp[2:-1],
    )[_CHECKED_FROM:]
    joined = b"".join([bare, *body])
    checksum: int = google_crc32c.value(joined)
    return b"".join([MAGIC, checksum.to_bytes(4, "little"), joined]), checksum


def decode(message: bytes) -> tuple[Stamp, memoryview]:
    """Stamp and body of an intact message; raises Broken."""
    if len(message) < HEADER_BYTES or message[:4] != MAGIC:
        raise Broken("it is no message of a log")
    _, checksum, kind, flags, *numbers = _HEADER.unpack_from(message)
    if google_crc32c.value(message[_CHECKED_FROM:]) != checksum:
        raise Broken("its checksum is wrong")
    try:
        known = Kind(kind)
    except ValueError:
        raise Broken(f"its kind {kind} is unknown to this release") from None
    stamp = Stamp._make([known, bool(flags & _LAST), *numbers, checksum])
    return stamp, memoryview(message)[HEADER_BYTES:]


def encode_owner(nonce: bytes, owner: str) -> bytes:
    assert len(nonce) == 16, "a UUID's bytes"
    return nonce + owner.encode()[:1024]


def decode_owner(body: bytes | memoryview) -> tuple[bytes, str]:
    return bytes(body[:16]), bytes(body[16:]).decode(errors="replace")


# --- Which messages belong to the log -----------------------------------------------------------


class Region(NamedTuple):
    """Consecutive places of one epoch, its fence zone left out. Once trimmed, it ends with a
    complete frame or a mark, and `position` is that of its newest frame."""

    epoch: int
    first: int
    last: int
    position: int = 0


def regions(records: Sequence[int], *, first: int, last: int, oldest: int) -> list[Region]:
    """Where frames and marks lie in a stream of the messages `first` to `last`, in order.

    `records` are the places of its epoch records, `oldest` the epoch of its first message, whose
    record may have been purged.
    """
    assert list(records) == sorted(set(records)), "in the stream's order"
    epochs = [oldest, *records] if oldest < first else list(records)
    ends = [*(epoch - 1 for epoch in epochs[1:]), last]
    found = (
        Region(epoch, max(epoch + FENCE_MESSAGES + 1, first), end)
        for epoch, end in zip(epochs, ends, strict=True)
    )
    return [region for region in found if region.first <= region.last]


def trimmed(region: Region, newest: Stamp) -> Region | None:
    """The region without the run that its owner did not finish; `newest` is its last message.
    None when nothing else is in it. Raises Broken."""
    if newest.kind not in FRAMES or newest.is_last:
        return region._replace(position=newest.position)
    last = newest.place - newest.part - 1
    if last < region.first - 1:
        raise Broken("it belongs to a frame that began in another epoch")
    return (
        region._replace(last=last, position=newest.position - 1) if last >= region.first else None
    )


def check(stamp: Stamp, *, container: int, place: int, epoch: int) -> None:
    """That an intact message is what must be at its place; raises Broken."""
    if stamp.place != place:
        raise Broken(f"it was written for place {stamp.place}")
    if stamp.container != container:
        raise Broken(f"it was written for container {stamp.container}")
    if stamp.epoch != epoch:
        raise Broken(f"it is of epoch {stamp.epoch}; only epoch {epoch} may write here")


# --- From messages to frames ---------------------------------------------------------------------


class Assembler:
    """Puts frames together out of the checked messages of trimmed regions, in order.

    `expected` is the position that must come first.
    """

    def __init__(self, *, expected: int) -> None:
        self._expected = expected
        self._bodies: list[memoryview] = []
        self._length = 0

    def feed(self, stamp: Stamp, body: memoryview) -> tuple[Frame, int] | None:
        """The frame that this message completes, and the place of its first message. Raises
        Broken."""
        if stamp.kind not in FRAMES:
            if self._bodies:
                raise Broken(f"it interrupts frame {self._expected}")
            return None
        if stamp.position != self._expected:
            raise Broken(f"it is of frame {stamp.position}, expected is {self._expected}")
        if stamp.part != len(self._bodies) or stamp.offset != self._length:
            raise Broken(f"part {stamp.part} of its frame cannot follow {len(self._bodies)} parts")
        self._bodies.append(body)
        self._length += len(body)
        if not stamp.is_last:
            return None
        payload = bytes(body) if stamp.part == 0 else b"".join(self._bodies)
        self._bodies, self._length = [], 0
        self._expected += 1
        frame = Frame(LogPosition(stamp.position), stamp.kind is Kind.SNAPSHOT, payload)
        return frame, stamp.place - stamp.part
