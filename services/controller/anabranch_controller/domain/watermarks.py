"""Watermarks: up to which time everything has been written, and where in the stream that is.

Writers note their times with their positions. A *watermark* has the earliest and the latest
time of the active writers and a cut that lies behind the positions of all of them, so that
a reader that has passed the cut has seen everything that was written up to the earlier time
(reference, 8).

A writer *takes part* in the next watermark when its time is beyond the lower bound of the
previous one. One that does not is waited for as long as the stream's aggregation timeout
says, then it is forgotten, and comes back with its next note.

Watermarks are kept as events in a stream of their own, in the encoding of Pravega's
`Watermark` (reference, appendix A), because its readers decode them themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec
from anabranch_events.model import SegmentRange

from anabranch_controller.domain.cuts import Cut
from anabranch_controller.domain.history import find_segment, ordered
from anabranch_controller.domain.key_ranges import holes, overlapping
from anabranch_controller.domain.stream import Stream, WriterMark


class Watermark(msgspec.Struct, frozen=True):
    """Times are the writers' own. `cut` is in order of the key and covers it."""

    lower: int
    upper: int
    cut: tuple[tuple[SegmentRange, int], ...]

    @property
    def offsets(self) -> dict[int, int]:
        return {segment.id: offset for segment, offset in self.cut}


class Decision(NamedTuple):
    """`forget` are the writers that no longer count; `silent_since_s` are those waited for."""

    watermark: Watermark | None
    forget: dict[str, WriterMark]
    silent_since_s: dict[str, float]


def decide(
    stream: Stream,
    previous: Watermark | None,
    silent_since_s: Mapping[str, float],
    *,
    now_s: float,
) -> Decision:
    """`silent_since_s` is that of the decision before; `now_s` is of the same monotonic clock."""
    timeout_s = stream.config.timestamp_aggregation_timeout_ms / 1000
    active: list[WriterMark] = []
    forget: dict[str, WriterMark] = {}
    silent: dict[str, float] = {}
    for name, mark in stream.writers.items():
        if previous is None or mark.timestamp > previous.lower:
            active.append(mark)
            continue
        since_s = silent_since_s.get(name, now_s)
        if mark.alive and now_s - since_s < timeout_s:
            silent[name] = since_s
        else:
            forget[name] = mark
    if silent or not active:
        return Decision(None, forget, silent)
    before = [] if previous is None else [previous.offsets]
    watermark = Watermark(
        lower=min(mark.timestamp for mark in active),
        upper=max(mark.timestamp for mark in active),
        cut=cut_behind(stream, [*(mark.position for mark in active), *before]),
    )
    return Decision(watermark, forget, silent)


# --- the cut -----------------------------------------------------------------------------


def cut_behind(stream: Stream, positions: Iterable[Cut]) -> tuple[tuple[SegmentRange, int], ...]:
    """A cut of the whole key space that is behind all positions, in order of the key.

    Who is in a segment has passed all that it overlaps in earlier epochs. Positions need not
    cover the key space; what they leave free is filled from the newest epoch among them.
    Segments that the stream never had are left out.
    """
    epochs = stream.epochs
    offsets: dict[int, int] = {}
    seen: dict[int, SegmentRange] = {}
    for position in positions:
        for identity, offset in position.items():
            segment = find_segment(epochs, identity)
            if segment is not None:
                seen[identity] = segment
                offsets[identity] = max(offset, offsets.get(identity, 0))
    newest = max((segment.epoch for segment in seen.values()), default=stream.current)
    kept = _newest(seen.values())
    while free := holes(ordered(kept)):
        for hole in free:
            for segment in overlapping(epochs[newest].segments, hole):
                seen[segment.id] = segment
        kept = _newest(seen.values())
    return tuple((segment, offsets.get(segment.id, 0)) for segment in ordered(kept))


def _newest(segments: Iterable[SegmentRange]) -> list[SegmentRange]:
    """Those that overlap no segment of a larger id; found by one sweep over the key space."""
    by_key = ordered(segments)
    passed: set[int] = set()
    active: list[SegmentRange] = []
    borders = sorted({bound for segment in by_key for bound in (segment.low, segment.high)})
    following = 0
    for low, _ in pairwise(borders):
        active = [segment for segment in active if segment.high > low]
        while following < len(by_key) and by_key[following].low == low:
            active.append(by_key[following])
            following += 1
        latest = max((segment.id for segment in active), default=0)
        passed.update(segment.id for segment in active if segment.id != latest)
    return [segment for segment in by_key if segment.id not in passed]


