"""The public feed: CloudEvents 1.0 in JSON, one subject per kind and stream.

What happens to streams is a projection of the event log. The id of such an event is derived
from its place there, so a crash of the projector can repeat it, but never rename or lose it.

What happens to members, containers and tier 2 is told by whoever sees it, under ids that are
derived from what is told: an incarnation, an epoch, the name of an object.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal, assert_never, cast

import msgspec

from anabranch_events import subjects
from anabranch_events.model import SegmentRange, StreamConfig

SPEC_VERSION: Final = "1.0"
TYPE_PREFIX: Final = "io.anabranch."

RANGES_TOLD_MAX: Final = 200
"""Ranges listed in one `segment.tiered`; an object can have a hundred thousand."""

ScaleCause = Literal["load", "manual", "policy", "transaction"]
Role = Literal["controller", "segmentstore", "autoscaler", "tierer"]


class StreamCreated(msgspec.Struct, frozen=True):
    scope: str
    stream: str
    config: StreamConfig
    segments: tuple[SegmentRange, ...]


class StreamUpdated(msgspec.Struct, frozen=True):
    scope: str
    stream: str
    config: StreamConfig


class StreamScaled(msgspec.Struct, frozen=True):
    """One change of a stream's segments; writers and readers see it from `at_ms` on.

    `observed_rate` and `target_rate` are in the unit of the stream's policy, 0 when the
    cause is not load. `splits` and `merges` count sealed segments that were split and
    created segments that were merged.
    """

    scope: str
    stream: str
    epoch: int
    cause: ScaleCause
    reason: str
    observed_rate: float
    target_rate: float
    sealed: tuple[SegmentRange, ...]
    created: tuple[SegmentRange, ...]
    splits: int
    merges: int
    segments_count: int
    requested_ms: int
    at_ms: int
    duration_ms: int


class StreamTruncated(msgspec.Struct, frozen=True):
    """`cut` maps segment ids (as text) to offsets."""

    scope: str
    stream: str
    cut: dict[str, int]


class StreamSealed(msgspec.Struct, frozen=True):
    scope: str
    stream: str


class StreamDeleted(msgspec.Struct, frozen=True):
    scope: str
    stream: str


class TransactionAborted(msgspec.Struct, frozen=True):
    """`cause` "timeout" means that the writer's lease ran out."""

    scope: str
    stream: str
    transaction: str
    cause: Literal["timeout", "request", "stream-sealed"]


class StreamWarning(msgspec.Struct, frozen=True):
    """Something about a stream that its owner should mend or know; `detail` is for people.

    From the autoscaler: a tag that cannot be used, a hot key that no split relieves.
    """

    scope: str
    stream: str
    origin: Literal["autoscaler"]
    detail: str


class SegmentSpan(msgspec.Struct, frozen=True, array_like=True):
    """A segment over its whole life: it has the keys [low, high) from the epoch in its id until
    it gave way to the segments of epoch `replaced`; None while that has not happened."""

    id: int
    low: float
    high: float
    replaced: int | None

    @property
    def epoch(self) -> int:
        return self.id >> 32


class StreamSnapshot(msgspec.Struct, frozen=True):
    """All that the feed ever told of a stream, so that a listener can begin here.

    Holds after the stream's events up to `sequence` of the event log. One with many segments
    comes in parts, counted from 0, that differ in `segments` only.
    """

    scope: str
    stream: str
    sequence: int
    epoch: int
    config: StreamConfig
    is_sealed: bool
    cut: dict[str, int]
    segments: tuple[SegmentSpan, ...]
    part: int = 0
    parts_count: int = 1


class TieredRange(msgspec.Struct, frozen=True, array_like=True):
    """Bytes [offset, offset + length) of a segment."""

    segment: str
    offset: int
    length: int


class SegmentTiered(msgspec.Struct, frozen=True):
    """An object is in tier 2, and its container's log says so; `ranges` has the first 200 of
    the `ranges_count` that belong to streams of users."""

    container: int
    object_name: str
    length_bytes: int
    ranges_count: int
    ranges: tuple[TieredRange, ...]


class ContainerMoved(msgspec.Struct, frozen=True):
    """A segment store serves the container, as its owner number `epoch`. `before` is the one
    that did so until then, empty for none that is known; it may be the same after a restart."""

    container: int
    epoch: int
    member: str
    incarnation: str
    before: str


