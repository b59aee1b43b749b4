"""Messages between the services that are not domain events. JSON, one struct a subject.

Receivers ignore members that they do not know, so a newer sender can add some.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class SegmentLoad(msgspec.Struct, frozen=True, array_like=True):
    """One stream segment in a load report; rates are over the report's interval."""

    segment: str
    bytes_per_s: float
    events_per_s: float
    length_bytes: int
    age_ms: int


class LoadReport(msgspec.Struct, frozen=True):
    """What the segments of one store took in since the last report (every second).

    Lists the open segments of user streams; a quiet one is listed with rates of zero, so
    that its silence is known. `sequence` grows by one per report of an incarnation.
    """

    store: str
    incarnation: str
    sequence: int
    at_ms: int
    interval_ms: int
    segments: list[SegmentLoad]


class SegmentRate(msgspec.Struct, frozen=True, array_like=True):
    """`rate` is in the unit of the stream's policy."""

    id: int
    low: float
    high: float
    rate: float
    bytes_per_s: float
    events_per_s: float


class StreamRates(msgspec.Struct, frozen=True):
    """The autoscaler's view of a stream, for dashboards and the heat map. Not kept."""

    scope: str
    stream: str
    at_ms: int
    epoch: int
    target_rate: int
    segments: list[SegmentRate]


class KeyRange(msgspec.Struct, frozen=True, array_like=True):
    low: float
    high: float


class ScaleCommand(msgspec.Struct, frozen=True):
    """The autoscaler asks for a scale; refused when the stream's epoch has moved on.

    Sent as a request to SCALE_COMMAND, answered with a ScaleAnswer.
    """

    scope: str
    stream: str
    epoch: int
    seal: tuple[int, ...]
    ranges: tuple[KeyRange, ...]
    reason: str
    observed_rate: float
    target_rate: float
    decided_ms: int


class ScaleAnswer(msgspec.Struct, frozen=True):
    outcome: Literal["started", "refused", "not-found", "conflict"]
    detail: str = ""


class FlushRange(msgspec.Struct, frozen=True, array_like=True):
    """Bytes [offset, offset + length) of a segment, still readable from its store."""

    segment: str
    offset: int
    length: int


class FlushOrder(msgspec.Struct, frozen=True):
    """Copy these ranges, in this order, into one new object under this name.

    The name is journalled as intended by the owner of the container before the order is
    sent, and it is never used again.
    """

    container: int
    epoch: int
    object_name: str
    ranges: tuple[FlushRange, ...]


class ChunkReport(msgspec.Struct, frozen=True):
    """A worker says that an object is durable in tier 2.

    `crcs` has the CRC-32C of each range of the order. `outcome` "name-taken" says that the
    object exists with other bytes, and that a new name is needed; `length_bytes` and
    `crcs` are then of no meaning.
    """

    container: int
    object_name: str
    outcome: Literal["written", "name-taken"]
    length_bytes: int
    crcs: tuple[int, ...]
    worker: str


class ChunkAnswer(msgspec.Struct, frozen=True):
    """ "accepted": journalled. "unknown": not intended (any more); the worker drops the order.
    "not-owner": ask again later, the container is moving."""

    outcome: Literal["accepted", "unknown", "not-owner"]
    detail: str = ""


class DeleteOrder(msgspec.Struct, frozen=True):
    """These objects are referenced by nothing any more; journalled as such by the owner."""

    container: int
    object_names: tuple[str, ...]