# --- the encoding ------------------------------------------------------------------------

_RECORD: Final = struct.Struct(">bbbbi")  # format, version, revisions, revision, length
_EVENT: Final = struct.Struct(">ii")  # type, length
_LONGS: Final = struct.Struct(">qq")
_SEGMENT: Final = struct.Struct(">qdd")
_OFFSET: Final = struct.Struct(">q")
EVENT_HEADER_BYTES: Final = _EVENT.size


class DamagedWatermark(Exception):
    """Bytes of a mark stream that are no watermark."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"no watermark at offset {offset}: {why}")
        self.offset, self.why = offset, why


def encode(watermark: Watermark) -> bytes:
    parts = [
        _LONGS.pack(watermark.lower, watermark.upper),
        _compact(len(watermark.cut)),
    ]
    for segment, offset in watermark.cut:
        parts.append(_record(_SEGMENT.pack(segment.id, segment.low, segment.high)))
        parts.append(_OFFSET.pack(offset))
    return _record(b"".join(parts))


def decode(encoded: bytes, *, at: int = 0) -> Watermark:
    """Raises DamagedWatermark, naming `at`."""
    try:
        data, _ = _opened(encoded, 0)
        lower, upper = _LONGS.unpack_from(data, 0)
        count, place = _compact_at(data, _LONGS.size)
        cut: list[tuple[SegmentRange, int]] = []
        for _ in range(count):
            segment, place = _opened(data, place)
            cut.append(
                (SegmentRange(*_SEGMENT.unpack_from(segment)), *_OFFSET.unpack_from(data, place))
            )
            place += _OFFSET.size
    except (struct.error, IndexError, ValueError) as error:
        raise DamagedWatermark(at, str(error)) from error
    return Watermark(lower, upper, tuple(cut))


class Entry(NamedTuple):
    offset: int
    watermark: Watermark


def entries(events: bytes, begin: int) -> Iterator[Entry]:
    """The watermarks in a piece of a mark stream that begins at offset `begin`.

    Raises DamagedWatermark.
    """
    place = 0
    while place < len(events):
        at = begin + place
        if len(events) - place < _EVENT.size:
            raise DamagedWatermark(at, "a header is cut off")
        _, length = _EVENT.unpack_from(events, place)
        place += _EVENT.size
        if not 0 <= length <= len(events) - place:
            raise DamagedWatermark(at, f"{length} bytes are said to follow")
        yield Entry(at, decode(events[place : place + length], at=at))
        place += length


def _record(data: bytes) -> bytes:
    return _RECORD.pack(0, 0, 1, 0, len(data)) + data


def _opened(encoded: bytes, place: int) -> tuple[bytes, int]:
    """The data of the record's first revision, and the place behind the record."""
    form, version, revisions, _, length = _RECORD.unpack_from(encoded, place)
    if form != 0 or version != 0 or revisions < 1:
        raise ValueError(f"a record of format {form}, version {version}")
    place += _RECORD.size
    data = encoded[place : place + length]
    place += length
    for _ in range(revisions - 1):
        _, length = struct.unpack_from(">bi", encoded, place)
        place += 5 + length
    if length < 0 or place > len(encoded):
        raise ValueError("a record is cut off")
    return data, place


def _compact(number: int) -> bytes:
    """One, two or four bytes; the upper two bits say which."""
    if number < 0x80:
        return number.to_bytes(1, "big")
    if number < 0x4000:
        return (0x8000 | number).to_bytes(2, "big")
    assert number < 0x4000_0000, "a stream has fewer segments"
    return (0xC000_0000 | number).to_bytes(4, "big")


def _compact_at(data: bytes, place: int) -> tuple[int, int]:
    first = data[place]
    if first < 0x80:
        return first, place + 1
    size, mask = (2, 0x3FFF) if first < 0xC0 else (4, 0x3FFF_FFFF)
    piece = data[place : place + size]
    if len(piece) < size:
        raise ValueError("a number is cut off")
    return int.from_bytes(piece, "big") & mask, place + size
