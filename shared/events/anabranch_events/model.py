"""The nouns that several services share: key ranges, segments, policies."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec

ScaleType = Literal["fixed", "kbytes_per_sec", "events_per_sec"]


class ScalingPolicy(msgspec.Struct, frozen=True):
    """`target_rate` is per segment, in the unit of `scale_type`; 0 for "fixed"."""

    scale_type: ScaleType = "fixed"
    target_rate: int = 0
    scale_factor: int = 0
    min_segments: int = 1


class RetentionPolicy(msgspec.Struct, frozen=True):
    """`minimum` and `maximum` are bytes ("size") or milliseconds ("time")."""

    retention_type: Literal["time", "size"]
    minimum: int
    maximum: int = 2**63 - 1


class StreamConfig(msgspec.Struct, frozen=True):
    """What a user asked of a stream; an update replaces all of it, the tags too."""

    scaling: ScalingPolicy = ScalingPolicy()
    retention: RetentionPolicy | None = None
    tags: tuple[str, ...] = ()
    timestamp_aggregation_timeout_ms: int = 0
    rollover_size_bytes: int = 0


class GroupConfig(msgspec.Struct, frozen=True):
    """A reader group as Java asks for it. Cuts are by stream name "scope/stream", an empty
    cut is unbounded. `generation` is 0 until the first update; `id` is drawn by the
    controller when a new group comes with the all-zero one."""

    refresh_ms: int
    checkpoint_interval_ms: int
    outstanding_checkpoints_max: int
    retention: Literal["none", "manual", "automatic"]
    id: UUID
    generation: int
    starting_cuts: dict[str, dict[int, int]]
    ending_cuts: dict[str, dict[int, int]]
    rollover_size_bytes: int = 0


class TableConfig(msgspec.Struct, frozen=True):
    """A key-value table; keys have a fixed length, the sum of both."""

    partitions_count: int
    primary_key_length: int
    secondary_key_length: int
    rollover_size_bytes: int = 0


class SegmentRange(msgspec.Struct, frozen=True, array_like=True):
    """A segment and its share of the key space, [low, high). `id` is epoch << 32 | number."""

    id: int
    low: float
    high: float

    @property
    def epoch(self) -> int:
        return self.id >> 32

    @property
    def number(self) -> int:
        return self.id & 0xFFFFFFFF