class MemberJoined(msgspec.Struct, frozen=True):
    """A process announced itself; `incarnation` is new for each start."""

    member: str
    incarnation: str
    role: Role
    host: str
    port: int
    started_ms: int


class MemberLeft(msgspec.Struct, frozen=True):
    """A process withdrew, or was not heard of for its lease."""

    member: str
    incarnation: str
    role: Role


class Tier2Slow(msgspec.Struct, frozen=True):
    """A segment store lets writers wait: too many bytes of a container are not in tier 2 yet."""

    member: str
    container: int
    waiting_bytes: int
    waiting_bytes_max: int


class Tier2Down(msgspec.Struct, frozen=True):
    """A tierer cannot reach tier 2. It goes on trying."""

    member: str
    operation: str
    reason: str


class Tier2Recovered(msgspec.Struct, frozen=True):
    """The end of a `tier2.slow` (with its container) or a `tier2.down` of the same member."""

    member: str
    container: int | None
    after_ms: int


StreamData = (
    StreamCreated
    | StreamUpdated
    | StreamScaled
    | StreamTruncated
    | StreamSealed
    | StreamDeleted
    | StreamSnapshot
    | StreamWarning
    | TransactionAborted
)
ContainerData = SegmentTiered | ContainerMoved
MemberData = MemberJoined | MemberLeft | Tier2Slow | Tier2Down | Tier2Recovered
FeedData = StreamData | ContainerData | MemberData

KINDS: Final[dict[type[msgspec.Struct], str]] = {
    StreamCreated: "stream.created",
    StreamUpdated: "stream.updated",
    StreamScaled: "stream.scaled",
    StreamTruncated: "stream.truncated",
    StreamSealed: "stream.sealed",
    StreamDeleted: "stream.deleted",
    StreamSnapshot: "stream.snapshot",
    TransactionAborted: "transaction.aborted",
    StreamWarning: "stream.warning",
    SegmentTiered: "segment.tiered",
    ContainerMoved: "container.moved",
    MemberJoined: "member.joined",
    MemberLeft: "member.left",
    Tier2Slow: "tier2.slow",
    Tier2Down: "tier2.down",
    Tier2Recovered: "tier2.recovered",
}


class CloudEvent(msgspec.Struct, frozen=True):
    """A CloudEvents 1.0 envelope; `subject` is what it is about (see `about`)."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    data: msgspec.Raw
    specversion: str = SPEC_VERSION
    datacontenttype: str = "application/json"


def names(data: FeedData) -> tuple[str, ...]:
    """What an event is about: the tokens behind the kind in its NATS subject."""
    match data:
        case SegmentTiered() | ContainerMoved():
            return (str(data.container),)
        case MemberJoined() | MemberLeft() | Tier2Slow() | Tier2Down() | Tier2Recovered():
            return (data.member,)
        case (
            StreamCreated()
            | StreamUpdated()
            | StreamScaled()
            | StreamTruncated()
            | StreamSealed()
            | StreamDeleted()
            | StreamSnapshot()
            | StreamWarning()
            | TransactionAborted()
        ):
            return (data.scope, data.stream)
        case _:
            assert_never(data)


def about(data: FeedData) -> str:
    """The same for people: `scope/stream`, `container/3`, `member/tierer-0`."""
    match data:
        case SegmentTiered() | ContainerMoved():
            return f"container/{data.container}"
        case MemberJoined() | MemberLeft() | Tier2Slow() | Tier2Down() | Tier2Recovered():
            return f"member/{data.member}"
        case _:
            return "/".join(names(data))


def nats_subject(data: FeedData) -> str:
    """Where an event is published."""
    return subjects.feed(KINDS[type(data)], *names(data))


def cloud_event(data: FeedData, *, event_id: str, source: str, at_ms: int) -> CloudEvent:
    return CloudEvent(
        id=event_id,
        source=source,
        type=TYPE_PREFIX + KINDS[type(data)],
        subject=about(data),
        time=datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        data=msgspec.Raw(msgspec.json.encode(data)),
    )


_DATA_TYPES: Final = {TYPE_PREFIX + kind: data for data, kind in KINDS.items()}


def data_of(event: CloudEvent) -> FeedData | None:
    """What an event tells; None for a kind that this release does not know.

    Raises msgspec.DecodeError for one that is not as its kind should be.
    """
    data_type = _DATA_TYPES.get(event.type)
    if data_type is None:
        return None
    return cast("FeedData", msgspec.json.decode(event.data, type=data_type))
