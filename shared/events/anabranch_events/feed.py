"""The public feed: CloudEvents 1.0 in JSON, one subject per kind and stream.

The feed is a projection of the event log. The id of an event is derived from its place
there, so a crash of the projector can repeat an event, but never rename or lose one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from anabranch_events.model import SegmentRange, StreamConfig

SPEC_VERSION: Final = "1.0"
TYPE_PREFIX: Final = "io.anabranch."

ScaleCause = Literal["load", "manual", "policy", "transaction"]


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


FeedData = (
    StreamCreated
    | StreamUpdated
    | StreamScaled
    | StreamTruncated
    | StreamSealed
    | StreamDeleted
    | TransactionAborted
    | StreamWarning
)

KINDS: Final[dict[type[msgspec.Struct], str]] = {
    StreamCreated: "stream.created",
    StreamUpdated: "stream.updated",
    StreamScaled: "stream.scaled",
    StreamTruncated: "stream.truncated",
    StreamSealed: "stream.sealed",
    StreamDeleted: "stream.deleted",
    TransactionAborted: "transaction.aborted",
    StreamWarning: "stream.warning",
}


class CloudEvent(msgspec.Struct, frozen=True):
    """A CloudEvents 1.0 envelope; `subject` is `scope/stream`."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    data: msgspec.Raw
    specversion: str = SPEC_VERSION
    datacontenttype: str = "application/json"


def cloud_event(data: FeedData, *, event_id: str, source: str, at_ms: int) -> CloudEvent:
    return CloudEvent(
        id=event_id,
        source=source,
        type=TYPE_PREFIX + KINDS[type(data)],
        subject=f"{data.scope}/{data.stream}",
        time=datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        data=msgspec.Raw(msgspec.json.encode(data)),
    )
